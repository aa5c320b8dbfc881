package migration

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/tagging"
	"taskguide/tagging/abi"
	"taskguide/transport"
)

// tagPage is where guests of these tests have their tag page.
const tagPage = 77

// tablePage gives the guest a tag page with a table of ranges.
func (m *fakeMachine) tablePage() {
	page := m.ram.Page(tagPage)
	clear(page)
	le := binary.LittleEndian
	le.PutUint32(page[0x00:], abi.PageMagic)
	le.PutUint32(page[0x04:], abi.PageVersion)
	le.PutUint32(page[0x0c:], abi.RangesSlots)
	le.PutUint32(page[0x18:], abi.Ranges)
	m.port.Write(tagging.RegPageLo, 4, tagPage*memory.PageSize)
	m.port.Write(tagging.RegPageHi, 4, 0)
}

// declare makes pages entry i of the table; no pages take it back.
func (m *fakeMachine) declare(i, first, count int) {
	at := abi.RangesAt + 8*i
	// Sound: the table is in a page of RAM, and its entries are aligned.
	entry := (*uint64)(unsafe.Pointer(&m.ram.Page(tagPage)[at : at+8][0]))
	atomic.StoreUint64(entry, uint64(first)<<abi.RangePageBits|uint64(count))
	m.tracker.mark(tagPage)
}

// differing returns the pages in which the destination's RAM differs.
func (b *ends) differing() (pages []int) {
	for p := range b.m.ram.Pages() {
		if string(b.m.ram.Page(p)) != string(b.in.ram.Page(p)) {
			pages = append(pages, p)
		}
	}
	return pages
}

// moved is checkMoved for a guest that declares memory.
func (b *ends) moved(s *Source, r Report) {
	b.t.Helper()
	require.Equal(b.t, StatusCompleted, r.Status, r.Error)
	require.Equal(b.t, FateMoved, s.Fate())
	require.True(b.t, b.in.ran.Load())
	require.False(b.t, b.m.isRunning())
	<-b.served
}

// TestDeclaredMemoryStaysBehind: it is not sent, in any round, and what is taken back is. A
// verification proves all else.
func TestDeclaredMemoryStaysBehind(t *testing.T) {
	for _, onDemand := range []bool{false, true} {
		for _, verify := range []bool{false, true} {
			t.Run(fmt.Sprint(onDemand, verify), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newEnds(t, func(g *guest) {
						g.writeRange(1000, 200) // garbage
						g.write(10)
						switch g.step {
						case 200:
							g.m.declare(1, 2000, 50) // of 100; they are taken back as they are
						case 210:
							g.m.declare(2, 0, 0)
							g.write(3007)
						}
					})
					defer b.close()
					b.offers = transport.Spoken().Features
					b.m.touch(3100)
					b.m.tracker.onDemand = onDemand
					b.m.tablePage()
					b.m.declare(0, 1000, 200)
					b.m.declare(1, 2000, 100)
					b.m.declare(2, 3000, 10)
					b.m.start()
					p := guided(RuleDowntime, GuidanceOff)
					p.Verify, p.BitsPerSecond = verify, 20*mbit
					s := b.source(p)
					r := s.Run(context.Background())
					b.moved(s, r)
					require.Greater(t, b.m.steps, 300)
					require.EqualValues(t, 3100-310, r.Rounds[0].SentPages)
					require.EqualValues(t, 310, r.Rounds[0].DeclaredPages)
					require.EqualValues(t, testPages-3100, r.Rounds[0].HolePages)
					require.EqualValues(t, 310, r.PagesNotSent.Declared)
					require.EqualValues(t, testPages-3100, r.PagesNotSent.Hole)
					require.EqualValues(t, 250, r.PagesDeclared)
					require.LessOrEqual(t, r.PagesStopCopy, int64(3))
					if verify {
						require.True(t, *r.Verified)
					}
					for _, page := range b.differing() {
						require.True(t, page >= 1000 && page < 1200 || page >= 2000 && page < 2050,
							"page %d", page)
					}
					require.Len(t, b.differing(), 250)
					require.Empty(t, r.Warnings)
				})
			})
		}
	}
}

