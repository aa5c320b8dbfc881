package migration

import (
	"context"
	"time"

	"taskguide/migration/peer"
	"taskguide/migration/policy"
	"taskguide/migration/stream"
)

// precopy sends rounds until the stop-and-copy may begin, and notes why.
func (s *Source) precopy(ctx context.Context) error {
	s.setPhase(PhasePreCopy)
	for {
		if err := s.rewind(ctx); err != nil {
			return err
		}
		if err := s.beforeRound(ctx); err != nil {
			return err
		}
		over, err := s.precopyRound(ctx)
		if err != nil {
			return err
		}
		if s.wasTakenBack() {
			continue
		}
		if ready, err := s.afterRound(ctx, over); ready || err != nil {
			return err
		}
	}
}

// afterRound carries out what is decided after a round. It returns ready if the stop-and-copy may
// begin at once; otherwise another round is due.
func (s *Source) afterRound(ctx context.Context, over policy.Event) (ready bool, err error) {
	s.mu.Lock()
	over = s.complete(over)
	s.mu.Unlock()
	var a policy.Action
	s.askAnd(over, func(answer policy.Action) { a, ready = answer, s.mayBegin(answer) })
	if a.Verb != policy.Wait && a.Phase != "" {
		s.setPhase(a.Phase)
	}
	for a.Verb == policy.Wait && a.Err == nil {
		if a, ready, err = s.hold(ctx, a); err != nil {
			return false, err
		}
	}
	return ready, a.Err
}

// hold waits between rounds, and returns the decision that ends the wait.
func (s *Source) hold(
	ctx context.Context, a policy.Action,
) (next policy.Action, ready bool, err error) {
	if err := s.wait(ctx, a); err != nil {
		return a, false, err
	}
	remaining, _, err := s.takeDirty()
	if err != nil {
		return a, false, err
	}
	s.mu.Lock()
	tick := s.event(policy.KindTick, remaining)
	s.mu.Unlock()
	s.askAnd(tick, func(answer policy.Action) { a, ready = answer, s.mayBegin(answer) })
	return a, ready, nil
}

// precopyRound sends what is pending and collects what was dirtied meanwhile. It returns the event
// that tells the head of the round.
func (s *Source) precopyRound(ctx context.Context) (policy.Event, error) {
	if s.report.RoundCount() > 0 && s.stream.Pending().Count() == 0 {
		// The guest dirtied nothing, and an empty round would only spin.
		return s.idleRound(ctx)
	}
	s.mu.Lock()
	phase := s.report.Phase
	s.mu.Unlock()
	begin := time.Now()
	r, err := s.sendRound(ctx, phase)
	if err != nil {
		return policy.Event{}, err
	}
	remaining, dirtied, err := s.takeDirty()
	if err != nil {
		return policy.Event{}, err
	}
	r.DirtyPagesPerS = stream.PerSecond(float64(dirtied), time.Since(begin))
	s.closeRound(r)
	return policy.Event{
		Kind: policy.KindRound, Dirty: int(r.DirtyPages), Remaining: remaining,
	}, nil
}

// idleRound waits a moment for a guest that dirtied nothing. It sends no page, and more of them may
// follow for as long as the policy likes, so the destination must know that this is meant.
func (s *Source) idleRound(ctx context.Context) (policy.Event, error) {
	if err := s.peer.AnnounceWait(peer.AnnounceAhead); err != nil {
		return policy.Event{}, peer.Explain(ctx, err)
	}
	select {
	case <-ctx.Done():
		return policy.Event{}, context.Cause(ctx)
	case <-s.wake:
	case <-time.After(time.Millisecond):
	}
	remaining, _, err := s.takeDirty()
	return policy.Event{
		Kind: policy.KindRound, Dirty: remaining, Remaining: remaining, Idle: true,
	}, err
}

// sendRound sends what is pending. Round 1 also accounts for the holes of RAM, which are known to
// be zero at both ends and are not sent.
func (s *Source) sendRound(ctx context.Context, phase Phase) (Round, error) {
	guest := stream.Running
	if phase == PhaseStopCopy {
		guest = stream.Still
	}
	s.mu.Lock()
	r := Round{
		N:          s.report.RoundCount() + 1,
		Phase:      phase,
		DirtyPages: s.stream.Begin(),
		GateOpen:   s.head.GateOpen(),
	}
	a := s.step(policy.Event{Kind: policy.KindBegin, Phase: phase})
	if a.Verb == policy.EndRound || s.takenBack != nil {
		s.stream.Stop()
	}
	if a.Until > 0 {
		defer time.AfterFunc(a.Until-s.now(), s.roundDue).Stop()
	}
	s.mu.Unlock()

	var holes int64
	if r.N == 1 {
		holes = int64(s.m.RAM().Pages()) - r.DirtyPages - int64(s.stream.Aside())
		r.DirtyPages += holes
	}
	if guest == stream.Running && s.stream.ProtectsAtOnce() {
		if err := s.peer.AnnounceWork(); err != nil {
			return Round{}, peer.Explain(ctx, err)
		}
	}
	sent, err := s.stream.Send(ctx, guest)
	if err != nil {
		return Round{}, peer.Explain(ctx, err)
	}
	r.SentPages = sent.Content
	r.ZeroPages = sent.Zero + holes
	r.SkippedPages = sent.Skipped
	r.DeclaredPages = sent.Declared
	r.HolePages = sent.Holes + holes
	r.DeltaPages = sent.Deltas
	r.BytesWire = sent.Bytes
	r.MS = ms(sent.Elapsed)
	r.BytesPerS = stream.PerSecond(float64(sent.Bytes), sent.Elapsed)
	return r, nil
}

// closeRound enters a round into the report.
func (s *Source) closeRound(r Round) {
	s.mu.Lock()
	s.report.addRound(r)
	s.mu.Unlock()
	s.emit(Notice{Kind: NoticeRound, Round: &r})
}
