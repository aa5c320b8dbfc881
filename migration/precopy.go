package migration

import (
	"context"
	"fmt"
	"math"
	"time"

	"golang.org/x/sync/errgroup"

	"taskguide/memory"
	"taskguide/tagging"
	"taskguide/transport"
)

const (
	// heldPace is the time between rounds while a converged migration waits for its
	// gate: enough to keep the rest small, little enough to leave guest and link alone.
	heldPace = 100 * time.Millisecond
	// peekEvery is how often a round under RuleXen looks for pages that are dirty
	// again already.
	peekEvery = 20 * time.Millisecond
	// worthPolishing is how long the rest must take to send for another round to be
	// worth it.
	worthPolishing = time.Millisecond
	// rateWorthPages is how many pages of content make a round's bandwidth worth
	// believing.
	rateWorthPages = 256
	// How often a round looks whether the link has taken its pages.
	minTakenPace = 50 * time.Microsecond
	maxTakenPace = 2 * time.Millisecond
)

// precopy sends rounds until the stop-and-copy may begin, and notes why.
func (s *Source) precopy(ctx context.Context) error {
	s.setPhase(PhasePreCopy)
	for {
		if err := s.waitWhileSuspended(ctx); err != nil {
			return err
		}
		done, err := s.precopyRound(ctx)
		if err != nil {
			return err
		}
		if s.heldAtExit() {
			return nil
		}
		if err := s.checkLimit(); err != nil {
			return err
		}
		switch s.decide(done) {
		case goOn:
			s.leaveHeld()
		case switchOver:
			return nil
		case hold:
			if ready, err := s.hold(ctx); ready || err != nil {
				return err
			}
		}
	}
}

// leaveHeld notes that the gate has opened during a round, though more are due.
func (s *Source) leaveHeld() {
	s.mu.Lock()
	opened := s.phase == PhaseHeld && s.gateOpen
	s.mu.Unlock()
	if opened {
		s.setPhase(PhasePreCopy)
	}
}

// roundEnd is what a round leaves behind.
type roundEnd struct {
	dirty     int  // pages it began with
	remaining int  // pages dirty at its end
	open      bool // the gate was open from its beginning to its end
}

// precopyRound sends what is pending and collects what was dirtied meanwhile.
func (s *Source) precopyRound(ctx context.Context) (roundEnd, error) {
	if len(s.report.Rounds) > 0 && s.pending.Count() == 0 {
		// The guest dirtied nothing: an empty round would only spin.
		return s.idleRound(ctx)
	}
	s.mu.Lock()
	opened, openBefore := s.opened, s.gateOpen
	phase := s.phase
	s.mu.Unlock()
	begin := time.Now()
	r, err := s.sendRound(ctx, phase)
	if err != nil {
		return roundEnd{}, err
	}
	remaining, dirtied, err := s.takeDirty()
	if err != nil {
		return roundEnd{}, err
	}
	elapsed := time.Since(begin)
	r.DirtyPagesPerS = perSecond(float64(dirtied), elapsed)
	s.mu.Lock()
	end := roundEnd{
		dirty:     int(r.DirtyPages),
		remaining: remaining,
		open:      openBefore && s.gateOpen && opened == s.opened,
	}
	s.mu.Unlock()
	s.closeRound(r)
	return end, nil
}

// idleRound gives a guest that dirtied nothing a moment to do so.
func (s *Source) idleRound(ctx context.Context) (roundEnd, error) {
	select {
	case <-ctx.Done():
		return roundEnd{}, context.Cause(ctx)
	case <-s.wake:
	case <-time.After(time.Millisecond):
	}
	remaining, _, err := s.takeDirty()
	s.mu.Lock()
	defer s.mu.Unlock()
	return roundEnd{dirty: remaining, remaining: remaining, open: s.gateOpen}, err
}

