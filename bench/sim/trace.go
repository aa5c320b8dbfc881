package sim

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"time"

	"taskguide/dirtylog/trace"
	"taskguide/memory"
)

// Trace is a recorded trace in memory. It does not change, so several moves can replay it at once.
type Trace struct {
	Name       string
	Pages      int           // of the guest that moves
	Recorded   int           // of the guest that was recorded: the same, unless the trace has grown
	Interval   time.Duration // as ordered
	Length     time.Duration // of the recording
	Tracker    string
	Grown      Growth
	Unfinished bool // the recording has no end, so some of it is missing
	Lost       int  // events that the recording has not, because who takes them was too slow

	cpus            int
	used            int            // pages from here on are never populated
	populated, zero *memory.Bitmap // of the recorded guest below used, at the first moment
	touched         *memory.Bitmap // populated at any moment
	contents        []content      // the first is that of pages at the first moment
	before          []uint16       // content of each page at the first moment; nil is the first
	intervals       []interval
	tags            []tag

	// What the recording has: written pages, those of all intervals added up, and transitions.
	written, tagged int
}

// interval is a stretch of the recording, and what was written in it.
type interval struct {
	begin, end time.Duration
	writes     []write // in the order of their moments
	// hot are pages that were written in the full intervals before and after, too. They are written
	// all the time, which here is at the end of each of hotTimes equal parts of the interval.
	hot []uint32
	// content is that of the pages written here, an index into the trace's contents.
	content uint16
}

const hotTimes = 8

// beats is how many of the moments at which hot pages are written are over at a time.
func (i interval) beats(at time.Duration) int {
	return int(max(at-i.begin, 0) * hotTimes / max(i.end-i.begin, 1))
}

// write is a page, and the moment within its interval at which it was written: 0 stands for the
// interval's beginning, and 1<<32 would be its end.
type write struct {
	moment, page uint32
}

// at is the moment of one of the interval's writes.
func (i interval) at(w write) time.Duration {
	// The product of a moment and a long interval does not fit 64 bits.
	hi, lo := bits.Mul64(uint64(w.moment), uint64(i.end-i.begin))
	return i.begin + 1 + time.Duration(hi<<32|lo>>32)
}

// tag is a transition of a task, after which it is registered or not, and so deep in segments.
type tag struct {
	at         time.Duration
	task       uint32
	change     string
	depth      uint32
	registered bool
}

// Bounds of what a trace may hold, because some come from other people: a few bytes of a file can
// stand for gigabytes here.
const (
	mostWritten = 1 << 28 // pages
	mostTagged  = 1 << 22 // transitions of tasks

	mostIntervals = 1 << 24 // two days of 10 ms
)

// ErrTrace is returned for a trace that cannot be replayed.
var ErrTrace = errors.New("cannot be simulated")

// Load reads a whole trace, or as much as there is of one that was cut off.
func Load(from io.Reader) (*Trace, error) {
	r, err := trace.NewReader(from)
	if err != nil {
		return nil, err
	}
	h := r.Header
	t := &Trace{
		Name: h.Name, Pages: h.Pages, Recorded: h.Pages, Tracker: h.Tracker, Grown: Untouched,
		cpus:     min(max(h.CPUs, 1), mostProcessors),
		Interval: time.Duration(h.IntervalUS) * time.Microsecond,
		contents: []content{contentAtFirst(h.Contents)},
	}
	populated, zero := memory.NewBitmap(h.Pages), memory.NewBitmap(h.Pages)
	err = errors.Join(h.Contents.Populated.AddTo(populated), h.Contents.Zero.AddTo(zero))
	if err != nil {
		return nil, err
	}
	populated.Or(zero)
	dirty, touched := memory.NewBitmap(h.Pages), memory.NewBitmap(h.Pages)
	touched.Or(populated)
	for {
		record, err := r.Next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			t.Unfinished = !errors.Is(err, io.EOF)
			t.used = end(touched)
			t.populated, t.zero = cutTo(populated, t.used), cutTo(zero, t.used)
			t.touched = cutTo(touched, t.used)
			t.findHot()
			t.spreadContents()
			return t, t.check()
		case err != nil:
			return nil, err
		}
		if err := t.add(record, dirty, touched); err != nil {
			return nil, err
		}
	}
}

