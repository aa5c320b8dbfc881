package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"taskguide/migration/peer"
	"taskguide/migration/policy"
)

// stopwatch splits a stretch of time into parts.
type stopwatch struct{ last time.Time }

func (w *stopwatch) lap() float64 {
	now := time.Now()
	d := now.Sub(w.last)
	w.last = now
	return ms(d)
}

// switchover does the stop-and-copy and the handover. It returns false if it was taken back: the
// guest runs on and the migration continues. On an error the guest runs on at once, unless only the
// destination may run it now.
func (s *Source) switchover(ctx context.Context) (switched bool, err error) {
	st, err := s.moveOver(ctx)
	switch {
	case err == nil:
		s.mu.Lock()
		s.report.DowntimeMS = ms(time.Since(st.begin))
		s.report.Downtime.explain(s.report.DowntimeMS)
		if s.standing == st {
			s.standing = nil
			s.list(st.entry(s.begin, s.report.SwitchoverReason, "moved"))
		}
		s.mu.Unlock()
		return true, nil
	case errors.Is(err, errNotYet):
		s.m.Undrain()
		return false, nil
	case errors.Is(err, errGateClosed):
		s.mu.Lock()
		s.report.Retractions++
		if s.standing == nil { // it closed while the devices drained, before anything stood still
			s.report.SwitchoverReason = ""
		}
		s.mu.Unlock()
		return false, s.resume("taken back: the gate had closed")
	case errors.Is(err, errTakenBack):
		return false, s.rewind(ctx)
	}
	if cause := context.Cause(ctx); cause != nil && !s.Committed() {
		err = cause // the step failed because of this cause
	}
	if s.Fate() == FateStays {
		// The guest resumes before anything is sent to a destination that may not listen.
		s.mu.Lock()
		s.end()
		s.mu.Unlock()
		err = errors.Join(err, s.resume(endedBy(err)))
	}
	return false, err
}

// errGateClosed says that the gate closed while the vCPUs came to a stand.
var errGateClosed = errors.New("the gate has closed")

// moveOver makes the guest stand still and the destination run it. After errGateClosed or
// errTakenBack the guest stays here and the migration goes on.
func (s *Source) moveOver(ctx context.Context) (*standstill, error) {
	if err := s.drain(ctx); err != nil {
		return nil, err
	}
	st, watch, err := s.pause()
	if err != nil {
		return st, err
	}
	if s.gateClosedMeanwhile() {
		return st, errGateClosed
	}
	s.setPhase(PhaseStopCopy)
	if err := s.quiesce(ctx, st, watch); err != nil {
		return st, err
	}
	state, err := s.stopAndCopy(ctx, st, watch)
	if err != nil {
		return st, err
	}
	s.setPhase(PhaseHandover)
	return st, s.handOver(ctx, st, state, watch)
}

// pause brings the vCPUs to a stand, unless the machine's user paused them before. The watch begins
// when the first vCPU was asked to stand still.
func (s *Source) pause() (*standstill, *stopwatch, error) {
	s.vcpus.Lock()
	defer s.vcpus.Unlock()
	begin := time.Now()
	s.mu.Lock()
	if s.takenBack != nil {
		s.mu.Unlock()
		return nil, nil, errTakenBack // the limit of a vCPU held at its EXIT was spent
	}
	st := newStandstill(begin)
	// A vCPU held at its EXIT has already asked the others to pause, in this engine's name.
	if s.standing != nil || s.m.Running() {
		st = s.askToPause(begin)
	}
	s.step(policy.Event{Kind: policy.KindPausing})
	watch := &stopwatch{last: st.begin}
	parts := DowntimeParts{}
	if st.begin != begin {
		parts.ExitMS = watch.lap()
	}
	s.mu.Unlock()
	if err := s.m.Park(); err != nil {
		return st, nil, fmt.Errorf("pause the guest: %w", err)
	}
	return st, watch, s.pass(st, func() {
		parts.PauseMS = watch.lap()
		s.report.Downtime = parts
	})
}

// gateClosedMeanwhile tells whether the decision to switch over must be taken
// back. The vCPUs stand still, so the answer stays true.
func (s *Source) gateClosedMeanwhile() bool {
	open := s.m.Tags().Gate().Open
	s.mu.Lock()
	defer s.mu.Unlock()
	// The guest stands still, so the event leaves out what needs a look at the link.
	return !s.decided(s.step(policy.Event{
		Kind: policy.KindStanding, Gate: gateOf(open), Phase: s.report.Phase,
		Rounds: s.report.Rounds, Completed: s.report.RoundCount(),
	}))
}

// stopAndCopy sends what is left and saves the state meanwhile. It returns once the destination has
// all pages. Until the state goes out, the switchover can be taken back.
func (s *Source) stopAndCopy(ctx context.Context, st *standstill,
	watch *stopwatch) (state []byte, err error) {
	if _, _, err := s.stream.TakeDirty(); err != nil {
		return nil, err
	}
	var parts DowntimeParts
	parts.HarvestMS = watch.lap()
	declared := int64(s.stream.Declared().Pages())
	var g errgroup.Group
	saving, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	g.Go(func() (err error) {
		save := &stopwatch{last: time.Now()}
		state, err = s.save(st)
		parts.SaveMS = save.lap()
		if err == nil {
			err = s.inStandstill(saving, st, s.m.ReleaseDisks)
			parts.SyncMS = save.lap()
		}
		return s.storageFailed(st, err)
	})
	pages, err := s.sendLast(ctx, st)
	if err != nil {
		stop(err) // the guest must not stand still for storage that nobody needs any more
	}
	pagesMS := watch.lap()
	if errSave := g.Wait(); err == nil {
		err = errSave
	}
	if err != nil {
		return nil, err
	}
	parts.PagesMS, parts.SettleMS = pagesMS, watch.lap()
	return state, s.pass(st, func() {
		s.report.PagesStopCopy, s.report.PagesDeclared = pages, declared
		before := s.report.Downtime
		parts.ExitMS, parts.PauseMS = before.ExitMS, before.PauseMS
		parts.QuiesceMS = before.QuiesceMS
		s.report.Downtime = parts
	})
}

// save saves the state of a machine, which stands still and stays so meanwhile.
func (s *Source) save(st *standstill) ([]byte, error) {
	s.vcpus.Lock()
	defer s.vcpus.Unlock()
	if err := s.pass(st, func() {}); err != nil {
		return nil, err
	}
	state, err := s.m.SaveState()
	if err != nil {
		return nil, fmt.Errorf("save the machine's state: %w", err)
	}
	return state, nil
}

// sendLast sends what is left, waits until the destination has it, and returns the number of pages.
func (s *Source) sendLast(ctx context.Context, st *standstill) (pages int64, err error) {
	err = s.pass(st, func() {
		st.inRound, st.reached = true, stepPages
	})
	if err != nil {
		return 0, err
	}
	r, err := s.sendRound(ctx, PhaseStopCopy)
	if err != nil {
		return 0, err
	}
	s.closeRound(r) // a round that was taken back has sent pages too
	if err := s.pass(st, func() { st.reached = stepFlushed }); err != nil {
		return 0, err
	}
	if n := s.stream.Pending().Count(); n > 0 {
		return 0, fmt.Errorf("%d pages were not sent in the stop-and-copy", n)
	}
	if err := s.peer.Flush(); err != nil {
		return 0, peer.Explain(ctx, err)
	}
	waiting, stop := st.until(ctx)
	defer stop()
	if err := s.peer.AwaitFlushed(waiting); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.reached = stepEchoed // whether or not its limit is spent by now
	return r.DirtyPages, nil
}
