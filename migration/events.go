package migration

import (
	"context"
	"errors"
	"slices"
	"time"

	"taskguide/migration/policy"
	"taskguide/tagging"
)

const progressInterval = 100 * time.Millisecond

// progressSample is what the last progress notice saw; the next one computes the rate since then.
type progressSample struct {
	at   time.Time
	wire int64
}

// emit tells the observer. Notices come from the engine, its progress ticker and vCPU threads, one
// at a time.
func (s *Source) emit(e Notice) {
	s.emitMu.Lock()
	defer s.emitMu.Unlock()
	s.mu.Lock()
	e.Time, e.Phase, e.GateOpen = time.Now(), s.report.Phase, s.head.GateOpen()
	s.mu.Unlock()
	s.observe(e)
}

// setPhase enters a phase, and sets the state that the guest can read for it.
func (s *Source) setPhase(p Phase) {
	s.mu.Lock()
	changed := s.report.Phase != p
	s.report.Phase = p
	s.mu.Unlock()
	if !changed {
		return
	}
	switch p {
	case PhasePreCopy:
		s.m.Tags().SetState(tagging.StatePreCopy)
	case PhaseStopCopy:
		s.m.Tags().SetState(tagging.StateSwitchingOver)
	}
	s.emit(Notice{Kind: NoticePhase})
}

// startProgress emits progress notices until the returned function is called.
func (s *Source) startProgress() (stop func()) {
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		var last progressSample
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				s.emit(Notice{Kind: NoticeProgress, Progress: s.progress(&last)})
			}
		}
	}()
	return func() { close(done); <-finished }
}

// progress returns how far the migration has come. last is what the notice before saw.
func (s *Source) progress(last *progressSample) *Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.head.Deferral(s.now())
	round := s.stream.Progress()
	p := &Progress{
		Round:       round.Round,
		RoundPages:  round.Pages,
		DonePages:   round.Done,
		BytesWire:   s.peer.Sent(),
		WaitedMS:    ms(d.Waited),
		SuspendedMS: ms(d.Suspended),
		DeferredMS:  ms(d.Deferred),
	}
	now := time.Now()
	if since := now.Sub(last.at).Seconds(); !last.at.IsZero() && since > 0 {
		p.BytesPerS = float64(p.BytesWire-last.wire) / since
	}
	*last = progressSample{now, p.BytesWire}
	return p
}

// Report returns the report so far, or the final one once Run has returned.
func (s *Source) Report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.report
	if r.Status == StatusRunning {
		s.reportDeferral(&r)
		r.BytesWire = s.peer.Sent()
		if !s.begin.IsZero() {
			r.TotalMS = ms(time.Since(s.begin))
		}
	}
	r.Shadows = s.counsel.Records()
	r.Rounds, r.Warnings = slices.Clone(r.Rounds), slices.Clone(r.Warnings)
	r.Standstills, r.HeldBy = slices.Clone(r.Standstills), slices.Clone(r.HeldBy)
	r.DrainsTakenBack = slices.Clone(r.DrainsTakenBack)
	r.DowntimeFixed.Source = r.DowntimeFixed.from()
	return r
}

// reportDeferral enters what guidance has cost into a report; s.mu is held.
func (s *Source) reportDeferral(r *Report) {
	d := s.head.Deferral(s.now())
	r.WaitedMS, r.SuspendedMS, r.DeferredMS = ms(d.Waited), ms(d.Suspended), ms(d.Deferred)
}

// finish completes the report of a migration that took so long.
func (s *Source) finish(took time.Duration, err error) Report {
	s.mu.Lock()
	r := &s.report
	r.TotalMS = ms(took)
	s.reportDeferral(r)
	r.BytesWire = s.peer.Sent()
	switch {
	case s.doubt.Fate() == FateMoved:
		r.Status = StatusCompleted
		r.Phase = PhaseDone
	case errors.Is(err, ErrCancelled), errors.Is(err, context.Canceled),
		errors.Is(err, ErrDeferred), errors.Is(err, policy.ErrAborted):
		r.Status = StatusCancelled
	default:
		r.Status = StatusFailed
	}
	if st := s.standing; st != nil { // and it may stand still for ever
		s.list(st.entry(s.begin, r.SwitchoverReason, "unknown: "+OneLine(err.Error())))
	}
	if r.Status != StatusCompleted {
		r.noteStay()
	}
	if err != nil {
		r.Error = OneLine(err.Error())
	}
	s.mu.Unlock()
	final := s.Report()
	s.emit(Notice{Kind: NoticeDone, Report: &final})
	return final
}
