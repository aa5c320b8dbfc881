package memory

import (
	"fmt"
	"iter"
	"math/bits"
	"sync/atomic"
)

// Bitmap is a set of page numbers with two levels: a bit for each page, and above it a bit for each
// block of 4096 pages (16 MiB of RAM) that may hold any. A scan of the set skips empty blocks, so
// its cost depends on what the set holds and not on the size of RAM: at 1 TiB, the upper level has
// 8 KiB and the lower one 32 MiB.
//
// The upper level may claim too much, never too little: removing pages leaves it unchanged until
// Trim. So several goroutines may change one set at the same time by Set, SetRange, Clear and
// ClearRange, and read it by Test, CountRange, SkipEmpty, NextRun and NextRunBefore, as long as no
// two of them touch pages of the same 64. Every other method needs the set to itself.
type Bitmap struct {
	words []uint64        // bit i of word i/64 is page i
	some  []atomic.Uint64 // bit i of word i/64 is block i
	n     int
}

const (
	blockWords = 64
	blockPages = 64 * blockWords
)

// NewBitmap returns an empty set of pages 0..pages-1.
func NewBitmap(pages int) *Bitmap {
	words := (pages + 63) / 64
	return &Bitmap{
		words: make([]uint64, words),
		some:  make([]atomic.Uint64, (words+64*blockWords-1)/(64*blockWords)),
		n:     pages,
	}
}

// Len is the number of pages that the set ranges over.
func (b *Bitmap) Len() int { return b.n }

// Word returns pages 64*i to 64*i+63, from the lowest bit on.
func (b *Bitmap) Word(i int) uint64 { return b.words[i] }

// OrWord adds pages in the layout of Word. They must be below Len.
func (b *Bitmap) OrWord(i int, w uint64) {
	if w != 0 {
		b.words[i] |= w
		b.note(i / blockWords)
	}
}

// note marks a block in the upper level.
func (b *Bitmap) note(block int) {
	w, bit := &b.some[block>>6], uint64(1)<<(block&63)
	if w.Load()&bit == 0 {
		w.Or(bit)
	}
}

// blocks yields the words of every block that may hold a page, by the block's first word.
func (b *Bitmap) blocks() iter.Seq2[int, []uint64] {
	return func(yield func(int, []uint64) bool) {
		for i := range b.some {
			for w := b.some[i].Load(); w != 0; w &= w - 1 {
				at := (i<<6 + bits.TrailingZeros64(w)) * blockWords
				if !yield(at, b.words[at:min(at+blockWords, len(b.words))]) {
					return
				}
			}
		}
	}
}

// NonZero yields every word that holds a page, by its index, in ascending order.
func (b *Bitmap) NonZero() iter.Seq2[int, uint64] {
	return func(yield func(int, uint64) bool) {
		for at, words := range b.blocks() {
			for i, w := range words {
				if w != 0 && !yield(at+i, w) {
					return
				}
			}
		}
	}
}

// Set adds a page.
func (b *Bitmap) Set(page int) {
	b.words[page>>6] |= 1 << (page & 63)
	b.note(page / blockPages)
}

// Clear removes a page.
func (b *Bitmap) Clear(page int) { b.words[page>>6] &^= 1 << (page & 63) }

// Test tells whether a page is in the set.
func (b *Bitmap) Test(page int) bool { return b.words[page>>6]&(1<<(page&63)) != 0 }

// SetRange adds count pages from first on.
func (b *Bitmap) SetRange(first, count int) {
	b.eachWord(first, count, func(w *uint64, mask uint64) { *w |= mask })
	for block := first / blockPages; block*blockPages < first+count; block++ {
		b.note(block)
	}
}

// ClearRange removes count pages from first on.
func (b *Bitmap) ClearRange(first, count int) {
	b.eachWord(first, count, func(w *uint64, mask uint64) { *w &^= mask })
}

