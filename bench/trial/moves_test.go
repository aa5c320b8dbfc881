package trial

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration"
)

// TestMoveOf: a move counts only if the guest moved, and the policy in whose name it is counted led
// it to the end.
func TestMoveOf(t *testing.T) {
	r := migration.Report{
		Status: migration.StatusCompleted, DowntimeMS: 5, TotalMS: 900, PagesStopCopy: 7,
		SwitchoverReason: "few pages", Forced: true,
	}
	m, err := moveOf(20*time.Millisecond, r)
	require.NoError(t, err)
	require.Equal(t, Move{
		WaitedMS: 20, DowntimeMS: 5, TotalMS: 900, Pages: 7, Reason: "few pages", Forced: true,
	}, m)
	r.PolicyError = "it died"
	_, err = moveOf(0, r)
	require.ErrorIs(t, err, errNotObeyed)
	require.ErrorContains(t, err, "it died")
	r.Status, r.Error = migration.StatusFailed, "no way"
	_, err = moveOf(0, r)
	require.EqualError(t, err, "migration failed: no way")
}

// fakeTasks stands in for vmm: it prints its arguments, and a heartbeat of each of two tasks.
const fakeTasks = `#!/bin/sh
echo "$@"
for task in 0 1; do
	echo "hb task=$task ms=1000 passes=1 writes=1 gap_us=1 phase=busy"
done
exec sleep 1000
`

// shuttleOf is about to start a guest by a script in vmm's place.
func shuttleOf(t *testing.T, script string, g Guest) *shuttle {
	t.Helper()
	vmm := filepath.Join(t.TempDir(), "vmm")
	require.NoError(t, os.WriteFile(vmm, []byte(script), 0o755))
	s := &shuttle{
		site: &Site{Binary: vmm}, spec: Spec{Guest: g, Moves: 2}, dir: t.TempDir(), hear: func() {},
	}
	t.Cleanup(s.strike)
	return s
}

// TestManyMovesOfAMachine: the guest has the kernel, the RAM and the vCPUs that were asked for, and
// its first move waits for a heartbeat of each task.
func TestManyMovesOfAMachine(t *testing.T) {
	s := shuttleOf(t, fakeTasks, Guest{
		Program: "workload=phased", MemoryBytes: 64 << 20, CPUs: 2, Kernel: "/k", Tracker: "ring",
	})
	require.NoError(t, s.board(t.Context()))
	require.Contains(t, s.guest.String(), " --memory 67108864 --cpus 2 --cmdline workload=phased "+
		"--kernel /k --dirty-log ring\n")
	require.Len(t, s.guest.Beats(), 2)
}

// TestKernelWithoutHeartbeats: the error says what a kernel of the user's own lacks.
func TestKernelWithoutHeartbeats(t *testing.T) {
	const silent = "#!/bin/sh\necho hello\n"
	err := shuttleOf(t, silent, Guest{CPUs: 1, Kernel: "/k"}).board(t.Context())
	require.ErrorIs(t, err, errNoBeats)
	require.ErrorContains(t, err, "move0 has ended")
	err = shuttleOf(t, silent, Guest{CPUs: 1}).board(t.Context())
	require.ErrorContains(t, err, "move0 has ended")
	require.NotErrorIs(t, err, errNoBeats)
}

// TestManyMovesMayAllBeHeldBack: a trial has the time that guidance may take of each move.
func TestManyMovesMayAllBeHeldBack(t *testing.T) {
	s := Spec{Moves: 50}
	s.Params.MaxDefer = migration.NoTime
	plain := s.patience()
	require.Greater(t, plain, patience)
	s.Params.MaxDefer = 20 * time.Second
	require.Equal(t, plain+50*20*time.Second, s.patience())
	s.Params.MaxDefer = 0
	require.Equal(t, plain+50*migration.Defaults().MaxDefer, s.patience(), "left out")
}
