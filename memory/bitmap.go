package memory

import (
	"fmt"
	"math/bits"
)

// Bitmap is a set of page numbers in the layout of KVM's dirty bitmap: bit i of
// little-endian word i/64. It is not safe for concurrent use.
type Bitmap struct {
	words []uint64
	n     int
}

// NewBitmap returns an empty set of pages 0..pages-1.
func NewBitmap(pages int) *Bitmap {
	return &Bitmap{words: make([]uint64, (pages+63)/64), n: pages}
}

// Len is the number of pages that the set ranges over.
func (b *Bitmap) Len() int { return b.n }

// Words is the set's storage; bits from Len on must stay 0.
func (b *Bitmap) Words() []uint64 { return b.words }

// Set adds a page.
func (b *Bitmap) Set(page int) { b.words[page>>6] |= 1 << (page & 63) }

// Clear removes a page.
func (b *Bitmap) Clear(page int) { b.words[page>>6] &^= 1 << (page & 63) }

// Test tells whether a page is in the set.
func (b *Bitmap) Test(page int) bool { return b.words[page>>6]&(1<<(page&63)) != 0 }

// SetRange adds count pages from first on.
func (b *Bitmap) SetRange(first, count int) {
	b.eachWord(first, count, func(w *uint64, mask uint64) { *w |= mask })
}

// ClearRange removes count pages from first on.
func (b *Bitmap) ClearRange(first, count int) {
	b.eachWord(first, count, func(w *uint64, mask uint64) { *w &^= mask })
}

func (b *Bitmap) eachWord(first, count int, f func(w *uint64, mask uint64)) {
	if first < 0 || count < 0 || first+count > b.n {
		panic(fmt.Sprintf("memory: range of %d pages at %d outside a bitmap of %d", count, first, b.n))
	}
	for end := first + count; first < end; {
		n := min(64-first&63, end-first)
		f(&b.words[first>>6], ^uint64(0)>>(64-n)<<(first&63))
		first += n
	}
}

// Fill adds all pages.
func (b *Bitmap) Fill() { b.SetRange(0, b.n) }

// Reset removes all pages.
func (b *Bitmap) Reset() { clear(b.words) }

// Count is the number of pages in the set.
func (b *Bitmap) Count() int {
	n := 0
	for _, w := range b.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// CountRange is the number of pages in the set among count pages from first on.
func (b *Bitmap) CountRange(first, count int) int {
	n := 0
	b.eachWord(first, count, func(w *uint64, mask uint64) { n += bits.OnesCount64(*w & mask) })
	return n
}

// Or adds the pages of o, a set over as many pages.
func (b *Bitmap) Or(o *Bitmap) {
	for i, w := range o.words[:len(b.words)] {
		b.words[i] |= w
	}
}

// AndNot removes the pages of o, a set over as many pages.
func (b *Bitmap) AndNot(o *Bitmap) {
	for i, w := range o.words[:len(b.words)] {
		b.words[i] &^= w
	}
}

// CopyFrom makes b the same set as o, a set over as many pages.
func (b *Bitmap) CopyFrom(o *Bitmap) { copy(b.words, o.words[:len(b.words)]) }

// NextRun finds the first run of pages in the set at or after from, cut at limit
// pages. count is 0 when no page is left.
func (b *Bitmap) NextRun(from, limit int) (first, count int) {
	first, count = b.NextRunBefore(from, b.n)
	return first, min(count, limit)
}

// NextRunBefore finds the first run of pages in the set within from..end-1. It
// reads no word that holds only pages outside that range. count is 0 when there
// is none.
func (b *Bitmap) NextRunBefore(from, end int) (first, count int) {
	end = min(end, b.n)
	first = b.next(from, end, 0)
	if first >= end {
		return end, 0
	}
	return first, b.next(first, end, ^uint64(0)) - first
}

// next finds the first bit in from..end-1 that differs from the bits of flip (0:
// the first set bit; all ones: the first clear one), or end.
func (b *Bitmap) next(from, end int, flip uint64) int {
	if from >= end {
		return end
	}
	i := from >> 6
	w := (b.words[i] ^ flip) >> (from & 63) << (from & 63)
	for w == 0 {
		if i++; i<<6 >= end {
			return end
		}
		w = b.words[i] ^ flip
	}
	return min(i<<6+bits.TrailingZeros64(w), end)
}
