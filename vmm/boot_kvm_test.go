package vmm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/boot/boottest"
	"taskguide/vmm/probe"
)

func TestPVHGuestPrintsAndExits(t *testing.T) {
	var console syncBuffer
	vm := newTestVM(t, 1, &console)
	require.NoError(t, vm.Boot(testKernel(code(emit("hello, world\n"), exitWith(42))), nil, ""))
	require.False(t, vm.Running())
	require.NoError(t, vm.Resume())
	require.Equal(t, Exit{Reason: ExitGuest, Status: 42}, waitEnd(t, vm))
	require.Equal(t, "hello, world\n", console.String())
	require.False(t, vm.Running())
	require.ErrorIs(t, vm.Pause(), ErrEnded)
	require.ErrorIs(t, vm.Resume(), ErrEnded)
}

// TestARefusedKernelLeavesTheMachineAsItWas: another one boots.
func TestARefusedKernelLeavesTheMachineAsItWas(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	require.ErrorIs(t, vm.Boot([]byte("hello"), nil, ""), ErrKernel)
	err := vm.Boot(testKernel([]byte{0xf4}), make([]byte, 16<<20), "")
	require.ErrorIs(t, err, ErrKernel)
	for _, b := range vm.RAM().Bytes() {
		if b != 0 {
			require.Fail(t, "something was written")
		}
	}
	require.NoError(t, vm.Boot(testKernel(exitWith(3)), nil, ""))
	require.NoError(t, vm.Resume())
	require.Equal(t, Exit{Reason: ExitGuest, Status: 3}, waitEnd(t, vm))
}

// TestELF32 boots a PVH kernel in an ELF32 file: the entry is the same as that of ELF64.
func TestELF32(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	require.NoError(t, vm.Boot(boottest.PVH32(exitWith(9)), nil, ""))
	require.NoError(t, vm.Resume())
	require.Equal(t, Exit{Reason: ExitGuest, Status: 9}, waitEnd(t, vm))
}

// TestMultiboot boots kernels with a multiboot header, which read what they are told: the magic
// number in EAX, and by EBX the command line, the module and the memory map. They print the command
// line's first byte and the module's, and end with the status 5.
func TestMultiboot(t *testing.T) {
	kernel := code(
		0x3d, imm32(0x2badb002), // cmp eax, magic
		0x74, 0x04, // je 1f
		exitWith(6),
		0x66, 0xba, 0xf8, 0x03, // 1: mov dx, COM1
		0x8b, 0x73, 16, // mov esi, [ebx + cmdline]
		0x8a, 0x06, 0xee, // mov al, [esi]; out dx, al
		0x8b, 0x73, 24, // mov esi, [ebx + mods_addr]
		0x8b, 0x36, // mov esi, [esi + mod_start]
		0x8a, 0x06, 0xee, // mov al, [esi]; out dx, al
		exitWith(5),
	)
	for name, file := range map[string][]byte{
		"by address": boottest.Multiboot(kernel),
		"ELF32":      boottest.MultibootELF(boottest.Class32, kernel),
		"ELF64":      boottest.MultibootELF(boottest.Class64, kernel),
	} {
		t.Run(name, func(t *testing.T) {
			var console syncBuffer
			vm := newTestVM(t, 1, &console)
			require.NoError(t, vm.Boot(file, []byte("module"), "command line"))
			require.NoError(t, vm.Resume())
			require.Equal(t, Exit{Reason: ExitGuest, Status: 5}, waitEnd(t, vm))
			require.Equal(t, "cm", console.String())
		})
	}
}

// TestLinuxEntry boots a "kernel" of a few instructions of 64-bit code where guest
// kernel code runs natively, and expects the refusal elsewhere.
func TestLinuxEntry(t *testing.T) {
	var console syncBuffer
	vm := newTestVM(t, 1, &console)
	kernel := boottest.BzImage(code(
		0x48, 0x8b, 0x8e, imm32(0x202), // mov rcx, [rsi + magic]: RSI is the zero page
		0x81, 0xf9, "HdrS", // cmp ecx, 'HdrS'
		0x75, 0x04, // jne 1f
		exitWith(11),
		exitWith(12), // 1:
	))
	err := vm.Boot(kernel, make([]byte, 5000), "console=ttyS0")
	if probe.EmulatesRing0() {
		require.ErrorIs(t, err, ErrEmulatedRing0)
		require.NotContains(t, err.Error(), "\n")
		return
	}
	require.NoError(t, err)
	require.NoError(t, vm.Resume())
	require.Equal(t, Exit{Reason: ExitGuest, Status: 11}, waitEnd(t, vm))
}
