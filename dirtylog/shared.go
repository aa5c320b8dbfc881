package dirtylog

import (
	"errors"
	"sync"

	"taskguide/memory"
)

// Shared lets several users follow one VM's writes at once, each with a [Tracker] of its own. KVM
// hands out each page of its log once, so whoever harvests passes on what it found to all users.
//
// Logging is on while any user has started. A harvest protects pages again, also with a tracker
// that could leave that to its user: one user's protection must not hide a write from another.
type Shared struct {
	tracker Tracker
	pages   int

	mu    sync.Mutex
	users map[*user]struct{} // those that have started
	found *memory.Bitmap     // what the harvest under way has found; empty between harvests
}

// NewShared shares a tracker of a guest with that many pages. Nobody else may use the tracker while
// any user has started.
func NewShared(t Tracker, pages int) *Shared {
	return &Shared{
		tracker: t, pages: pages, users: map[*user]struct{}{}, found: memory.NewBitmap(pages),
	}
}

// Tracker returns a tracker for one more user.
func (s *Shared) Tracker() Tracker { return &user{shared: s, dirty: memory.NewBitmap(s.pages)} }

// user is the part of one user. It obeys the contract of Tracker: no write that begins after Start
// has returned is missing from a later Harvest, whoever harvested in between.
type user struct {
	shared *Shared
	dirty  *memory.Bitmap // what others have harvested for it; guarded by shared.mu
}

// Start implements [Tracker].
func (u *user) Start() error {
	s := u.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.users) == 0 {
		if err := s.tracker.Start(); err != nil {
			return err
		}
		if err := s.protectAll(); err != nil {
			return errors.Join(err, s.tracker.Stop())
		}
	}
	u.dirty.Reset()
	s.users[u] = struct{}{}
	return nil
}

// protectAll begins with no page reported, for a tracker that begins with all of them.
func (s *Shared) protectAll() error {
	if !s.tracker.OnDemand() {
		return nil
	}
	all := memory.NewBitmap(s.pages)
	all.Fill()
	return s.tracker.Protect(all, 0, s.pages)
}

// Harvest implements [Tracker]. An error of the tracker loses nothing of what it had found before.
func (u *user) Harvest(dirty *memory.Bitmap) (int, error) {
	s := u.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.tracker.Harvest(s.found)
	if s.tracker.OnDemand() {
		err = errors.Join(err, s.tracker.Protect(s.found, 0, s.pages))
	}
	for other := range s.users {
		other.dirty.Or(s.found)
	}
	s.found.Reset()
	n := u.dirty.Count()
	dirty.Or(u.dirty)
	u.dirty.Reset()
	return n, err
}

// OnDemand implements [Tracker].
func (u *user) OnDemand() bool { return false }

// Protect implements [Tracker]. It does nothing, because Harvest protects.
func (u *user) Protect(*memory.Bitmap, int, int) error { return nil }

// Stop implements [Tracker].
func (u *user) Stop() error {
	s := u.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, started := s.users[u]; !started {
		return nil
	}
	delete(s.users, u)
	if len(s.users) > 0 {
		return nil
	}
	return s.tracker.Stop()
}
