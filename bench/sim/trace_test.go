package sim

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/migration/stream"
	"taskguide/transport"
)

// TestReplay: however a stretch of time is cut, the guest writes in it what was recorded.
func TestReplay(t *testing.T) {
	calm := phased()
	calm.Hot = 0 // hot pages are written more than once
	tr := generated(t, calm)
	whole := make(map[int]int)
	newGuest(tr, All, 0).run(tr.Length, func(page int) { whole[page]++ })
	require.Len(t, whole, 1024)
	for _, step := range []time.Duration{
		time.Millisecond, 7 * time.Millisecond, 333 * time.Millisecond,
	} {
		parts := make(map[int]int)
		g := newGuest(tr, All, 0)
		for at := time.Duration(0); at < tr.Length; at += step {
			g.run(min(step, tr.Length-at), func(page int) { parts[page]++ })
		}
		require.Equal(t, whole, parts)
		require.Equal(t, 1, g.laps)
	}
	// A guest that begins in the middle, in the middle of an interval, writes the rest.
	before, after := make(map[int]int), make(map[int]int)
	const middle = 3*time.Second + 2345*time.Microsecond
	newGuest(tr, All, 0).run(middle, func(page int) { before[page]++ })
	newGuest(tr, All, middle).run(tr.Length-middle, func(page int) { after[page]++ })
	for page, n := range whole {
		require.Equal(t, n, before[page]+after[page])
	}
}

// TestHot: a page that is written in three intervals in a row is written all the time in the middle
// one, and others are not.
func TestHot(t *testing.T) {
	r := recording{pages: 100, interval: 16 * time.Millisecond, writes: calmFor(10)}
	r.writes[2], r.writes[3], r.writes[4] = []int{7, 8}, []int{7, 9}, []int{7}
	tr := r.load(t)
	require.Equal(t, []uint32{7}, tr.intervals[3].hot)
	for _, i := range []int{2, 4} {
		require.Empty(t, tr.intervals[i].hot)
	}
	g := newGuest(tr, All, 48*time.Millisecond+time.Microsecond)
	for range 8 {
		n := 0
		g.run(2*time.Millisecond, func(page int) {
			if page == 7 {
				n++
			}
		})
		require.Equal(t, 1, n, "every 2 ms")
	}
	// The last interval is beside the first, because the trace begins again.
	r.writes[8], r.writes[9], r.writes[0] = []int{5}, []int{5}, []int{5}
	require.Equal(t, []uint32{5}, r.load(t).intervals[9].hot)
	// A page that is hot at the cut was written before it.
	zero := r
	zero.zero = []int{7}
	cut, err := zero.load(t).Cut(50*time.Millisecond, 100*time.Millisecond)
	require.NoError(t, err)
	require.False(t, cut.zero.Test(7))
	require.Equal(t, []uint32{7}, cut.intervals[0].hot)
}

// TestHotBesideAShortInterval: what is not written in an interval that is much shorter than ordered
// may be written all the time, if it is written in the next one beyond.
func TestHotBesideAShortInterval(t *testing.T) {
	r := recording{pages: 100, interval: 16 * time.Millisecond, writes: calmFor(10)}
	r.last = 7 * time.Millisecond
	r.writes[7], r.writes[8], r.writes[9] = []int{5, 6}, []int{5, 6}, []int{6}
	r.writes[0], r.writes[1] = []int{5}, []int{5}
	tr := r.load(t)
	for _, i := range []int{8, 0} {
		require.Equal(t, []uint32{5}, tr.intervals[i].hot)
	}
	for _, i := range []int{7, 9, 1} {
		require.Empty(t, tr.intervals[i].hot)
	}
	r.writes[9] = []int{5}
	require.Equal(t, []uint32{5}, r.load(t).intervals[9].hot, "it has neighbours itself")

	// Half of what was ordered says enough.
	r.last, r.writes[9] = 8*time.Millisecond, nil
	for _, i := range r.load(t).intervals {
		require.Empty(t, i.hot)
	}
	// Two full intervals are no neighbours of each other on both sides.
	r.last, r.writes = time.Millisecond, [][]int{{5}, {5}, {5}}
	for _, i := range r.load(t).intervals {
		require.Empty(t, i.hot)
	}
	// Short ones may be anywhere, and more than one in a row.
	var hot []int
	tr = &Trace{Interval: 16 * time.Millisecond, used: 8}
	for n, length := range []int{1, 16, 1, 1, 20, 16, 2, 16} {
		begin := tr.Length
		tr.Length += time.Duration(length) * time.Millisecond
		i := interval{begin: begin, end: tr.Length}
		if n != 2 && n != 6 {
			i.writes = []write{{page: 3}}
		}
		tr.intervals = append(tr.intervals, i)
	}
	tr.findHot()
	for n, i := range tr.intervals {
		if len(i.hot) > 0 {
			hot = append(hot, n)
			require.Empty(t, i.writes)
		}
	}
	require.Equal(t, []int{0, 1, 3, 4, 5, 7}, hot)
}

