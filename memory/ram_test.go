package memory

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func newRAM(t *testing.T, size int64) *RAM {
	t.Helper()
	r, err := New(size)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func TestNewRefusesSizes(t *testing.T) {
	for _, size := range []int64{-1, 0, 15 << 20, 16<<20 + 4096, 1<<40 + 1<<20} {
		_, err := New(size)
		require.ErrorIs(t, err, ErrSize, "size %d", size)
	}
}

func TestAddressesAroundTheHole(t *testing.T) {
	const size = 3<<30 + 32<<20
	r := newRAM(t, size)
	require.Equal(t, []Region{
		{GPA: 0, First: 0, Pages: 3 << 30 / PageSize},
		{GPA: HighStart, First: 3 << 30 / PageSize, Pages: 32 << 20 / PageSize},
	}, r.Regions())

	for _, c := range []struct {
		gpa  uint64
		n    int
		page int
		ok   bool
	}{
		{0, 4096, 0, true},
		{LowEnd - 8, 8, LowEnd/PageSize - 1, true},
		{LowEnd - 8, 9, 0, false},
		{LowEnd, 1, 0, false},
		{HighStart - 1, 1, 0, false},
		{HighStart, 4096, LowEnd / PageSize, true},
		{HighStart + 32<<20 - 1, 1, size/PageSize - 1, true},
		{HighStart + 32<<20 - 1, 2, 0, false},
		{HighStart + 32<<20, 1, 0, false},
		{^uint64(0), 2, 0, false},
		{0, -1, 0, false},
	} {
		s, ok := r.Slice(c.gpa, c.n)
		require.Equal(t, c.ok, ok, "%#x+%d", c.gpa, c.n)
		if !ok {
			continue
		}
		require.Len(t, s, c.n)
		page, ok := r.PageOf(c.gpa)
		require.True(t, ok)
		require.Equal(t, c.page, page)
		s[0] = 0xa5
		require.Equal(t, byte(0xa5), r.Page(page)[c.gpa%PageSize],
			"slice and page are the same memory")
	}
}

func TestAllocatedFindsWhatWasWritten(t *testing.T) {
	r := newRAM(t, 16<<20)
	got := NewBitmap(r.Pages())
	require.NoError(t, r.Allocated(got))
	require.Zero(t, got.Count(), "fresh RAM is one hole")
	backed, err := r.Backed()
	require.NoError(t, err)
	require.Zero(t, backed)

	want := []int{0, 7, 8, 4095}
	for _, p := range want {
		r.Page(p)[17] = 1
	}
	require.NoError(t, r.Allocated(got))
	for _, p := range want {
		require.True(t, got.Test(p), "page %d", p)
	}
	backed, err = r.Backed()
	require.NoError(t, err)
	require.Equal(t, got.Count(), backed)
}

// TestBackedIsNoSet: memory that the host has allocated and nobody has written yet counts, and is
// still a hole. So equal counts do not mean equal content.
func TestBackedIsNoSet(t *testing.T) {
	r := newRAM(t, 16<<20)
	require.NoError(t, unix.Fallocate(r.FD(), 0, 7*PageSize, PageSize))
	before, err := r.Backed()
	require.NoError(t, err)
	require.Positive(t, before)
	holes := NewBitmap(r.Pages())
	require.NoError(t, r.Allocated(holes))
	require.False(t, holes.Test(7))
	r.Page(7)[0] = 1
	after, err := r.Backed()
	require.NoError(t, err)
	require.Equal(t, before, after)
	found := NewBitmap(r.Pages())
	require.NoError(t, r.Allocated(found))
	require.True(t, found.Test(7))
}

func TestPopulateKeepsContentAndReportsProgress(t *testing.T) {
	r := newRAM(t, 40<<20)
	r.Page(3)[5] = 42
	var most atomic.Int64
	require.NoError(t, r.Populate(context.Background(), 3, func(n int64) {
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
	}))
	require.Equal(t, r.Size(), most.Load())
	require.Equal(t, byte(42), r.Page(3)[5])
	got := NewBitmap(r.Pages())
	require.NoError(t, r.Allocated(got))
	require.Equal(t, r.Pages(), got.Count())
}

func TestPopulateStopsWhenCancelled(t *testing.T) {
	r := newRAM(t, 16<<20)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, r.Populate(ctx, 2, nil), context.Canceled)
}

func TestIsZero(t *testing.T) {
	page := make([]byte, PageSize)
	require.True(t, IsZero(page))
	for _, i := range []int{0, 1, 2047, 2048, 3000, 4095} {
		page[i] = 1
		require.False(t, IsZero(page), "byte %d", i)
		page[i] = 0
	}
	require.True(t, IsZero(page[:100]))
}

func TestDigest(t *testing.T) {
	a, b := newRAM(t, 20<<20), newRAM(t, 20<<20)
	digest := func(r *RAM) uint64 {
		d, err := r.Digest()
		require.NoError(t, err)
		return d
	}
	require.Equal(t, digest(a), digest(b))
	a.Page(100)[9] = 1
	require.NotEqual(t, digest(a), digest(b))
	b.Page(101)[9] = 1
	require.NotEqual(t, digest(a), digest(b), "the same page at another place")
	b.Page(101)[9] = 0 // now a page of zeros that is no hole
	b.Page(100)[9] = 1
	require.Equal(t, digest(a), digest(b))
	a.Page(a.Pages() - 1)[4095] = 1
	require.NotEqual(t, digest(a), digest(b), "the last byte counts")
}

