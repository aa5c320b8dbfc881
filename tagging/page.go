package tagging

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
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
	pageLeaseAt   = 0x10 // renewed by a change
	pageTermAt    = 0x14 // how long the lease lasts without one, in ms; 0: there is none
	pageSlot0     = 0x40
	pageSlotBytes = 0x40

	slotFlagsAt = 0x0
	slotTaskAt  = 0x4
	slotDepthAt = 0x8
	slotNameAt  = 0x20

	slotUsed = abi.SlotUsed
)

// slot is what a used slot of the tag page says.
type slot struct{ task, depth uint32 }

// slots is the result of one look at the tag pages: the used slots, in order. The zero value
// differs from the result of every look.
type slots struct {
	looked bool
	used   []slot
}

// newSlots returns the beginning of a look that will find about n slots.
func newSlots(n int) slots { return slots{looked: true, used: make([]slot, 0, n)} }

func (s *slots) equal(o *slots) bool {
	return s.looked == o.looked && slices.Equal(s.used, o.used)
}

func (s *slots) has(task uint32) bool {
	for _, u := range s.used {
		if u.task == task {
			return true
		}
	}
	return false
}

// tagPage is a page of guest RAM or device RAM that holds fast tags. The guest may change any of it
// at any time. So words are loaded atomically, once each, and are trusted with nothing but the
// state of tasks.
type tagPage struct {
	mem   Memory // RAM that the page is in; nil: device RAM, which no dirty log knows
	gpa   uint64 // in RAM
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
	b, ok := mem.Slice(gpa, PageSize)
	if !ok || len(b) != PageSize || !aligned(b) {
		return nil, false
	}
	return &tagPage{mem: mem, gpa: gpa, bytes: b}, true
}

// aligned tells whether 64-bit words of b can be accessed atomically. It checks only the address.
func aligned(b []byte) bool { return uintptr(unsafe.Pointer(&b[0]))%8 == 0 }

// valid tells whether the page still has the header of a tag page. A program that dies without
// giving up its page leaves it to the guest's kernel, which uses it for something else. From then
// on, the port must not write to it.
func (p *tagPage) valid() bool {
	return p.load(pageMagicAt) == PageMagic && p.load(pageVersionAt) == PageVersion
}

// setNotify says whether the guest must ring the port after changing a slot. Slots that are read
// afterwards include every change without a ring, because the atomic store is a full barrier on
// amd64, as the Go memory model requires.
func (p *tagPage) setNotify(on bool) {
	if !p.valid() || p.mem != nil && p.load(pageNotifyAt) > 1 {
		return // it is somebody else's by now: only the host writes that word
	}
	var v uint32
	if on {
		v = 1
	}
	p.store(pageNotifyAt, v)
}

// store sets the word at offset at.
func (p *tagPage) store(at int, v uint32) {
	if p.mem != nil {
		p.mem.StoreUint32(p.gpa+uint64(at), v)
		return
	}
	atomic.StoreUint32(p.word(at), v)
}

// load returns the word at offset at.
func (p *tagPage) load(at int) uint32 { return atomic.LoadUint32(p.word(at)) }

// read adds the used slots to out. It returns false if the page is no longer a tag page.
func (p *tagPage) read(out *slots) bool {
	if !p.valid() {
		return false
	}
	p.each(func(at int) {
		out.used = append(out.used, slot{
			task: p.load(at + slotTaskAt), depth: p.load(at + slotDepthAt),
		})
	})
	return true
}

// each calls f with the offset of each used slot.
func (p *tagPage) each(f func(at int)) {
	count := min(p.load(pageSlotsAt), PageSlots)
	if p.mem != nil && p.load(pageRangesAt) != 0 {
		count = min(count, abi.RangesSlots)
	}
	for i := range int(count) {
		at := pageSlot0 + i*pageSlotBytes
		if p.load(at+slotFlagsAt) == slotUsed {
			f(at)
		}
	}
}

// name returns the name in the slot at offset at: its printable ASCII up to the first 0, with a
// question mark for any other byte. The guest chooses it, and people read it.
func (p *tagPage) name(at int) string {
	var b []byte
	for i := 0; i < abi.SlotNameBytes; i += 4 {
		b = binary.LittleEndian.AppendUint32(b, p.load(at+slotNameAt+i))
	}
	if end := bytes.IndexByte(b, 0); end >= 0 {
		b = b[:end]
	}
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
