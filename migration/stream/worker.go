package stream

import (
	"context"
	"fmt"
	"math/bits"

	"taskguide/memory"
	"taskguide/transport"
)

// stepPages is how many pages a worker takes on at a time: few enough to stop soon, and enough to
// make the cost of bookkeeping small.
const stepPages = memory.HolesAtOnce

// worker sends the pages that are bound to one channel.
type worker struct {
	s       *Stream
	channel int
	sink    Sink
}

// send sends the worker's pages of s.pending and takes them out of it. It ends early, on a whole
// frame, after [Stream.Stop]; the pages that it did not reach stay in the set. With SkipDirty, a
// page that is already dirty again is left to the next round. Between its steps it calls yield.
func (w *worker) send(ctx context.Context, skip Skipping, yield func()) error {
	s := w.s
	for from := 0; !s.stop.Load(); {
		room, err := w.sink.Ready(ctx)
		if err != nil {
			return err
		}
		// A step does not go beyond the frame, because a suspension ends the stream at the frame's
		// end.
		step := min(stepPages, max(room, 1))
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
		yield()
	}
	return w.sink.Flush(ctx)
}

// sendRun sends a run of pages, cut where their kind changes.
func (w *worker) sendRun(ctx context.Context, first, count int, skip Skipping) error {
	round := &w.s.round
	step := step{first: first, holes: w.s.ram.Holes(first, count), skip: skip}
	begin := first
	for end := first + count; first < end; {
		kind := w.classify(first, step)
		n := 1
		for first+n < end && w.classify(first+n, step) == kind {
			n++
		}
		var err error
		switch kind {
		case pageSkipped:
			round.skipped.Add(int64(n))
		case pageZero:
			round.zero.Add(int64(n))
			round.holes.Add(int64(bits.OnesCount64(step.holes >> (first - begin) & (1<<n - 1))))
			err = w.sink.Zeros(ctx, first, n)
		case pageContent:
			round.content.Add(int64(n))
			var deltas int
			deltas, err = w.sink.Content(ctx, first, w.s.ram.Range(first, n))
			round.deltas.Add(int64(deltas))
		}
		if err != nil {
			return err
		}
		first += n
	}
	return nil
}

type pageKind int

const (
	pageContent pageKind = iota
	pageZero
	pageSkipped
)

// step is what a worker knows of the pages that it takes on.
type step struct {
	first int
	holes uint64 // bit i is page first+i; see memory.RAM.Holes
	skip  Skipping
}

// classify does not read holes, because that would back them with memory: the guest has just given
// them back.
func (w *worker) classify(page int, s step) pageKind {
	if s.skip == SkipDirty && w.s.again[page>>6].Load()&(1<<(page&63)) != 0 {
		return pageSkipped
	}
	if s.holes&(1<<(page-s.first)) != 0 || memory.IsZero(w.s.ram.Page(page)) {
		return pageZero
	}
	return pageContent
}
