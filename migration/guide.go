package migration

import (
	"context"
	"time"

	"taskguide/migration/peer"
	"taskguide/migration/policy"
	"taskguide/migration/program"
	"taskguide/migration/stream"
	"taskguide/tagging"
)

// now is the time since the migration began, as policies know it.
func (s *Source) now() time.Duration {
	if s.begin.IsZero() {
		return 0
	}
	return time.Since(s.begin)
}

// step tells the head what has happened and returns its action; s.mu is held.
func (s *Source) step(e policy.Event) policy.Action {
	now := s.now()
	if q, asks := s.head.Question(e); asks {
		var opening *program.Opening
		if q.Kind == policy.KindStart {
			opening = s.opening(q)
		}
		s.counsel.Shadow(now, q, opening)
	} else if s.head.Told(e) {
		s.counsel.Tell(now, e)
	}
	a := s.head.Step(now, e)
	s.report.Forced = s.head.Forced()
	if a.Warning != "" {
		s.report.Warnings = append(s.report.Warnings, a.Warning)
	}
	return a
}

// event returns an event with that many remaining pages; s.mu is held.
func (s *Source) event(kind policy.Kind, remaining int) policy.Event {
	return s.complete(policy.Event{Kind: kind, Remaining: remaining})
}

// complete adds the migration's present state to an event; s.mu is held.
func (s *Source) complete(e policy.Event) policy.Event {
	e.Rounds, e.Completed = s.report.Rounds, s.report.RoundCount()
	e.Queued = s.peer.Queued()
	e.Sent, e.RAM = s.report.PagesSent+s.report.PagesZero, s.m.RAM().Pages()
	e.Phase, e.Fixed = s.report.Phase, s.fixed()
	rate := s.stream.Rate()
	e.BytesPerS, e.WirePerS = rate.Content, rate.Wire
	if rate.Content == 0 {
		e.BytesPerS = float64(s.p.BitsPerSecond) / 8
		e.WirePerS = e.BytesPerS
	}
	return e
}

// decided tells whether the action is a switchover, and notes its reason; s.mu is held.
func (s *Source) decided(a policy.Action) bool {
	if a.Verb != policy.Switchover {
		return false
	}
	s.report.SwitchoverReason = a.Reason
	return true
}

// end notes that the migration has ended and the guest stays; s.mu is held.
func (s *Source) end() {
	s.step(policy.Event{Kind: policy.KindEnded})
}

func gateOf(open bool) policy.Gate {
	if open {
		return policy.GateOpen
	}
	return policy.GateClosed
}

// attach begins to listen to the gate, and returns whether the migration may begin.
func (s *Source) attach() policy.Action {
	var listener tagging.Listener = gateListener{s}
	// mu is held so that a transition right after Attach waits until Attach's answer is noted.
	s.mu.Lock()
	led := s.head.Remote()
	if led {
		listener = askedListener{gateListener{s}}
	}
	g := s.m.Tags().Attach(s.p.Gate, listener)
	start := s.event(policy.KindStart, 0)
	start.Gate, start.Tasks, start.Running = gateOf(g.Open), g.Tasks, s.m.Running()
	a := s.step(start)
	s.report.Guidance = s.head.Guidance()
	s.mu.Unlock()
	if led {
		s.askAnd(start, func(answer policy.Action) { a = answer })
	}
	return a
}

// gateListener is the engine's side of the tag port. Its methods run on a vCPU's
// thread, inside the exit that changes the gate.
type gateListener struct{ s *Source }

// GateOpened implements tagging.Listener.
func (l gateListener) GateOpened() { l.s.gateChanged(policy.GateOpen) }

// GateClosed implements tagging.Listener.
func (l gateListener) GateClosed() { l.s.gateChanged(policy.GateClosed) }

// Deadline implements tagging.Deadliner.
func (l gateListener) Deadline() (left time.Duration, ok bool) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.s.head.Left(l.s.now())
}

func (s *Source) gateChanged(to policy.Gate) {
	s.mu.Lock()
	changed := policy.Event{Kind: policy.KindGate, Gate: to, Phase: s.report.Phase}
	if s.step(changed).Verb == policy.EndRound {
		s.stream.Stop()
	}
	s.mu.Unlock()
	s.wakeUp()
	s.emit(Notice{Kind: NoticeGate})
}

