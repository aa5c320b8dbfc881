package migration

import (
	"context"
	"fmt"
	"time"

	"taskguide/tagging"
)

// attach begins to listen to the gate.
func (s *Source) attach() {
	// With mu held: a transition right after Attach waits until its answer is noted.
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.m.Tags().Attach(s.p.Gate, gateListener{s})
	s.gateOpen = g.Open
	s.guided = s.p.Guidance != GuidanceOff && g.Tasks > 0
	if s.p.Guidance != GuidanceOff && g.Tasks == 0 {
		s.report.Guidance = GuidanceNone
		s.report.Warnings = append(s.report.Warnings, "no task in the guest takes part in guidance: the rule alone decides")
	}
	if s.guided && !g.Open && !s.m.Running() {
		s.guided = false
		s.report.Warnings = append(s.report.Warnings, "the guest is paused before a closed gate and cannot open it: the rule alone decides")
	}
}

// gateListener is the engine's side of the tag port. Its methods run on a vCPU's
// thread, inside the exit that changes the gate.
type gateListener struct{ s *Source }

// GateOpened implements tagging.Listener.
func (l gateListener) GateOpened() {
	s := l.s
	s.mu.Lock()
	s.gateOpen = true
	s.opened++
	s.drain.reset()
	if s.phase == PhaseHeld {
		// What the round under way still has to send was dirtied before the gate
		// opened; a new round sends each page once.
		s.stopRound.Store(true)
	}
	s.mu.Unlock()
	s.wakeUp()
	s.emit(Event{Kind: EventGate})
}

// GateClosing implements tagging.Listener: the vCPU is held at its EXIT, and this
// is the last moment at which the gate is open.
func (l gateListener) GateClosing() (hold bool) {
	s := l.s
	s.mu.Lock()
	// A machine that this engine asked to pause counts as running until it stands
	// still; one that its user paused does not get here.
	asked := s.p.switchAtExit() && s.holdsSwitchover() && (s.asked || s.m.Running())
	pausing, phase, reason := s.pausing, s.phase, s.report.SwitchoverReason
	s.mu.Unlock()
	if !asked {
		return false
	}
	if pausing {
		return s.holdAtExit(reason + ", held at the segment's EXIT")
	}
	if phase != PhasePreCopy && phase != PhaseHeld {
		return false
	}
	dirtied, err := s.harvest()
	if err != nil {
		return false // the round's own harvest will fail and say so
	}
	s.mu.Lock()
	remaining := s.remaining(dirtied)
	v := s.rule.judge(s.sampleLocked(remaining))
	ready := len(s.report.Rounds) > 0 && v.Reason != "" && (!v.GaveUp || s.drain.near(remaining))
	s.mu.Unlock()
	if !ready {
		return false
	}
	return s.holdAtExit(v.Reason + ", at the segment's EXIT")
}

// remaining is how many pages a switchover in the middle of a round would have to
// send, at most, after a harvest that made next so many pages; s.mu is held.
func (s *Source) remaining(next int) int {
	unsent, between := s.round.unsent()
	if s.protector != nil && (between || s.p.Rule != RuleXen) {
		// What is still to be sent is not protected yet, so it was harvested again.
		return max(next, unsent)
	}
	return next + unsent
}

// holdAtExit has the machine pause with the calling vCPU right behind its EXIT.
func (s *Source) holdAtExit(reason string) bool {
	s.mu.Lock()
	if s.ended || s.committed {
		s.mu.Unlock()
		return false
	}
	s.atExit = reason
	s.askToPause()
	s.stopRound.Store(true)
	s.mu.Unlock()
	s.m.RequestPause()
	s.wakeUp()
	return true
}

// GateClosed implements tagging.Listener.
func (l gateListener) GateClosed() {
	s := l.s
	s.mu.Lock()
	s.gateOpen = false
	if s.obeysGate() && s.p.Guidance == GuidanceSuspend && s.phase == PhasePreCopy {
		s.stopRound.Store(true)
	}
	s.mu.Unlock()
	s.wakeUp()
	s.emit(Event{Kind: EventGate})
}

func (s *Source) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// waitToStart holds a migration back until the gate is open, in the modes that
// want that.
func (s *Source) waitToStart(ctx context.Context) error {
	if s.p.Guidance != GuidanceStart && s.p.Guidance != GuidanceSuspend {
		return nil
	}
	return s.waitOpen(ctx, wait{phase: PhaseWaiting, state: tagging.StateWaiting, account: &s.waited})
}

