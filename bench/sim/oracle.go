package sim

import (
	"time"

	"taskguide/migration/policy"
)

// Oracle is the name of the policy that knows the whole trace. It exists only here.
const Oracle = "oracle"

// within is how much more downtime than the least the oracle takes for an earlier moment.
const within = time.Millisecond

// moment is one at which the switchover could begin.
type moment struct {
	at       time.Duration
	downtime time.Duration // expected
}

// Best simulates the move that knew the trace: with the order's rounds and traits, and no guidance,
// it chooses only the moment of the switchover, between the request and MaxDefer later. It takes
// the earliest within 1 ms of the least downtime. The first moment is the end of round 1.
//
// It knows the rounds that go on one after another. A guided move ends rounds early, waits between
// them and may hold a vCPU at its EXIT. So it can meet a better moment than the oracle, which has
// its rounds fixed: regret may be negative.
func (s Setting) Best(cancelled Cancelled, t *Trace, o Order, at time.Duration) (Move, error) {
	if err := s.check(o); err != nil {
		return Move{}, err
	}
	w := s.foreknown(t, o, o.MaxDefer, at)
	w.cancelled = cancelled
	var all []moment
	w.candidate = func() { all = append(all, moment{w.now, w.expected()}) }
	w.run()
	chosen := choose(all)
	w = s.foreknown(t, o, chosen, at)
	w.cancelled = cancelled
	w.cut = chosen
	m := w.run()
	m.Reason = "the best moment there was"
	return m, cancelled()
}

// choose returns the earliest of the moments within 1 ms of the least downtime.
func choose(all []moment) time.Duration {
	if len(all) == 0 {
		return 0
	}
	least := all[0].downtime
	for _, m := range all {
		least = min(least, m.downtime)
	}
	for _, m := range all {
		if m.downtime <= least+within {
			return m.at
		}
	}
	panic("the least is within 1 ms of itself")
}

// foreknown returns a move that switches over as soon as it can from a time on, whatever is left.
func (s Setting) foreknown(t *Trace, o Order, from, at time.Duration) *walk {
	rule := policy.StopRule(func(now time.Duration, e policy.Event) policy.Action {
		if now < from {
			return policy.Action{}
		}
		return policy.Action{Verb: policy.Switchover, Reason: Oracle, GaveUp: true}
	})
	head := policy.NewHead(policy.Config{
		Policy: rule, Guidance: policy.GuidanceOff, Retries: retries,
	})
	w := newWalk(s, t, o, head, at)
	w.blind = true
	return w
}

// expected is what a downtime that begins now would be, if all that is left were like what the
// guest writes now.
func (w *walk) expected() time.Duration {
	l := *w.link
	l.still = true
	begin := w.now + w.s.Costs.Pause
	rest := load{}
	rest.add(w.left, w.t.contents[w.guest.content()], &l)
	done := l.send(begin, rest).done
	return done - w.now + w.s.Costs.Handover + switchoverTrips*w.s.RTT
}