// GateClosing implements tagging.Listener. The vCPU waits at its EXIT, and this is the last moment
// at which the gate is open.
func (l gateListener) GateClosing() (hold bool) {
	s := l.s
	if !s.holdsAtExit(time.Now()) {
		return false
	}
	s.m.RequestPause()
	s.wakeUp()
	return true
}

// holdsAtExit decides whether the calling vCPU, which has waited at its EXIT since the given time,
// stays held there. If so, the caller must ask the machine to pause.
func (s *Source) holdsAtExit(since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.head.Remote() {
		closing, tell := s.answeredAtExit()
		return tell && s.mayHold() && s.holds(closing, since)
	}
	cheap := policy.Event{Phase: s.report.Phase, Completed: s.report.RoundCount()}
	begun := s.now()
	if !s.mayHold() || !s.head.AsksAtExit(begun, cheap) {
		return false
	}
	// A machine that this engine asked to pause counts as running until it stands still. A machine
	// that its user paused has no vCPU that could get here.
	if s.standing == nil && !s.m.Running() {
		return false
	}
	if s.asksAtExit(since) {
		return true
	}
	s.head.AskedAtExit(begun, s.now())
	return false
}

// asksAtExit asks the head whether the vCPU stays held at its EXIT: first with the fewest pages
// that there can be, and then with the number that a look finds, if the head wants one. s.mu is
// held, but not during the look.
func (s *Source) asksAtExit(since time.Time) bool {
	closing := s.event(policy.KindGate, s.stream.AtLeast())
	closing.Gate = policy.GateClosing
	a := s.step(closing)
	if a.Verb != policy.Look {
		return s.held(a, since)
	}
	s.mu.Unlock()
	remaining, err := s.stream.Remaining()
	s.mu.Lock()
	if err != nil || !s.mayHold() {
		return false // the round's own harvest will fail too and report it
	}
	closing = s.event(policy.KindGate, remaining)
	closing.Gate, closing.Looked = policy.GateClosing, true
	return s.holds(closing, since)
}

// holds tells the head of an EXIT, with all facts, and whether the vCPU stays held there; s.mu is
// held.
func (s *Source) holds(closing policy.Event, since time.Time) bool {
	return s.held(s.step(closing), since)
}

// held carries out what the head said about an EXIT; s.mu is held.
func (s *Source) held(a policy.Action, since time.Time) bool {
	if a.Verb != policy.Switchover {
		return false
	}
	s.askToPause(since)
	s.report.SwitchoverReason = a.Reason
	s.stream.Stop()
	return true
}

// mayHold tells whether the vCPUs may be asked, or have been asked, to stand still; s.mu is held.
func (s *Source) mayHold() bool {
	return !s.head.Ended() && !s.doubt.Told() && s.takenBack == nil && !s.resting()
}

// roundDue asks the head in the middle of a round, at the time that the head gave.
func (s *Source) roundDue() {
	remaining, err := s.stream.Remaining()
	if err != nil {
		return // the round's own harvest will fail and report it
	}
	s.mu.Lock()
	due := s.event(policy.KindDue, remaining)
	s.mu.Unlock()
	s.askAnd(due, func(a policy.Action) {
		if a.Verb == policy.EndRound {
			s.stream.Stop()
		}
	})
}

func (s *Source) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// beforeRound holds the page stream back for as long as the head wants.
func (s *Source) beforeRound(ctx context.Context) error {
	for {
		s.mu.Lock()
		a := s.step(policy.Event{Kind: policy.KindNext})
		if a.Verb == policy.Suspend {
			s.report.Suspensions++
		}
		s.mu.Unlock()
		switch a.Verb {
		case policy.Sample:
			if err := s.sample(ctx, a); err != nil {
				return err
			}
		case policy.Suspend:
			if err := s.wait(ctx, a); err != nil {
				return err
			}
			// The next round must also send what was dirtied meanwhile. Then what it leaves is only
			// what the segment dirties.
			_, _, err := s.takeDirty()
			return err
		default:
			return a.Err
		}
	}
}