// TestAnIntervalsShare: a stretch of an interval has about its share of the interval's pages.
func TestAnIntervalsShare(t *testing.T) {
	r := recording{pages: 4096, interval: 10 * time.Millisecond, writes: calmFor(1)}
	for page := range 4096 {
		r.writes[0] = append(r.writes[0], page)
	}
	n := 0
	newGuest(r.load(t), All, 0).run(time.Millisecond, func(int) { n++ })
	require.InDelta(t, 410, n, 80)
}

// TestGates of two tasks, and of a quorum of one.
func TestGates(t *testing.T) {
	at := func(ms int) time.Duration { return time.Duration(ms) * time.Millisecond }
	tr := &Trace{Length: time.Second, tags: []tag{
		{at(100), 1, "enter", 1, true}, {at(200), 2, "exit", 0, true},
		{at(300), 1, "enter", 2, true}, {at(400), 1, "exit", 1, true},
		{at(500), 2, "unregister", 0, false},
		{at(600), 1, "exit", 0, true}, {at(2000), 1, "enter", 1, true},
	}}
	require.Equal(t, []gateAt{
		{0, false, 2}, {at(100), true, 2}, {at(200), false, 2}, {at(500), true, 1},
		{at(600), false, 1},
	}, tr.gates(All))
	require.Equal(t, []gateAt{{0, true, 2}, {at(500), true, 1}, {at(600), false, 1}}, tr.gates(Any))
	require.Equal(t, []gateAt{{0, true, 0}}, (&Trace{Length: 1}).gates(All), "no task, no gate")
	require.Equal(t, []time.Duration{at(200), at(600)}, tr.Exits())
	// At the trace's end it begins again, and the gate with it.
	tr.intervals = []interval{{end: time.Second}}
	g := newGuest(tr, All, at(700))
	require.False(t, g.now().open)
	d, ok := g.untilChange()
	require.True(t, ok)
	require.Equal(t, at(300), d)
	g.run(d, func(int) {})
	require.False(t, g.change().open)
	d, _ = g.untilChange()
	require.Equal(t, at(100), d)
}

// TestCrowd: however tasks change, as many are counted as there are.
func TestCrowd(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	c := crowd{tasks: make(map[uint32]task)}
	for range 1000 {
		c.set(rnd.Uint32N(5), task{registered: rnd.IntN(3) > 0, depth: rnd.Uint32N(3)})
		registered, inside := 0, 0
		for _, one := range c.tasks {
			if !one.registered {
				continue
			}
			registered++
			if one.depth > 0 {
				inside++
			}
		}
		require.Equal(t, []int{registered, inside}, []int{c.registered, c.inside})
	}
}

// TestMemory: what was written before the request is populated, and not zero.
func TestMemory(t *testing.T) {
	r := recording{pages: 8, interval: 10 * time.Millisecond, zero: []int{1, 2}, writes: [][]int{
		{1}, {2},
	}}
	_, zero, _ := newGuest(r.load(t), All, 10*time.Millisecond).memoryAt()
	require.False(t, zero.Test(1))
	require.True(t, zero.Test(2))
	// A guest that has begun the trace again has written all of it.
	g := newGuest(r.load(t), All, 0)
	g.skip(25 * time.Millisecond)
	require.Equal(t, 1, g.laps)
	_, zero, _ = g.memoryAt()
	require.Zero(t, zero.Count())
}

// TestCut: a part of a trace is replayed as the whole has it.
func TestCut(t *testing.T) {
	tr := generated(t, phased())
	exits := tr.Exits()
	from, to := exits[0]+time.Millisecond, exits[2]+time.Millisecond
	cut, err := tr.Cut(from, to)
	require.NoError(t, err)
	require.Equal(t, to-from, cut.Length)
	whole, part := make(map[int]int), make(map[int]int)
	newGuest(tr, All, from).run(to-from, func(page int) { whole[page]++ })
	newGuest(cut, All, 0).run(to-from, func(page int) { part[page]++ })
	require.Equal(t, whole, part)
	require.False(t, newGuest(cut, All, 0).now().open, "just after an EXIT")
	require.Len(t, cut.gates(All), 5)
	zero := recording{pages: 8, interval: 10 * time.Millisecond, zero: []int{1, 2}, writes: [][]int{
		{1}, {2}, {}, {},
	}}
	cut, err = zero.load(t).Cut(20*time.Millisecond, 40*time.Millisecond)
	require.NoError(t, err)
	_, zeros, _ := newGuest(cut, All, 0).memoryAt()
	require.Zero(t, zeros.Count(), "they were written before")
	_, err = tr.Cut(time.Second, time.Second)
	require.ErrorIs(t, err, ErrTrace)
}

