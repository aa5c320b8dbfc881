package trial

import (
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
