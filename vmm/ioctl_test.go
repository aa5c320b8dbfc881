package vmm

import (
	"testing"

	"github.com/bobuhiro11/gokvm/kvm"
	"github.com/stretchr/testify/require"
)

// TestRequestNumbers compares with the numbers that a C compiler makes of
// linux/kvm.h, which have the sizes of the structures in them.
func TestRequestNumbers(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"KVM_GET_API_VERSION", kvmGetAPIVersion, 0x0000ae00},
		{"KVM_CREATE_VM", kvmCreateVM, 0x0000ae01},
		{"KVM_GET_MSR_INDEX_LIST", kvmGetMSRIndexList, 0xc004ae02},
		{"KVM_CHECK_EXTENSION", kvmCheckExtension, 0x0000ae03},
		{"KVM_GET_VCPU_MMAP_SIZE", kvmGetVCPUMmapSize, 0x0000ae04},
		{"KVM_GET_SUPPORTED_CPUID", kvmGetSupportedCPUID, 0xc008ae05},
		{"KVM_CREATE_VCPU", kvmCreateVCPU, 0x0000ae41},
		{"KVM_SET_USER_MEMORY_REGION", kvmSetUserMemoryRegion, 0x4020ae46},
		{"KVM_SET_TSS_ADDR", kvmSetTSSAddr, 0x0000ae47},
		{"KVM_SET_IDENTITY_MAP_ADDR", kvmSetIdentityMapAddr, 0x4008ae48},
		{"KVM_CREATE_IRQCHIP", kvmCreateIRQChip, 0x0000ae60},
		{"KVM_IRQ_LINE", kvmIRQLine, 0x4008ae61},
		{"KVM_GET_IRQCHIP", kvmGetIRQChip, 0xc208ae62},
		{"KVM_SET_IRQCHIP", kvmSetIRQChip, 0x8208ae63},
		{"KVM_CREATE_PIT2", kvmCreatePIT2, 0x4040ae77},
		{"KVM_SET_CLOCK", kvmSetClock, 0x4030ae7b},
		{"KVM_GET_CLOCK", kvmGetClock, 0x8030ae7c},
		{"KVM_GET_PIT2", kvmGetPIT2, 0x8070ae9f},
		{"KVM_SET_PIT2", kvmSetPIT2, 0x4070aea0},
		{"KVM_RUN", kvmRun, 0x0000ae80},
		{"KVM_GET_REGS", kvmGetRegs, 0x8090ae81},
		{"KVM_SET_REGS", kvmSetRegs, 0x4090ae82},
		{"KVM_GET_SREGS", kvmGetSregs, 0x8138ae83},
		{"KVM_SET_SREGS", kvmSetSregs, 0x4138ae84},
		{"KVM_TRANSLATE", kvmTranslate, 0xc018ae85},
		{"KVM_GET_MSRS", kvmGetMSRs, 0xc008ae88},
		{"KVM_SET_MSRS", kvmSetMSRs, 0x4008ae89},
		{"KVM_GET_LAPIC", kvmGetLAPIC, 0x8400ae8e},
		{"KVM_SET_LAPIC", kvmSetLAPIC, 0x4400ae8f},
		{"KVM_SET_CPUID2", kvmSetCPUID2, 0x4008ae90},
		{"KVM_GET_MP_STATE", kvmGetMPState, 0x8004ae98},
		{"KVM_SET_MP_STATE", kvmSetMPState, 0x4004ae99},
		{"KVM_GET_VCPU_EVENTS", kvmGetVCPUEvents, 0x8040ae9f},
		{"KVM_SET_VCPU_EVENTS", kvmSetVCPUEvents, 0x4040aea0},
		{"KVM_GET_DEBUGREGS", kvmGetDebugRegs, 0x8080aea1},
		{"KVM_SET_DEBUGREGS", kvmSetDebugRegs, 0x4080aea2},
		{"KVM_SET_TSC_KHZ", kvmSetTSCKHz, 0x0000aea2},
		{"KVM_GET_TSC_KHZ", kvmGetTSCKHz, 0x0000aea3},
		{"KVM_GET_XSAVE", kvmGetXSave, 0x9000aea4},
		{"KVM_SET_XSAVE", kvmSetXSave, 0x5000aea5},
		{"KVM_GET_XCRS", kvmGetXCRS, 0x8188aea6},
		{"KVM_SET_XCRS", kvmSetXCRS, 0x4188aea7},
		{"KVM_KVMCLOCK_CTRL", kvmKVMClockCtrl, 0x0000aead},
		{"KVM_GET_XSAVE2", kvmGetXSave2, 0x9000aecf},
		{"KVM_SET_DEVICE_ATTR", kvmSetDeviceAttr, 0x4018aee1},
		{"KVM_GET_DEVICE_ATTR", kvmGetDeviceAttr, 0x4018aee2},
		{"KVM_HAS_DEVICE_ATTR", kvmHasDeviceAttr, 0x4018aee3},
	} {
		require.Equal(t, c.want, c.got, c.name)
	}
}

