package memory

import "fmt"

// Guest is guest RAM as a device sees it. Devices write RAM only through it.
//
// A dirty log sees what vCPUs write, and nothing that the host writes. So each write through Guest
// marks its pages, and whoever harvests the dirty log takes the marks with it. A page is marked
// after it was written. If it were marked first, a harvest could take the mark, and the page could
// be sent, before the write. A harvest between write and mark misses the page, but the next one
// reports it.
//
// A Guest is safe for concurrent use. Writes to the same bytes may mix.
type Guest struct {
	ram   *RAM
	marks *Marks
}

// NewGuest returns a Guest of ram, with nothing marked.
func NewGuest(ram *RAM) *Guest { return &Guest{ram: ram, marks: NewMarks(ram.Pages())} }

// Slice returns the n live bytes at a guest-physical address, or false if any of them is not RAM.
// The caller may read them and must not write them.
func (g *Guest) Slice(gpa uint64, n int) ([]byte, bool) { return g.ram.Slice(gpa, n) }

// Write copies p to a guest-physical address. If any of that is not RAM, it does nothing and
// returns false.
func (g *Guest) Write(gpa uint64, p []byte) bool {
	return g.Fill(gpa, len(p), func(dst []byte) { copy(dst, p) })
}

// Fill has f write the n bytes at a guest-physical address, for instance by reading a file into
// them. f must not keep the slice. If any of that is not RAM, Fill does not call f and returns
// false.
func (g *Guest) Fill(gpa uint64, n int, f func(dst []byte)) bool {
	dst, ok := g.ram.Slice(gpa, n)
	if !ok {
		return false
	}
	defer g.mark(gpa, n)
	f(dst)
	return true
}

// StoreUint32 stores a word atomically, because the guest may load it at any time. It returns false
// if gpa is not a multiple of 4, or not in RAM.
func (g *Guest) StoreUint32(gpa uint64, v uint32) bool {
	return gpa%4 == 0 && g.Fill(gpa, 4, func(dst []byte) { storeUint32(dst, v) })
}

// StoreUint16 stores a half word atomically, after all earlier stores and before all later loads,
// as the other side of a ring in RAM relies on. It returns false if gpa is odd, or not in RAM.
func (g *Guest) StoreUint16(gpa uint64, v uint16) bool {
	if gpa%2 != 0 {
		return false
	}
	// RAM begins and ends on a page, so the word around a half word is there as well.
	return g.Fill(gpa&^3, 4, func(dst []byte) { storeHalf(dst, gpa%4 != 0, v) })
}

// LoadUint16 loads a half word atomically, before all later loads. It returns false if gpa is odd,
// or not in RAM.
func (g *Guest) LoadUint16(gpa uint64) (uint16, bool) {
	src, ok := g.ram.Slice(gpa&^3, 4)
	if !ok || gpa%2 != 0 {
		return 0, false
	}
	return uint16(loadUint32(src) >> (8 * (gpa % 4))), true
}

// Range is a stretch of guest-physical memory, Bytes long.
type Range struct {
	GPA   uint64
	Bytes int
}

// FillRanges has f write all ranges in one call, for instance by reading a file into them (preadv).
// f must not keep the slices. If any of that is not RAM, FillRanges does not call f and returns
// false.
func (g *Guest) FillRanges(ranges []Range, f func(dst [][]byte)) bool {
	dst, ok := g.Slices(ranges)
	if !ok {
		return false
	}
	defer func() {
		for _, r := range ranges {
			g.mark(r.GPA, r.Bytes)
		}
	}()
	f(dst)
	return true
}

// Release gives the whole pages among n bytes of RAM at a guest-physical address back to the host,
// see [RAM.Release]. They count as written. If any of the bytes is not RAM, Release does nothing.
func (g *Guest) Release(gpa uint64, n int) error {
	if _, ok := g.ram.Slice(gpa, n); !ok {
		return fmt.Errorf("release %d bytes at %#x: not all of them are RAM", n, gpa)
	}
	begin, end := (gpa+PageSize-1)&^(PageSize-1), (gpa+uint64(n))&^(PageSize-1)
	if begin >= end {
		return nil
	}
	first, _ := g.ram.PageOf(begin)
	defer g.mark(begin, int(end-begin))
	return g.ram.Release(first, int(end-begin)/PageSize)
}

// Slices is Slice for several ranges.
func (g *Guest) Slices(ranges []Range) ([][]byte, bool) {
	slices := make([][]byte, 0, len(ranges))
	for _, r := range ranges {
		s, ok := g.ram.Slice(r.GPA, r.Bytes)
		if !ok {
			return nil, false
		}
		slices = append(slices, s)
	}
	return slices, true
}

// TakeMarked moves all marks to a set over all pages of RAM, and returns how many of them the set
// did not have yet.
func (g *Guest) TakeMarked(to *Bitmap) int { return g.marks.TakeInto(to) }

// DropMarked takes all marks away. What was written before is then unknown, so whoever calls it
// must go through all of RAM afterwards.
func (g *Guest) DropMarked() { g.marks.Drop() }

// mark marks the pages of n bytes of RAM.
func (g *Guest) mark(gpa uint64, n int) {
	if n == 0 {
		return
	}
	// RAM is contiguous where Slice finds n bytes of it.
	first, _ := g.ram.PageOf(gpa)
	last, _ := g.ram.PageOf(gpa + uint64(n) - 1)
	for p := first; p <= last; p++ {
		g.marks.Add(p)
	}
}
