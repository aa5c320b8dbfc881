package trial

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/migration"
)

// TestMovesBackAndForth: a guest goes to and fro, and each of its moves has a gap that is at least
// as long as what no vCPU can run in. It may have a kernel of its own.
func TestMovesBackAndForth(t *testing.T) {
	spec := guided()
	spec.Moves = 3
	spec.Guest.Seed, spec.Guest.Kernel = 7, site.Kernel
	r := site.Run(t.Context(), spec)
	require.Empty(t, r.Error)
	require.Len(t, r.Moves, 3)
	longest := 0.0
	for _, m := range r.Moves {
		require.Positive(t, m.GapMS)
		require.Positive(t, m.DowntimeMS)
		require.NotEmpty(t, m.Reason)
		require.Less(t, m.WaitedMS, 1000.0, "a cycle")
		longest = max(longest, m.GapMS)
	}
	require.NotEqual(t, r.Moves[0].WaitedMS, r.Moves[1].WaitedMS)
	require.Equal(t, longest, r.GapMS)
	require.Equal(t, migration.StatusCompleted, r.Report.Status)
	require.Equal(t, r.Moves[2].DowntimeMS, r.Report.DowntimeMS)
}

// TestMovesFail: a guest that does not arrive fails the trial, which says at which move.
func TestMovesFail(t *testing.T) {
	spec := guided()
	spec.Moves = 2
	spec.Params.StandstillRetries = -1 // refused
	r := site.Run(t.Context(), spec)
	require.Contains(t, r.Error, "move 1 of 2: standstill retries")
	require.Empty(t, r.Moves)
}