// sendRound has the workers send what is pending. Round 1 also accounts for the
// holes of RAM: known to be zero at both ends, they need not be sent.
func (s *Source) sendRound(ctx context.Context, phase Phase) (Round, error) {
	s.mu.Lock()
	n := len(s.report.Rounds) + 1
	total := int64(s.pending.Count())
	s.round.reset(n, total)
	// A gate that closed before this point stops the round before its first frame.
	s.stopRound.Store(s.atExit != "" || phase != PhaseStopCopy && s.obeysGate() && s.p.Guidance == GuidanceSuspend && !s.gateOpen)
	defer s.stopRoundAtLimit()()
	r := Round{N: n, Phase: phase, DirtyPages: total, GateOpen: s.gateOpen}
	s.mu.Unlock()

	var holes int64
	if n == 1 {
		holes = int64(s.pending.Len()) - total
		r.DirtyPages += holes
	}
	begin, wire := time.Now(), s.bytesWire()
	err := s.runWorkers(ctx, phase)
	taken := false
	if err == nil && phase != PhaseStopCopy {
		taken, err = s.awaitTaken(ctx)
	}
	if err != nil {
		return Round{}, s.explain(ctx, err)
	}
	elapsed := time.Since(begin)
	r.SentPages = s.round.content.Load()
	r.ZeroPages = s.round.zero.Load() + holes
	r.SkippedPages = s.round.skipped.Load()
	r.DeltaPages = s.round.deltas.Load()
	r.BytesWire = s.bytesWire() - wire
	r.MS = ms(elapsed)
	r.BytesPerS = perSecond(float64(r.BytesWire), elapsed)
	if taken {
		s.learnBandwidth(r.SentPages, elapsed)
	}
	return r, nil
}

// learnBandwidth takes the rate at which page content gets through from a round.
// Few pages count only for as long as no more were seen.
func (s *Source) learnBandwidth(pages int64, elapsed time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pages > 0 && pages >= min(rateWorthPages, s.ratePages) {
		s.ratePages = pages
		s.bandwidth = perSecond(float64(pages*memory.PageSize), elapsed)
	}
}

// awaitTaken returns once the link has taken what a round wrote, or the round is to
// end early. Buffers take pages at the speed of memory: without this a round that
// fits them would promise a fast link, and be in the way of the stop-and-copy.
func (s *Source) awaitTaken(ctx context.Context) (taken bool, err error) {
	least, since := int64(math.MaxInt64), time.Now()
	for pace := minTakenPace; ; pace = min(2*pace, maxTakenPace) {
		queued := int64(0)
		for _, c := range s.conns {
			queued += c.Queued()
		}
		switch {
		case queued == 0:
			return true, nil
		case s.stopRound.Load():
			return false, nil
		case queued < least:
			least, since = queued, time.Now()
		case time.Since(since) > transport.IdleTimeout:
			return false, fmt.Errorf("%w: it took nothing for %v", transport.ErrTimeout, transport.IdleTimeout)
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(pace):
		}
	}
}

// perSecond is a rate, finite also over a time that the clock cannot resolve.
func perSecond(n float64, d time.Duration) float64 {
	return n / max(d, time.Microsecond).Seconds()
}

// runWorkers runs one round on all channels. Under RuleXen it looks ahead for
// pages that were dirtied again, which the workers then skip.
func (s *Source) runWorkers(ctx context.Context, phase Phase) error {
	s.guard.begin(s.protector, s.pending)
	skip := sendAll
	if s.p.Rule == RuleXen && phase != PhaseStopCopy {
		skip = skipDirty
		// Or a look at the dirty log would report all pages that are still to be sent.
		if err := s.guard.protect(s.pending.Len()); err != nil {
			return fmt.Errorf("protect the round's pages: %w", err)
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, w := range s.workers {
		g.Go(func() error { return w.send(gctx, skip) })
	}
	if skip == sendAll {
		return g.Wait()
	}
	peekCtx, stop := context.WithCancel(gctx)
	peeked := make(chan error, 1)
	go func() { peeked <- s.peek(peekCtx) }()
	err := g.Wait()
	stop()
	if errPeek := <-peeked; err == nil {
		err = errPeek
	}
	return err
}

func (s *Source) peek(ctx context.Context) error {
	tick := time.NewTicker(peekEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := s.harvest(); err != nil {
				s.stopRound.Store(true)
				return err
			}
		}
	}
}

// closeRound enters a round into the report.
func (s *Source) closeRound(r Round) {
	s.mu.Lock()
	s.report.Rounds = append(s.report.Rounds, r)
	s.report.PagesSent += r.SentPages
	s.report.PagesZero += r.ZeroPages
	s.report.BytesPages = (s.report.PagesSent + s.report.PagesZero) * memory.PageSize
	s.mu.Unlock()
	s.emit(Event{Kind: EventRound, Round: &r})
}

// decision is what follows a round.
type decision int

const (
	goOn decision = iota
	switchOver
	hold
)

// decide asks the rule and the gate what follows a round.
func (s *Source) decide(end roundEnd) decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	settled := !shrinks(end.dirty, end.remaining)
	if s.holdsSwitchover() && !end.open {
		// It began in the busy phase, or was cut short by the gate: what it left says
		// nothing of what rounds leave in this segment.
		settled = false
	}
	if end.open {
		s.drain.roundDone(end.remaining)
	}
	sample := s.sampleLocked(end.remaining)
	v := s.rule.judge(sample)
	s.noteOpen(v)
	switch {
	case v.Reason == "":
		s.gambled = s.gambled || s.polishing
		return goOn
	case s.holdsSwitchover() && !s.gateOpen:
		return hold // no moment that polishing could miss
	case !v.GaveUp && !settled && s.mayPolish(sample):
		s.polishing = true
		return goOn
	case !s.holdsSwitchover():
		s.report.SwitchoverReason = s.reason(v.Reason)
		return switchOver
	case v.GaveUp && !settled:
		s.holdBack(&s.waited)
		return goOn
	}
	s.report.SwitchoverReason = v.Reason
	return switchOver
}

