package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRulesCountTheQueue: a rule judges by what the destination does not have.
func TestRulesCountTheQueue(t *testing.T) {
	pages := func(n, queued int) Event {
		return Event{
			Kind: KindRound, Completed: 1, RAM: 4096,
			Remaining: n, Queued: int64(queued * pageSize),
			// Compressed: 1000 pages a second, 2 for 1 on the wire.
			BytesPerS: 4096e3, WirePerS: 2048e3,
		}
	}
	xen, downtime := chosen(t, "xen"), chosen(t, "downtime:limit=100ms")
	require.Equal(t, Switchover, xen.Step(0, pages(30, 19)).Verb)
	require.Equal(t, Continue, xen.Step(0, pages(30, 20)).Verb)
	require.Equal(t, Switchover, downtime.Step(0, pages(50, 25)).Verb)
	require.Equal(t, Continue, downtime.Step(0, pages(50, 26)).Verb)
	none := chosen(t, "downtime:limit=0s")
	keepAlive := Event{Kind: KindRound, Queued: 16}
	require.Equal(t, Switchover, none.Step(0, keepAlive).Verb, "a keep-alive is no page")
	require.Equal(t, Continue, none.Step(0, pages(0, 1)).Verb)
}

// TestDowntimeOfALinkThatStands: what would take centuries does not fit any limit.
func TestDowntimeOfALinkThatStands(t *testing.T) {
	e := Event{Remaining: 1 << 28, BytesPerS: 1, WirePerS: 1}
	d, known := e.Downtime()
	require.True(t, known)
	require.Greater(t, d, 100*365*24*time.Hour)
}
