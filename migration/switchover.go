package migration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"taskguide/transport"
)

// Bits of a state frame's arg.
const (
	stateVerify uint32 = 1 << 0
	statePaused uint32 = 1 << 1
)

// stopwatch splits a stretch of time into parts.
type stopwatch struct{ last time.Time }

func (w *stopwatch) lap() float64 {
	now := time.Now()
	d := now.Sub(w.last)
	w.last = now
	return ms(d)
}

// switchover is the stop-and-copy and the handover. It reports false, the guest
// running on, if the gate closed while the vCPUs came to a stand.
func (s *Source) switchover(ctx context.Context) (switched bool, err error) {
	wasRunning, begin, err := s.pause()
	if err != nil {
		return false, err
	}
	watch := &stopwatch{last: begin}
	s.mu.Lock()
	s.report.Downtime = DowntimeParts{PauseMS: watch.lap()}
	s.mu.Unlock()
	if s.gateClosedMeanwhile() {
		return false, s.takeBack()
	}
	s.setPhase(PhaseStopCopy)
	state, err := s.stopAndCopy(ctx, watch)
	if err != nil {
		return false, err
	}
	s.setPhase(PhaseHandover)
	if err := s.handOver(ctx, state, !wasRunning, watch); err != nil {
		return false, err
	}
	s.mu.Lock()
	s.report.DowntimeMS = ms(time.Since(begin))
	s.mu.Unlock()
	return true, nil
}

// pause brings the vCPUs to a stand, unless their user did before. begin is when
// the first of them was asked to.
func (s *Source) pause() (wasRunning bool, begin time.Time, err error) {
	begin = time.Now()
	s.mu.Lock()
	// A vCPU held at its EXIT has asked already, and with it this engine.
	if wasRunning = s.asked || s.m.Running(); wasRunning {
		s.askToPause()
		begin = s.askedAt
	}
	s.pausing = true
	s.letGo()
	s.mu.Unlock()
	if err := s.m.Pause(); err != nil {
		return wasRunning, begin, fmt.Errorf("pause the guest: %w", err)
	}
	s.mu.Lock()
	s.pausing = false
	s.mu.Unlock()
	return wasRunning, begin, nil
}

// askToPause notes that this engine is about to ask the vCPUs to pause, if it is
// the first time; s.mu is held.
func (s *Source) askToPause() {
	if !s.asked {
		s.asked, s.askedAt = true, time.Now()
	}
}

// gateClosedMeanwhile tells whether the decision to switch over must be taken
// back. The vCPUs stand still, so the answer stays true.
func (s *Source) gateClosedMeanwhile() bool {
	open := s.m.Tags().Gate().Open
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.atExit != "" {
		s.report.SwitchoverReason = s.atExit
		return false
	}
	if !s.holdsSwitchover() {
		return false
	}
	s.gateOpen = open
	return !open
}

// takeBack lets the guest run on.
func (s *Source) takeBack() error {
	s.mu.Lock()
	s.report.Retractions++
	s.report.SwitchoverReason = ""
	s.report.Downtime = DowntimeParts{}
	s.mu.Unlock()
	return s.resume()
}