// end is the first page behind all pages of a set.
func end(pages *memory.Bitmap) int {
	last := 0
	for word, held := range pages.NonZero() {
		last = word*64 + bits.Len64(held)
	}
	return last
}

// cutTo is the set of those pages below n.
func cutTo(pages *memory.Bitmap, n int) *memory.Bitmap {
	part := memory.NewBitmap(n)
	for first, count := pages.NextRunBefore(0, n); count > 0; {
		part.SetRange(first, count)
		first, count = pages.NextRunBefore(first+count, n)
	}
	return part
}

func (t *Trace) check() error {
	switch {
	case len(t.intervals) == 0:
		return fmt.Errorf("%w: a trace without an interval", ErrTrace)
	case t.Length <= 0:
		return fmt.Errorf("%w: a trace of no length", ErrTrace)
	}
	return nil
}

// longest is the longest trace that is taken: 100 days.
const longest = 100 * 24 * time.Hour

// add takes in a record. It uses dirty and leaves it empty.
func (t *Trace) add(r trace.Record, dirty, touched *memory.Bitmap) error {
	if r.AtUS < 0 || r.AtUS > longest.Microseconds() {
		return fmt.Errorf("%w: a record at %d us", ErrTrace, r.AtUS)
	}
	at := time.Duration(r.AtUS) * time.Microsecond
	if r.Dirty != nil {
		if err := r.Dirty.AddTo(dirty); err != nil {
			return err
		}
		if err := t.append(at, dirty); err != nil {
			return err
		}
		touched.Take(dirty)
		if r.Packed != nil {
			t.learn(*r.Packed)
		}
	}
	if r.Event != nil {
		return t.event(at, r.Event)
	}
	return nil
}

// append adds the interval that ends at the given time.
func (t *Trace) append(end time.Duration, pages *memory.Bitmap) error {
	if len(t.intervals) >= mostIntervals {
		return fmt.Errorf("%w: more than %d intervals", ErrTrace, mostIntervals)
	}
	count := pages.Count()
	if t.written += count; t.written > mostWritten {
		return fmt.Errorf("%w: its intervals have more than %d pages in all: record for less time",
			ErrTrace, mostWritten)
	}
	i := interval{begin: t.Length, end: end, writes: make([]write, 0, count)}
	for first, n := pages.NextRun(0, pages.Len()); n > 0; {
		for page := first; page < first+n; page++ {
			i.writes = append(i.writes, write{momentOf(len(t.intervals), page), uint32(page)})
		}
		first, n = pages.NextRun(first+n, pages.Len())
	}
	slices.SortFunc(i.writes, func(a, b write) int {
		return cmp.Or(cmp.Compare(a.moment, b.moment), cmp.Compare(a.page, b.page))
	})
	t.intervals, t.Length = append(t.intervals, i), end
	return nil
}

// full returns the intervals of at least half the length ordered. The last one of a trace may be
// shorter, and so may one after a late one. A page that is not written in there may still be hot.
func (t *Trace) full() []int {
	var all []int
	for n, i := range t.intervals {
		if i.end-i.begin >= t.Interval/2 {
			all = append(all, n)
		}
	}
	return all
}

// findHot finds the hot pages of each interval, by the full intervals before and after it. The
// trace begins again after its end, so its end is beside its beginning.
func (t *Trace) findHot() {
	full, n := t.full(), len(t.intervals)
	if len(full) < 3 { // each interval needs two neighbours, and is none of its own
		return
	}
	before, here := t.writtenIn(full[len(full)-1]), t.writtenIn(full[0])
	after := t.writtenIn(full[1])
	for k, i := range full {
		next := full[(k+1)%len(full)]
		t.intervals[i].split(inBoth(before, after))
		for short := (i + 1) % n; short != next; short = (short + 1) % n {
			t.intervals[short].split(inBoth(here, after))
		}
		before, here, after = here, after, before
		after.Reset()
		t.intervals[full[(k+2)%len(full)]].addTo(after)
	}
}

