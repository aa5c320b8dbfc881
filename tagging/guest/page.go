package guest

import (
	"sync/atomic"
	"unsafe"

	"taskguide/tagging"
)

// page is the tag page, struct tag_page of tag.h. Words are accessed atomically,
// for the host reads and writes them at any time.
type page struct {
	magic   atomic.Uint32
	version atomic.Uint32
	notify  atomic.Uint32 // written by the host
	slots   atomic.Uint32
	_       [12]uint32
	slot    [tagging.PageSlots]slot
}

// slot is struct tag_slot.
type slot struct {
	flags atomic.Uint32
	task  atomic.Uint32
	depth atomic.Uint32
	_     [13]uint32
}

// Values of slot.flags.
const (
	slotFree    = 0
	slotUsed    = 1
	slotClaimed = 2 // being set up; the host ignores it
)

// The structure is the page, no more and no less.
const (
	_ = tagging.PageSize - unsafe.Sizeof(page{})
	_ = unsafe.Sizeof(page{}) - tagging.PageSize
)

// pageOf returns mem as a tag page.
//
// Sound if mem is at least a page long, which the bounds check ensures, aligned to
// 4 bytes, as every mapping is, and stays mapped for as long as the page is used,
// which its owner Tags sees to. The structure holds no pointers.
func pageOf(mem []byte) *page {
	return (*page)(unsafe.Pointer(&mem[:tagging.PageSize][0]))
}

// format makes the page an empty tag page. The magic comes last: the host takes
// nothing for a tag page without it.
func (p *page) format() {
	p.magic.Store(0)
	p.notify.Store(0)
	for i := range p.slot {
		p.slot[i].flags.Store(slotFree)
	}
	p.slots.Store(tagging.PageSlots)
	p.version.Store(tagging.PageVersion)
	p.magic.Store(tagging.PageMagic)
}

func (p *page) notified() bool { return p.notify.Load() != 0 }

// claim takes a free slot for a task, outside any segment. It returns nil when
// there is none.
func (p *page) claim(task uint32) *slot {
	for i := range p.slot {
		s := &p.slot[i]
		if !s.flags.CompareAndSwap(slotFree, slotClaimed) {
			continue
		}
		s.task.Store(task)
		s.depth.Store(0)
		s.flags.Store(slotUsed)
		return s
	}
	return nil
}

func (s *slot) release() { s.flags.Store(slotFree) }

// setDepth sets the task's depth and tells whether the host wants a ring. The
// store is followed by the load and never overtaken by it: sync/atomic operations
// are sequentially consistent. The host stores notify and then loads depths, so
// one of both sees the other's store.
func (s *slot) setDepth(p *page, depth uint32) (ring bool) {
	s.depth.Store(depth)
	return p.notified()
}
