package boot

import (
	"cmp"
	"slices"

	"taskguide/memory"
)

// Types of memory in a memory map, as E820 and PVH number them.
const (
	memoryRAM      = 1
	memoryReserved = 2
)

// memoryRange is an entry of a memory map.
type memoryRange struct {
	addr, size uint64
	kind       uint32
}

// Where a PC has video memory and firmware rather than RAM. This machine has RAM
// there too, but kernels look for tables in it and keep their own data out of it.
const (
	legacyStart = 0xa0000
	legacyEnd   = 0x100000
)

// memoryMap describes RAM to a kernel.
func memoryMap(regions []memory.Region) []memoryRange {
	var m []memoryRange
	for _, r := range regions {
		size := uint64(r.Pages) * memory.PageSize
		if r.GPA != 0 {
			m = append(m, memoryRange{r.GPA, size, memoryRAM})
			continue
		}
		m = append(m,
			memoryRange{0, legacyStart, memoryRAM},
			memoryRange{legacyStart, legacyEnd - legacyStart, memoryReserved},
			memoryRange{legacyEnd, size - legacyEnd, memoryRAM},
			memoryRange{ECAMBase, ECAMBytes, memoryReserved})
	}
	return m
}

// span is a range of guest-physical addresses.
type span struct{ start, end uint64 }

// layout finds room in the RAM below the MMIO hole for what a kernel is given.
type layout struct {
	end  uint64 // of the RAM
	used []span
}

// newLayout returns a layout that keeps clear of the first page, where a null pointer points, and
// of what a PC has below 1 MiB.
func newLayout(regions []memory.Region) *layout {
	return &layout{
		end:  uint64(regions[0].Pages) * memory.PageSize,
		used: []span{{0, memory.PageSize}, {legacyStart, legacyEnd}},
	}
}

// reserve marks a range as used. It may overlap others.
func (l *layout) reserve(start, end uint64) {
	l.used = append(l.used, span{start, end})
}

// lowest takes the lowest free range of size bytes that begins on a page at or above floor; highest
// takes the highest free range.
func (l *layout) lowest(size, floor uint64) (uint64, bool) {
	slices.SortFunc(l.used, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	at := floor
	for _, u := range l.used {
		if u.start >= at && u.start-at >= size {
			break
		}
		at = max(at, pageUp(u.end))
	}
	if at > l.end || l.end-at < size {
		return 0, false
	}
	l.reserve(at, at+size)
	return at, true
}

func (l *layout) highest(size uint64) (uint64, bool) {
	slices.SortFunc(l.used, func(a, b span) int { return cmp.Compare(b.end, a.end) })
	top := l.end
	for _, u := range l.used {
		if u.end <= top && top-u.end >= pageUp(size) {
			break
		}
		top = min(top, u.start&^(memory.PageSize-1))
	}
	if top < pageUp(size) {
		return 0, false
	}
	at := top - pageUp(size)
	l.reserve(at, top)
	return at, true
}

func pageUp(n uint64) uint64 { return (n + memory.PageSize - 1) &^ (memory.PageSize - 1) }