// writtenIn is the set of the pages that were written in an interval.
func (t *Trace) writtenIn(n int) *memory.Bitmap {
	pages := memory.NewBitmap(t.used)
	t.intervals[n].addTo(pages)
	return pages
}

// addTo adds an interval's pages to a set, whether they are known to be hot by now or not.
func (i interval) addTo(pages *memory.Bitmap) {
	for _, w := range i.writes {
		pages.Set(int(w.page))
	}
	for _, page := range i.hot {
		pages.Set(int(page))
	}
}

// inBoth tells of a write whether both sets have its page.
func inBoth(a, b *memory.Bitmap) func(write) bool {
	return func(w write) bool { return a.Test(int(w.page)) && b.Test(int(w.page)) }
}

// split takes the hot pages out of an interval's writes. Both lists are as short as can be, because
// a trace has many of them.
func (i *interval) split(isHot func(write) bool) {
	n := 0
	for _, w := range i.writes {
		if isHot(w) {
			n++
		}
	}
	if n == 0 {
		return
	}
	all := i.writes
	i.hot, i.writes = make([]uint32, 0, n), make([]write, 0, len(all)-n)
	for _, w := range all {
		if isHot(w) {
			i.hot = append(i.hot, w.page)
		} else {
			i.writes = append(i.writes, w)
		}
	}
}

// momentOf is the moment within the n-th interval at which a page was written, as far as anybody
// knows: neighbouring pages are written at moments far apart.
func momentOf(n, page int) uint32 {
	h := uint64(page)<<32 ^ uint64(n)
	h ^= h >> 33 // the finalizer of MurmurHash3
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return uint32(h >> 32)
}

// event takes in a transition of a task. Other events, those of a migration among them, say nothing
// about the guest.
func (t *Trace) event(at time.Duration, text json.RawMessage) error {
	var e struct {
		Kind    string `json:"kind"`
		Dropped int    `json:"dropped"`
		Tag     *struct {
			Event   string `json:"event"`
			Task    uint32 `json:"task"`
			Depth   uint32 `json:"depth"`
			Dropped uint64 `json:"dropped"` // before it: the tag port's subscriber was too slow
		} `json:"tag"`
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return fmt.Errorf("%w: an event: %w", ErrTrace, err)
	}
	if e.Kind == "lagged" {
		t.Lost += min(max(e.Dropped, 1), math.MaxInt32) // a file may have any number
	}
	if e.Kind == "tag" && e.Tag != nil {
		t.Lost += int(min(e.Tag.Dropped, math.MaxInt32))
		if t.tagged++; t.tagged > mostTagged {
			return fmt.Errorf("%w: more than %d transitions of tasks", ErrTrace, mostTagged)
		}
		t.tags = append(t.tags, tag{
			at: at, task: e.Tag.Task, change: named(e.Tag.Event), depth: e.Tag.Depth,
			registered: e.Tag.Event != "unregister",
		})
	}
	return nil
}

// named returns the name of a change that is known here. One of a newer recorder has none, and a
// trace may have many of them, and long ones.
func named(change string) string {
	for _, name := range []string{"register", "unregister", "enter", "exit"} {
		if change == name {
			return name
		}
	}
	return ""
}

// Tasks is how many tasks the trace has tags of.
func (t *Trace) Tasks() int {
	tasks := make(map[uint32]bool)
	for _, g := range t.tags {
		tasks[g.task] = true
	}
	return len(tasks)
}

// Enters are the moments at which a task enters its outermost segment.
func (t *Trace) Enters() []time.Duration { return t.changes("enter", 1) }

// Exits are the moments at which a task leaves its outermost segment.
func (t *Trace) Exits() []time.Duration { return t.changes("exit", 0) }

// changes are the moments of a change to a depth.
func (t *Trace) changes(change string, depth uint32) []time.Duration {
	var all []time.Duration
	for _, g := range t.tags {
		if g.change == change && g.depth == depth {
			all = append(all, g.at)
		}
	}
	return all
}