// TestVerifyProvesWhatIsNotDeclared: damage beside declared pages is found, and named.
func TestVerifyProvesWhatIsNotDeclared(t *testing.T) {
	for _, page := range []int{999, 1200, 1001} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, func(*guest) {})
			defer b.close()
			b.offers = transport.Spoken().Features
			b.m.tablePage()
			b.m.declare(0, 1000, 200)
			b.in.ram.Page(page)[17] = 1
			b.m.start()
			s := b.source(Params{Verify: true})
			r := s.Run(context.Background())
			if page == 1001 {
				b.moved(s, r)
				require.True(t, *r.Verified)
				return
			}
			b.checkStays(s, r)
			require.Contains(t, r.Error, "in the first of them in 1 pages, the first at "+
				fmt.Sprintf("%#x", page*memory.PageSize))
			require.False(t, *r.Verified)
		})
	}
}

// TestOlderDestinationVerifiesAll: one that cannot leave pages out of its digests gets them all, if
// it is to verify.
func TestOlderDestinationVerifiesAll(t *testing.T) {
	for _, knows := range []transport.Features{
		1 << 31, transport.FeatureParts, transport.FeatureLeftOut,
	} {
		for _, verify := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				b := newEndsKnowing(t, func(g *guest) { g.writeRange(1000, 5) }, knows)
				defer b.close()
				b.offers = transport.Spoken().Features
				b.m.touch(1100)
				b.m.tablePage()
				b.m.declare(0, 1000, 100)
				b.m.start()
				s := b.source(Params{Verify: verify, Guidance: GuidanceOff})
				r := s.Run(context.Background())
				if !verify {
					b.moved(s, r)
					require.EqualValues(t, 100, r.PagesNotSent.Declared)
					require.Empty(t, r.Warnings)
					return
				}
				b.checkMoved(s, r)
				require.True(t, *r.Verified)
				require.Zero(t, r.PagesNotSent.Declared)
				require.Zero(t, r.PagesDeclared)
				require.Len(t, r.Warnings, 1)
				require.Contains(t, r.Warnings[0], "cannot leave it out of the verification")
			})
		}
	}
}

// TestHostileTables: whatever a guest declares, the migration goes on as ever, and what it sends is
// right.
func TestHostileTables(t *testing.T) {
	all := uint64(1)<<abi.RangePageBits - 1
	for name, entries := range map[string][]uint64{
		"all of RAM":    {all},
		"out of RAM":    {1<<40<<24 - 1, 5000<<24 | all, uint64(math.MaxUint64)},
		"the tag page":  {tagPage<<24 | 1},
		"overlapping":   {0<<24 | 3000, 2000<<24 | 3000, 10<<24 | 1, 10<<24 | 1},
		"boot memory":   {0<<24 | 256},
		"a full table":  full(func(i uint64) uint64 { return 2*i<<24 | 1 }),
		"one by one":    full(func(i uint64) uint64 { return (4095-i)<<24 | 1 }),
		"all, and more": full(func(i uint64) uint64 { return i<<24 | all }),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, func(g *guest) { g.writeRange(g.step%500, 7) })
				defer b.close()
				b.offers = transport.Spoken().Features
				b.m.touch(testPages)
				b.m.tablePage()
				for i, entry := range entries {
					b.m.declare(i, int(entry>>24), int(entry&all))
				}
				b.m.start()
				s := b.source(Params{Verify: true, MaxRounds: 4})
				r := s.Run(context.Background())
				b.moved(s, r)
				require.True(t, *r.Verified)
				declared := memory.NewBitmap(testPages)
				for _, span := range s.stream.Declared() {
					declared.SetRange(span.First, span.Count)
				}
				require.False(t, declared.Test(tagPage))
				require.EqualValues(t, declared.Count(), r.PagesDeclared)
				for _, page := range b.differing() {
					require.True(t, declared.Test(page), "page %d", page)
				}
			})
		})
	}
}

