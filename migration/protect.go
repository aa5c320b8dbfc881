package migration

import (
	"sync"
	"sync/atomic"

	"taskguide/dirtylog"
	"taskguide/memory"
)

// protectPages is how many pages are protected by one call (4 MiB): few calls, for
// each makes the vCPUs flush their TLBs, and yet not long before the pages are read,
// for a page that is written in between is sent once instead of twice.
const protectPages = 1024

// guard protects a round's pages, range by range, just before its workers read
// them, with a tracker that leaves that to its user.
type guard struct {
	protector dirtylog.Protector
	set       *memory.Bitmap // the round's pages, which do not change during it
	upTo      atomic.Int64   // all pages below it are protected

	mu sync.Mutex
}

// begin starts a round over pages.
func (g *guard) begin(p dirtylog.Protector, pages *memory.Bitmap) {
	if p == nil {
		return
	}
	if g.set == nil {
		g.set = memory.NewBitmap(pages.Len())
	}
	g.protector = p
	g.set.CopyFrom(pages)
	g.upTo.Store(0)
}

// protect returns once every page of the round below end is protected.
func (g *guard) protect(end int) error {
	if g.protector == nil || int64(end) <= g.upTo.Load() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	from := int(g.upTo.Load())
	if end <= from {
		return nil
	}
	to := min((end+protectPages-1)/protectPages*protectPages, g.set.Len())
	// Stretches without a page of the round are skipped: no call for nothing.
	for at := from; at < to; at += protectPages {
		n := min(protectPages, to-at)
		if g.set.CountRange(at, n) == 0 {
			continue
		}
		if err := g.protector.Protect(g.set, at, n); err != nil {
			return err
		}
	}
	g.upTo.Store(int64(to))
	return nil
}
