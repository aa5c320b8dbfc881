package migration

import (
	"fmt"
	"log/slog"
	"time"

	"taskguide/migration/policy"
	"taskguide/migration/program"
)

// LogTo has what the programs of policies say on standard error logged. Call it before Run.
func (s *Source) LogTo(log *slog.Logger) { s.counsel.LogTo(log) }

// startPrograms starts the programs of policies. The returned function ends them.
func (s *Source) startPrograms() (stop func(), err error) {
	if err := s.counsel.Start(s.lost); err != nil {
		return s.counsel.Close, err
	}
	limit := time.AfterFunc(s.p.policyLimit(), func() {
		s.lost(fmt.Errorf("it has led for %v", s.p.policyLimit()))
		s.counsel.Dismiss()
	})
	return func() { limit.Stop(); s.counsel.Close() }, nil
}

// ask puts the question of an event to the program that leads, if one does, and returns the event
// with its answer. No lock may be held, because the answer may take a while.
func (s *Source) ask(e policy.Event) policy.Event {
	s.mu.Lock()
	q, asks := s.head.Question(e)
	if !asks || !s.head.Remote() {
		s.mu.Unlock()
		return e
	}
	m := program.Asking(s.now(), q)
	if e.Kind == policy.KindStart {
		m.Opening = s.opening(e)
	}
	s.mu.Unlock()
	e.Answer = s.counsel.Ask(m)
	return e
}

// askAnd puts the question of an event to the program that leads, and then tells the head of the
// event. No lock may be held; then runs with s.mu held.
func (s *Source) askAnd(e policy.Event, then func(policy.Action)) {
	e = s.ask(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	then(s.step(e))
}

// opening is what a program learns at the start; s.mu is held.
func (s *Source) opening(e policy.Event) *program.Opening {
	return &program.Opening{
		Tasks: e.Tasks, Guidance: s.head.Guidance(), DowntimeLimitMS: ms(s.p.downtimeLimit()),
		MaxDeferMS: ms(s.p.maxDefer()), PolicyLimitMS: ms(s.p.policyLimit()),
		BitsPerSecond: s.p.BitsPerSecond,
	}
}

// lost lets another policy take the place of the program that leads.
func (s *Source) lost(why error) {
	s.mu.Lock()
	if s.head.Remote() && !s.head.Ended() {
		s.report.PolicyError = OneLine(why.Error())
		s.report.Warnings = append(s.report.Warnings, fmt.Sprintf(
			"the policy's program is asked no more: %s: %s decides from here on",
			s.report.PolicyError, policy.Default))
		s.report.DowntimeFixed.LimitMS = ms(s.p.promise())
		s.step(policy.Event{Kind: policy.KindLost})
	}
	s.mu.Unlock()
	s.wakeUp()
}

// askedListener is a gateListener for a migration that a program leads.
type askedListener struct{ gateListener }

// GateMayClose implements tagging.Forewarned. The vCPU waits at its EXIT, and no lock of the port
// is held, so the program has time for its answer. GateClosing then finds that.
func (l askedListener) GateMayClose() {
	s := l.s
	s.mu.Lock()
	cheap := policy.Event{Phase: s.report.Phase, Completed: s.report.RoundCount()}
	asks := s.mayHold() && s.standing == nil && s.m.Running() &&
		s.head.Remote() && s.head.AsksAtExit(s.now(), cheap)
	if asks {
		closing := s.event(policy.KindGate, s.stream.AtLeast())
		closing.Gate = policy.GateClosing
		asks = s.step(closing).Verb == policy.Look
	}
	s.mu.Unlock()
	if !asks {
		return
	}
	remaining, err := s.stream.Remaining()
	if err != nil {
		return // the round's own harvest will fail too and report it
	}
	s.mu.Lock()
	closing := s.event(policy.KindGate, remaining)
	closing.Gate, closing.Looked = policy.GateClosing, true
	now := s.now()
	m := program.Asking(now, closing)
	s.mu.Unlock()
	s.counsel.AskAtExit(now, m, closing)
}

// answeredAtExit returns the event of an EXIT for which the program that leads was asked, and
// whether the head is to be told of it; s.mu is held. Without an answer there is nothing to decide,
// unless the vCPUs are coming to a stand already.
func (s *Source) answeredAtExit() (closing policy.Event, tell bool) {
	if closing, ok := s.counsel.AtExit(s.now()); ok {
		closing.Rounds, closing.Phase = s.report.Rounds, s.report.Phase
		return closing, true
	}
	closing = policy.Event{
		Kind: policy.KindGate, Gate: policy.GateClosing, Phase: s.report.Phase, Looked: true,
	}
	return closing, s.standing != nil
}
