package memory

import (
	"maps"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBitmapAgainstModel drives every operation with random ranges and compares
// with a set of bools.
func TestBitmapAgainstModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 63, 64, 65, 128, 1000} {
		b, model := NewBitmap(n), make([]bool, n)
		for range 300 {
			first := rnd.IntN(n)
			count := rnd.IntN(n - first + 1)
			switch rnd.IntN(4) {
			case 0:
				b.SetRange(first, count)
				for i := first; i < first+count; i++ {
					model[i] = true
				}
			case 1:
				b.ClearRange(first, count)
				for i := first; i < first+count; i++ {
					model[i] = false
				}
			case 2:
				b.Set(first)
				model[first] = true
			case 3:
				b.Clear(first)
				model[first] = false
			}
			checkAgainstModel(t, b, model, 1+rnd.IntN(n), first, count)
		}
	}
}

func checkAgainstModel(t *testing.T, b *Bitmap, model []bool, limit, first, count int) {
	t.Helper()
	total, within := 0, 0
	for i, set := range model {
		require.Equal(t, set, b.Test(i), "page %d", i)
		if set {
			total++
			if i >= first && i < first+count {
				within++
			}
		}
	}
	require.Equal(t, total, b.Count())
	require.Equal(t, within, b.CountRange(first, count))

	inRange, end := 0, first+count
	for from := first; ; {
		f, c := b.NextRunBefore(from, end)
		if c == 0 {
			break
		}
		require.LessOrEqual(t, f+c, end)
		inRange, from = inRange+c, f+c
	}
	require.Equal(t, within, inRange)

	seen, from := 0, 0
	for {
		f, c := b.NextRun(from, limit)
		if c == 0 {
			break
		}
		require.LessOrEqual(t, c, limit)
		require.GreaterOrEqual(t, f, from)
		for i := from; i < f; i++ {
			require.False(t, model[i], "run skipped page %d", i)
		}
		for i := f; i < f+c; i++ {
			require.True(t, model[i], "run holds page %d", i)
		}
		seen, from = seen+c, f+c
	}
	require.Equal(t, total, seen)
}

func TestBitmapSets(t *testing.T) {
	a, b := NewBitmap(100), NewBitmap(100)
	a.SetRange(10, 20)
	b.SetRange(20, 20)
	c := NewBitmap(100)
	c.CopyFrom(a)
	c.Or(b)
	require.Equal(t, 30, c.Count())
	c.AndNot(b)
	require.Equal(t, a.Word(0)&^b.Word(0), c.Word(0))
	require.Equal(t, 10, c.Count())
	c.Fill()
	require.Equal(t, 100, c.Count())
	c.Reset()
	require.Zero(t, c.Count())
}

// TestBitmapLevels drives two sets over several blocks, and a third that takes from them, with
// random operations, and compares with maps. The upper level must show every page, whatever was
// removed in between.
func TestBitmapLevels(t *testing.T) {
	const pages = 5*blockPages + 100
	rnd := rand.New(rand.NewPCG(3, 4))
	a, b := NewBitmap(pages), NewBitmap(pages)
	modelA, modelB := map[int]bool{}, map[int]bool{}
	check := func(set *Bitmap, model map[int]bool) {
		require.Equal(t, len(model), set.Count())
		seen := 0
		for i, w := range set.NonZero() {
			for ; w != 0; w &= w - 1 {
				if model[64*i+bits.TrailingZeros64(w)] {
					seen++
				}
			}
		}
		require.Equal(t, len(model), seen)
		at, found := 0, 0
		for {
			first, n := set.NextRun(at, pages)
			if n == 0 {
				break
			}
			for p := first; p < first+n; p++ {
				if model[p] {
					found++
				}
			}
			at = first + n
		}
		require.Equal(t, len(model), found)
	}
	for range 400 {
		first := rnd.IntN(pages)
		count := rnd.IntN(min(300, pages-first) + 1)
		switch rnd.IntN(11) {
		case 0, 1:
			a.SetRange(first, count)
			for p := first; p < first+count; p++ {
				modelA[p] = true
			}
		case 2, 3:
			b.Set(first)
			modelB[first] = true
		case 4:
			a.ClearRange(first, count)
			for p := first; p < first+count; p++ {
				delete(modelA, p)
			}
		case 5:
			require.Equal(t, len(modelA), a.Trim())
		case 6:
			had, added := a.Take(b)
			require.Equal(t, len(modelB), had)
			before := len(modelA)
			maps.Copy(modelA, modelB)
			require.Equal(t, len(modelA)-before, added)
			clear(modelB)
		case 7:
			b.CopyFrom(a)
			modelB = maps.Clone(modelA)
		case 8:
			a.AndNot(b)
			maps.DeleteFunc(modelA, func(p int, _ bool) bool { return modelB[p] })
		case 9:
			b.Reset()
			clear(modelB)
		case 10:
			flat := make([]uint64, rnd.IntN(pages/64-first/64+1))
			n := 0
			for i := range flat {
				if rnd.IntN(200) == 0 && first/64+i < pages/64 {
					bit := rnd.IntN(64)
					flat[i] = 1 << bit
					modelB[first/64*64+64*i+bit] = true
					n++
				}
			}
			require.Equal(t, n, b.AddFlat(first/64*64, flat))
		}
		check(a, modelA)
		check(b, modelB)
		require.Equal(t, maps.Equal(modelA, modelB), a.Equal(b))
	}
	a.Reset()
	a.Trim()
	a.Set(4*blockPages + 9)
	require.Equal(t, 4*blockPages, a.SkipEmpty(17))
	require.Equal(t, 4*blockPages+20, a.SkipEmpty(4*blockPages+20))
	require.Equal(t, pages, a.SkipEmpty(5*blockPages))
	require.Equal(t, pages, a.SkipEmpty(pages))
	a.Clear(4*blockPages + 9)
	require.Equal(t, 4*blockPages, a.SkipEmpty(0), "may claim too much")
	require.Zero(t, a.Trim())
	require.Equal(t, pages, a.SkipEmpty(0))
}

