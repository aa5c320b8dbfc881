package memory

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSpans(t *testing.T) {
	require.Zero(t, Spans(nil).Pages())
	require.Equal(t, Spans{{0, 10}}, Spans(nil).Gaps(10))
	require.Empty(t, Spans(nil).Gaps(0))
	s := Spans{{0, 3}, {5, 1}, {8, 2}}
	require.Equal(t, 6, s.Pages())
	require.Equal(t, Spans{{3, 2}, {6, 2}}, s.Gaps(10))
	require.Equal(t, Spans{{3, 2}, {6, 2}, {10, 1}}, s.Gaps(11))
}

// TestAddSpans: addresses become pages, the hole in RAM and what is beyond it are left out, and
// what the hole has kept apart is joined.
func TestAddSpans(t *testing.T) {
	r := newRAM(t, LowEnd+SizeUnit)
	low, high := LowEnd/PageSize, uint64(HighStart/PageSize)
	of := func(first, pages uint64) Spans { return r.AddSpans(nil, first, pages) }
	require.Equal(t, Spans{{0, r.Pages()}}, of(0, math.MaxUint64))
	require.Equal(t, Spans{{7, 2}}, of(7, 2))
	require.Equal(t, Spans{{low - 1, 1}}, of(uint64(low)-1, 100), "into the hole")
	require.Equal(t, Spans{{low, 1}}, of(high-5, 6), "out of it")
	require.Equal(t, Spans{{low - 1, 2}}, of(uint64(low)-1, high-uint64(low)+2), "across it")
	require.Empty(t, of(uint64(low), high-uint64(low)))
	require.Empty(t, of(high+SizeUnit/PageSize, 1<<40))
	require.Empty(t, of(1<<40-1, 1<<24))
	require.Empty(t, of(3, 0))
	joined := r.AddSpans(of(uint64(low)-2, 2), high, 3)
	require.Equal(t, Spans{{low - 2, 5}}, joined)
}

// TestMoveRange compares moves and counts of large ranges with those page by page.
func TestMoveRange(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 2))
	for _, n := range []int{1, 64, 100, blockPages, 5*blockPages + 77} {
		a, b := NewBitmap(n), NewBitmap(n)
		inA, inB := make([]bool, n), make([]bool, n)
		for range 200 {
			for range 20 {
				p := rnd.IntN(n)
				a.Set(p)
				inA[p] = true
			}
			first := rnd.IntN(n)
			count := rnd.IntN(n - first + 1)
			held, fresh := 0, 0
			for p := first; p < first+count; p++ {
				if inA[p] {
					held++
					if !inB[p] {
						fresh++
					}
					inA[p], inB[p] = false, true
				}
			}
			require.Equal(t, held, a.CountHeld(first, count))
			require.Equal(t, fresh, a.MoveRange(b, first, count))
			require.Zero(t, a.CountHeld(first, count))
			if rnd.IntN(8) == 0 {
				a, b, inA, inB = b, a, inB, inA
			}
			for p := range n {
				require.Equal(t, inA[p], a.Test(p))
				require.Equal(t, inB[p], b.Test(p))
			}
			require.Equal(t, a.CountRange(0, n), a.Count(), "the upper level knows of all pages")
			require.Equal(t, b.CountRange(0, n), b.Count(), "the upper level knows of all pages")
		}
	}
	require.Panics(t, func() { NewBitmap(10).MoveRange(NewBitmap(10), 5, 6) })
}

// TestMoveRangeForgetsBlocks: a large set that was moved away costs nothing afterwards.
func TestMoveRangeForgetsBlocks(t *testing.T) {
	const n = 3*blockPages + 64
	a, b := NewBitmap(n), NewBitmap(n)
	a.Fill()
	a.MoveRange(b, 0, n)
	require.Equal(t, n, a.SkipEmpty(0))
	b.MoveRange(a, 10, n-10)
	require.Equal(t, 0, b.SkipEmpty(0))
	require.Equal(t, n, b.SkipEmpty(blockPages))
	require.Equal(t, 0, a.SkipEmpty(0))
}

// TestDigestsWithout: pages that are left out do not count, and all others do.
func TestDigestsWithout(t *testing.T) {
	a, b := newRAM(t, 18<<20), newRAM(t, 18<<20)
	without := Spans{{5, 3}, {1020, 10}, {a.Pages() - 1, 1}}
	chunks := func(r *RAM) []uint64 {
		sums, err := r.ChunkDigests(without)
		require.NoError(t, err)
		return sums
	}
	for _, p := range []int{5, 7, 1020, 1024, 1029, a.Pages() - 1} {
		a.Page(p)[11] = byte(p)
	}
	require.Equal(t, chunks(b), chunks(a))
	for i := range chunks(a) {
		require.Equal(t, b.PageDigests(i, without), a.PageDigests(i, without))
	}
	for _, p := range []int{4, 8, 1019, 1030, a.Pages() - 2} {
		a.Page(p)[11] = 1
		require.NotEqual(t, chunks(b), chunks(a), "page %d", p)
		i := p / chunkPages
		require.NotEqual(t, b.PageDigests(i, without), a.PageDigests(i, without))
		a.Page(p)[11] = 0
	}
}
