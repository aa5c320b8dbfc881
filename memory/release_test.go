package memory

import (
	"context"
	"math/bits"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// allocated returns the pages that the host backs.
func allocated(t *testing.T, r *RAM) *Bitmap {
	t.Helper()
	pages := NewBitmap(r.Pages())
	require.NoError(t, r.Allocated(pages))
	return pages
}

// write makes count pages from first on have content.
func write(r *RAM, first, count int) {
	for p := first; p < first+count; p++ {
		r.Page(p)[100] = 1
	}
}

// TestReleasedPagesAreHoles: a released page is zero and costs no memory, and looking for holes
// does not change that. Once it is touched it is like any other.
func TestReleasedPagesAreHoles(t *testing.T) {
	r := newRAM(t, MinSize)
	write(r, 50, 200)
	before, err := r.Backed()
	require.NoError(t, err)
	require.NoError(t, r.Release(60, 130))
	after, err := r.Backed()
	require.NoError(t, err)
	require.Equal(t, before-130, after)
	got := allocated(t, r)
	for p := 50; p < 250; p++ {
		require.Equal(t, p < 60 || p >= 190, got.Test(p), "page %d", p)
	}
	require.Equal(t, uint64(0xfffffffffffffc00), r.Holes(50, 64))
	require.Equal(t, ^uint64(0), r.Holes(64, 64))
	require.Equal(t, uint64(1)<<62-1, r.Holes(128, 64))
	require.Equal(t, uint64(0b10), r.Holes(59, 2))
	require.Zero(t, r.Holes(190, 64), "pages that nobody released")
	require.Zero(t, r.Holes(300, 64), "nor are they asked about")
	require.Equal(t, 70, got.Count())
	require.True(t, got.Equal(allocated(t, r)))

	require.True(t, IsZero(r.Page(70)))
	r.Page(128)[0] = 1
	require.Equal(t, ^uint64(0)&^(1<<6), r.Holes(64, 64))
	require.Zero(t, r.Holes(128, 1))
	require.Equal(t, 130-2, holesNoted(r), "a page with content is asked about once")
	require.NoError(t, r.Release(0, r.Pages()))
	require.Zero(t, allocated(t, r).Count())
	require.Equal(t, r.Pages(), holesNoted(r))
}

// holesNoted is how many pages may be holes.
func holesNoted(r *RAM) (n int) {
	for i := range r.maybeHoles {
		n += bits.OnesCount64(r.maybeHoles[i].Load())
	}
	return n
}

// TestReleaseAmongHugePages: a part of a huge page reads as zero once it is released, and the rest
// keeps its content, whether or not this host gives RAM huge pages.
func TestReleaseAmongHugePages(t *testing.T) {
	r := newRAM(t, MinSize)
	write(r, 0, r.Pages())
	for _, c := range [][2]int{{1, 1}, {511, 2}, {600, 500}, {2048, 512}, {4000, 96}} {
		require.NoError(t, r.Release(c[0], c[1]))
		for p := c[0]; p < c[0]+c[1]; p++ {
			require.True(t, IsZero(r.Page(p)), "page %d", p)
			write(r, p, 1)
		}
	}
	for p := range r.Pages() {
		require.False(t, IsZero(r.Page(p)), "page %d", p)
	}
}

// TestReleaseUndoesPopulate: RAM that was populated has holes after a release, and populating a
// part of it backs them.
func TestReleaseUndoesPopulate(t *testing.T) {
	r := newRAM(t, MinSize)
	require.NoError(t, r.Populate(context.Background(), 2, nil))
	require.True(t, r.Populated())
	require.NoError(t, r.Release(8, 64))
	require.False(t, r.Populated())
	require.Equal(t, r.Pages()-64, allocated(t, r).Count())
	require.NoError(t, r.PopulateRange(8, 32))
	require.Equal(t, r.Pages()-32, allocated(t, r).Count())
	// One that comes while RAM is populated.
	require.NoError(t, r.Populate(context.Background(), 1, func(int64) {
		require.NoError(t, r.Release(0, 1))
	}))
	require.False(t, r.Populated())
}

// TestHolesAreNotForgotten: a release at the same time as a look for holes is noted, whichever
// comes first.
func TestHolesAreNotForgotten(t *testing.T) {
	r := newRAM(t, MinSize)
	for range 5000 {
		write(r, 5, 1)
		r.maybeHoles[0].Store(1 << 5)
		var both sync.WaitGroup
		both.Go(func() { r.Holes(5, 1) })
		both.Go(func() {
			if err := r.Release(5, 1); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		require.EqualValues(t, 1, r.Holes(5, 1))
	}
}

// TestHolesDoNotHideContent: a page with content that the host shows as a hole for a moment, while
// it makes a huge page of it, does not count as one. The look at a hole backs nothing.
func TestHolesDoNotHideContent(t *testing.T) {
	r := newRAM(t, MinSize)
	require.NoError(t, r.Release(5, 2))
	write(r, 5, 1)
	shown := func(int) bool { return true }
	backed, err := r.Backed()
	require.NoError(t, err)
	require.False(t, r.stillHoleAs(5, shown))
	require.True(t, r.stillHoleAs(6, shown))
	require.EqualValues(t, 0b10, r.Holes(5, 2))
	after, err := r.Backed()
	require.NoError(t, err)
	require.Equal(t, backed, after)
}

// TestGuestReleases: what a guest gives back are the whole pages in a range of RAM, and they count
// as written.
func TestGuestReleases(t *testing.T) {
	const size = 3<<30 + 32<<20
	const high = LowEnd / PageSize
	for _, c := range []struct {
		name  string
		gpa   uint64
		n     int
		pages []int // nil: refused
	}{
		{"a page", 5 * PageSize, PageSize, []int{5}},
		{"three pages and more", 5*PageSize - 1, 3*PageSize + 2, []int{5, 6, 7}},
		{"almost a page", 5*PageSize + 1, PageSize - 1, []int{}},
		{"parts of two pages", 5*PageSize + 1, PageSize, []int{}},
		{"nothing", 5 * PageSize, 0, []int{}},
		{"before the hole", LowEnd - PageSize, PageSize, []int{high - 1}},
		{"behind the hole", HighStart, PageSize + 1, []int{high}},
		{"the end", HighStart + 32<<20 - PageSize, PageSize, []int{size/PageSize - 1}},
		{"into the hole", LowEnd - PageSize, 2 * PageSize, nil},
		{"across the hole", LowEnd - PageSize, 1<<30 + 2*PageSize, nil},
		{"in the hole", LowEnd + PageSize, PageSize, nil},
		{"out of the hole", HighStart - PageSize, 2 * PageSize, nil},
		{"beyond the end", HighStart + 32<<20, PageSize, nil},
		{"the end of all addresses", 1<<64 - PageSize, PageSize, nil},
		{"around the end of all addresses", 1<<64 - PageSize, 2 * PageSize, nil},
		{"negative", 5 * PageSize, -PageSize, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			ram := newRAM(t, size)
			g := NewGuest(ram)
			for _, p := range []int{3, 4, 5, 6, 7, 8, high - 1, high, size/PageSize - 1} {
				write(ram, p, 1)
			}
			want := allocated(t, ram)
			marks := NewBitmap(ram.Pages())
			for _, p := range c.pages {
				want.Clear(p)
				marks.Set(p)
			}
			err := g.Release(c.gpa, c.n)
			require.Equal(t, c.pages == nil, err != nil, "%v", err)
			require.True(t, want.Equal(allocated(t, ram)))
			got := NewBitmap(ram.Pages())
			g.TakeMarked(got)
			require.True(t, marks.Equal(got))
		})
	}
}

// TestReleaseMarksLast: who learns from a mark that a page was released finds it zero. If the mark
// came first, a migration could take it, send the old content, and never learn of the zeros.
func TestReleaseMarksLast(t *testing.T) {
	ram := newRAM(t, MinSize)
	g := NewGuest(ram)
	marked := NewBitmap(ram.Pages())
	for range 300 {
		write(ram, 0, ram.Pages())
		var releasing sync.WaitGroup
		releasing.Go(func() {
			if err := g.Release(0, MinSize); err != nil {
				t.Error(err)
			}
		})
		for left := ram.Pages(); left > 0; {
			marked.Reset()
			left -= g.TakeMarked(marked)
			for p := range ram.Pages() {
				require.False(t, marked.Test(p) && ram.Page(p)[100] != 0, "page %d", p)
			}
		}
		releasing.Wait()
	}
}

// TestDropMarked: what was marked before is gone, and what is marked afterwards is not.
func TestDropMarked(t *testing.T) {
	ram := newRAM(t, MinSize)
	g := NewGuest(ram)
	for _, p := range []uint64{0, 64, 700, 4095} {
		g.Write(p*PageSize, []byte{1})
	}
	g.DropMarked()
	g.Write(700*PageSize, []byte{1})
	marked := NewBitmap(ram.Pages())
	require.Equal(t, 1, g.TakeMarked(marked))
	require.True(t, marked.Test(700))
}