func full(entry func(i uint64) uint64) (all []uint64) {
	for i := range uint64(abi.Ranges) {
		all = append(all, entry(i))
	}
	return all
}

// TestDeclaredSwitchoverTakenBack: what a switchover that is taken back has left out is still owed,
// to this destination and to another.
func TestDeclaredSwitchoverTakenBack(t *testing.T) {
	for _, onDemand := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, func(g *guest) { g.write(10) })
			defer b.close()
			b.offers = transport.Spoken().Features
			b.m.touch(1500)
			b.m.tracker.onDemand = onDemand
			b.m.tablePage()
			b.m.declare(0, 1000, 200)
			tries := 0
			b.m.storage.onRelease = func(ctx context.Context) error {
				if tries++; tries == 1 {
					<-ctx.Done() // storage hangs
					return context.Cause(ctx)
				}
				return nil
			}
			b.m.onResumed = func() {
				if tries == 1 {
					b.m.declare(0, 1000, 100) // the other half is taken back
				}
			}
			b.m.start()
			s := b.source(Params{Verify: true})
			r := s.Run(context.Background())
			b.moved(s, r)
			require.Equal(t, 2, tries)
			require.True(t, *r.Verified)
			require.EqualValues(t, 100, r.PagesDeclared)
			require.Len(t, b.differing(), 100)
		})
	}
}

// TestUnpackSpans: a destination takes from a source only runs of pages that it has, in order.
func TestUnpackSpans(t *testing.T) {
	for _, spans := range []memory.Spans{nil, {{First: 0, Count: 100}}, {{First: 3, Count: 1},
		{First: 4, Count: 2}, {First: 99, Count: 1}}} {
		got, err := unpackSpans(packSpans(spans), 100)
		require.NoError(t, err)
		require.Equal(t, spans, got)
	}
	for _, spans := range []memory.Spans{
		{{First: 0, Count: 101}}, {{First: 100, Count: 1}}, {{First: 5, Count: 0}},
		{{First: 5, Count: 2}, {First: 6, Count: 1}}, {{First: 5, Count: 2}, {First: 0, Count: 1}},
		{{First: math.MaxUint32, Count: math.MaxUint32}},
	} {
		_, err := unpackSpans(packSpans(spans), 100)
		require.ErrorIs(t, err, transport.ErrFrame, "%v", spans)
	}
	_, err := unpackSpans(make([]byte, 7), 100)
	require.ErrorIs(t, err, transport.ErrFrame)
	many := make(memory.Spans, maxLeftOut+1)
	for i := range many {
		many[i] = memory.Span{First: 2 * i, Count: 1}
	}
	_, err = unpackSpans(packSpans(many), 10000)
	require.ErrorIs(t, err, transport.ErrFrame)
	_, err = unpackSpans(packSpans(many[1:]), 10000)
	require.NoError(t, err)
}

// FuzzUnpackSpans reads what a hostile source may send.
func FuzzUnpackSpans(f *testing.F) {
	f.Add(packSpans(memory.Spans{{First: 3, Count: 1}, {First: 5, Count: 2}}), 100)
	f.Fuzz(func(t *testing.T, b []byte, pages int) {
		pages = min(max(pages, 0), 1<<20)
		spans, err := unpackSpans(b, pages)
		if err != nil {
			return
		}
		set := memory.NewBitmap(pages)
		for _, span := range spans {
			set.SetRange(span.First, span.Count)
		}
		require.Equal(t, spans.Pages(), set.Count())
		require.Equal(t, pages-spans.Pages(), spans.Gaps(pages).Pages())
	})
}

// declarer is a guest that declares, takes back, writes and frees memory at random, in arenas of
// its RAM. It follows the rules: it takes an arena back before it writes or reads it.
type declarer struct {
	rnd      *rand.Rand
	declared [arenas]bool
	done     int // steps
}

