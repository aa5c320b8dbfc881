package guest

import (
	"sync/atomic"
	"unsafe"

	"taskguide/tagging/abi"
)

// page is the tag page, struct tag_page of tag.h. Words are accessed atomically, because the host
// reads and writes them at any time.
type page struct {
	magic   atomic.Uint32
	version atomic.Uint32
	notify  atomic.Uint32 // written by the host
	slots   atomic.Uint32
	_       [12]uint32
	slot    [abi.PageSlots]slot
}

// slot is struct tag_slot.
type slot struct {
	flags atomic.Uint32
	task  atomic.Uint32
	depth atomic.Uint32
	_     [13]uint32
}

// The structure is exactly one page.
const (
	_ = abi.PageSize - unsafe.Sizeof(page{})
	_ = unsafe.Sizeof(page{}) - abi.PageSize
)

// pageOf returns mem as a tag page.
//
// Sound if mem is at least a page long, which the bounds check ensures, aligned to
// 4 bytes, as every mapping is, and stays mapped for as long as the page is used,
// which its owner Tags sees to. The structure holds no pointers.
func pageOf(mem []byte) *page {
	return (*page)(unsafe.Pointer(&mem[:abi.PageSize][0]))
}

// format makes the page an empty tag page. It writes the magic last, because the host does not
// accept a tag page without it.
func (p *page) format() {
	p.magic.Store(0)
	p.notify.Store(0)
	for i := range p.slot {
		p.slot[i].flags.Store(abi.SlotFree)
	}
	p.slots.Store(abi.PageSlots)
	p.version.Store(abi.PageVersion)
	p.magic.Store(abi.PageMagic)
}

func (p *page) notified() bool { return p.notify.Load() != 0 }

// claim takes a free slot for a task, outside any segment. It returns nil if no slot is free.
func (p *page) claim(task uint32) *slot {
	for i := range p.slot {
		s := &p.slot[i]
		if !s.flags.CompareAndSwap(abi.SlotFree, abi.SlotClaimed) {
			continue
		}
		s.task.Store(task)
		s.depth.Store(0)
		s.flags.Store(abi.SlotUsed)
		return s
	}
	return nil
}

func (s *slot) release() { s.flags.Store(abi.SlotFree) }

// setDepth sets the task's depth and tells whether the host wants a ring. The load never overtakes
// the store, because sync/atomic operations are sequentially consistent. The host stores notify and
// then loads depths, so one of the two sees the other's store.
func (s *slot) setDepth(p *page, depth uint32) (ring bool) {
	s.depth.Store(depth)
	return p.notified()
}
