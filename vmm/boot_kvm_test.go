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
