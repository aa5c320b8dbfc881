package sim

import (
	"slices"
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

// mostContents is how many kinds of content a trace may have, because each page has the number of
// its own. Later samples are left out.
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

// spreadContents settles what samples say, and gives intervals without samples the content of one
// that has some.
func (t *Trace) spreadContents() {
	var sampled []int // intervals
	for n, i := range t.intervals {
		if i.content > 0 {
			sampled = append(sampled, n)
		}
	}
	if len(sampled) == 0 {
		return
	}
	t.settle(sampled)
	next := 0
	for n := range t.intervals {
		if next < len(sampled) && sampled[next] < n {
			next++
		}
		before, after := sampled[max(next-1, 0)], sampled[min(next, len(sampled)-1)]
		if t.intervals[n].content == 0 {
			t.intervals[n].content = t.intervals[t.resembled(n, before, after)].content
		}
	}
}

// mostAlike is the most by which the numbers of pages of two intervals may differ, as a factor, in
// one phase of a guest. Between phases it is mostly larger, and so is the difference of contents.
const mostAlike = 4

// pages is how many pages the n-th interval has.
func (t *Trace) pages(n int) int { return len(t.intervals[n].writes) + len(t.intervals[n].hot) }

// alike tells whether two intervals have about as many pages.
func (t *Trace) alike(n, m int) bool {
	a, b := t.pages(n), t.pages(m)
	return max(a, b) <= mostAlike*max(min(a, b), 1)
}

// resembled returns which of two sampled intervals another one resembles: the one with about as
// many pages, or else the nearer one.
func (t *Trace) resembled(n, before, after int) int {
	nearer := after
	if t.intervals[n].end-t.intervals[before].end < t.intervals[after].end-t.intervals[n].end {
		nearer = before
	}
	if like := t.alike(n, before); like != t.alike(n, after) {
		if like {
			return before
		}
		return after
	}
	return nearer
}

// settle lets what samples say follow from three of them, as far as their intervals have about as
// many pages: the share is the mean, because pages differ, and the time the median, because one
// that had to wait for a processor took longer than packing takes.
func (t *Trace) settle(sampled []int) {
	own := slices.Clone(t.contents)
	for k, n := range sampled {
		var shares, times []float64
		for _, m := range sampled[max(k-1, 0):min(k+2, len(sampled))] {
			if t.alike(n, m) {
				is := own[t.intervals[m].content]
				shares, times = append(shares, is.share), append(times, float64(is.pack))
			}
		}
		slices.Sort(times)
		sum := 0.0
		for _, share := range shares {
			sum += share
		}
		t.contents[t.intervals[n].content] = content{
			share: sum / float64(len(shares)), pack: time.Duration(times[(len(times)-1)/2]),
		}
	}
}