func (b *Bitmap) eachWord(first, count int, f func(w *uint64, mask uint64)) {
	if first < 0 || count < 0 || first+count > b.n {
		panic(fmt.Sprintf("memory: range of %d pages at %d outside a bitmap of %d", count, first,
			b.n))
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
func (b *Bitmap) Reset() {
	for _, words := range b.blocks() {
		clear(words)
	}
	b.forget()
}

// forget empties the upper level; the lower one must be empty.
func (b *Bitmap) forget() {
	for i := range b.some {
		b.some[i].Store(0)
	}
}

// Count is the number of pages in the set.
func (b *Bitmap) Count() int {
	n := 0
	for _, words := range b.blocks() {
		n += countOnes(words)
	}
	return n
}

// Trim counts the pages in the set and forgets the blocks that hold none any more.
func (b *Bitmap) Trim() int {
	total := 0
	for at, words := range b.blocks() {
		n := countOnes(words)
		if total += n; n == 0 {
			block := at / blockWords
			b.some[block>>6].And(^(uint64(1) << (block & 63)))
		}
	}
	return total
}

func countOnes(words []uint64) int {
	n := 0
	for _, w := range words {
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

// held calls f with each word that may hold any of count pages from first on, and with the bits of
// these pages. It skips empty blocks, as eachWord does not. At the end of a block it calls over
// with the block, and whether all of its pages were among them.
func (b *Bitmap) held(first, count int, f func(word int, mask uint64),
	over func(block int, whole bool)) {
	end := first + count
	if first < 0 || count < 0 || end > b.n {
		panic(fmt.Sprintf("memory: range of %d pages at %d outside a bitmap of %d", count, first,
			b.n))
	}
	for {
		if first = b.SkipEmpty(first); first >= end {
			return
		}
		block := first / blockPages
		stop := min(end, (block+1)*blockPages)
		whole := first == block*blockPages && stop == min(b.n, (block+1)*blockPages)
		for first < stop {
			n := min(64-first&63, stop-first)
			f(first>>6, ^uint64(0)>>(64-n)<<(first&63))
			first += n
		}
		over(block, whole)
	}
}

// CountHeld is CountRange for a range of any size: it skips empty blocks. It needs the set to
// itself.
func (b *Bitmap) CountHeld(first, count int) int {
	n := 0
	b.held(first, count, func(word int, mask uint64) {
		n += bits.OnesCount64(b.words[word] & mask)
	}, func(int, bool) {})
	return n
}

// MoveRange moves the pages of the set among count pages from first on to another set, whose Len
// must not be smaller, and returns how many of them that set did not have. It skips empty blocks.
func (b *Bitmap) MoveRange(to *Bitmap, first, count int) (fresh int) {
	moved := uint64(0)
	b.held(first, count, func(word int, mask uint64) {
		w := b.words[word] & mask
		fresh += bits.OnesCount64(w &^ to.words[word])
		to.words[word] |= w
		b.words[word] &^= w
		moved |= w
	}, func(block int, whole bool) {
		if moved != 0 {
			to.note(block)
		}
		if moved = 0; whole {
			b.some[block>>6].And(^(uint64(1) << (block & 63)))
		}
	})
	return fresh
}

// Equal tells whether two sets over the same number of pages are equal.
func (b *Bitmap) Equal(o *Bitmap) bool {
	return b.n == o.n && b.covers(o) && o.covers(b)
}

// covers tells whether b has all pages of o.
func (b *Bitmap) covers(o *Bitmap) bool {
	for i, w := range o.NonZero() {
		if w&^b.words[i] != 0 {
			return false
		}
	}
	return true
}

// Or adds the pages of o, whose Len must not be larger.
func (b *Bitmap) Or(o *Bitmap) {
	for i, w := range o.NonZero() {
		b.OrWord(i, w)
	}
}

// Take moves the pages of o, whose Len must not be larger, into b. It returns how many pages o had,
// and how many of them b did not have.
func (b *Bitmap) Take(o *Bitmap) (had, added int) {
	for at, words := range o.blocks() {
		for i, w := range words {
			had += bits.OnesCount64(w)
			added += bits.OnesCount64(w &^ b.words[at+i])
			b.words[at+i] |= w
		}
		clear(words)
		b.note(at / blockWords)
	}
	o.forget()
	return had, added
}

// AndNot removes the pages of o, whose Len must not be larger.
func (b *Bitmap) AndNot(o *Bitmap) {
	for i, w := range o.NonZero() {
		b.words[i] &^= w
	}
}

// CopyFrom makes b equal to o, which must have the same Len.
func (b *Bitmap) CopyFrom(o *Bitmap) {
	b.Reset()
	for at, words := range o.blocks() {
		copy(b.words[at:], words)
		b.note(at / blockWords)
	}
}

// flatStep is how many words of a flat bitmap are compared with zero at a time.
const flatStep = PageSize / 8

// AddFlat adds pages from a bitmap as KVM fills it (KVM_GET_DIRTY_LOG), with one bit for every
// page. Its first word begins at page first, a multiple of 64. AddFlat returns how many pages flat
// has, whether or not b had them. Several goroutines may add stretches that share no word.
func (b *Bitmap) AddFlat(first int, flat []uint64) int {
	n := 0
	for at := first / 64; len(flat) > 0; {
		step := flat[:min(flatStep, len(flat))]
		// Most of it is zero, and finding that out is most of the work.
		if !IsZero(bytesOf(step)) {
			for i, w := range step {
				n += bits.OnesCount64(w)
				b.OrWord(at+i, w)
			}
		}
		at, flat = at+len(step), flat[len(step):]
	}
	return n
}

// SkipEmpty returns from if its block may hold a page. Otherwise it returns the first page of the
// next block that may hold one, or Len.
func (b *Bitmap) SkipEmpty(from int) int {
	if from >= b.n {
		return b.n
	}
	block := from / blockPages
	i := block >> 6
	w := b.some[i].Load() >> (block & 63) << (block & 63)
	for w == 0 {
		if i++; i == len(b.some) {
			return b.n
		}
		w = b.some[i].Load()
	}
	return max(from, (i<<6+bits.TrailingZeros64(w))*blockPages)
}

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
	first = b.nextSet(from, end)
	if first >= end {
		return end, 0
	}
	return first, b.nextClear(first, end) - first
}

// nextSet finds the first page in the set within from..end-1, or returns end.
func (b *Bitmap) nextSet(from, end int) int {
	for from < end {
		if from = b.SkipEmpty(from); from >= end {
			break
		}
		// Search within one block only, because the next one may be empty.
		stop := min(end, (from/blockPages+1)*blockPages)
		if from = b.next(from, stop, 0); from < stop {
			return from
		}
	}
	return end
}

// nextClear finds the first page that is not in the set within from..end-1, or returns end.
func (b *Bitmap) nextClear(from, end int) int { return b.next(from, end, ^uint64(0)) }

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
