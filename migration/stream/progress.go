package stream

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// progress counts what the workers of a round have done, in pages. The workers only add
// to the atomic fields.
type progress struct {
	content atomic.Int64
	zero    atomic.Int64
	skipped atomic.Int64
	deltas  atomic.Int64 // of content
	holes   atomic.Int64 // of zero
	// protected counts pages that the dirty log will not report, sent or not. It is used only with
	// a tracker that protects on demand.
	protected atomic.Int64
	// protectedTo is the page below which all of the round's pages are protected.
	protectedTo atomic.Int64
	// between is how many pages the next round begins with, -1 during a round.
	between atomic.Int64

	mu    sync.Mutex // guards everything below
	n     int        // of the round, from 1
	begin time.Time
	total int64
	// leftover counts pages that earlier rounds protected and did not send, all of them below
	// leftoverTo. Once this round has protected its pages up to there, protected includes them.
	leftover, leftoverTo int64
	// back counts pages that come into the next round though no log need have them, see aside.
	back int64
}

// reset begins the next round, which has total pages to send.
func (p *progress) reset(total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leftover, p.leftoverTo = p.aheadLocked(), max(p.leftoverTo, p.protectedTo.Load())
	switch {
	case p.leftover == 0:
		p.leftoverTo = 0
	case p.back > 0:
		p.leftoverTo = math.MaxInt64 // they may be anywhere
	}
	p.back = 0
	p.n, p.begin, p.total = p.n+1, time.Now(), total
	p.protected.Store(0)
	p.protectedTo.Store(0)
	p.content.Store(0)
	p.zero.Store(0)
	p.skipped.Store(0)
	p.deltas.Store(0)
	p.holes.Store(0)
	p.between.Store(-1)
}

// giveBack notes that the next round has pages which were put aside before.
func (p *progress) giveBack(pages int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.back += int64(pages)
}

// end notes that the next round will have so many pages to send.
func (p *progress) end(pages int) { p.between.Store(int64(pages)) }

// running tells whether a round is under way.
func (p *progress) running() bool { return p.between.Load() < 0 }

// unsent is how many pages are still to be sent in this round or, between rounds, in the next one.
// It does not count what is dirtied meanwhile.
func (p *progress) unsent() int {
	if n := p.between.Load(); n >= 0 {
		return int(n)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return int(p.left())
}

// ahead is the largest possible number of pages that were protected and are still to be sent. The
// dirty log does not have them.
func (p *progress) ahead() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int(p.aheadLocked())
}

func (p *progress) aheadLocked() int64 {
	// With this order, what workers do between the two loads makes the result too large, never too
	// small.
	left := p.left()
	leftover := p.leftover
	if p.protectedTo.Load() >= p.leftoverTo {
		leftover = 0
	}
	protected := p.protected.Load()
	// A stop-and-copy that was taken back may have sent pages without protecting any.
	return min(left, max(protected-(p.total-left), 0)+leftover) + p.back
}

// left is how many of the round's pages no worker has come to yet; p.mu is held.
func (p *progress) left() int64 {
	return p.total - p.content.Load() - p.zero.Load() - p.skipped.Load()
}

// now is how far the round has come.
func (p *progress) now() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Progress{Round: p.n, Pages: p.total, Done: p.total - p.left()}
}

// Progress is how far the round under way, or the last one, has come.
type Progress struct {
	Round int   // from 1; 0 before the first
	Pages int64 // to send
	Done  int64 // of them
}
