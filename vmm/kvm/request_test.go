package kvm

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestRequestNumbers compares with the numbers that a C compiler makes of
// linux/kvm.h, which have the sizes of the structures in them.
func TestRequestNumbers(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"KVM_GET_API_VERSION", GetAPIVersion.number, 0x0000ae00},
		{"KVM_CREATE_VM", CreateVM.number, 0x0000ae01},
		{"KVM_GET_MSR_INDEX_LIST", GetMSRIndexList.number, 0xc004ae02},
		{"KVM_CHECK_EXTENSION", CheckExtension.number, 0x0000ae03},
		{"KVM_GET_VCPU_MMAP_SIZE", GetVCPUMmapSize.number, 0x0000ae04},
		{"KVM_GET_SUPPORTED_CPUID", GetSupportedCPUID.number, 0xc008ae05},
		{"KVM_CREATE_VCPU", CreateVCPU.number, 0x0000ae41},
		{"KVM_SET_USER_MEMORY_REGION", SetMemoryRegion.number, 0x4020ae46},
		{"KVM_SET_TSS_ADDR", SetTSSAddr.number, 0x0000ae47},
		{"KVM_SET_IDENTITY_MAP_ADDR", SetIdentityMapAddr.number, 0x4008ae48},
		{"KVM_CREATE_IRQCHIP", CreateIRQChip.number, 0x0000ae60},
		{"KVM_IRQ_LINE", SetIRQLine.number, 0x4008ae61},
		{"KVM_GET_IRQCHIP", GetIRQChip.number, 0xc208ae62},
		{"KVM_SET_IRQCHIP", SetIRQChip.number, 0x8208ae63},
		{"KVM_ENABLE_CAP", EnableCap.number, 0x4068aea3},
		{"KVM_SET_GSI_ROUTING", setRouting.number, 0x4008ae6a},
		{"KVM_IRQFD", setIRQFD.number, 0x4020ae76},
		{"KVM_IOEVENTFD", setIOEventFD.number, 0x4040ae79},
		{"KVM_CREATE_PIT2", CreatePIT2.number, 0x4040ae77},
		{"KVM_SET_CLOCK", SetClock.number, 0x4030ae7b},
		{"KVM_GET_CLOCK", GetClock.number, 0x8030ae7c},
		{"KVM_GET_PIT2", GetPIT2.number, 0x8070ae9f},
		{"KVM_SET_PIT2", SetPIT2.number, 0x4070aea0},
		{"KVM_RUN", kvmRun, 0x0000ae80},
		{"KVM_GET_DIRTY_LOG", GetDirtyLog.number, 0x4010ae42},
		{"KVM_CLEAR_DIRTY_LOG", ClearDirtyLog.number, 0xc018aec0},
		{"KVM_RESET_DIRTY_RINGS", kvmResetDirtyRings, 0x0000aec7},
		{"KVM_GET_REGS", GetRegs.number, 0x8090ae81},
		{"KVM_SET_REGS", SetRegs.number, 0x4090ae82},
		{"KVM_GET_SREGS", GetSregs.number, 0x8138ae83},
		{"KVM_SET_SREGS", SetSregs.number, 0x4138ae84},
		{"KVM_TRANSLATE", Translate.number, 0xc018ae85},
		{"KVM_GET_MSRS", GetMSRs.number, 0xc008ae88},
		{"KVM_SET_MSRS", SetMSRs.number, 0x4008ae89},
		{"KVM_GET_LAPIC", GetLAPIC.number, 0x8400ae8e},
		{"KVM_SET_LAPIC", SetLAPIC.number, 0x4400ae8f},
		{"KVM_SET_CPUID2", SetCPUID2.number, 0x4008ae90},
		{"KVM_GET_MP_STATE", GetMPState.number, 0x8004ae98},
		{"KVM_SET_MP_STATE", SetMPState.number, 0x4004ae99},
		{"KVM_GET_VCPU_EVENTS", GetVCPUEvents.number, 0x8040ae9f},
		{"KVM_SET_VCPU_EVENTS", SetVCPUEvents.number, 0x4040aea0},
		{"KVM_GET_DEBUGREGS", GetDebugRegs.number, 0x8080aea1},
		{"KVM_SET_DEBUGREGS", SetDebugRegs.number, 0x4080aea2},
		{"KVM_SET_TSC_KHZ", SetTSCKHz.number, 0x0000aea2},
		{"KVM_GET_TSC_KHZ", GetTSCKHz.number, 0x0000aea3},
		{"KVM_GET_XSAVE", getXSave.number, 0x9000aea4},
		{"KVM_SET_XSAVE", setXSave.number, 0x5000aea5},
		{"KVM_GET_XCRS", GetXCRS.number, 0x8188aea6},
		{"KVM_SET_XCRS", SetXCRS.number, 0x4188aea7},
		{"KVM_KVMCLOCK_CTRL", KVMClockCtrl.number, 0x0000aead},
		{"KVM_GET_XSAVE2", getXSave2.number, 0x9000aecf},
		{"KVM_SET_DEVICE_ATTR", SetDeviceAttr.number, 0x4018aee1},
		{"KVM_GET_DEVICE_ATTR", GetDeviceAttr.number, 0x4018aee2},
		{"KVM_HAS_DEVICE_ATTR", HasDeviceAttr.number, 0x4018aee3},
	} {
		require.Equal(t, c.want, c.got, c.name)
	}
}

// TestErrorsNameTheRequest: they keep the number that the kernel gave, too.
func TestErrorsNameTheRequest(t *testing.T) {
	err := GetRegs.Do(Closed, &Regs{})
	require.ErrorIs(t, err, unix.EBADF)
	require.ErrorContains(t, err, "KVM_GET_REGS: ")
	_, err = CreateVM.Do(Closed, 0)
	require.ErrorIs(t, err, unix.EBADF)
	require.ErrorContains(t, err, "KVM_CREATE_VM: ")
	require.Zero(t, Closed.Check(CapUserMemory))
	require.ErrorIs(t, Closed.Run(), unix.EBADF)
}
