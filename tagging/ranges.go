// # Memory that is not worth moving
//
// A guest that owns its frames can declare memory that may be lost: what is free, garbage, or a
// cache. A migration does not send it while it is declared. The table is in the second half of a
// tag page in guest RAM, so that page has 31 slots:
//
//	0x018  how many entries the table has, up to 256; 0: there is no table
//	0x800  entry 0: the number of pages (bits 0 to 23, 0: unused),
//	       the number of the first page, its address divided by 4096 (bits 24 to 63)
//	0x808  entry 1 ...
//
// One 64-bit store declares a range, or takes it back. So the host, which reads each entry by one
// load, sees all of a change or nothing, even where a vCPU is stopped in the middle of a program.
// Ranges may overlap, and what is not RAM counts for nothing.
//
// This is what a guest may rely on:
//
//   - From the declaration on, the range may at any moment hold zeros, something that it held
//     earlier, or a mixture.
//   - Once it is taken back, it is memory as all other: it keeps what it holds. What that is nobody
//     knows until it is written. A write of a part of a page does not change the rest of it.
//   - A store to the table counts for all that the same vCPU does afterwards, and for all that
//     others do once they have learned of it in the ways of x86. No fence is needed.
//
// And this is why it holds. The source harvests the dirty log, and reads the table after that:
//
//	guest: take the range back, write the page        the log gets the page with the write
//	host:  harvest the log,     read the table
//
// A write that the harvest reports came after its range had been taken back, and the table is read
// later still, so the table does not have the range any more. A write that the harvest does not
// report is in the log for the next one. In the other order, the table could be read before the
// range is taken back, and the log harvested after the write. Then the page would be left out, and
// be in no log any more.
//
// A page that was left out stays owed: once a look at the table finds that it is not declared any
// more, it is sent, written or not. The last look is when the vCPUs stand still. So a page can only
// be lost if it is declared at the very moment at which the guest moves.
//
// A table in device RAM counts for nothing: everybody who maps device RAM could lose the memory of
// all others. A program under an operating system must not declare anything anyway. Its kernel may
// give a frame to somebody else at any time.
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
	if !p.valid() || !p.hasTable() {
		return nil
	}
	n := int(min(p.load(pageRangesAt), MaxRanges)) // the guest may have changed it since
	var all []Range
	for i := range n {
		entry := atomic.LoadUint64(p.entry(i))
		if pages := entry & (1<<rangePageBits - 1); pages != 0 {
			all = append(all, Range{First: entry >> rangePageBits, Pages: pages})
		}
	}
	if !p.valid() || !p.hasTable() {
		return nil // the page got another owner meanwhile
	}
	return all
}

// hasTable tells whether the header is one of a page with a table: it says how many entries there
// are, and its reserved words are 0. A program that was killed leaves its page to the guest's
// kernel. As long as the magic happens to survive there, only the other words tell a table from
// what the kernel keeps in the page, and a range that nobody declared would lose the guest its
// memory. A header that is refused costs no more than pages that are sent.
func (p *tagPage) hasTable() bool {
	n := p.load(pageRangesAt)
	if n == 0 || n > MaxRanges || p.load(pageSlotsAt) > PageSlots || p.load(pageNotifyAt) > 1 {
		return false
	}
	reserved := p.load(pageLeaseAt) | p.load(pageTermAt) // not for pages of RAM
	for at := pageRangesAt + 4; at < pageSlot0; at += 4 {
		reserved |= p.load(at)
	}
	return reserved == 0
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
