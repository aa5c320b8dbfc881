package vmm

import (
	"testing"

	"github.com/stretchr/testify/require"
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