// waitStates is what a guest is told in each phase in which the migration waits.
var waitStates = map[Phase]tagging.MigrationState{
	PhaseWaiting:   tagging.StateWaiting,
	PhaseSuspended: tagging.StateSuspended,
	PhaseHeld:      tagging.StateWaiting,
}

// wait waits, in the phase that a names, until the head lets the migration go on.
func (s *Source) wait(ctx context.Context, a policy.Action) error {
	s.setPhase(a.Phase)
	s.m.Tags().SetState(waitStates[a.Phase])
	next, err := s.waitForHead(ctx, a)
	if err != nil {
		next = PhasePreCopy
	}
	if next != "" {
		s.setPhase(next)
	}
	return err
}

// waitForHead returns the phase that follows, or an empty one if the phase stays the same. No task
// holds a migration that waits because its policy has asked for it.
func (s *Source) waitForHead(ctx context.Context, begin policy.Action) (Phase, error) {
	tick := time.NewTicker(peer.AnnouncePace)
	defer tick.Stop()
	note := func() {}
	if !begin.Asked {
		h := s.newHolders()
		note = func() { s.noteHolders(h) }
	}
	defer func() { note() }()
	for looked := time.Now(); ; {
		if now := time.Now(); now.Sub(looked) >= holdersPace {
			note()
			looked = now
		}
		s.mu.Lock()
		a := s.step(policy.Event{Kind: policy.KindWake})
		s.mu.Unlock()
		if a.Verb != policy.Wait {
			return a.Phase, a.Err
		}
		if err := s.peer.AnnounceWait(peer.AnnounceAhead); err != nil {
			return "", peer.Explain(ctx, err)
		}
		if err := s.sleep(ctx, a.Until, tick.C); err != nil {
			return "", err
		}
	}
}

// holdersPace is how often a migration that waits looks for whom: what a task that dies held since
// the last look is lost.
const holdersPace = 100 * time.Millisecond

// newHolders begins to note for whom a wait waits, beside those of waits before.
func (s *Source) newHolders() *holders {
	s.mu.Lock()
	before := s.report.HeldBy
	s.mu.Unlock()
	return newHolders(before, s.m.Tags().Snapshot().Tasks)
}

// noteHolders enters into the report for whom the migration waits.
func (s *Source) noteHolders(h *holders) {
	h.look(s.m.Tags().Snapshot().Tasks)
	longest := h.longest()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.HeldBy = longest
}

// sample measures the dirty rate before round 1, for as long as the head asks for samples.
func (s *Source) sample(ctx context.Context, a policy.Action) error {
	if err := s.peer.AnnounceWork(); err != nil {
		return peer.Explain(ctx, err)
	}
	begin := s.now()
	if err := s.stream.Watch(); err != nil {
		return err
	}
	s.mu.Lock()
	s.report.ProtectMS = ms(s.now() - begin)
	s.mu.Unlock()
	tick := time.NewTicker(peer.AnnouncePace)
	defer tick.Stop()
	for last := s.now(); a.Verb == policy.Sample; {
		if err := s.peer.AnnounceWait(peer.AnnounceAhead); err != nil {
			return peer.Explain(ctx, err)
		}
		if err := s.sleep(ctx, a.Until, tick.C); err != nil {
			return err
		}
		s.mu.Lock()
		a = s.step(policy.Event{Kind: policy.KindNext}) // the sample may be due earlier by now
		s.mu.Unlock()
		now := s.now()
		if now < a.Until {
			continue
		}
		dirtied, err := s.stream.Sample()
		if err != nil {
			return err
		}
		s.mu.Lock()
		e := s.event(policy.KindSample, s.stream.Pending().Count())
		e.DirtyPerS = stream.PerSecond(float64(dirtied), now-last)
		s.report.Samples++
		s.report.SamplingMS = ms(now - begin)
		s.mu.Unlock()
		s.askAnd(e, func(answer policy.Action) { a = answer })
		last = now
	}
	return a.Err
}

// sleep returns when something has happened, when the ticker ticks, or at until, a time since the
// migration began (0: never).
func (s *Source) sleep(ctx context.Context, until time.Duration, tick <-chan time.Time) error {
	var due <-chan time.Time
	if until > 0 {
		timer := time.NewTimer(until - s.now())
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-tick:
	case <-s.wake:
	case <-due:
	}
	return nil
}