// Cut returns the part of the trace from one moment to another, which then is its whole. What was
// written before counts as populated. A guest that does the same again and again is best replayed
// from a trace of whole cycles, because a move that outlasts the trace begins it again.
func (t *Trace) Cut(from, to time.Duration) (*Trace, error) {
	c := *t
	c.populated, c.zero = cutTo(t.populated, t.used), cutTo(t.zero, t.used)
	c.intervals, c.tags = nil, nil
	c.before = make([]uint16, t.used)
	copy(c.before, t.before)
	c.Length = 0
	for _, i := range t.intervals {
		if part := c.takeOver(i, from, to); part.end > part.begin {
			c.intervals = append(c.intervals, part)
			c.Length = part.end
		}
	}
	c.tags = cutTags(t.tags, from, to)
	return &c, c.check()
}

// takeOver returns what of an interval lies between two moments, and notes what was written before.
func (t *Trace) takeOver(i interval, from, to time.Duration) interval {
	part := interval{
		begin: max(i.begin, from) - from, end: min(i.end, to) - from, content: i.content,
	}
	length := uint64(max(part.end-part.begin, 1))
	for _, page := range i.hot {
		if i.begin < from {
			t.wroteBefore(page, i)
		}
	}
	part.hot = i.hot
	for _, w := range i.writes {
		switch at := i.at(w); {
		case at <= from:
			t.wroteBefore(w.page, i)
		case at <= to:
			since := uint64(at - 1 - from - part.begin) // less than length
			moment, _ := bits.Div64(since>>32, since<<32, length)
			part.writes = append(part.writes, write{uint32(moment), w.page})
		}
	}
	return part
}

// wroteBefore notes a page that an interval has written before the trace begins.
func (t *Trace) wroteBefore(page uint32, i interval) {
	t.populated.Set(int(page))
	t.zero.Clear(int(page))
	t.before[page] = i.content
}

// cutTags returns the tags between two moments, and before them what each task had done by then.
func cutTags(all []tag, from, to time.Duration) []tag {
	before := make(map[uint32]tag)
	var inside []tag
	for _, g := range all {
		switch {
		case g.at <= from:
			before[g.task] = g
		case g.at <= to:
			g.at -= from
			inside = append(inside, g)
		}
	}
	var cut []tag
	for _, g := range before {
		g.at = 0
		cut = append(cut, g)
	}
	slices.SortFunc(cut, func(a, b tag) int { return int(a.task) - int(b.task) })
	return append(cut, inside...)
}

// Growth says what is in the RAM that a guest has beyond what was recorded.
type Growth string

// The ways to grow.
const (
	// Untouched RAM was never written: it costs next to nothing.
	Untouched Growth = "untouched"
	// Repeated RAM holds each recorded page several times. The copies of a page are written at the
	// same times, and sent one after another.
	Repeated Growth = "repeated"
)

// Grow returns the trace of a guest with so many pages of RAM. Its tags stay as they are.
func (t *Trace) Grow(pages int, how Growth) (*Trace, error) {
	if pages < t.Recorded {
		return nil, fmt.Errorf("%w: the recorded guest has %d MiB, and RAM can only grow", ErrTrace,
			t.Recorded>>8)
	}
	g := *t
	g.Pages, g.Grown = pages, how
	return &g, nil
}

// copies is how many times a recorded page is in RAM. Where the recorded guest does not fit a whole
// number of times, the first pages are there once more than the others.
func (t *Trace) copies(page int) int {
	if t.Grown != Repeated {
		return 1
	}
	n := t.Pages / t.Recorded
	if page < t.Pages%t.Recorded {
		n++
	}
	return n
}

// inRAM is how many pages of RAM a set of recorded pages stands for.
func (t *Trace) inRAM(pages *memory.Bitmap) int {
	n := pages.Count()
	if t.Grown == Repeated {
		n = n*(t.Pages/t.Recorded) + pages.CountHeld(0, min(t.Pages%t.Recorded, t.used))
	}
	return n
}