const (
	arenas     = 64
	arenaPages = (testPages - arenaBase) / arenas
	arenaBase  = 128 // the tag page is below
)

func (d *declarer) step(g *guest) {
	for range 20 {
		d.done++
		a := d.rnd.IntN(arenas)
		first := arenaBase + a*arenaPages
		page := first + d.rnd.IntN(arenaPages)
		switch op := d.rnd.IntN(10); {
		case op < 2:
			d.declared[a] = true
			g.m.declare(a, first, arenaPages)
		case op < 5:
			d.declared[a] = false
			g.m.declare(a, 0, 0)
			if op == 3 {
				g.write(page) // at once
			}
		case d.declared[a]:
			if op == 5 {
				g.write(page) // garbage of a program that breaks the rules
			}
		case op == 5:
			g.release(first, d.rnd.IntN(arenaPages))
		case op == 6:
			g.writeRange(first, arenaPages)
		default:
			g.write(page)
		}
	}
}

// TestDeclaringAtRandom moves a guest that declares, takes back, writes and frees memory, with
// options at random, again and again. Pages that are not declared when it moves must be there, and
// the verification must agree. TASKGUIDE_LONG=1 (make test-declared) has a million steps.
func TestDeclaringAtRandom(t *testing.T) {
	t.Parallel()
	steps := 20_000
	if os.Getenv("TASKGUIDE_LONG") != "" {
		steps = 1_000_000
	}
	left, moves, lost := 0, 0, 0
	for seed := uint64(0); left < steps; seed++ {
		synctest.Test(t, func(t *testing.T) {
			d := &declarer{rnd: rand.New(rand.NewPCG(seed, 25))}
			left2, lost2 := d.move(t, seed)
			left, lost, moves = left+left2, lost+lost2, moves+1
		})
	}
	require.Positive(t, lost, "some garbage must stay behind")
	t.Logf("%d steps in %d moves; %d pages were lost as declared", left, moves, lost)
}

// move moves the guest once, and returns how many steps it took meanwhile and how many pages were
// lost.
func (d *declarer) move(t *testing.T, seed uint64) (steps, lost int) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	until := 20 + rnd.IntN(150)
	b := newEnds(t, func(g *guest) {
		if g.step == until {
			g.enter(1)
		}
		if g.step < until || rnd.IntN(20) == 0 {
			d.step(g)
		}
	})
	defer b.close()
	b.offers = transport.Spoken().Features
	b.m.port.Write(tagging.RegRegister, 4, 1)
	b.m.touch(rnd.IntN(testPages))
	b.m.tablePage()
	b.m.tracker.onDemand = seed%2 == 1
	options := rand.New(rand.NewPCG(seed, 2))
	if options.IntN(4) == 0 { // the first switchover is taken back
		failed := false
		b.m.storage.onRelease = func(ctx context.Context) error {
			if failed {
				return nil
			}
			failed = true
			<-ctx.Done()
			return context.Cause(ctx)
		}
	}
	p := guided(Rules()[options.IntN(len(Rules()))], GuidanceSwitchover)
	p.BitsPerSecond = (100 + options.Int64N(1000)) * mbit
	p.Compress = []Compress{CompressNone, CompressAuto, CompressZstd}[options.IntN(3)]
	p.Channels, p.Delta, p.Verify = 1+options.IntN(3), options.IntN(2) == 0, options.IntN(4) > 0
	p.MaxDefer = 10 * time.Second
	b.m.start()
	s := b.source(p)
	r := s.Run(context.Background())
	b.moved(s, r)
	if p.Verify {
		require.True(t, *r.Verified)
	}
	may := memory.NewBitmap(testPages)
	for a, declared := range d.declared {
		if declared {
			may.SetRange(arenaBase+a*arenaPages, arenaPages)
		}
	}
	differing := b.differing()
	for _, page := range differing {
		require.True(t, may.Test(page), "seed %d: page %d is wrong", seed, page)
	}
	return d.done, len(differing)
}