// TestLongIntervals: however long an interval is, the moments of its writes ascend from its
// beginning to its end, also in a part of it.
func TestLongIntervals(t *testing.T) {
	i := interval{begin: time.Second, end: time.Hour}
	require.Equal(t, i.begin+1, i.at(write{}))
	require.Equal(t, i.begin+1+(i.end-i.begin)/2, i.at(write{moment: 1 << 31}))
	require.InDelta(t, i.end.Seconds(), i.at(write{moment: math.MaxUint32}).Seconds(), 1e-5)

	r := recording{pages: 100, interval: 20 * time.Second, writes: calmFor(2)}
	for page := range 100 {
		r.writes[0] = append(r.writes[0], page)
	}
	tr := r.load(t)
	from, to := 3*time.Second, 18*time.Second
	cut, err := tr.Cut(from, to)
	require.NoError(t, err)
	whole, part := newGuest(tr, All, from), newGuest(cut, All, 0)
	for at := from; at < to; at += time.Second {
		var a, b []int
		whole.run(time.Second, func(page int) { a = append(a, page) })
		part.run(time.Second, func(page int) { b = append(b, page) })
		require.Equal(t, a, b, "%v", at)
	}
}

// TestGrow: RAM that is untouched costs nothing; RAM that repeats the guest costs as much again.
func TestGrow(t *testing.T) {
	r := recording{
		pages: 100, interval: 10 * time.Millisecond, zero: []int{7}, writes: calmFor(200),
	}
	r.writes[100] = []int{3}
	tr := r.load(t)
	e := entrant(t, "downtime", "off")
	for how, want := range map[Growth][3]int64{
		Untouched: {99, 151, 1}, Repeated: {247, 3, 3}, // the first half is there three times
	} {
		big, err := tr.Grow(250, how)
		require.NoError(t, err)
		m := run(t, exact(), big, e, 0)
		require.Equal(t, want[0], m.PagesSent, "%s", how)
		require.Equal(t, want[1], m.PagesZero, "%s", how)
		n := int64(0)
		newGuest(big, All, 0).run(tr.Length, func(page int) { n += int64(big.copies(page)) })
		require.Equal(t, want[2], n, "%s", how)
	}
	big, err := tr.Grow(1<<28, Repeated)
	require.NoError(t, err)
	s := exact()
	s.BitsPerSecond *= 1 << 20
	m := run(t, s, big, e, 0)
	require.EqualValues(t, 1<<28, m.PagesSent+m.PagesZero, "every copy is sent")
	require.InDelta(t, 256*0.99, m.TotalMS-m.DowntimeMS, 3, "at a million pages a ms")
	_, err = tr.Grow(99, Untouched)
	require.ErrorIs(t, err, ErrTrace)
}

// TestSkipped: time that nobody looks at leaves the guest where it would be.
func TestSkipped(t *testing.T) {
	tr := generated(t, phased())
	for _, d := range []time.Duration{time.Millisecond, 14 * time.Second, 13 * time.Second} {
		skipped, ran := newGuest(tr, All, time.Second), newGuest(tr, All, time.Second)
		skipped.skip(d)
		ran.run(d, func(int) {})
		require.Equal(t, ran.laps, skipped.laps)
		var a, b []int
		skipped.run(100*time.Millisecond, func(page int) { a = append(a, page) })
		ran.run(100*time.Millisecond, func(page int) { b = append(b, page) })
		require.NotEmpty(t, a)
		require.Equal(t, b, a)
	}
}

// TestFramesAreTheEngines compares with what package transport does.
func TestFramesAreTheEngines(t *testing.T) {
	require.Equal(t, transport.MaxData, maxData)
	require.Equal(t, transport.MaxEntries, maxEntries)
	require.Equal(t, stream.BeforeTrials, beforeTrials)
	tr := closedFor(t)
	for _, rate := range []int64{1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11} {
		l := newLink(Setting{BitsPerSecond: rate}, tr)
		engine := transport.NewLimiter(rate)
		require.Equal(t, engine.FrameData(), l.frame, "%d", rate)
		require.InDelta(t, engine.FrameTime().Seconds(), l.burst/l.bytesPerS, 1e-6, "%d", rate)
	}
	require.Equal(t, (*transport.Limiter)(nil).FrameData(), newLink(Setting{}, tr).frame)
}

