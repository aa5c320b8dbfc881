package vmm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/kvm"
)

// fakeRun is a run area with an exit in it: struct kvm_run has the reason at 8 and the union at 32.
func fakeRun(reason kvm.ExitType, union []byte) kvm.RunArea {
	mem := make([]byte, 4096)
	le.PutUint32(mem[8:], uint32(reason))
	copy(mem[32:], union)
	return kvm.RunAreaOf(mem)
}

func TestExitsThatEndAMachineAreDescribed(t *testing.T) {
	for _, c := range []struct {
		reason kvm.ExitType
		union  []byte
		want   string
	}{
		{kvm.ExitInternalError, []byte{1, 0, 0, 0},
			"KVM_EXIT_INTERNAL_ERROR, suberror 1 (an instruction that KVM cannot emulate)"},
		{kvm.ExitInternalError, []byte{9, 0, 0, 0}, "suberror 9 (unknown)"},
		{kvm.ExitFailEntry, []byte{0x21, 0, 0, 0x80},
			"KVM_EXIT_FAIL_ENTRY, hardware reason 0x80000021"},
		{kvm.ExitDebug, nil, "exit reason 4 (EXITDEBUG)"},
	} {
		v := &vcpu{fd: kvm.Closed, run: fakeRun(c.reason, c.union)}
		err := v.handleExit()
		require.ErrorIs(t, err, ErrGuestState)
		require.ErrorContains(t, err, c.want)
		require.NotContains(t, err.Error(), "\n")
	}
}
