package migration

import (
	"context"
	"fmt"
	"sync/atomic"

	"taskguide/memory"
	"taskguide/transport"
)

// stepPages is how many pages a worker takes on at a time: few enough to stop
// soon, enough to make the bookkeeping vanish.
const stepPages = 64

// roundState counts what the workers of a round have done, in pages.
type roundState struct {
	n       int
	total   int64
	content atomic.Int64
	zero    atomic.Int64
	skipped atomic.Int64
	deltas  atomic.Int64 // of content
	// between is how many pages the next round begins with, -1 during a round.
	between atomic.Int64
}

func (r *roundState) reset(n int, total int64) {
	r.n, r.total = n, total
	r.content.Store(0)
	r.zero.Store(0)
	r.skipped.Store(0)
	r.deltas.Store(0)
	r.between.Store(-1)
}

// end notes that the next round will have so many pages to send.
func (r *roundState) end(pages int) { r.between.Store(int64(pages)) }

// unsent is how many pages are still to be sent in this round or, between rounds,
// in the next one, not counting what is dirtied meanwhile.
func (r *roundState) unsent() (pages int, between bool) {
	if n := r.between.Load(); n >= 0 {
		return int(n), true
	}
	return int(r.left()), false
}

// left is how many of the round's pages no worker has come to yet.
func (r *roundState) left() int64 {
	return r.total - r.content.Load() - r.zero.Load() - r.skipped.Load()
}

// worker sends the pages that are bound to one channel.
type worker struct {
	s       *Source
	channel int
	sender  *transport.Sender
	choice  *packingChoice
	deltas  *transport.DeltaCache // nil: none
}

func newWorker(s *Source, channel int, c *transport.Conn) *worker {
	w := &worker{
		s:       s,
		channel: channel,
		sender:  transport.NewSender(c, s.limiter),
		choice:  newPackingChoice(s.p.Compress),
	}
	w.choice.shareLimit(s.p.BitsPerSecond, len(s.conns))
	return w
}

// send sends the worker's pages of s.pending and takes them out of it. It ends
// early, on a whole frame, when s.stopRound is set; what it did not come to stays
// in the set. With skip, a page that was dirtied again already is left to the next
// round.
func (w *worker) send(ctx context.Context, skip skipping) error {
	s := w.s
	for from := 0; !s.stopRound.Load(); {
		if err := w.choosePacking(ctx); err != nil {
			return err
		}
		// Not beyond the frame: a suspension ends the stream with it.
		step := min(stepPages, max(w.sender.Room(), 1))
		first, count := transport.OwnRun(s.pending, w.channel, len(s.workers), from, step)
		if count == 0 {
			break
		}
		if err := s.guard.protect(first + count); err != nil {
			return fmt.Errorf("protect pages before they are read: %w", err)
		}
		if err := w.sendRun(ctx, first, count, skip); err != nil {
			return err
		}
		s.pending.ClearRange(first, count)
		from = first + count
	}
	return w.sender.Flush(ctx)
}

// choosePacking has the next frame packed in the way that is fastest here.
func (w *worker) choosePacking(ctx context.Context) error {
	packing, trial := w.choice.next(w.sender.Last())
	if err := w.sender.SetPacking(ctx, packing); err != nil {
		return err
	}
	if trial {
		w.sender.SetFrame(trialBytes)
	} else {
		w.sender.SetFrame(0)
	}
	return nil
}

// skipping says what becomes of a page that is dirty again before it was sent.
type skipping int

const (
	sendAll   skipping = iota
	skipDirty          // Xen's to_skip
)

// sendRun packs a run of pages, cut where their kind changes.
func (w *worker) sendRun(ctx context.Context, first, count int, skip skipping) error {
	for end := first + count; first < end; {
		kind := w.classify(first, skip)
		n := 1
		for first+n < end && w.classify(first+n, skip) == kind {
			n++
		}
		var err error
		switch kind {
		case pageSkipped:
			w.s.round.skipped.Add(int64(n))
		case pageZero:
			w.s.round.zero.Add(int64(n))
			err = w.sendZeros(ctx, first, n)
		case pageContent:
			w.s.round.content.Add(int64(n))
			err = w.sendContent(ctx, first, n)
		}
		if err != nil {
			return err
		}
		first += n
	}
	return nil
}

func (w *worker) sendZeros(ctx context.Context, first, count int) error {
	if w.deltas != nil {
		for p := first; p < first+count; p++ {
			w.deltas.Forget(p)
		}
	}
	return w.sender.Zeros(ctx, first, count)
}

// sendContent sends pages as deltas where that is shorter. Round 1 has no versions
// to compare with, but leaves some.
func (w *worker) sendContent(ctx context.Context, first, count int) error {
	ram := w.s.m.RAM()
	if w.deltas == nil {
		return w.sender.Content(ctx, first, ram.Range(first, count))
	}
	for p := first; p < first+count; p++ {
		delta, content := w.deltas.Update(p, ram.Page(p))
		var err error
		if content != nil {
			err = w.sender.Content(ctx, p, content)
		} else {
			w.s.round.deltas.Add(1)
			err = w.sender.Delta(ctx, p, delta)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// deltaCacheBytes bounds what all channels together remember for deltas.
const deltaCacheBytes = 1 << 30

// useDeltas sets the worker up for deltas, if they are wanted.
func (w *worker) useDeltas(ctx context.Context) error {
	if !w.s.p.Delta {
		return nil
	}
	size := min(w.s.m.RAM().Size(), deltaCacheBytes) / int64(len(w.s.conns))
	cache, err := transport.NewDeltaCache(size)
	if err != nil {
		return err
	}
	w.deltas = cache
	return w.sender.UseDeltas(ctx)
}

func (w *worker) close() {
	if w.deltas != nil {
		w.deltas.Close()
	}
}

type pageKind int

const (
	pageContent pageKind = iota
	pageZero
	pageSkipped
)

func (w *worker) classify(page int, skip skipping) pageKind {
	if skip == skipDirty && w.s.again[page>>6].Load()&(1<<(page&63)) != 0 {
		return pageSkipped
	}
	if memory.IsZero(w.s.m.RAM().Page(page)) {
		return pageZero
	}
	return pageContent
}
