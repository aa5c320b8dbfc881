package stream

import (
	"errors"
	"fmt"

	"taskguide/memory"
)

// FindContent adds to pending every page that may not be zero. Its first call tells the destination
// which pages to back with memory before they arrive. The calls after Start and after the holes'
// protection find what was written before a log saw it, so each is needed, whatever the call before
// has found. A counter of allocated pages cannot replace them, because the host counts a page when
// it allocates it, and shows its content later.
//
// Call it between rounds only.
func (s *Stream) FindContent() error {
	backed, err := s.ram.Backed()
	if err != nil {
		return err
	}
	if backed >= s.pending.Len() {
		s.pending.Fill() // too many pages do no harm
		return nil
	}
	return s.ram.Allocated(s.pending)
}

// StartTracking turns dirty logging on and makes all content pending for the first round.
func (s *Stream) StartTracking() error {
	s.track.Lock()
	defer s.track.Unlock()
	if err := s.tracker.Start(); err != nil {
		return fmt.Errorf("turn dirty logging on: %w", err)
	}
	s.tracking = true
	// Logging is on before this look, so the dirty log has what is written after it.
	if err := s.FindContent(); err != nil {
		return err
	}
	if err := s.protectHoles(); err != nil {
		return err
	}
	s.putAside()
	return nil
}

// protectHoles protects pages that were never touched, with a tracker that protects on demand. No
// round would protect them, so later writes to them would go unreported.
func (s *Stream) protectHoles() error {
	if !s.tracker.OnDemand() {
		return nil
	}
	holes := memory.NewBitmap(s.pending.Len())
	holes.Fill()
	holes.AndNot(s.pending)
	if err := s.tracker.Protect(holes, 0, holes.Len()); err != nil {
		return fmt.Errorf("protect untouched pages: %w", err)
	}
	// A page that was written before its protection is not a hole any more.
	return s.FindContent()
}

// Watch makes the dirty log report exactly the writes from here on, before the first round. A
// tracker that protects on demand reports all pages until they are protected, so Watch goes through
// all of RAM.
func (s *Stream) Watch() error {
	s.track.Lock()
	defer s.track.Unlock()
	if !s.tracker.OnDemand() {
		return nil
	}
	if err := s.tracker.Protect(s.pending, 0, s.pending.Len()); err != nil {
		return fmt.Errorf("protect all pages: %w", err)
	}
	return s.protectAside()
}

// Sample returns how many pages were written since Watch, or since the last sample.
//
// Call it before the first round only.
func (s *Stream) Sample() (dirtied int, err error) {
	s.track.Lock()
	defer s.track.Unlock()
	if err := s.harvest(); err != nil {
		return 0, err
	}
	if s.tracker.OnDemand() {
		// These pages become pending below, so they are read after their protection.
		if err := s.tracker.Protect(s.next, 0, s.next.Len()); err != nil {
			return 0, fmt.Errorf("protect the pages of a sample: %w", err)
		}
	}
	s.putAside()
	dirtied, _ = s.pending.Take(s.next)
	return dirtied, nil
}

// StopTracking turns dirty logging off, if it is on.
func (s *Stream) StopTracking() error {
	s.track.Lock()
	defer s.track.Unlock()
	if !s.tracking {
		return nil
	}
	s.tracking = false
	return s.tracker.Stop()
}

// Remaining looks at the dirty log and returns the most pages that a switchover would have to send
// now. Any goroutine may call it in the middle of a round, including a vCPU that is held at an
// exit.
func (s *Stream) Remaining() (int, error) {
	s.track.Lock()
	defer s.track.Unlock()
	if err := s.harvest(); err != nil {
		return 0, err
	}
	if s.again != nil {
		for i, w := range s.next.NonZero() {
			s.again[i].Store(w)
		}
	}
	declared, back := s.peekAside()
	dirtied := s.next.Count() - declared
	s.dirtied.Store(int64(dirtied))
	if s.tracker.OnDemand() {
		// The harvest has reported again what is not protected yet.
		return dirtied + back + s.round.ahead(), nil
	}
	return dirtied + back + s.round.unsent(), nil
}

// AtLeast is the least number of pages that a switchover would have to send now, as far as that is
// known without a look at the dirty log. Any goroutine may call it.
func (s *Stream) AtLeast() int { return max(s.round.unsent(), int(s.dirtied.Load())) }

// errNotTracking says that a stream was asked about dirty pages when it followed none.
var errNotTracking = errors.New("dirty logging is off")

// harvest adds what was dirtied to next; s.track is held. After StopTracking it takes nothing: the
// log may be another stream's by then, which would never learn of the pages. A vCPU at its EXIT and
// a timer may come that late, because nobody waits for them.
func (s *Stream) harvest() error {
	if !s.tracking {
		return errNotTracking
	}
	if _, err := s.tracker.Harvest(s.next); err != nil {
		return fmt.Errorf("read the dirty log: %w", err)
	}
	return nil
}

// TakeDirty moves what was dirtied into pending, apart from what the guest declares to be not worth
// moving. It returns how many pages pending has now, and how many were dirtied. It is part of every
// downtime, so its cost must not grow with RAM: it looks only at blocks that hold pages. Only the
// tracker may cost more.
//
// Call it between rounds only.
func (s *Stream) TakeDirty() (remaining, dirtied int, err error) {
	s.track.Lock()
	defer s.track.Unlock()
	if err := s.harvest(); err != nil {
		return 0, 0, err
	}
	if s.again != nil {
		for i := range s.next.NonZero() {
			s.again[i].Store(0)
		}
	}
	s.putAside()
	dirtied, added := s.pending.Take(s.next)
	if s.tracker.OnDemand() && s.protect == AsRead {
		// The harvest has reported again what a round that was cut short has not protected.
		dirtied = added
	}
	s.dirtied.Store(0)
	remaining = s.pending.Trim()
	s.round.end(remaining)
	return remaining, dirtied, nil
}
