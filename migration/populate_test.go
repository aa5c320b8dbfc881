package migration

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// TestSparseGuestStaysSparse: an extent with few pages in it is not backed as a whole at the
// destination, and one with many is.
func TestSparseGuestStaysSparse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		for first := 0; first < testPages; first += extentPages {
			b.m.ram.Page(first)[0] = 1
		}
		for p := 0; p < extentPages; p += 2 {
			b.m.ram.Page(p)[0] = 1
		}
		b.m.start()
		s := b.source(Params{BitsPerSecond: mbit}) // the destination has time to populate
		b.checkMoved(s, s.Run(context.Background()))
		here, err := b.m.ram.Backed()
		require.NoError(t, err)
		there, err := b.in.ram.Backed()
		require.NoError(t, err)
		require.GreaterOrEqual(t, there, extentPages, "the dense extent")
		require.LessOrEqual(t, there, 2*here)
	})
}

func TestDenseExtents(t *testing.T) {
	content := memory.NewBitmap(3*extentPages + 10) // the last extent is shorter
	content.SetRange(0, extentPages/2-1)
	content.SetRange(extentPages+7, extentPages/2)
	content.SetRange(3*extentPages, 5)
	require.Equal(t, []byte{0b1010}, packExtents(content))
	content.Clear(3 * extentPages)
	content.Set(0)
	require.Equal(t, []byte{0b0010}, packExtents(content))
	content.SetRange(0, extentPages)
	require.Equal(t, []byte{0b0011}, packExtents(content))
}
