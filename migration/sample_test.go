package migration

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/policy"
	"taskguide/tagging"
)

// told is a policy made of a test's function.
type told func(now time.Duration, e policy.Event) policy.Action

func (f told) Step(now time.Duration, e policy.Event) policy.Action { return f(now, e) }

// led is a source that a test's policy leads.
func led(b *ends, p Params, f told) *Source {
	p.Rule = "downtime:polish=off" // the policy is content when it says so
	p = b.complete(p)
	choice, err := p.choice()
	require.NoError(b.t, err)
	return newLedSource(b.m, p, b.observe, b.peer(), choice, f)
}

// TestSamplesBeforeRound1: a policy that asks for them gets the rate at which pages are written,
// under each way of tracking, and round 1 begins when it says so. What the samples saw is sent.
func TestSamplesBeforeRound1(t *testing.T) {
	for _, onDemand := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, func(g *guest) {
				if g.step < 200 {
					g.writeRange(0, 50) // the same ones, so a sample has 50
				} else if g.step < 210 {
					g.write(3000) // and later writes of pages that samples saw
				}
			})
			defer b.close()
			b.m.touch(600)
			b.m.tracker.onDemand = onDemand
			b.m.start()
			var rates []float64
			s := led(b, Params{BitsPerSecond: 100 * mbit, Verify: true}, func(now time.Duration,
				e policy.Event) policy.Action {
				switch e.Kind {
				case policy.KindStart:
					return policy.Action{Verb: policy.Wait, Until: now + 10*time.Millisecond}
				case policy.KindSample:
					if rates = append(rates, e.DirtyPerS); e.DirtyPerS > 1000 {
						return policy.Action{Verb: policy.Wait, Until: now + 10*time.Millisecond}
					}
				case policy.KindRound:
					return policy.Action{Verb: policy.Switchover, Reason: "sampled"}
				}
				return policy.Action{}
			})
			r := s.Run(context.Background())
			b.checkMoved(s, r)
			require.Equal(t, "sampled", r.SwitchoverReason)
			require.InDelta(t, 21, r.Samples, 1)
			require.Len(t, rates, r.Samples)
			require.InDelta(t, 210, r.SamplingMS, 15)
			for _, rate := range rates[:len(rates)-2] {
				require.InDelta(t, 5000, rate, 600) // 50 in 10 ms
			}
			require.Less(t, rates[len(rates)-1], 1000.0)
			require.Equal(t, PhasePreCopy, r.Rounds[0].Phase)
		})
	}
}

// TestNoSamplesUnasked: protecting all of RAM before round 1 costs time, so it is done only for a
// policy that asks for samples.
func TestNoSamplesUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.tracker.onDemand = true
		b.m.start()
		s := b.source(Params{})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Zero(t, r.Samples)
		require.Zero(t, r.SamplingMS)
	})
}

// TestPolicyWaitsAndAborts: it may have no page sent for a while, and may end the migration.
func TestPolicyWaitsAndAborts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 60))
		defer b.close()
		b.m.touch(300)
		b.m.port.Write(tagging.RegRegister, 4, 1) // a task, which is outside of a segment
		b.m.start()
		var sent []int64 // at each tick
		// As the last notice of progress had it: the head is told with a lock held.
		var wire atomic.Int64
		b.onEvent = func(e Notice) {
			if e.Progress != nil {
				wire.Store(e.Progress.BytesWire)
			}
		}
		s := led(b, Params{BitsPerSecond: 100 * mbit}, func(now time.Duration,
			e policy.Event) policy.Action {
			switch {
			case e.Kind == policy.KindTick && len(sent) == 3:
				return policy.Action{Verb: policy.Abort, Reason: "enough"}
			case e.Kind == policy.KindTick:
				sent = append(sent, wire.Load())
				fallthrough
			case e.Kind == policy.KindRound:
				return policy.Action{Verb: policy.Wait, Until: now + time.Second}
			}
			return policy.Action{}
		})
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Contains(t, r.Error, "ended by its policy: enough")
		require.Equal(t, StatusCancelled, r.Status)
		require.Len(t, sent, 3)
		require.Less(t, sent[2]-sent[0], int64(200), "only keep-alives")
		require.Len(t, r.Rounds, 1)
		require.InDelta(t, 4100, r.TotalMS, 100)
		require.Zero(t, r.WaitedMS+r.SuspendedMS+r.DeferredMS, "none of it is guidance's")
		require.Empty(t, r.HeldBy, "no task held it")
	})
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 60))
		defer b.close()
		b.m.start()
		s := led(b, Params{}, func(time.Duration, policy.Event) policy.Action {
			return policy.Action{Verb: policy.Abort, Reason: "not today"}
		})
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Empty(t, r.Rounds)
	})
}
