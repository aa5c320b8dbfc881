package migration

import (
	"errors"
	"sync"

	"taskguide/memory"
)

// fakeTracker is a dirty log in memory.
type fakeTracker struct {
	mu       sync.Mutex
	on       bool
	dirty    *memory.Bitmap
	onDemand bool // it reports a page until it is protected, and begins with all of them

	onHarvest   func()                       // before it is taken
	onStart     func()                       // before logging is on
	onProtect   func(first, count int)       // before marks are taken
	failProtect func(first, count int) error // and why they cannot be
}

func (t *fakeTracker) mark(page int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.on {
		t.dirty.Set(page)
	}
}

func (t *fakeTracker) Start() error {
	if t.onStart != nil {
		t.onStart()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on = true
	t.dirty.Reset()
	if t.onDemand {
		t.dirty.Fill()
	}
	return nil
}

func (t *fakeTracker) Harvest(dirty *memory.Bitmap) (int, error) {
	if t.onHarvest != nil {
		t.onHarvest()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.on {
		return 0, errors.New("harvest without start")
	}
	n := t.dirty.Count()
	dirty.Or(t.dirty)
	if !t.onDemand {
		t.dirty.Reset()
	}
	return n, nil
}

func (t *fakeTracker) OnDemand() bool { return t.onDemand }

func (t *fakeTracker) Protect(pages *memory.Bitmap, first, count int) error {
	if t.onProtect != nil {
		t.onProtect(first, count)
	}
	if t.failProtect != nil {
		if err := t.failProtect(first, count); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for at := first; ; {
		f, n := pages.NextRunBefore(at, first+count)
		if n == 0 {
			return nil
		}
		t.dirty.ClearRange(f, n)
		at = f + n
	}
}

func (t *fakeTracker) logging() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.on
}

func (t *fakeTracker) Stop() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on = false
	return nil
}