// TestBitmapAsChannelsUseIt: goroutines that set, clear and find pages in their own words share
// blocks and lose nothing. The race detector checks this, too.
func TestBitmapAsChannelsUseIt(t *testing.T) {
	const pages, workers = 8 * blockPages, 4
	b := NewBitmap(pages)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for chunk := w; chunk < pages/512; chunk += workers {
				b.SetRange(chunk*512, 512)
				b.ClearRange(chunk*512+5, 500)
				first, n := b.NextRunBefore(chunk*512, (chunk+1)*512)
				if first != chunk*512 || n != 5 {
					panic("another channel's word was read")
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, pages/512*12, b.Count())
}

// TestMarksLoseNothing: in the end, everything that goroutines added while another one took has
// been taken.
func TestMarksLoseNothing(t *testing.T) {
	const pages = 3*blockPages + 64
	m, got := NewMarks(pages), NewBitmap(pages)
	var adding sync.WaitGroup
	for w := range 3 {
		adding.Go(func() {
			for p := w; p < pages; p += 3 {
				m.Add(p)
			}
		})
	}
	done := make(chan struct{})
	go func() { adding.Wait(); close(done) }()
	taken := 0
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		taken += m.TakeInto(got)
	}
	require.Equal(t, pages, got.Count())
	require.Equal(t, pages, taken)
	m.Add(7)
	require.Zero(t, m.TakeInto(got), "it was there before")
	require.Zero(t, m.TakeInto(NewBitmap(pages)), "taken once")
}

func TestBitmapRangeOutside(t *testing.T) {
	b := NewBitmap(10)
	require.Panics(t, func() { b.SetRange(5, 6) })
	require.Panics(t, func() { b.ClearRange(-1, 2) })
}

// TestBitmapAllocatesNothing: what the copy loop and the downtime call allocates nothing.
func TestBitmapAllocatesNothing(t *testing.T) {
	const pages = 4 * blockPages
	a, b, flat := NewBitmap(pages), NewBitmap(pages), make([]uint64, pages/64)
	m := NewMarks(pages)
	flat[70] = 5
	require.Zero(t, testing.AllocsPerRun(100, func() {
		a.Set(7)
		a.SetRange(100, 9000)
		a.ClearRange(200, 100)
		a.AddFlat(0, flat)
		m.Add(3)
		m.TakeInto(a)
		for from, n := 0, 1; n > 0; from += n {
			from, n = a.NextRun(from, 64)
		}
		sum := 0
		for i, w := range a.NonZero() {
			sum += i + int(w&1)
		}
		b.Take(a)
		b.Trim()
		a.CopyFrom(b)
		a.Reset()
		b.Reset()
	}))
}

// TestNotesOfManyChannels: goroutines that note different blocks of one word of the upper level at
// the same moment lose none. A block that is lost would keep its stale pages.
func TestNotesOfManyChannels(t *testing.T) {
	const blocks, workers, rounds = 64, 2, 20_000
	b := NewBitmap(blocks * blockWords * 64)
	var ready, done atomic.Int64
	// They spin, because a wait for a scheduler would keep them apart.
	await := func(n *atomic.Int64, round int) {
		for n.Add(1); n.Load() < int64(workers*(round+1)); {
			runtime.Gosched()
		}
	}
	lost := 0
	var all sync.WaitGroup
	for worker := range workers {
		all.Go(func() {
			for round := range rounds {
				await(&ready, 2*round)
				for block := worker; block < blocks; block += workers {
					b.Set(block * blockWords * 64)
				}
				await(&done, round)
				if worker == 0 {
					found := 0
					for range b.NonZero() {
						found++
					}
					lost += blocks - found
					b.Reset()
				}
				await(&ready, 2*round+1)
			}
		})
	}
	all.Wait()
	require.Zero(t, lost)
}
