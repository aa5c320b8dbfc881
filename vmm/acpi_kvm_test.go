package vmm

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/boot"
	"taskguide/vmm/device"
	"taskguide/vmm/device/pci"
	"taskguide/vmm/kvm"
)

// TestTablesNameTheDevice: what package boot tells guests is what package device answers.
func TestTablesNameTheDevice(t *testing.T) {
	require.EqualValues(t, device.PortACPI, boot.ACPIPorts)
	require.EqualValues(t, device.ACPIIRQ, boot.ACPIEventLine)
	require.EqualValues(t, pci.ECAMBase, boot.ECAMBase)
	require.EqualValues(t, pci.ECAMBytes, boot.ECAMBytes)
}

// outByte is code that writes a byte to a port.
func outByte(port uint16, v byte) []byte {
	// mov dx, port; mov al, v; out dx, al
	return code(0x66, 0xba, int(port&0xff), int(port>>8), 0xb0, int(v), 0xee)
}

// unmask returns code that unmasks an input of the IOAPIC, level-triggered, with the vector
// irqTestVector.
func unmask(pin int) []byte {
	const ioapic, level = 0xfec00000, 1 << 15
	select0 := uint32(0x10 + 2*pin)
	return code(
		// mov dword [IOREGSEL], register; mov dword [IOWIN], entry
		0xc7, 0x05, imm32(ioapic), imm32(select0),
		0xc7, 0x05, imm32(ioapic+0x10), imm32(uint32(irqTestVector(pin))|level),
	)
}

// TestPowerButtonIsHeardByWhoListens: a guest listens once it has unmasked the line, and can then
// read what happened.
func TestPowerButtonIsHeardByWhoListens(t *testing.T) {
	r := newRecorder()
	vm := newTestVM(t, 1, nil)
	attach(vm, r)
	require.NoError(t, vm.Boot(testKernel(code(
		0xa3, imm32(recorderMMIO), // mov [recorder], eax: not yet
		0xf3, 0x90, // 1: pause
		0x80, 0x3d, imm32(0x9000), 0, // cmp byte [0x9000], 0
		0x74, 0xf5, // je 1b
		unmask(device.ACPIIRQ),
		0xa3, imm32(recorderMMIO), // mov [recorder], eax: now
		0x66, 0xba, (device.PortACPI+3)&0xff, device.PortACPI>>8, // mov dx, events
		0xec,       // 2: in al, dx
		0xa8, 0x01, // test al, 1
		0x74, 0xfb, // jz 2b
		0xee, // out dx, al
		outByte(device.PortACPI, 0x34),
	)), nil, ""))
	heard, err := vm.PressPowerButton()
	require.NoError(t, err)
	require.False(t, heard, "it does not run")
	require.NoError(t, vm.Resume())
	r.waitFor(t, 1)
	heard, err = vm.PressPowerButton()
	require.NoError(t, err)
	require.False(t, heard, "its input is masked")
	require.True(t, vm.guest.Write(0x9000, []byte{1}))
	r.waitFor(t, 2)
	require.NoError(t, vm.Pause())
	heard, err = vm.PressPowerButton()
	require.NoError(t, err)
	require.False(t, heard, "it is paused")
	require.NoError(t, vm.Resume())
	heard, err = vm.PressPowerButton()
	require.NoError(t, err)
	require.True(t, heard)
	require.Equal(t, Exit{Reason: ExitPowerOff}, waitEnd(t, vm))
	require.NoError(t, vm.Close())
	heard, err = vm.PressPowerButton()
	require.NoError(t, err)
	require.False(t, heard, "it was closed")
}

// TestAMachineOfAnOlderProgramStaysAsItWas: no ACPI, no port 0x61, MSRs as they came.
func TestAMachineOfAnOlderProgramStaysAsItWas(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	require.NotNil(t, vm.devices.ACPI)
	older := vm.config
	older.Sections, older.Optional = nil, nil
	config, err := json.Marshal(&older)
	require.NoError(t, err)
	dst, err := NewFromConfig(config, Options{})
	require.NoError(t, err)
	defer dst.Close()
	require.Nil(t, dst.devices.ACPI)
	heard, err := dst.PressPowerButton()
	require.NoError(t, err)
	require.False(t, heard)
	again, err := dst.Config()
	require.NoError(t, err)
	require.Equal(t, string(config), string(again))
	msrs, err := dst.vcpus[0].readMSRs([]uint32{msrMTRRDefine})
	require.NoError(t, err)
	require.Equal(t, []kvm.MSREntry{{Index: msrMTRRDefine}}, msrs, "until its state is loaded")
}
