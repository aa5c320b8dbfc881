package sim

import (
	"bytes"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog/trace"
	"taskguide/memory"
	"taskguide/migration/policy"
)

// TestShareAtFirst: pages that resemble each other take less in a frame than alone.
func TestShareAtFirst(t *testing.T) {
	c := trace.Contents{Samples: []trace.Sample{{Bytes: 1024}, {Bytes: 9000}}}
	share := func() float64 { return contentAtFirst(c).share }
	require.InDelta(t, (1024.0+4096)/8192, share(), 1e-9)
	c.Together = 819
	require.InDelta(t, 0.1, share(), 0.001)
	c.Together = 9000
	require.InDelta(t, (1024.0+4096)/8192, share(), 1e-9)
	c = trace.Contents{}
	require.InDelta(t, 1, share(), 1e-9)
}

// TestPackTime: what compressing takes is the recording host's, as far as the trace says it.
func TestPackTime(t *testing.T) {
	c := trace.Contents{Samples: make([]trace.Sample, 256), TookUS: 768}
	costs := func() Costs {
		return DefaultSetting(&Trace{contents: []content{contentAtFirst(c)}}).Costs
	}
	require.Equal(t, 3*time.Microsecond, contentAtFirst(c).pack)
	require.Equal(t, 3*time.Microsecond, costs().Pack)
	c.TookUS = 0
	require.Zero(t, contentAtFirst(c).pack)
	require.Equal(t, DefaultCosts(), costs())
	require.Zero(t, contentAtFirst(trace.Contents{TookUS: 7}).pack)
	c.TookUS = math.MaxInt64
	require.Equal(t, slowestPack, contentAtFirst(c).pack)
}

// TestContentOf bounds what a file says.
func TestContentOf(t *testing.T) {
	of := func(pages, bytes int, us int64) content {
		return contentOf(trace.Packed{Pages: pages, Bytes: bytes, US: us})
	}
	require.Equal(t, content{0.25, 2 * time.Microsecond}, of(4, 4096, 8))
	require.Equal(t, content{1, slowestPack}, of(4, 1<<40, math.MaxInt64))
	require.Equal(t, content{}, of(4, -1, -1))
	require.Equal(t, content{share: 1}, of(-4, 1, 1))
	for _, pages := range []int{1 << 51, 1 << 52, 1 << 60, math.MaxInt} {
		is := of(pages, 1, 1)
		require.InDelta(t, 0, is.share, 1e-6)
		require.Zero(t, is.pack)
	}
}

// changing is a guest of 100 pages that writes all of them in each of 8 intervals, and then every
// fifth one. What they compress to changes with that.
func changing(t *testing.T) *Trace {
	t.Helper()
	r := recording{pages: 100, interval: 10 * time.Millisecond, writes: make([][]int, 20)}
	for i := range r.writes { // the second half writes so few pages that it is another phase
		for page := range 100 {
			if i < 8 || page%5 == 0 {
				r.writes[i] = append(r.writes[i], page)
			}
		}
	}
	r.packed = map[int]trace.Packed{
		1:  {Pages: 64, Bytes: 64 * 1024, US: 64},
		3:  {}, // says nothing
		6:  {Pages: 64, Bytes: 64 * 1024, US: 64},
		12: {Pages: 64, Bytes: 64 * 2048, US: 640},
	}
	return r.load(t)
}

// TestContentsOfIntervals: an interval without samples has those of one with as many pages.
func TestContentsOfIntervals(t *testing.T) {
	tr := changing(t)
	var got []uint16
	for _, i := range tr.intervals {
		got = append(got, i.content)
	}
	require.Equal(t, []uint16{1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3}, got)

	_, _, contents := newGuest(tr, All, 0).memoryAt()
	require.Equal(t, make([]uint16, 100), contents, "nothing is written yet")
	_, _, contents = newGuest(tr, All, 40*time.Millisecond).memoryAt()
	require.Equal(t, bytes.Repeat([]byte{1}, 100), low(contents))
	_, _, contents = newGuest(tr, All, 150*time.Millisecond).memoryAt()
	want := bytes.Repeat([]byte{3, 2, 2, 2, 2}, 20)
	require.Equal(t, want, low(contents), "a page keeps what was written last")

	cut, err := tr.Cut(40*time.Millisecond, 150*time.Millisecond)
	require.NoError(t, err)
	_, _, contents = newGuest(cut, All, 0).memoryAt()
	require.Equal(t, bytes.Repeat([]byte{1}, 100), low(contents), "written before the cut")
	_, _, contents = newGuest(cut, All, 100*time.Millisecond).memoryAt()
	require.Equal(t, want, low(contents), "and after it")
	require.Nil(t, tr.before, "a cut leaves its trace alone")
}

