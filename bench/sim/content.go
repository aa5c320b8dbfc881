package sim

import (
	"time"

	"taskguide/dirtylog/trace"
	"taskguide/memory"
)

// content is what compressing pages of some kind does to each of them.
type content struct {
	share float64       // of a page that is left; 1 without samples
	pack  time.Duration // of a processor; 0 is unknown
}

// slowestPack is the longest time to compress a page that is believed. A file may have any number,
// and virtual time would overflow.
const slowestPack = time.Millisecond

// mostContents is how many kinds of content a trace may have: a page knows its own.
const mostContents = 1 << 16

// contentAtFirst is the content of the first moment. What does not shrink goes raw.
func contentAtFirst(c trace.Contents) content {
	bytes := 0
	for _, s := range c.Samples {
		bytes += min(s.Bytes, memory.PageSize)
	}
	if c.Together > 0 {
		bytes = min(bytes, c.Together)
	}
	return contentOf(trace.Packed{Pages: len(c.Samples), Bytes: bytes, US: c.TookUS})
}

// contentOf is the content of pages that were compressed together.
func contentOf(p trace.Packed) content {
	if p.Pages <= 0 {
		return content{share: 1}
	}
	pages := float64(p.Pages) // a file may have any number, and this does not overflow
	took := float64(p.US) / pages * float64(time.Microsecond)
	return content{
		share: min(max(float64(p.Bytes)/pages/memory.PageSize, 0), 1),
		pack:  time.Duration(min(max(took, 0), float64(slowestPack))),
	}
}

// first is the content of the trace's first moment.
func (t *Trace) first() content {
	if len(t.contents) == 0 {
		return content{share: 1}
	}
	return t.contents[0]
}

// learn takes in what pages of the last interval compress to.
func (t *Trace) learn(p trace.Packed) {
	if len(t.contents) < mostContents && p.Pages > 0 {
		t.intervals[len(t.intervals)-1].content = uint16(len(t.contents))
		t.contents = append(t.contents, contentOf(p))
	}
}

// spreadContents gives intervals without samples the content of the nearest one that has some.
func (t *Trace) spreadContents() {
	if len(t.contents) == 1 {
		return
	}
	last := -1 // the last interval that has some
	for n, i := range t.intervals {
		if i.content == 0 {
			continue
		}
		for k := last + 1; k < n; k++ {
			nearer := n
			if last >= 0 && t.intervals[k].end-t.intervals[last].end < i.end-t.intervals[k].end {
				nearer = last
			}
			t.intervals[k].content = t.intervals[nearer].content
		}
		last = n
	}
	for k := last + 1; k < len(t.intervals); k++ {
		t.intervals[k].content = t.intervals[last].content
	}
}
