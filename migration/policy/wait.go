package policy

import (
	"math"
	"time"
)

// stay is why a migration waits.
type stay int

const (
	stayNone      stay = iota
	stayToStart        // the migration begins once the gate is open
	staySuspended      // no page is sent until the gate is open
	stayHeld           // the stop-and-copy waits for it, between rounds
	stayAsked          // the policy wants it, whatever the gate does
)

// waitAsked makes the migration wait as the policy wants. The wait is not guidance's doing, so by
// itself it does not count as deferred.
func (h *Head) waitAsked(now time.Duration, v Action) Action {
	until := v.Until
	if v.Verb == Wait || until > 0 {
		until = max(until, now+minSample) // a time that is over would make it spin
	}
	a := h.wait(now, stayAsked, until)
	a.Reason = v.Reason
	return a
}

// wait keeps the migration where it is, at most until the given time. It does not wait if guidance
// may not defer the migration any more.
func (h *Head) wait(now time.Duration, why stay, until time.Duration) Action {
	h.stay, h.stayEnd, h.changed = why, until, false
	h.recount(now)
	if why != stayAsked && h.budget(now) <= 0 {
		h.stay = stayNone
		return h.deferredTooLong(now)
	}
	a := Action{Verb: Wait, Until: h.waitEnd(now), Asked: why == stayAsked}
	switch why {
	case stayToStart:
		a.Phase = PhaseWaiting
	case staySuspended, stayAsked:
		a.Phase = PhaseSuspended
	case stayHeld:
		a.Phase = PhaseHeld
	}
	return a
}

func (h *Head) waitEnd(now time.Duration) time.Duration {
	if h.stay == stayAsked {
		return h.stayEnd
	}
	end := later(now, h.budget(now))
	if h.stayEnd > 0 {
		end = min(end, h.stayEnd)
	}
	return end
}

// later is a time that far ahead, or the last one that there is, because a budget may be as good as
// endless.
func later(now, ahead time.Duration) time.Duration {
	if ahead > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + ahead
}

// wake says whether a stay is over.
func (h *Head) wake(now time.Duration) Action {
	var a Action
	over := h.gateOpen
	if h.stay == stayAsked {
		over = h.changed
	}
	switch {
	case h.stay == stayNone, over:
	case h.atExit != "": // the guest stands still, held after the policy had wanted to wait
	case h.stay != stayAsked && h.budget(now) <= 0:
		a = h.deferredTooLong(now)
	case h.stayEnd > 0 && now >= h.stayEnd:
	default:
		return Action{Verb: Wait, Until: h.waitEnd(now)}
	}
	if h.gateOpen || h.forced || h.stay != stayHeld {
		a.Phase = PhasePreCopy
	}
	h.stay = stayNone
	h.recount(now)
	return a
}
