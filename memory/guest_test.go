package memory

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGuestWritesMarkThemselves: a write through Guest marks its pages, in low and in high RAM. An
// address that is not RAM is neither written nor marked.
func TestGuestWritesMarkThemselves(t *testing.T) {
	const size = 4 << 30
	high := LowEnd/PageSize + 9 // the page behind the hole
	for _, c := range []struct {
		name  string
		gpa   uint64
		n     int
		pages []int // nil: refused
	}{
		{"within a page", 5*PageSize + 100, 8, []int{5}},
		{"two pages", 7*PageSize - 1, 2, []int{6, 7}},
		{"many pages", 3 * PageSize, 3*PageSize + 1, []int{3, 4, 5, 6}},
		{"behind the hole", HighStart + 9*PageSize, 1, []int{high}},
		{"nothing", 3 * PageSize, 0, []int{}},
		{"in the hole", LowEnd, 4, nil},
		{"into the hole", LowEnd - 2, 4, nil},
		{"beyond the end", HighStart + 1<<30 - 1, 2, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			ram := newRAM(t, size)
			g := NewGuest(ram)
			p := make([]byte, c.n)
			for i := range p {
				p[i] = byte(i + 1)
			}
			require.Equal(t, c.pages != nil, g.Write(c.gpa, p))
			want := NewBitmap(ram.Pages())
			for _, page := range c.pages {
				want.Set(page)
			}
			got := NewBitmap(ram.Pages())
			require.Equal(t, len(c.pages), g.TakeMarked(got))
			require.True(t, want.Equal(got))
			require.Zero(t, g.TakeMarked(got), "taken once")
			if c.pages != nil {
				written, ok := g.Slice(c.gpa, c.n)
				require.True(t, ok)
				require.Equal(t, p, written)
			}
		})
	}
}

// TestGuestMarksAfterTheWrite: a harvest in the middle of a write must not take its mark.
func TestGuestMarksAfterTheWrite(t *testing.T) {
	ram := newRAM(t, MinSize)
	g := NewGuest(ram)
	early := NewBitmap(ram.Pages())
	require.True(t, g.Fill(2*PageSize, 4, func(dst []byte) {
		require.Zero(t, g.TakeMarked(early))
		copy(dst, "text")
	}))
	require.Equal(t, 1, g.TakeMarked(early))
	require.True(t, early.Test(2))
}

func TestGuestStoresWords(t *testing.T) {
	ram := newRAM(t, MinSize)
	g := NewGuest(ram)
	require.True(t, g.StoreUint32(PageSize+8, 0x01020304))
	require.EqualValues(t, 0x01020304, binary.NativeEndian.Uint32(ram.Page(1)[8:]))
	marked := NewBitmap(ram.Pages())
	require.Equal(t, 1, g.TakeMarked(marked))
	require.True(t, marked.Test(1))
	require.False(t, g.StoreUint32(PageSize+2, 1), "not aligned")
	require.False(t, g.StoreUint32(LowEnd, 1), "not RAM")
	require.Zero(t, g.TakeMarked(marked))
}

// TestGuestStoresHalves: a store changes its half word and not the neighbour.
func TestGuestStoresHalves(t *testing.T) {
	ram := newRAM(t, MinSize)
	g := NewGuest(ram)
	require.True(t, g.StoreUint32(PageSize, 0x01020304))
	require.True(t, g.StoreUint16(PageSize+2, 0xaabb))
	require.EqualValues(t, 0xaabb0304, binary.NativeEndian.Uint32(ram.Page(1)))
	require.True(t, g.StoreUint16(PageSize, 0xccdd))
	require.EqualValues(t, 0xaabbccdd, binary.NativeEndian.Uint32(ram.Page(1)))
	for at, want := range map[uint64]uint16{0: 0xccdd, 2: 0xaabb} {
		v, ok := g.LoadUint16(PageSize + at)
		require.True(t, ok)
		require.Equal(t, want, v)
	}
	marked := NewBitmap(ram.Pages())
	require.Equal(t, 1, g.TakeMarked(marked))
	for _, gpa := range []uint64{1, 3, MinSize, LowEnd} {
		require.False(t, g.StoreUint16(gpa, 1))
		_, ok := g.LoadUint16(gpa)
		require.False(t, ok)
	}
	require.True(t, g.StoreUint16(MinSize-2, 1), "the last one")
}

// TestGuestFillsRanges fills all ranges in one call and marks them afterwards, or fills none.
func TestGuestFillsRanges(t *testing.T) {
	ram := newRAM(t, MinSize)
	g := NewGuest(ram)
	ranges := []Range{{5 * PageSize, 10}, {9*PageSize - 1, 2}}
	marked := NewBitmap(ram.Pages())
	require.True(t, g.FillRanges(ranges, func(dst [][]byte) {
		require.Len(t, dst, 2)
		require.Len(t, dst[0], 10)
		copy(dst[1], "hi")
		require.Zero(t, g.TakeMarked(marked), "not before they are written")
	}))
	require.Equal(t, "hi", string(ram.Bytes()[9*PageSize-1:][:2]))
	require.Equal(t, 3, g.TakeMarked(marked))
	for _, page := range []int{5, 8, 9} {
		require.True(t, marked.Test(page))
	}
	bad := append(ranges, Range{MinSize - 1, 2})
	require.False(t, g.FillRanges(bad, func([][]byte) { t.Error("called") }))
	_, ok := g.Slices(bad)
	require.False(t, ok)
	require.Zero(t, g.TakeMarked(marked))
}
