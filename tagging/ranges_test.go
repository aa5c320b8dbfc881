package tagging

import (
	"encoding/binary"
	"math"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/tagging/abi"
)

// rangesOn gives a page a table of all entries, as tag_ranges_on of tag.h does.
func (p *tagPage) rangesOn() {
	atomic.StoreUint32(p.word(pageSlotsAt), abi.RangesSlots)
	atomic.StoreUint32(p.word(pageRangesAt), MaxRanges)
}

// declare sets an entry; no pages take it back.
func (p *tagPage) declare(i int, first, pages uint64) {
	atomic.StoreUint64(p.entry(i), first<<rangePageBits|pages)
}

func TestDeclaredRanges(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	require.Empty(t, p.Declared(), "no page")
	page := newPage(t, p, r)
	page.declare(0, 10, 5)
	require.Empty(t, p.Declared(), "no table")
	page.rangesOn()
	require.Equal(t, []Range{{10, 5}}, p.Declared())

	page.declare(0, 0, 0)
	page.declare(255, 100, 10)
	page.declare(7, 105, 10)
	page.declare(9, 115, 1)
	page.declare(12, 101, 2)
	page.declare(3, 117, 1)
	require.Equal(t, []Range{{100, 16}, {117, 1}}, p.Declared(), "in order, and joined")
	info := p.Snapshot()
	require.Equal(t, 2, info.DeclaredRanges)
	require.EqualValues(t, 17*PageSize, info.DeclaredBytes)
	page.declare(7, 0, 0)
	require.Equal(t, []Range{{100, 10}, {115, 1}, {117, 1}}, p.Declared(), "taken back")

	page.declare(255, 0, 9)
	page.declare(9, 0, 0)
	page.declare(3, 0, 0)
	page.declare(12, 0, 0)
	own := uint64(pageGPA / PageSize)
	require.Equal(t, []Range{{0, own}, {own + 1, 8 - own}}, p.Declared(),
		"all but the tag page itself")
	page.declare(255, own, 1)
	require.Empty(t, p.Declared())
	page.declare(255, own, 2)
	require.Equal(t, []Range{{own + 1, 1}}, p.Declared())
	page.declare(255, own-1, 2)
	require.Equal(t, []Range{{own - 1, 1}}, p.Declared())

	atomic.StoreUint32(page.word(pageRangesAt), 200)
	require.Empty(t, p.Declared(), "the table has fewer entries")
	atomic.StoreUint32(page.word(pageRangesAt), math.MaxUint32)
	require.Empty(t, p.Declared(), "no table is as long")
	atomic.StoreUint32(page.word(pageRangesAt), MaxRanges)
	require.Len(t, p.Declared(), 1)
	atomic.StoreUint32(page.word(pageMagicAt), 0)
	require.Empty(t, p.Declared(), "the page is somebody else's")
	require.Zero(t, p.Snapshot().GuestErrors.Task)
}

// TestDeclaredAtMost: each entry may be a range of its own, and one may be cut in two.
func TestDeclaredAtMost(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(t, p, r)
	page.rangesOn()
	for i := range MaxRanges {
		page.declare(i, 2000+uint64(2*i), 1)
	}
	page.declare(17, 1, 4)
	require.Len(t, p.Declared(), DeclaredAtMost)
	last := uint64(1)<<40 - 1
	page.declare(0, last, 1<<24-1)
	require.Equal(t, Range{last, 1<<24 - 1}, p.Declared()[DeclaredAtMost-1], "nothing overflows")
}

// TestRangesTakeSlots: what is in the table is not taken for a task.
func TestRangesTakeSlots(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(t, p, r)
	page.set(abi.RangesSlots-1, slotUsed, 7, 1)
	page.set(abi.RangesSlots, slotUsed, 8, 1)
	require.Equal(t, 2, p.Gate().Tasks)
	page.rangesOn()
	require.Equal(t, 1, p.Gate().Tasks)
	atomic.StoreUint32(page.word(pageSlotsAt), PageSlots)
	require.Equal(t, 1, p.Gate().Tasks, "whatever the page says")
	require.Nil(t, find(p.Snapshot(), 8))
	require.EqualValues(t, rangesAt, pageSlot0+abi.RangesSlots*pageSlotBytes)
	require.EqualValues(t, PageSize, rangesAt+MaxRanges*rangeBytes)
}

// TestNoRangesInDeviceRAM: whoever maps device RAM could lose the memory of others, so a table
// there counts for nothing, and takes no slot.
func TestNoRangesInDeviceRAM(t *testing.T) {
	p := NewPort(newRAM(4))
	d := useDevice(p)
	d.page(0).format()
	d.commit(0)
	d.page(0).set(PageSlots-1, slotUsed, 7, 1)
	atomic.StoreUint32(d.page(0).word(pageRangesAt), MaxRanges)
	d.page(0).declare(3, 100, 10)
	require.Empty(t, p.Declared())
	require.Zero(t, p.Snapshot().DeclaredRanges)
	require.Equal(t, 1, p.Gate().Tasks)
}

