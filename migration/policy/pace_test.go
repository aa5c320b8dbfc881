package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLooksAtExitsAreBounded: however often a guest tags, its vCPUs pay for a look at the dirty log
// only now and then.
func TestLooksAtExitsAreBounded(t *testing.T) {
	for cost, most := range map[time.Duration]int{
		0:                    1000/5 + 1,
		2 * time.Millisecond: 1000/42 + 1,
	} {
		head := NewHead(Config{
			Policy: chosen(t, "downtime:limit=30ms"), Guidance: GuidanceSwitchover, AtExit: true,
			MaxDefer: time.Minute,
		})
		head.Step(0, Event{Kind: KindStart, Gate: GateOpen, Tasks: 1, Running: true})
		looks := 0
		for now := time.Duration(0); now < time.Second; now += 100 * time.Microsecond {
			closing := Event{
				Kind: KindGate, Gate: GateClosing, Phase: PhasePreCopy, Completed: 1,
				BytesPerS: 12.5e6, Remaining: 10,
			}
			// The engine asks first, and collects what there is to say only for a look.
			asks := head.AsksAtExit(now, Event{Phase: PhasePreCopy, Completed: 1})
			look := head.Step(now, closing).Verb == Look
			require.Equal(t, look, asks)
			if !look {
				continue
			}
			looks++
			now += cost
			closing.Looked, closing.Remaining = true, 500 // 160 ms
			require.Equal(t, Continue, head.Step(now, closing).Verb)
		}
		require.Greater(t, looks, most/2)
		require.LessOrEqual(t, looks, most)
	}
}