// fakeRun is a run area with an exit in it.
func fakeRun(reason kvm.ExitType, union []byte) runArea {
	r := runArea{mem: make([]byte, 3*4096)}
	le.PutUint32(r.mem[runExitReason:], uint32(reason))
	copy(r.mem[runUnion:], union)
	return r
}

func TestPortExit(t *testing.T) {
	union := func(out, size byte, port uint16, count uint32, offset uint64) []byte {
		b := []byte{out, size}
		b = le.AppendUint16(b, port)
		b = le.AppendUint32(b, count)
		return le.AppendUint64(b, offset)
	}
	r := fakeRun(kvm.EXITIO, union(kvm.EXITIOOUT, 2, 0x3f8, 3, 4096))
	copy(r.mem[4096:], "abcdefgh")
	io, err := r.portIO()
	require.NoError(t, err)
	require.Equal(t, portIO{out: true, size: 2, port: 0x3f8, data: []byte("abcdef")}, io)
	require.Equal(t, kvm.EXITIO, r.exitReason())
	for _, bad := range [][]byte{
		union(0, 4, 1, 1, 3*4096), union(0, 4, 1, 1, ^uint64(0)), union(0, 255, 1, ^uint32(0), 4096),
	} {
		_, err := fakeRun(kvm.EXITIO, bad).portIO()
		require.ErrorContains(t, err, "KVM_EXIT_IO")
	}
}

func TestMMIOExit(t *testing.T) {
	union := func(gpa uint64, data string, length uint32, write byte) []byte {
		b := append(le.AppendUint64(nil, gpa), data...)
		return append(le.AppendUint32(b, length), write)
	}
	m, err := fakeRun(kvm.EXITMMIO, union(0xd0000004, "12345678", 4, 1)).mmio()
	require.NoError(t, err)
	require.Equal(t, mmio{write: true, gpa: 0xd0000004, data: []byte("1234")}, m)
	_, err = fakeRun(kvm.EXITMMIO, union(0, "12345678", 9, 0)).mmio()
	require.ErrorContains(t, err, "9 bytes")
}

func TestImmediateExitIsTheSecondByte(t *testing.T) {
	r := fakeRun(kvm.EXITINTR, nil)
	r.setImmediateExit()
	require.Equal(t, []byte{0, 1, 0, 0}, r.mem[:4])
	r.clearImmediateExit()
	require.Equal(t, []byte{0, 0, 0, 0}, r.mem[:4])
}

func TestExitsThatEndAMachineAreDescribed(t *testing.T) {
	for _, c := range []struct {
		reason kvm.ExitType
		union  []byte
		want   string
	}{
		{kvm.EXITINTERNALERROR, []byte{1, 0, 0, 0}, "KVM_EXIT_INTERNAL_ERROR, suberror 1 (an instruction that KVM cannot emulate)"},
		{kvm.EXITINTERNALERROR, []byte{9, 0, 0, 0}, "suberror 9 (unknown)"},
		{kvm.EXITFAILENTRY, []byte{0x21, 0, 0, 0x80}, "KVM_EXIT_FAIL_ENTRY, hardware reason 0x80000021"},
		{kvm.EXITDEBUG, nil, "exit reason 4 (EXITDEBUG)"},
	} {
		v := &vcpu{fd: -1, run: fakeRun(c.reason, c.union)}
		err := v.handleExit()
		require.ErrorIs(t, err, ErrGuestState)
		require.ErrorContains(t, err, c.want)
		require.NotContains(t, err.Error(), "\n")
	}
}

func TestHostKind(t *testing.T) {
	cpuinfo := func(flags string) string {
		return "processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: fpu " + flags + " sse\n\nprocessor\t: 1\nflags\t\t: fpu\n"
	}
	require.Equal(t, HostIntel, hostKind(cpuinfo("vmx"), false))
	require.Equal(t, HostAMD, hostKind(cpuinfo("svm"), false))
	require.Equal(t, HostPVM, hostKind(cpuinfo("avx"), false))
	require.Equal(t, HostPVM, hostKind(cpuinfo("vmx"), true))
	require.Equal(t, HostPVM, hostKind("", false))
	require.Equal(t, "A CPU: fast", cpuinfoField(cpuinfo(""), "model name"))
	require.Empty(t, cpuinfoField("", "flags"))
}

func TestHostNotes(t *testing.T) {
	good := Host{Kind: HostAMD, TSCScaling: true, ClockRealtime: true, MaxCPUs: 8, RecommendedCPUs: 8}
	require.Empty(t, good.notes())
	bad := Host{
		Kind: HostPVM, EmulatedRing0: true, MaxCPUs: 8, RecommendedCPUs: 2, TSCKHz: 2500000,
		Capabilities: []Capability{{Name: "KVM_CAP_XCRS", Required: true, Use: "saving vCPUs"}, {Name: "KVM_CAP_PIT2"}},
	}
	notes := bad.notes()
	require.Len(t, notes, 6)
	require.Contains(t, notes[0], "KVM lacks KVM_CAP_XCRS")
	require.Contains(t, notes[3], "2500000 kHz")
	require.Contains(t, notes[5], "at most 2 vCPUs")
}