// TestSettle: a sample follows from its neighbours, too, but not from those of another phase.
func TestSettle(t *testing.T) {
	r := recording{pages: 100, interval: 10 * time.Millisecond, writes: make([][]int, 60)}
	r.packed = map[int]trace.Packed{}
	for i := range r.writes { // busy until interval 30, now and then less so, and then calm
		for page := range 100 - 20*(i%2) {
			if i < 30 || page < 3 {
				r.writes[i] = append(r.writes[i], page)
			}
		}
	}
	for i, us := range map[int]int64{5: 50, 16: 900, 25: 70, 35: 20, 45: 30, 55: 40} {
		r.packed[i] = trace.Packed{Pages: 10, Bytes: 40 * int(us), US: us}
	}
	tr := r.load(t)
	var shares []float64
	var times []time.Duration
	for _, is := range tr.contents[1:] {
		shares, times = append(shares, is.share*1024), append(times, is.pack/1000)
	}
	require.InDeltaSlice(t, []float64{475, 340, 485, 25, 30, 35}, shares, 0.01)
	require.Equal(t, []time.Duration{5, 7, 7, 2, 3, 3}, times)
	require.EqualValues(t, 3, tr.intervals[29].content, "though the calm sample is as near")
	require.EqualValues(t, 4, tr.intervals[30].content)
	require.EqualValues(t, 6, tr.intervals[59].content)
}

func low(contents []uint16) []byte {
	all := make([]byte, len(contents))
	for i, c := range contents {
		all[i] = byte(c)
	}
	return all
}

// TestContentIsThatOfTheLastWrite: a page takes on the link what it compresses to since then.
func TestContentIsThatOfTheLastWrite(t *testing.T) {
	tr := changing(t)
	s := exact()
	s.Compress, s.Costs.Pack = CompressZstd, DefaultSetting(tr).Costs.Pack
	wire := func(at time.Duration) float64 {
		w := newWalk(s, tr, entrant(t, "downtime", policy.GuidanceOff).Order, nil, at)
		w.cancelled, w.blind = t.Context().Err, true
		w.track()
		f := frames{w: w, r: &policy.Round{}}
		carried, any := f.fill()
		require.True(t, any)
		return carried.packed / memory.PageSize / float64(carried.content)
	}
	require.InDelta(t, 1, wire(0), 0.01)
	require.InDelta(t, 0.25, wire(50*time.Millisecond), 0.01)
	require.InDelta(t, 0.2*0.5+0.8*0.25, wire(150*time.Millisecond), 0.02)

	w := newWalk(s, tr, entrant(t, "downtime", policy.GuidanceOff).Order, nil, 0)
	w.cancelled = t.Context().Err
	w.track()
	w.runGuest(150 * time.Millisecond)
	require.EqualValues(t, []uint16{3, 2, 2}, w.contents[:3], "written while it moves")
	late := newWalk(s, tr, entrant(t, "downtime", policy.GuidanceOff).Order, nil, 0)
	late.left = 1000
	early := late.expected()
	late.guest.skip(150 * time.Millisecond)
	require.Greater(t, late.expected(), early+100*time.Millisecond, "it compresses less now")
}

// TestPackTimeOfContents: they keep their proportion to the first on another host.
func TestPackTimeOfContents(t *testing.T) {
	l := link{packAtFirst: 2 * time.Microsecond, costs: Costs{Pack: 6 * time.Microsecond}}
	require.Equal(t, 6*time.Microsecond, l.packTime(content{pack: 2 * time.Microsecond}))
	require.Equal(t, 30*time.Microsecond, l.packTime(content{pack: 10 * time.Microsecond}))
	require.Equal(t, 6*time.Microsecond, l.packTime(content{}), "unknown")
	l.packAtFirst = 1
	require.Equal(t, mostOfPage, l.packTime(content{pack: slowestPack}), "a file may have anything")
	l.packAtFirst = 0
	require.Equal(t, 6*time.Microsecond, l.packTime(content{pack: 10 * time.Microsecond}))
}

// TestEncode: auto compresses what is faster so, by the link or by the processor that limits it.
func TestEncode(t *testing.T) {
	full := func(share float64, pack time.Duration) load {
		return load{content: 100, runs: 1, packed: 100 * share * memory.PageSize, pack: 100 * pack}
	}
	for _, c := range []struct {
		name   string
		bits   int64
		auto   bool
		f      load
		packed bool
	}{
		{"shrinks on a slow link", 1e9, true, full(0.2, 5*time.Microsecond), true},
		{"shrinks, and takes longer", 1e9, true, full(0.2, 40*time.Microsecond), false},
		{"shrinks, and takes longer, as told", 1e9, false, full(0.2, 40*time.Microsecond), true},
		{"does not shrink", 1e9, true, full(0.95, time.Microsecond), false},
		{"nothing to gain", 0, true, full(0.01, 5*time.Microsecond), false},
		{"faster than copying", 0, true, full(0.01, 100*time.Nanosecond), true},
	} {
		s := Setting{BitsPerSecond: c.bits, Compress: CompressZstd, Costs: DefaultCosts()}
		if c.auto {
			s.Compress = CompressAuto
		}
		l := newLink(s, &Trace{contents: []content{{share: 1}}})
		l.plain = 0
		require.Equal(t, parcel{
			send:    100*s.Costs.Stage + c.f.pack,
			receive: 100*s.Costs.Receive + c.f.pack/packToUnpack,
			bytes:   headerBytes + entryBytes + c.f.packed,
		}, l.packed(c.f))
		require.Equal(t, c.packed, l.encode(c.f) == l.packed(c.f), c.name)
		require.Equal(t, !c.packed, l.encode(c.f) == l.raw(c.f), c.name)
	}
}
