package memory

import (
	"math/rand/v2"
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
	require.Equal(t, a.Words()[0]&^b.Words()[0], c.Words()[0])
	require.Equal(t, 10, c.Count())
	c.Fill()
	require.Equal(t, 100, c.Count())
	c.Reset()
	require.Zero(t, c.Count())
}

func TestBitmapRangeOutside(t *testing.T) {
	b := NewBitmap(10)
	require.Panics(t, func() { b.SetRange(5, 6) })
	require.Panics(t, func() { b.ClearRange(-1, 2) })
}