// mayPolish tells whether the rest, though it fits the downtime limit, may be made
// smaller by further rounds: a limit is no goal, and rounds that shrink clearly cost
// less time than they save the guest. It is left at that when waiting could mean to
// miss the segment, or when a moment was missed once before by such rounds: the next
// one is taken as it comes. s.mu is held.
func (s *Source) mayPolish(sample sample) bool {
	expected, _ := sample.downtime()
	return s.p.Rule == RuleDowntime && !s.gambled && expected > worthPolishing && (!s.holdsSwitchover() || s.p.switchAtExit())
}

func (s *Source) reason(r string) string {
	if s.forced {
		return fmt.Sprintf("forced after %v: %s", s.p.deferLimit(), r)
	}
	return r
}

// sampleLocked is what the rule judges by; s.mu is held.
func (s *Source) sampleLocked(remaining int) sample {
	bandwidth := s.bandwidth
	if bandwidth == 0 {
		bandwidth = float64(s.p.BitsPerSecond) / 8
	}
	return sample{
		Remaining: remaining,
		Rounds:    len(s.report.Rounds),
		Sent:      s.report.PagesSent + s.report.PagesZero,
		RAM:       s.pending.Len(),
		BytesPerS: bandwidth,
	}
}

// obeysGate tells whether the gate has any say; s.mu is held.
func (s *Source) obeysGate() bool { return s.guided && !s.forced }

// holdsSwitchover tells whether a closed gate holds the stop-and-copy back; s.mu
// is held.
func (s *Source) holdsSwitchover() bool {
	return s.obeysGate() && (s.p.Guidance == GuidanceSuspend || s.p.Guidance == GuidanceSwitchover)
}

// hold waits, converged, for the gate. It reports ready when stop-and-copy may
// begin at once; otherwise another round is due.
func (s *Source) hold(ctx context.Context) (ready bool, err error) {
	if s.p.Guidance == GuidanceSuspend {
		return false, nil // the loop suspends, which is stricter
	}
	if err := s.waitOpen(ctx, wait{phase: PhaseHeld, state: tagging.StateWaiting, account: &s.waited, atMost: heldPace}); err != nil {
		return false, err
	}
	remaining, _, err := s.takeDirty()
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.rule.judge(s.sampleLocked(remaining))
	s.noteOpen(v)
	switch {
	case v.Reason == "":
		return false, nil
	case s.forced:
		s.report.SwitchoverReason = s.reason(v.Reason)
		return true, nil
	case !s.gateOpen || v.GaveUp:
		return false, nil
	case s.mayPolish(s.sampleLocked(remaining)):
		s.polishing = true
		return false, nil
	}
	s.report.SwitchoverReason = v.Reason + ", gate open"
	return true, nil
}

// heldAtExit tells whether a vCPU is held at the EXIT at which to switch over.
func (s *Source) heldAtExit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.atExit != ""
}

// explain replaces an error that is only the echo of the migration's end by what
// ended it.
func (s *Source) explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	// A destination that gives up closes its connection after it has said why.
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(lastWords):
		return fmt.Errorf("send pages: %w", err)
	}
}

// lastWords is how long a broken connection may take to deliver the reason.
const lastWords = 500 * time.Millisecond