// waitWhileSuspended holds the page stream back while the gate is closed, with
// GuidanceSuspend.
func (s *Source) waitWhileSuspended(ctx context.Context) error {
	if s.p.Guidance != GuidanceSuspend {
		return nil
	}
	s.mu.Lock()
	suspend := s.obeysGate() && !s.gateOpen
	if suspend {
		s.report.Suspensions++
	}
	s.mu.Unlock()
	if !suspend {
		return nil
	}
	if err := s.waitOpen(ctx, wait{phase: PhaseSuspended, state: tagging.StateSuspended, account: &s.suspended}); err != nil {
		return err
	}
	// The next round is to send what was dirtied meanwhile too: what it leaves is
	// then what the segment dirties.
	_, _, err := s.takeDirty()
	return err
}

// wait is one stay before a closed gate.
type wait struct {
	phase   Phase
	state   tagging.MigrationState
	account *time.Duration // the time is added here
	atMost  time.Duration  // 0: until the gate opens
}

// waitOpen waits for the gate. It ends early, without an error, after w.atMost, or
// when all time held back exceeds the limit and the migration is to be forced.
func (s *Source) waitOpen(ctx context.Context, w wait) error {
	s.mu.Lock()
	if !s.obeysGate() || s.gateOpen || s.atExit != "" {
		s.mu.Unlock()
		return nil
	}
	s.holdBack(w.account)
	budget := s.deferBudget()
	s.mu.Unlock()
	s.setPhase(w.phase)
	s.m.Tags().SetState(w.state)

	err := s.waitOpenUntil(ctx, w, budget)

	s.mu.Lock()
	if s.forced || err != nil || w.phase != PhaseHeld {
		s.letGo()
	}
	again := s.gateOpen || s.forced
	s.mu.Unlock()
	if again || err != nil || w.phase != PhaseHeld {
		s.setPhase(PhasePreCopy)
	}
	return err
}

func (s *Source) waitOpenUntil(ctx context.Context, w wait, budget time.Duration) error {
	deadline := time.NewTimer(budget)
	defer deadline.Stop()
	var pace <-chan time.Time
	if w.atMost > 0 {
		timer := time.NewTimer(w.atMost)
		defer timer.Stop()
		pace = timer.C
	}
	for {
		s.mu.Lock()
		open := s.gateOpen || s.atExit != ""
		s.mu.Unlock()
		if open {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.wake:
		case <-pace:
			return nil
		case <-deadline.C:
			return s.deferredTooLong()
		}
	}
}

// holdBack counts the time from now on as held back, on account; s.mu is held.
func (s *Source) holdBack(account *time.Duration) {
	if s.held != account {
		s.letGo()
		s.heldSince, s.held = time.Now(), account
	}
}

// letGo ends the counting; s.mu is held.
func (s *Source) letGo() {
	if s.held != nil {
		*s.held += time.Since(s.heldSince)
		s.heldSince, s.held = time.Time{}, nil
	}
}

// noteOpen ends the counting if nothing but the rule has a say now; s.mu is held.
// With a rule that gave up it goes on before an open gate too: the rounds that are
// then still sent are guidance's, and a gate that opens and closes all the time
// would have them go on for ever.
func (s *Source) noteOpen(v verdict) {
	if s.gateOpen && !v.GaveUp {
		s.letGo()
	}
}

// deferBudget is how long the migration may still be held back; s.mu is held.
func (s *Source) deferBudget() time.Duration {
	waited, suspended := s.heldTimes()
	return s.p.MaxDefer - waited - suspended
}

// stopRoundAtLimit ends the round under way once the migration has been held back
// for MaxDefer; s.mu is held. The returned function undoes that.
func (s *Source) stopRoundAtLimit() (undo func() bool) {
	if s.held == nil {
		return func() bool { return true }
	}
	return time.AfterFunc(s.deferBudget(), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.held != nil { // or it could be the stop-and-copy's by now
			s.stopRound.Store(true)
		}
	}).Stop
}

// checkLimit ends guidance, or the migration, if it was held back for MaxDefer
// while rounds went on.
func (s *Source) checkLimit() error {
	s.mu.Lock()
	over := s.held != nil && s.deferBudget() <= 0
	if over {
		s.letGo()
	}
	s.mu.Unlock()
	if !over {
		return nil
	}
	return s.deferredTooLong()
}

// deferredTooLong is what becomes of a migration that was held back for MaxDefer.
func (s *Source) deferredTooLong() error {
	if s.p.OnTimeout == TimeoutCancel {
		return fmt.Errorf("%w: %v", ErrDeferred, s.p.deferLimit())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forced = true
	s.report.Forced = true
	s.report.Warnings = append(s.report.Warnings, fmt.Sprintf("held back for %v: the rule alone decides from here on", s.p.deferLimit()))
	return nil
}
