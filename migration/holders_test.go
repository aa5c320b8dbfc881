package migration

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
)

// TestHeldBy: the report names the task that a migration waited for, and for how long.
func TestHeldBy(t *testing.T) {
	for _, mode := range []Guidance{GuidanceStart, GuidanceSuspend} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, usual.script())
			defer b.close()
			b.m.start()
			time.Sleep(100*time.Millisecond + 500*time.Microsecond)
			s := b.source(guided(RuleDowntime, mode))
			r := s.Run(context.Background())
			b.checkMoved(s, r)
			require.Len(t, r.HeldBy, 1)
			require.InDelta(t, r.WaitedMS+r.SuspendedMS, r.HeldBy[0].MS, 3)
			require.Equal(t, b.m.port.Snapshot().Tasks[0].ID, r.HeldBy[0].Task)
		})
	}
}

// TestHolders: times of several waits add up, those inside hold nothing, and whatever ids a guest
// makes up, memory and report stay bounded.
func TestHolders(t *testing.T) {
	h := newHolders(nil, []tagging.TaskInfo{{ID: 1, OutsideMS: 100}, {ID: 2, OutsideMS: 50}})
	require.Equal(t, []Holder{}, h.longest())
	h.look([]tagging.TaskInfo{{ID: 1, OutsideMS: 110, Name: "a"}, {ID: 2, OutsideMS: 50}})
	h.look([]tagging.TaskInfo{{ID: 2, OutsideMS: 50}}) // 1 has ended
	h = newHolders(h.longest(), []tagging.TaskInfo{{ID: 2, OutsideMS: 70}, {ID: 1, OutsideMS: 3}})
	h.look([]tagging.TaskInfo{{ID: 2, OutsideMS: 75}, {ID: 1, OutsideMS: 5, Name: "a"}})
	h.look([]tagging.TaskInfo{{ID: 3, OutsideMS: 1}, {ID: 1, OutsideMS: 1, Name: "a"}})
	require.Equal(t, []Holder{{1, "a", 12}, {2, "", 5}, {3, "", 1}}, h.longest())
	for id := range uint32(3 * tagging.MaxTasks) {
		h.look([]tagging.TaskInfo{{ID: 10 + id, OutsideMS: 0.5}})
		require.LessOrEqual(t, len(h.total), tagging.MaxTasks+100)
		if id%100 == 0 {
			require.LessOrEqual(t, len(h.longest()), keptHolders)
		}
	}
	require.Equal(t, Holder{1, "a", 12}, h.longest()[0])
}
