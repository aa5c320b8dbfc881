package policy

import (
	"fmt"
	"time"
)

// Deferral is the time that guidance has cost a migration. Two questions have two answers.
//
// How long did a closed gate hold the migration back? That is Waited, or Suspended where the page
// stream stood still.
//
// How much later does the migration end than it would without guidance? That is Deferred, and what
// Config.MaxDefer bounds. It includes all of the above, and every round since the policy was first
// satisfied, because without guidance the migration would have ended before those rounds.
type Deferral struct {
	Waited, Suspended, Deferred time.Duration
}

// account keeps a Deferral. The zero value counts nothing.
type account struct {
	Deferral
	since  time.Duration  // the last change
	before *time.Duration // Waited or Suspended while a closed gate holds it back, else nil
	counts bool           // whether Deferred grows
}

// settle brings the account up to date.
func (a *account) settle(now time.Duration) {
	passed := now - a.since
	a.since = now
	if a.before != nil {
		*a.before += passed
	}
	if a.counts {
		a.Deferred += passed
	}
}

// change sets what grows from now on.
func (a *account) change(now time.Duration, before *time.Duration, counts bool) {
	a.settle(now)
	a.before, a.counts = before, counts
}

// Deferral returns what guidance has cost until now.
func (h *Head) Deferral(now time.Duration) Deferral {
	h.account.settle(now)
	return h.account.Deferral
}

// deferredTooLong decides about a migration that was deferred for as long as it may be.
func (h *Head) deferredTooLong(now time.Duration) Action {
	if h.c.OnTimeout == TimeoutCancel {
		return Action{Verb: Abort, Err: fmt.Errorf("%w: %v", ErrDeferred, h.c.MaxDefer)}
	}
	h.forced = true
	h.recount(now)
	h.warning = fmt.Sprintf("held back for %v: the rule alone decides from here on", h.c.MaxDefer)
	return Action{}
}

// budget is how long the migration may still be deferred.
func (h *Head) budget(now time.Duration) time.Duration {
	return h.c.MaxDefer - h.Deferral(now).Deferred
}

// Left returns how long guidance may still hold the migration back before the policy alone decides.
// ok is false if that does not happen: the gate has no say, or the migration would be cancelled.
func (h *Head) Left(now time.Duration) (left time.Duration, ok bool) {
	if !h.obeysGate() || h.ended || h.c.OnTimeout == TimeoutCancel {
		return 0, false
	}
	return max(h.budget(now), 0), true
}

// recount selects the times that grow, after a change of anything that they depend on.
func (h *Head) recount(now time.Duration) {
	costs := h.stay == stayToStart || h.stay == staySuspended || h.converged && h.holdsSwitchover()
	counts := costs && h.obeysGate() && !h.standing && !h.ended
	var before *time.Duration
	switch {
	case !counts || h.gateOpen:
	case h.stay == staySuspended:
		before = &h.account.Suspended
	default:
		before = &h.account.Waited
	}
	h.account.change(now, before, counts)
}
