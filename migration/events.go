package migration

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"taskguide/tagging"
)

const progressInterval = 100 * time.Millisecond

// progressSample is what the last progress event saw, for the rate since.
type progressSample struct {
	at   time.Time
	wire int64
}

// emit tells the observer. Events come from the engine, its progress ticker and
// from vCPU threads, one at a time.
func (s *Source) emit(e Event) {
	s.emitMu.Lock()
	defer s.emitMu.Unlock()
	s.mu.Lock()
	e.Time, e.Phase, e.GateOpen = time.Now(), s.phase, s.gateOpen
	s.mu.Unlock()
	s.observe(e)
}

// setPhase enters a phase, and tells the guest what it may know of it.
func (s *Source) setPhase(p Phase) {
	s.mu.Lock()
	changed := s.phase != p
	s.phase, s.report.Phase = p, p
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
	s.emit(Event{Kind: EventPhase})
}

// startProgress emits progress events until the returned function is called.
func (s *Source) startProgress(ctx context.Context) (stop func()) {
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				s.emit(Event{Kind: EventProgress, Progress: s.progress()})
			}
		}
	}()
	return func() { close(done); <-finished }
}

func (s *Source) progress() *Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	waited, suspended := s.heldTimes()
	p := &Progress{
		Round:       s.round.n,
		RoundPages:  s.round.total,
		DonePages:   s.round.total - s.round.left(),
		BytesWire:   s.bytesWireLocked(),
		WaitedMS:    ms(waited),
		SuspendedMS: ms(suspended),
	}
	now := time.Now()
	if since := now.Sub(s.lastSample.at).Seconds(); !s.lastSample.at.IsZero() && since > 0 {
		p.BytesPerS = float64(p.BytesWire-s.lastSample.wire) / since
	}
	s.lastSample = progressSample{now, p.BytesWire}
	return p
}

// heldTimes are the times held back so far, a stay under way included; s.mu is
// held.
func (s *Source) heldTimes() (waited, suspended time.Duration) {
	waited, suspended = s.waited, s.suspended
	if s.held == nil {
		return waited, suspended
	}
	if s.held == &s.suspended {
		return waited, suspended + time.Since(s.heldSince)
	}
	return waited + time.Since(s.heldSince), suspended
}

func (s *Source) bytesWire() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytesWireLocked()
}

func (s *Source) bytesWireLocked() int64 {
	n := int64(0)
	for _, c := range s.conns {
		n += c.BytesSent()
	}
	return n
}

// Report returns the report so far, or the final one once Run has returned.
func (s *Source) Report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.report
	if r.Status == StatusRunning {
		waited, suspended := s.heldTimes()
		r.WaitedMS, r.SuspendedMS = ms(waited), ms(suspended)
		r.BytesWire = s.bytesWireLocked()
		if !s.begin.IsZero() {
			r.TotalMS = ms(time.Since(s.begin))
		}
	}
	r.Rounds, r.Warnings = slices.Clone(r.Rounds), slices.Clone(r.Warnings)
	return r
}

// finish completes the report.
func (s *Source) finish(err error) Report {
	s.mu.Lock()
	r := &s.report
	r.TotalMS = ms(time.Since(s.begin))
	waited, suspended := s.heldTimes()
	r.WaitedMS, r.SuspendedMS = ms(waited), ms(suspended)
	r.BytesWire = s.bytesWireLocked()
	switch {
	case s.fate == FateMoved:
		r.Status = StatusCompleted
		s.phase, r.Phase = PhaseDone, PhaseDone
	case errors.Is(err, ErrCancelled), errors.Is(err, context.Canceled), errors.Is(err, ErrDeferred):
		r.Status = StatusCancelled
	default:
		r.Status = StatusFailed
	}
	if err != nil {
		r.Error = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	s.mu.Unlock()
	final := s.Report()
	s.emit(Event{Kind: EventDone, Report: &final})
	return final
}
