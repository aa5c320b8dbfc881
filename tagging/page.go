package tagging

import (
	"math"
	"sync/atomic"
	"unsafe"

	"taskguide/tagging/abi"
)

// This is the layout of the tag page, the same as struct tag_page of tag.h. Offsets are in bytes.
const (
	PageSize    = abi.PageSize
	PageMagic   = abi.PageMagic
	PageVersion = abi.PageVersion
	PageSlots   = abi.PageSlots

	pageMagicAt   = 0x00
	pageVersionAt = 0x04
	pageNotifyAt  = 0x08
	pageSlotsAt   = 0x0c
	pageSlot0     = 0x40
	pageSlotBytes = 0x40

	slotFlagsAt = 0x0
	slotTaskAt  = 0x4
	slotDepthAt = 0x8

	slotUsed = abi.SlotUsed
)

// slot is what a used slot of the tag page says.
type slot struct{ task, depth uint32 }

// slots is the result of one look at the tag page: the used slots, in order.
type slots struct {
	n    int
	used [PageSlots]slot
}

func (s *slots) list() []slot { return s.used[:s.n] }

func (s *slots) has(task uint32) bool {
	for _, u := range s.list() {
		if u.task == task {
			return true
		}
	}
	return false
}

// tagPage is a page of guest RAM that holds fast tags. The guest may change any of it at any time.
// So words are loaded atomically, once each, and are trusted with nothing but the state of tasks.
type tagPage struct {
	gpa   uint64
	bytes []byte // PageSize live bytes
}

// word returns the 32-bit word at offset at.
//
// Sound because bytes is PageSize bytes (checked when the page is made), at is a
// constant or computed to lie inside the page and to be a multiple of 4, and the
// host maps guest RAM page by page, which aligns bytes like gpa; aligned is
// checked when the page is made too.
func (p *tagPage) word(at int) *uint32 {
	return (*uint32)(unsafe.Pointer(&p.bytes[at : at+4][0]))
}

// newTagPage returns the page at gpa, or false unless it is an aligned page of RAM.
func newTagPage(mem Memory, gpa uint64) (*tagPage, bool) {
	if mem == nil || gpa == 0 || gpa%PageSize != 0 || gpa > math.MaxUint64-PageSize {
		return nil, false
	}
	bytes, ok := mem.Slice(gpa, PageSize)
	if !ok || len(bytes) != PageSize || !aligned(bytes) {
		return nil, false
	}
	return &tagPage{gpa: gpa, bytes: bytes}, true
}

// aligned tells whether 32-bit words of b can be accessed atomically. It checks only the address.
func aligned(b []byte) bool { return uintptr(unsafe.Pointer(&b[0]))%4 == 0 }

// valid tells whether the page still has the header of a tag page. A program that dies without
// giving up its page leaves it to the guest's kernel, which uses it for something else. From then
// on, the port must not write to it.
func (p *tagPage) valid() bool {
	return atomic.LoadUint32(p.word(pageMagicAt)) == PageMagic &&
		atomic.LoadUint32(p.word(pageVersionAt)) == PageVersion
}

// setNotify says whether the guest must ring the port after changing a slot. Slots that are read
// afterwards include every change without a ring, because the atomic store is a full barrier on
// amd64, as the Go memory model requires.
func (p *tagPage) setNotify(mem Memory, on bool) {
	if !p.valid() {
		return
	}
	var v uint32
	if on {
		v = 1
	}
	mem.StoreUint32(p.gpa+pageNotifyAt, v)
}

// read reads the slots. It returns false if the page is no longer a tag page.
func (p *tagPage) read(out *slots) bool {
	out.n = 0
	if !p.valid() {
		return false
	}
	count := min(atomic.LoadUint32(p.word(pageSlotsAt)), PageSlots)
	for i := range int(count) {
		at := pageSlot0 + i*pageSlotBytes
		if atomic.LoadUint32(p.word(at+slotFlagsAt)) != slotUsed {
			continue
		}
		out.used[out.n] = slot{
			task:  atomic.LoadUint32(p.word(at + slotTaskAt)),
			depth: atomic.LoadUint32(p.word(at + slotDepthAt)),
		}
		out.n++
	}
	return true
}
