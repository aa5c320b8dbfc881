package stream_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/migration/stream"
)

// table is what a guest declares.
type table struct{ spans memory.Spans }

func (tb *table) look() memory.Spans { return tb.spans }

// TestDeclaredPagesAreLeftOut: they are in no round while they are declared, and are sent once they
// are not, written or not.
func TestDeclaredPagesAreLeftOut(t *testing.T) {
	for _, onDemand := range []bool{false, true} {
		t.Run(fmt.Sprint(onDemand), func(t *testing.T) {
			g := newGuest(t, onDemand)
			g.write(0, 1000)
			tb := &table{memory.Spans{{First: 100, Count: 300}}}
			s, sink := begun(t, g, stream.Config{Declared: tb.look})
			require.Equal(t, 300, s.Aside())
			r := send(t, s, stream.Running)
			require.EqualValues(t, 700, r.Content)
			require.EqualValues(t, 300, r.Declared)
			require.Equal(t, 300, sink.differ())

			g.write(150, 10) // still declared
			g.write(500, 7)
			tb.spans = memory.Spans{{First: 100, Count: 300}, {First: 505, Count: 1}}
			require.Equal(t, 6, remaining(t, s))
			require.Equal(t, 6, take(t, s))
			require.Equal(t, 301, s.Aside())
			require.Equal(t, tb.spans, s.Declared())
			r = send(t, s, stream.Running)
			require.EqualValues(t, 6, r.Content)
			require.EqualValues(t, 1, r.Declared, "each page counts once")
			require.Zero(t, take(t, s), "it is not reported again")

			tb.spans = memory.Spans{{First: 100, Count: 290}} // ten are taken back and not written
			require.Equal(t, 11, take(t, s))
			r = send(t, s, stream.Running)
			require.EqualValues(t, 11, r.Content)
			require.Zero(t, r.Declared)
			require.Equal(t, 290, sink.differ())

			g.write(390, 4)
			tb.spans = nil
			require.Equal(t, 290+4, take(t, s))
			require.Zero(t, s.Aside())
			require.EqualValues(t, 290+4, send(t, s, stream.Still).Content)
			require.Zero(t, sink.differ())
			require.NoError(t, s.StopTracking())
		})
	}
}

// orderly is a tracker whose user tells in which order it does things.
type orderly struct {
	dirtylog.Tracker
	harvested func()
}

func (o orderly) Harvest(dirty *memory.Bitmap) (int, error) {
	n, err := o.Tracker.Harvest(dirty)
	o.harvested()
	return n, err
}

// TestLooksAfterTheHarvest: what the harvest reports was written before the look.
func TestLooksAfterTheHarvest(t *testing.T) {
	g := newGuest(t, false)
	g.write(0, 10)
	harvests, looked := 0, []int{}
	tracker := orderly{g, func() { harvests++ }}
	s := stream.New(stream.Config{RAM: g.ram, Tracker: tracker, Declared: func() memory.Spans {
		looked = append(looked, harvests)
		return memory.Spans{{First: 3, Count: 1}}
	}})
	s.AddChannel(newCopySink(t, g))
	require.NoError(t, s.StartTracking())
	take(t, s)
	remaining(t, s)
	take(t, s)
	require.Equal(t, []int{0, 1, 2, 3}, looked)
	require.NoError(t, s.StopTracking())
}

// TestProtectionLosesNothing: with a tracker that protects on demand, a page may be taken back and
// written just before it is protected, and then no log has it.
func TestProtectionLosesNothing(t *testing.T) {
	g := newGuest(t, true)
	g.write(0, 100)
	tb := &table{memory.Spans{{First: 20, Count: 10}}}
	written := false
	s := stream.New(stream.Config{RAM: g.ram, Tracker: protecting{g, func(pages *memory.Bitmap) {
		if tb.spans != nil && pages.Test(25) && !pages.Test(5) {
			tb.spans = nil
			g.write(25, 1)
			written = true
		}
	}}, Declared: tb.look})
	sink := newCopySink(t, g)
	s.AddChannel(sink)
	require.NoError(t, s.StartTracking())
	send(t, s, stream.Running)
	require.True(t, written)
	require.Equal(t, 10, take(t, s))
	send(t, s, stream.Still)
	require.Zero(t, sink.differ())
	require.NoError(t, s.StopTracking())
}

// protecting calls before with the pages that are to be protected.
type protecting struct {
	dirtylog.Tracker
	before func(pages *memory.Bitmap)
}

func (p protecting) Protect(pages *memory.Bitmap, first, count int) error {
	p.before(pages)
	return p.Tracker.Protect(pages, first, count)
}

// TestRoundsBringWhatIsNotDeclared: whatever the guest declares, takes back, writes and releases,
// and wherever rounds are cut short, the copy differs only in what is declared at the end.
func TestRoundsBringWhatIsNotDeclared(t *testing.T) {
	for seed := range uint64(48) {
		o := busy{
			seed:     seed,
			onDemand: seed%2 == 1,
			skip:     stream.Skipping(seed / 2 % 2),
			protect:  stream.Protection(seed / 4 % 2),
			channels: 1 + int(seed/8%3),
		}
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) { synctest.Test(t, o.testDeclared) })
	}
}