// stopAndCopy sends what is left and saves the state meanwhile.
func (s *Source) stopAndCopy(ctx context.Context, watch *stopwatch) (state []byte, err error) {
	if _, _, err := s.takeDirty(); err != nil {
		return nil, err
	}
	harvested := watch.lap()
	var g errgroup.Group
	var saveMS float64
	g.Go(func() error {
		save := &stopwatch{last: time.Now()}
		var err error
		if state, err = s.m.SaveState(); err != nil {
			return fmt.Errorf("save the machine's state: %w", err)
		}
		saveMS = save.lap()
		return nil
	})
	s.mu.Lock()
	s.atExit = "" // or the last round would stop before its first page
	s.mu.Unlock()
	r, err := s.sendRound(ctx, PhaseStopCopy)
	if err == nil && s.pending.Count() > 0 {
		err = fmt.Errorf("%d pages were not sent in the stop-and-copy", s.pending.Count())
	}
	if err == nil {
		for _, c := range s.conns {
			if err = c.WriteMessage(transport.TypeFlush, 0, nil); err != nil {
				err = s.explain(ctx, err)
				break
			}
		}
	}
	pages := watch.lap()
	if errSave := g.Wait(); err == nil {
		err = errSave
	}
	if err != nil {
		return nil, err
	}
	s.closeRound(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.PagesStopCopy = r.DirtyPages
	s.report.Downtime.HarvestMS = harvested
	s.report.Downtime.PagesMS = pages
	s.report.Downtime.SaveMS = saveMS
	watch.lap()
	return state, nil
}

// handOver has the destination load the state and run the guest, in two phases.
func (s *Source) handOver(ctx context.Context, state []byte, staysPaused bool, watch *stopwatch) error {
	arg := uint32(0)
	if s.p.Verify {
		arg |= stateVerify
	}
	if staysPaused {
		arg |= statePaused
	}
	if err := s.conns[0].WriteMessage(transport.TypeState, arg, state); err != nil {
		return s.explain(ctx, err)
	}
	var own digests
	if s.p.Verify {
		var err error
		if own, err = digestOf(s.m); err != nil {
			return err
		}
	}
	theirs, err := s.await(ctx, transport.TypePrepared, handoverTimeout)
	if err != nil {
		return fmt.Errorf("have the destination load the state: %w", err)
	}
	if s.p.Verify {
		if err := s.compare(own, theirs); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.report.Downtime.LoadMS = watch.lap()
	s.mu.Unlock()
	if err := s.commit(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Downtime.RunMS = watch.lap()
	return nil
}

func (s *Source) compare(own digests, theirs []byte) error {
	got, err := parseDigests(theirs)
	if err != nil {
		return err
	}
	same := own == got
	s.mu.Lock()
	s.report.Verified = &same
	s.mu.Unlock()
	switch {
	case own.ram != got.ram:
		return fmt.Errorf("%w: RAM at the destination differs", ErrVerify)
	case own.state != got.state:
		return fmt.Errorf("%w: device state at the destination differs", ErrVerify)
	}
	return nil
}

// commit is the point of no return: from the first byte of the commit on, only
// the destination may say that it will not run the guest.
func (s *Source) commit(ctx context.Context) error {
	s.mu.Lock()
	if err := context.Cause(ctx); err != nil {
		s.mu.Unlock()
		return err
	}
	s.committed, s.fate = true, FateUnknown
	s.mu.Unlock()

	err := s.conns[0].WriteMessage(transport.TypeCommit, 0, nil)
	if err == nil {
		_, err = s.awaitRunning()
	}
	switch {
	case err == nil:
		s.settle(FateMoved)
		return nil
	case errors.Is(err, transport.ErrRefused):
		s.settle(FateStays)
		return fmt.Errorf("the destination could not run the guest: %w", err)
	}
	return s.askOutcome(err)
}

func (s *Source) settle(f Fate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fate = f
}

// awaitRunning waits for the destination's last message. A user's cancellation
// has no say any more; only the connection's end counts.
func (s *Source) awaitRunning() ([]byte, error) {
	payload, err := s.await(s.lost, transport.TypeRunning, handoverTimeout)
	if err == nil || s.lost.Err() == nil {
		return payload, err
	}
	// The answer may have arrived just before the end.
	select {
	case r := <-s.replies:
		if r.header.Type == transport.TypeRunning {
			return r.payload, nil
		}
	default:
	}
	return nil, err
}

// askOutcome finds out over new connections how a migration ended whose last
// answer was lost.
func (s *Source) askOutcome(lost error) error {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	for {
		switch outcome, err := s.query(ctx); {
		case err == nil && outcome == transport.OutcomeRunning:
			s.settle(FateMoved)
			return nil
		case err == nil && outcome == transport.OutcomeDiscarded:
			s.settle(FateStays)
			return fmt.Errorf("the destination did not run the guest: %w", lost)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w): it is kept here, paused; resume it only if it does not run there", ErrUnknownFate, lost)
		case <-time.After(queryInterval):
		}
	}
}

func (s *Source) query(ctx context.Context) (transport.Outcome, error) {
	nc, err := s.connect(ctx, transport.Hello{Purpose: transport.PurposeQuery, Channels: 1, ID: s.id})
	if err != nil {
		return 0, err
	}
	c := transport.NewConn(nc)
	defer c.Close()
	c.IdleTimeout = queryTimeout
	h, err := c.Next()
	if err != nil {
		return 0, err
	}
	if h.Type != transport.TypeOutcome {
		return 0, fmt.Errorf("%w: message of type %d where an outcome was due", transport.ErrFrame, h.Type)
	}
	return transport.Outcome(h.Arg), nil
}

// digests sum up a machine that stands still.
type digests struct {
	ram, state uint64
}

func (d digests) bytes() []byte {
	b := binary.LittleEndian.AppendUint64(nil, d.ram)
	return binary.LittleEndian.AppendUint64(b, d.state)
}

func parseDigests(b []byte) (digests, error) {
	if len(b) != 16 {
		return digests{}, fmt.Errorf("%w: %d bytes of digests", transport.ErrFrame, len(b))
	}
	return digests{ram: binary.LittleEndian.Uint64(b), state: binary.LittleEndian.Uint64(b[8:])}, nil
}

// digestOf sums up RAM and state, read back from where they live.
func digestOf(m Machine) (digests, error) {
	ram, err := m.RAM().Digest()
	if err != nil {
		return digests{}, fmt.Errorf("digest of RAM: %w", err)
	}
	state, err := m.StateDigest()
	if err != nil {
		return digests{}, fmt.Errorf("digest of the machine's state: %w", err)
	}
	return digests{ram: ram, state: state}, nil
}
