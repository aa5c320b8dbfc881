package tagging

import (
	"cmp"
	"slices"
	"sync/atomic"
	"unsafe"

	"taskguide/tagging/abi"
)

// The table of declared ranges, in a tag page of guest RAM.
const (
	MaxRanges = abi.Ranges

	pageRangesAt  = 0x18 // how many entries the table has; 0: there is none
	rangesAt      = abi.RangesAt
	rangeBytes    = 8
	rangePageBits = abi.RangePageBits
)

// Range is a stretch of guest-physical memory: the number of its first page, which is its address
// divided by PageSize, and how many pages it has.
type Range struct {
	First, Pages uint64
}

// end is the number of the page after the last. An entry has too few bits for an overflow.
func (r Range) end() uint64 { return r.First + r.Pages }

// DeclaredAtMost is the most ranges that Declared returns.
const DeclaredAtMost = MaxRanges + 1

// Declared returns what the guest declares to be not worth moving, in ascending order, and neither
// overlapping nor touching. It is a copy of the table in the tag page. The guest may write anything
// there, so ranges may be outside of RAM, but the tag page itself is never among them: a guest that
// declares it has made a mistake, and would lose its tags.
//
// Who acts on the answer must have harvested the dirty log before: see the package's comment.
func (p *Port) Declared() []Range {
	entries, page := p.rangeTable()
	return without(merge(entries), page)
}

// rangeTable returns the table's used entries, and the number of the page that they are in.
func (p *Port) rangeTable() (entries []Range, page uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.page == nil {
		return nil, 0
	}
	return p.page.ranges(), p.page.gpa / PageSize
}

// ranges returns the used entries of the table. It loads each once.
func (p *tagPage) ranges() []Range {
	if !p.valid() {
		return nil
	}
	n := int(min(p.load(pageRangesAt), MaxRanges))
	var all []Range
	for i := range n {
		entry := atomic.LoadUint64(p.entry(i))
		if pages := entry & (1<<rangePageBits - 1); pages != 0 {
			all = append(all, Range{First: entry >> rangePageBits, Pages: pages})
		}
	}
	if !p.valid() {
		return nil // the page got another owner, who began at its front
	}
	return all
}

// entry returns entry i of the table. Sound as word is: the table ends with the page, its entries
// are 8 bytes each, and aligned is checked when the page is made.
func (p *tagPage) entry(i int) *uint64 {
	at := rangesAt + i*rangeBytes
	return (*uint64)(unsafe.Pointer(&p.bytes[at : at+rangeBytes][0]))
}

// merge sorts ranges and joins those that overlap or touch.
func merge(ranges []Range) []Range {
	slices.SortFunc(ranges, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
	out := ranges[:0]
	for _, r := range ranges {
		if n := len(out); n > 0 && r.First <= out[n-1].end() {
			out[n-1].Pages = max(out[n-1].end(), r.end()) - out[n-1].First
			continue
		}
		out = append(out, r)
	}
	return out
}

// without takes one page out of merged ranges.
func without(ranges []Range, page uint64) []Range {
	for i, r := range ranges {
		if page < r.First || page >= r.end() {
			continue
		}
		var left []Range
		if page > r.First {
			left = append(left, Range{First: r.First, Pages: page - r.First})
		}
		if page+1 < r.end() {
			left = append(left, Range{First: page + 1, Pages: r.end() - page - 1})
		}
		return slices.Replace(ranges, i, i+1, left...)
	}
	return ranges
}