func (o busy) testDeclared(t *testing.T) {
	g := newGuest(t, o.onDemand)
	whole := newCopySink(t, g)
	rnd := rand.New(rand.NewPCG(o.seed, 25))
	g.write(0, ramPages/2)
	declared := make(chan memory.Spans, 1)
	declared <- nil
	look := func() memory.Spans {
		spans := <-declared
		declared <- spans
		return spans
	}
	change := func(rnd *rand.Rand) {
		<-declared
		var spans memory.Spans
		for at := rnd.IntN(2000); at < ramPages; at += 1 + rnd.IntN(2000) {
			count := min(1+rnd.IntN(1000), ramPages-at)
			spans = append(spans, memory.Span{First: at, Count: count})
			at += count
		}
		declared <- spans
	}
	s := stream.New(stream.Config{
		RAM: g.ram, Tracker: g, Skip: o.skip, Protect: o.protect, Declared: look,
	})
	still := false
	for range o.channels {
		sink := &copySink{from: g.ram, to: whole.to, frame: 16, room: 16}
		own := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		sink.onWrite = func(int64) { time.Sleep(time.Millisecond) }
		sink.onReady = func() error {
			switch n := own.IntN(40); {
			case still:
			case n == 0:
				g.write(own.IntN(ramPages-300), own.IntN(300))
			case n < 4:
				g.write(own.IntN(ramPages), 1)
			case n == 4:
				g.release(own.IntN(ramPages-300), own.IntN(300))
			case n < 8:
				change(own)
			case n == 8 && own.IntN(5) == 0:
				s.Stop()
			case n == 9:
				_, err := s.Remaining()
				return err
			}
			return nil
		}
		s.AddChannel(sink)
	}
	require.NoError(t, s.StartTracking())
	for range 6 {
		send(t, s, stream.Running)
		take(t, s)
		if rnd.IntN(2) == 0 {
			change(rnd)
			take(t, s)
		}
	}
	change(rnd)
	still = true
	differ := func() (n int) {
		for _, gap := range look().Gaps(ramPages) {
			for p := gap.First; p < gap.End(); p++ {
				if string(g.ram.Page(p)) != string(whole.to.Page(p)) {
					n++
				}
			}
		}
		return n
	}
	require.GreaterOrEqual(t, remaining(t, s), differ(), "before the last look")
	take(t, s)
	require.GreaterOrEqual(t, remaining(t, s), differ(), "and after it")
	send(t, s, stream.Still)
	require.Zero(t, s.Pending().Count())
	require.Equal(t, look(), s.Declared())
	require.Zero(t, differ())
	require.NoError(t, s.StopTracking())
}

// TestTakenBackBeforeItsProtection: a page that was put aside, and taken back before a round has
// protected it, is sent once.
func TestTakenBackBeforeItsProtection(t *testing.T) {
	for _, onDemand := range []bool{false, true} {
		g := newGuest(t, onDemand)
		g.write(0, 100)
		tb := &table{memory.Spans{{First: 20, Count: 10}}}
		s, sink := begun(t, g, stream.Config{Declared: tb.look})
		tb.spans = nil
		take(t, s)
		require.Zero(t, s.Aside())
		require.EqualValues(t, 100, send(t, s, stream.Running).Content)
		require.Zero(t, remaining(t, s))
		require.Zero(t, take(t, s))
		require.Zero(t, sink.differ())
		require.NoError(t, s.StopTracking())
	}
}

// TestAsideIsProtectedOnce: with a tracker that protects on demand, a page that is put aside is
// protected once, or each harvest would report it and each round would protect it again.
func TestAsideIsProtectedOnce(t *testing.T) {
	g := newGuest(t, true)
	g.write(0, 100)
	tb := &table{memory.Spans{{First: 20, Count: 10}}}
	protections, reported := 0, 0
	tracker := protecting{g, func(pages *memory.Bitmap) {
		if pages.Test(25) {
			protections++
		}
	}}
	s := stream.New(stream.Config{
		RAM: g.ram, Tracker: reporting{tracker, &reported}, Declared: tb.look,
	})
	s.AddChannel(newCopySink(t, g))
	require.NoError(t, s.StartTracking())
	for range 3 {
		send(t, s, stream.Running)
		reported = 0
		require.Zero(t, take(t, s))
		require.Zero(t, reported)
	}
	require.Equal(t, 1, protections)
	require.Equal(t, 10, s.Aside())
	require.NoError(t, s.StopTracking())
}

// reporting adds up what the harvests report.
type reporting struct {
	dirtylog.Tracker
	pages *int
}

func (r reporting) Harvest(dirty *memory.Bitmap) (int, error) {
	n, err := r.Tracker.Harvest(dirty)
	*r.pages += n
	return n, err
}

// TestTakenBackBeforeARound: what is taken back before it was ever protected is not owed any more
// beside what is pending.
func TestTakenBackBeforeARound(t *testing.T) {
	g := newGuest(t, true)
	g.write(0, 100)
	tb := &table{memory.Spans{{First: 20, Count: 10}}}
	s, sink := begun(t, g, stream.Config{Declared: tb.look})
	require.Equal(t, 10, s.Aside())
	tb.spans = nil
	require.Equal(t, 100, take(t, s))
	require.Zero(t, s.Aside())
	require.EqualValues(t, 100, send(t, s, stream.Still).Content)
	require.Zero(t, sink.differ())
	require.NoError(t, s.StopTracking())
}