// TestDigestsOfParts: the digests of chunks and pages show which one differs.
func TestDigestsOfParts(t *testing.T) {
	a, b := newRAM(t, 18<<20), newRAM(t, 18<<20) // the last chunk is half of one
	page := 2*DigestChunk/PageSize + 7
	a.Page(page)[0] = 1
	chunks := func(r *RAM) []uint64 {
		sums, err := r.ChunkDigests(nil)
		require.NoError(t, err)
		whole, err := r.Digest()
		require.NoError(t, err)
		require.Equal(t, whole, DigestOf(sums))
		return sums
	}
	require.Len(t, chunks(a), 5)
	require.Len(t, a.PageDigests(4, nil), 2<<20/PageSize)
	for i, sum := range chunks(a) {
		require.Equal(t, i == 2, sum != chunks(b)[i])
		for n, sum := range a.PageDigests(i, nil) {
			differs := i == 2 && n == 7
			require.Equal(t, differs, sum != b.PageDigests(i, nil)[n])
		}
	}
}

func TestAddressOf(t *testing.T) {
	r := newRAM(t, LowEnd+SizeUnit)
	require.Equal(t, uint64(0), r.AddressOf(0))
	require.Equal(t, uint64(LowEnd-PageSize), r.AddressOf(LowEnd/PageSize-1))
	require.Equal(t, uint64(HighStart), r.AddressOf(LowEnd/PageSize))
	for _, gpa := range []uint64{0, 5 * PageSize, HighStart + PageSize} {
		page, ok := r.PageOf(gpa)
		require.True(t, ok)
		require.Equal(t, gpa, r.AddressOf(page))
	}
}

func BenchmarkIsZero(b *testing.B) {
	page := make([]byte, PageSize)
	b.SetBytes(PageSize)
	for b.Loop() {
		if !IsZero(page) {
			b.Fatal("zero page not found")
		}
	}
}

// benchRAM is larger than any cache.
func benchRAM(b *testing.B) *RAM {
	r, err := New(512 << 20)
	require.NoError(b, err)
	b.Cleanup(func() { r.Close() })
	return r
}

// BenchmarkScan looks for content in RAM that is backed, all zero, and in no cache: the
// floor of a migration of idle, populated RAM.
func BenchmarkScan(b *testing.B) {
	r := benchRAM(b)
	require.NoError(b, r.Populate(context.Background(), 2, nil))
	b.SetBytes(r.Size())
	b.ReportAllocs()
	for b.Loop() {
		for p := range r.Pages() {
			if !IsZero(r.Page(p)) {
				b.Fatal("zero page not found")
			}
		}
	}
}

// BenchmarkAllocated asks the memfd for the pages that it backs, all of them.
func BenchmarkAllocated(b *testing.B) {
	r := benchRAM(b)
	require.NoError(b, r.Populate(context.Background(), 2, nil))
	pages := NewBitmap(r.Pages())
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Allocated(pages); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPopulate backs RAM with memory.
func BenchmarkPopulate(b *testing.B) {
	b.SetBytes(512 << 20)
	for b.Loop() {
		r := benchRAM(b)
		if err := r.Populate(context.Background(), 1, nil); err != nil {
			b.Fatal(err)
		}
		r.Close()
	}
}

// TestAllocatedLooksAgain: a page that the host counts and does not show is looked for again. The
// host hides pages like this while it makes a huge page of them.
func TestAllocatedLooksAgain(t *testing.T) {
	r := newRAM(t, MinSize)
	r.Page(7)[0] = 1
	const hidden = 100
	require.NoError(t, unix.Fallocate(r.FD(), 0, hidden*PageSize, PageSize))
	found := NewBitmap(r.Pages())
	looks := 0
	require.NoError(t, r.allocated(found, func() bool {
		if looks++; looks == 3 {
			r.Page(hidden)[0] = 1
		}
		return true
	}))
	require.Equal(t, 3, looks)
	require.True(t, found.Test(7) && found.Test(hidden))
	require.Equal(t, 2, found.Count())

	require.NoError(t, unix.Fallocate(r.FD(), 0, (hidden+1)*PageSize, PageSize))
	require.NoError(t, r.allocated(found, func() bool { return false }), "it need not appear")
	require.Equal(t, 2, found.Count())
}

// TestTouchChangesNothing: kernels before 5.14 populate RAM by it, while a guest may run.
func TestTouchChangesNothing(t *testing.T) {
	r := newRAM(t, MinSize)
	want := make([]byte, r.Size())
	for p := 0; p < r.Pages(); p += 2 {
		for i := range 8 {
			want[p*PageSize+i] = byte(p + i + 1)
		}
		copy(r.Page(p), want[p*PageSize:(p+1)*PageSize])
	}
	touch(r.Bytes())
	require.True(t, bytes.Equal(want, r.Bytes()))
	backed, err := r.Backed()
	require.NoError(t, err)
	require.GreaterOrEqual(t, backed, r.Pages(), "each page has been written")
}

// TestPatience: pages of a huge page in the making get their time.
func TestPatience(t *testing.T) {
	again, looks := patiently(), 1
	for again() {
		looks++
	}
	require.Equal(t, patientLooks, looks)
}
