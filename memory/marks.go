package memory

import (
	"math/bits"
	"sync/atomic"
)

// Marks is a set of pages to which any number of goroutines add while one goroutine takes pages
// out. It has the two levels of a Bitmap, so that the cost of taking depends on what was added.
//
// No mark is lost: Add writes the page before the block above it, and TakeInto reads the block
// before the pages below it. If TakeInto misses a page, that page's block is noted after TakeInto
// read it, so the next call finds the page.
type Marks struct {
	words []atomic.Uint64 // bit i of word i/64 is page i
	some  []atomic.Uint64 // bit i of word i/64 is block i of a Bitmap
}

// NewMarks returns an empty set of pages 0..pages-1.
func NewMarks(pages int) *Marks {
	words := (pages + 63) / 64
	return &Marks{
		words: make([]atomic.Uint64, words),
		some:  make([]atomic.Uint64, (words+64*blockWords-1)/(64*blockWords)),
	}
}

// Add adds a page.
func (m *Marks) Add(page int) {
	m.words[page>>6].Or(1 << (page & 63))
	block := page / blockPages
	w, bit := &m.some[block>>6], uint64(1)<<(block&63)
	if w.Load()&bit == 0 {
		w.Or(bit)
	}
}

// Drop takes all pages out.
func (m *Marks) Drop() {
	m.each(func(word int) { m.words[word].Store(0) })
}

// TakeInto moves all pages to a set over at least as many pages, and returns how many of them the
// set did not have yet.
func (m *Marks) TakeInto(to *Bitmap) int {
	added := 0
	m.each(func(word int) {
		w := m.words[word].Swap(0)
		added += bits.OnesCount64(w &^ to.Word(word))
		to.OrWord(word, w)
	})
	return added
}

// each calls f for each word with pages, and forgets the blocks that they are in. f takes the pages
// out.
func (m *Marks) each(f func(word int)) {
	for i := range m.some {
		for blocks := m.some[i].Swap(0); blocks != 0; blocks &= blocks - 1 {
			at := (i<<6 + bits.TrailingZeros64(blocks)) * blockWords
			for j := at; j < min(at+blockWords, len(m.words)); j++ {
				if m.words[j].Load() != 0 {
					f(j)
				}
			}
		}
	}
}
