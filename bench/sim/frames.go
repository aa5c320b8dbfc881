package sim

import (
	"time"

	"taskguide/memory"
	"taskguide/migration/policy"
)

// sendRound sends what is pending.
func (w *walk) sendRound(phase policy.Phase) policy.Round {
	r := policy.Round{
		N: w.completed + 1, Phase: phase, DirtyPages: int64(w.unsent), GateOpen: w.open,
	}
	if r.N == 1 {
		holes := int64(w.t.Pages - w.unsent)
		r.DirtyPages += holes
		r.ZeroPages, r.HolePages = holes, holes
	}
	w.inRound, w.protectedTo, w.stop = true, 0, w.held
	a := w.step(policy.Event{Kind: policy.KindBegin, Phase: phase})
	f := frames{w: w, r: &r, begin: w.now, due: a.Until, last: phase == policy.PhaseStopCopy}
	f.peekAt = f.begin + peekEvery
	f.stopped = !f.last && (a.Verb == policy.EndRound || w.stop)
	if w.s.Protection == OnDemand && !w.lazy && !f.last {
		w.pass(w.now + protectAll(w.unsent))
	}
	f.send()
	w.inRound = false
	r.MS = ms(w.now - f.begin)
	r.BytesPerS = perSecond(float64(r.BytesWire), w.now-f.begin)
	return r
}

// frames are those of a round that is under way.
type frames struct {
	w       *walk
	r       *policy.Round
	begin   time.Duration
	due     time.Duration // when to ask the head, 0: not
	last    bool          // of the stop-and-copy
	stopped bool
	peekAt  time.Duration // the next look at the dirty log, for skip
	from    int
	gone    int // copies of page from that went in the frames before
	bytes   float64
}

// send sends the round, or the part of it before it is stopped.
func (f *frames) send() {
	w := f.w
	for !f.stopped {
		carried, any := f.fill()
		if !any {
			break
		}
		frame := w.link.send(w.now, carried)
		f.bytes += frame.bytes
		f.r.BytesWire = int64(f.bytes)
		w.slowdown = frame.slowdown
		f.until(frame.done)
		w.slowdown = 0
	}
	if f.last {
		return
	}
	if !f.stopped {
		// The round is over once the link has taken it.
		f.until(w.now + w.s.ack())
	}
	if !f.stopped {
		w.rate.learn(f.r.SentPages, f.bytes, w.now-f.begin)
	}
}

func (r *rate) learn(pages int64, wire float64, elapsed time.Duration) {
	if pages > 0 && pages >= min(rateWorthPages, r.pages) {
		r.pages = pages
		r.content = perSecond(float64(pages*memory.PageSize), elapsed)
		r.wire = perSecond(wire, elapsed)
	}
}

// until lets a frame's time pass. In a round before the last one, the head may be due, and the gate
// may change.
func (f *frames) until(done time.Duration) {
	w := f.w
	if f.due > 0 && f.due <= done {
		w.pass(f.due)
		f.due = 0
		w.look()
		due := w.event(policy.KindDue, w.dirtied+w.unsent)
		if w.step(due).Verb == policy.EndRound {
			w.stop = true
		}
	}
	for ; w.skip && !f.last && f.peekAt <= done; f.peekAt += peekEvery {
		w.pass(max(f.peekAt, w.now))
		w.look()
	}
	w.pass(done)
	if w.cut > 0 && w.now >= w.cut {
		w.stop = true
	}
	f.stopped = w.stop && !f.last
	if !f.last {
		w.couldEnd()
	}
}

// fill takes the pages of the next frame out of pending.
func (f *frames) fill() (carried load, any bool) {
	w := f.w
	room := w.link.frame / memory.PageSize
	stretch := max(protectPages/w.t.copies(0), 1)
	for carried.content < room && carried.runs < maxEntries {
		first, n := w.pending.NextRun(f.from, min(64, room-carried.content))
		if n == 0 {
			break
		}
		any = true
		if to := first + n; to > w.protectedTo {
			w.protectedTo = (to + stretch - 1) / stretch * stretch
		}
		f.from = f.sendRun(first, n, room, &carried)
	}
	return carried, any
}

// pageKind is what becomes of a page.
type pageKind int

const (
	pageContent pageKind = iota
	pageZero
	pageSkipped
)

func (f *frames) classify(page int) pageKind {
	switch {
	case f.w.skip && !f.last && f.w.again.Test(page):
		return pageSkipped
	case f.w.zero.Test(page):
		return pageZero
	}
	return pageContent
}

// sendRun sends a run of pages, which is cut where their kind changes. It returns the page to go on
// with: the one whose copies do not all fit the frame.
func (f *frames) sendRun(first, n, room int, carried *load) (from int) {
	w := f.w
	before := pageSkipped
	for page := first; page < first+n; page++ {
		kind, copies := f.classify(page), w.t.copies(page)
		if kind != before && kind != pageSkipped {
			carried.runs++
		}
		before = kind
		switch kind {
		case pageContent:
			fit := min(copies-f.gone, room-carried.content)
			carried.add(fit, w.t.contents[w.contents[page]], w.link)
			f.r.SentPages += int64(fit)
			if f.gone += fit; f.gone < copies {
				return page
			}
		case pageZero:
			carried.zero += copies
			f.r.ZeroPages += int64(copies)
		case pageSkipped:
			f.r.SkippedPages += int64(copies)
		}
		f.gone = 0
		w.pending.Clear(page)
		if !w.next.Test(page) {
			w.left -= copies
		}
		w.unsent -= copies
	}
	return first + n
}
