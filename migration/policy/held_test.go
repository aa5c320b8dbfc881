package policy

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestHeldAtAnExit: while a vCPU is held at its EXIT the guest stands still, so its policy is asked
// nothing more, and no wait that it wanted goes on.
func TestHeldAtAnExit(t *testing.T) {
	for _, verb := range []Verb{Continue, Wait, Suspend, Abort} {
		h := NewHead(Config{
			Policy: chosen(t, "downtime"), Remote: true, Guidance: GuidanceSwitchover, AtExit: true,
			Retries: 3, MaxDefer: time.Minute,
		})
		start := Event{Kind: KindStart, Gate: GateOpen, Tasks: 1, Running: true}
		h.Step(0, start)
		h.Step(0, start)
		h.Step(time.Second, Event{Kind: KindBegin, Phase: PhasePreCopy})
		a := h.Step(time.Second, Event{
			Kind: KindRound, Phase: PhasePreCopy, Completed: 1,
			Answer: &Action{Verb: Wait, Until: time.Hour},
		})
		require.Equal(t, Wait, a.Verb)

		// The engine has not begun to wait yet.
		a = h.Step(time.Second, Event{
			Kind: KindGate, Gate: GateClosing, Looked: true, Phase: PhasePreCopy, Completed: 1,
			Answer: &Action{Verb: Switchover, Reason: "now"},
		})
		require.Equal(t, Switchover, a.Verb)
		require.NotEqual(t, Wait, h.Step(2*time.Second, Event{Kind: KindWake}).Verb)
		tick := Event{Kind: KindTick, Phase: PhasePreCopy, Completed: 1}
		_, asks := h.Question(tick)
		require.False(t, asks)
		tick.Answer = &Action{Verb: verb, Until: time.Hour} // of a question before the EXIT
		require.Equal(t, a, h.Step(2*time.Second, tick), "%v", verb)
	}
}

// TestSwitchoverAfterAWait: a gate that has no say does not hold back what a policy decides after a
// wait of its own.
func TestSwitchoverAfterAWait(t *testing.T) {
	for _, guidance := range []Guidance{GuidanceOff, GuidanceStart} {
		for _, gaveUp := range []bool{false, true} {
			h := NewHead(Config{
				Policy: chosen(t, "downtime"), Remote: true, Guidance: guidance, Retries: 3,
				MaxDefer: time.Minute,
			})
			start := Event{Kind: KindStart, Gate: GateOpen, Tasks: 1, Running: true}
			h.Step(0, start)
			h.Step(0, start)
			h.Step(0, Event{Kind: KindGate, Gate: GateClosed, Phase: PhasePreCopy})
			h.Step(0, Event{Kind: KindBegin, Phase: PhasePreCopy})
			a := h.Step(0, Event{
				Kind: KindRound, Phase: PhasePreCopy, Completed: 1, Answer: &Action{Verb: Wait},
			})
			require.Equal(t, Wait, a.Verb)
			require.NotEqual(t, Wait, h.Step(a.Until, Event{Kind: KindWake}).Verb)
			a = h.Step(a.Until, Event{
				Kind: KindTick, Phase: PhasePreCopy, Completed: 1,
				Answer: &Action{Verb: Switchover, Reason: "now", GaveUp: gaveUp},
			})
			require.Equal(t, Action{Verb: Switchover, Reason: "now", GaveUp: gaveUp}, a)
		}
	}
}

// TestEndlessBudget: a guest that guidance may hold back for ever is looked at as often as another.
func TestEndlessBudget(t *testing.T) {
	until := map[time.Duration]time.Duration{}
	for _, budget := range []time.Duration{time.Hour, math.MaxInt64} {
		h := NewHead(Config{
			Policy: chosen(t, "downtime"), Remote: true, Guidance: GuidanceSwitchover, Retries: 3,
			MaxDefer: budget,
		})
		start := Event{Kind: KindStart, Gate: GateClosed, Tasks: 1, Running: true}
		h.Step(0, start)
		h.Step(0, start)
		h.Step(0, Event{Kind: KindBegin, Phase: PhasePreCopy})
		a := h.Step(5*time.Second, Event{
			Kind: KindRound, Phase: PhasePreCopy, Completed: 1,
			Answer: &Action{Verb: Switchover, Reason: "it fits"},
		})
		require.Equal(t, Wait, a.Verb)
		require.Greater(t, a.Until, 5*time.Second)
		until[budget] = a.Until
	}
	require.Equal(t, until[time.Hour], until[math.MaxInt64])
}
