package stream

import (
	"sync"

	"taskguide/dirtylog"
	"taskguide/memory"
)

// protectPages is how many pages one call protects (4 MiB). Each call makes the vCPUs flush their
// TLBs, so there should be few. But pages should be protected shortly before they are read, because
// a page written before its protection is sent once instead of twice.
const protectPages = 1024

// guard protects a round's pages, range by range, just before its workers read them. It is for
// trackers that leave protection to their user.
type guard struct {
	tracker dirtylog.Tracker // nil: nothing is to be protected in this round
	set     *memory.Bitmap   // the round's pages, which do not change during it
	round   *progress        // notes what is protected
	forget  func(pages *memory.Bitmap, first, count int)

	mu sync.Mutex // one call of Protect at a time
}

// begin starts a round over pages.
func (g *guard) begin(t dirtylog.Tracker, pages *memory.Bitmap, guest Guest) {
	g.tracker = nil
	if guest == Still || !t.OnDemand() {
		// Nobody writes in this round. If the switchover is taken back, its pages are still in the
		// log and are sent once more.
		return
	}
	g.tracker = t
	if g.set == nil {
		g.set = memory.NewBitmap(pages.Len())
	}
	g.set.CopyFrom(pages)
}

// protect returns once every page of the round below end is protected.
func (g *guard) protect(end int) error {
	if g.tracker == nil || int64(end) <= g.round.protectedTo.Load() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	from := int(g.round.protectedTo.Load())
	if end <= from {
		return nil
	}
	to := min((end+protectPages-1)/protectPages*protectPages, g.set.Len())
	// Stretches without a page of the round are skipped, to save the call.
	for at := from; ; {
		first, n := g.set.NextRunBefore(at, to)
		if n == 0 {
			break
		}
		at = first / protectPages * protectPages
		n = min(protectPages, to-at)
		// This is counted before the call, so that a look in between finds too many pages rather
		// than too few.
		g.round.protected.Add(int64(g.set.CountRange(at, n)))
		g.forget(g.set, at, n)
		if err := g.tracker.Protect(g.set, at, n); err != nil {
			return err
		}
		at += n
	}
	g.round.protectedTo.Store(int64(to))
	return nil
}

// forget takes pages of a round out of next, just before they are protected. A look in the middle
// of the round has put them there, because the dirty log reports all that is not protected yet. The
// round reads them after their protection, so they would be sent twice for nothing.
//
// It must come before the pages are read: what was written until then is sent, and what is written
// after that comes into next by a later look. With SkipDirty it keeps all, because a worker skips a
// page for what an earlier look has found, and then only next has it.
func (s *Stream) forget(pages *memory.Bitmap, first, count int) {
	if s.again != nil || s.dirtied.Load() <= 0 {
		return // without a look there is nothing to forget, and no lock to wait for
	}
	s.track.Lock()
	defer s.track.Unlock()
	forgotten := 0
	for at := first; ; {
		from, n := pages.NextRunBefore(at, first+count)
		if n == 0 {
			break
		}
		forgotten += s.next.CountRange(from, n)
		s.next.ClearRange(from, n)
		at = from + n
	}
	s.dirtied.Add(int64(-forgotten))
}