// TestBucket: bytes wait for their tokens, and a pause leaves no more of them than a burst.
func TestBucket(t *testing.T) {
	l := newLink(exact(), closedFor(t))
	pages := func(n int) load { return load{content: n} }
	frame := headerBytes / 4096e3 // s
	require.InDelta(t, 1+frame, l.send(0, pages(1000)).done.Seconds(), 1e-6)
	require.InDelta(t, 1.5+2*frame, l.send(l.at, pages(500)).done.Seconds(), 1e-6)
	burst := int(l.burst) / memory.PageSize
	rest := (float64((burst+100)*memory.PageSize) + headerBytes - l.burst) / 4096e3
	done := l.send(10*time.Second, pages(burst+100)).done
	require.InDelta(t, 10+rest, done.Seconds(), 1e-6, "the burst itself takes no time")
	unlimited := newLink(Setting{}, closedFor(t))
	require.Equal(t, 20*time.Second, unlimited.send(20*time.Second, pages(1<<30)).done)
}

// TestLoadRefuses traces that are damaged, and takes one that was cut off.
func TestLoadRefuses(t *testing.T) {
	whole := written(t, phased())
	_, err := Load(bytes.NewReader([]byte("nonsense")))
	require.ErrorContains(t, err, "no trace")
	tr, err := Load(bytes.NewReader(whole[:len(whole)/2]))
	require.NoError(t, err)
	require.True(t, tr.Unfinished)
	require.Less(t, tr.Length, 13*time.Second)
	tr, err = Load(bytes.NewReader(whole))
	require.NoError(t, err)
	require.False(t, tr.Unfinished)
	require.Equal(t, 13*time.Second, tr.Length)
	require.Equal(t, 6<<20/memory.PageSize, tr.Pages)
	require.InDelta(t, 0.25, tr.contents[0].share, 0.001)
}

// TestBounds: a few lines of a trace do not fill the memory.
func TestBounds(t *testing.T) {
	pages := memory.NewBitmap(8)
	pages.SetRange(0, 2)
	tr := &Trace{written: mostWritten - 2}
	require.NoError(t, tr.append(time.Millisecond, pages))
	require.ErrorIs(t, tr.append(2*time.Millisecond, pages), ErrTrace)
	require.Len(t, tr.intervals, 1)

	tr = &Trace{intervals: make([]interval, mostIntervals-1, mostIntervals)}
	require.NoError(t, tr.append(time.Millisecond, pages))
	require.ErrorIs(t, tr.append(2*time.Millisecond, pages), ErrTrace)

	enter := []byte(`{"kind":"tag","tag":{"event":"enter","task":1,"depth":1}}`)
	tr = &Trace{tagged: mostTagged - 1}
	require.NoError(t, tr.event(0, enter))
	require.ErrorIs(t, tr.event(0, enter), ErrTrace)
	require.Len(t, tr.tags, 1)
}

// TestUnknownChange: a transition of a newer recorder says what the task is after it, and its name
// is not kept.
func TestUnknownChange(t *testing.T) {
	tr := &Trace{Length: time.Second}
	for _, change := range []string{"pause", "register", "unregister", "enter", "exit"} {
		event := fmt.Sprintf(`{"kind":"tag","tag":{"event":%q,"task":1,"depth":1}}`, change)
		require.NoError(t, tr.event(time.Millisecond, []byte(event)))
	}
	var changes []string
	for _, g := range tr.tags {
		changes = append(changes, g.change)
	}
	require.Equal(t, []string{"", "register", "unregister", "enter", "exit"}, changes)
	require.Equal(t, tag{time.Millisecond, 1, "", 1, true}, tr.tags[0])
	tr.tags = tr.tags[:1]
	require.Equal(t, []gateAt{{0, false, 1}, {time.Millisecond, true, 1}}, tr.gates(All))
}

// TestLostEvents: a recording says how many of its events are missing.
func TestLostEvents(t *testing.T) {
	tr := &Trace{}
	require.NoError(t, tr.event(0, []byte(`{"kind":"lagged","dropped":3}`)))
	require.NoError(t, tr.event(0, []byte(`{"kind":"lagged","dropped":-3}`)))
	require.Equal(t, 4, tr.Lost, "a number that cannot be counts as one event")
	require.NoError(t, tr.event(0, []byte(`{"kind":"lagged","dropped":9223372036854775807}`)))
	require.Positive(t, tr.Lost)
}