// TestAbandonedPageDeclaresNothing: a page whose program was killed may be used by the guest's
// kernel, which keeps pointers in it, and the magic may survive. It declares nothing, whatever
// looks like a table, and nothing is written to it.
func TestAbandonedPageDeclaresNothing(t *testing.T) {
	for name, words := range map[string]map[int]uint64{
		"a slab's list":    {0x08: 0xffff8880_12345678, 0x18: 0xffff8880_12345690},
		"a reserved word":  {0x18: 5, 0x30: 1 << 32},
		"words of a lease": {0x10: 7, 0x18: 5},
		"too many slots":   {0x08: 0xffff8880_00000000, 0x18: 5},
		"notify":           {0x08: 31<<32 | 0x12345678, 0x18: 5},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRAM(4)
			p := NewPort(r)
			page := newPage(t, p, r)
			page.declare(1, 0, 6_500_000)
			for at, word := range words {
				binary.LittleEndian.PutUint64(page.bytes[at:], word)
			}
			require.Empty(t, p.Declared())
			before := append([]byte(nil), page.bytes...)
			if page.load(pageNotifyAt) > 1 { // what no host has written
				p.Attach(All, &recorder{})
				require.Equal(t, before, page.bytes)
			}
		})
	}
}

// FuzzDeclared reads a hostile guest's table.
func FuzzDeclared(f *testing.F) {
	r := newRAM(4)
	page := formatPage(f, r, pageGPA)
	page.rangesOn()
	page.declare(0, 0, 100)
	page.declare(1, 90, 100)
	page.declare(2, 1<<40-1, 1<<24-1)
	f.Add(uint32(MaxRanges), page.bytes[rangesAt:rangesAt+64])
	f.Add(uint32(2), page.bytes[rangesAt:rangesAt+64])
	f.Add(uint32(math.MaxUint32), []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, count uint32, table []byte) {
		r := newRAM(4)
		p := NewPort(r)
		page := newPage(t, p, r)
		atomic.StoreUint32(page.word(pageRangesAt), count)
		copy(page.bytes[rangesAt:], table)
		got := p.Declared()
		if count > MaxRanges {
			require.Empty(t, got)
			return
		}
		require.LessOrEqual(t, len(got), DeclaredAtMost)
		end, declared := uint64(0), uint64(0)
		for i, r := range got {
			require.True(t, i == 0 || r.First > end, "in order, with room between")
			require.NotZero(t, r.Pages)
			end = r.First + r.Pages
			declared += r.Pages
		}
		in := func(page uint64) bool {
			for _, r := range got {
				if r.First <= page && page < r.First+r.Pages {
					return true
				}
			}
			return false
		}
		require.False(t, in(pageGPA/PageSize))
		for i := range int(min(count, MaxRanges)) {
			entry := binary.LittleEndian.Uint64(page.bytes[rangesAt+8*i:])
			first, pages := entry>>24, entry&0xffffff
			for _, at := range []uint64{first, first + pages/2, first + pages - 1} {
				if pages > 0 && at != pageGPA/PageSize {
					require.True(t, in(at), "page %#x", at)
				}
			}
			declared -= min(declared, pages)
		}
		require.LessOrEqual(t, declared, uint64(0), "no more than the entries say")
		p.Snapshot()
	})
}

// BenchmarkDeclared is what a full table adds to a standstill.
func BenchmarkDeclared(b *testing.B) {
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(b, p, r)
	page.rangesOn()
	for i := range MaxRanges {
		page.declare(i, uint64((i*7919)%MaxRanges)*1000, 500)
	}
	for b.Loop() {
		p.Declared()
	}
}

// TestEachReservedWordCounts: any of them that is not 0 tells that the page is no table any more.
func TestEachReservedWordCounts(t *testing.T) {
	words := []int{pageLeaseAt, pageTermAt}
	for at := pageRangesAt + 4; at < pageSlot0; at += 4 {
		words = append(words, at)
	}
	require.Len(t, words, 2+(0x40-0x1c)/4)
	for _, at := range words {
		r := newRAM(4)
		p := NewPort(r)
		page := newPage(t, p, r)
		page.rangesOn()
		page.declare(0, 10, 5)
		require.NotEmpty(t, p.Declared())
		atomic.StoreUint32(page.word(at), 1)
		require.Empty(t, p.Declared(), "%#x", at)
	}
}
