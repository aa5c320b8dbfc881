package main

import (
	"errors"
	"slices"

	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

// errFull is returned when there is no slot.
var errFull = errors.New("the tag device is full")

// pages gives out slots of the device's RAM. The daemon's mu guards it.
type pages struct {
	dev    *guest.Device
	termMS uint32
	// free are the pages that nobody uses. A page that was given up goes to the end, so that it is
	// used again as late as possible: a program that missed its end still has it mapped.
	free  []int
	used  [abi.DevicePages][abi.PageSlots]bool
	count [abi.DevicePages]int // slots in use
	lease uint32
}

// newPages takes over a device, whose tasks of a daemon before are forgotten. Pages that were used
// before come last.
func newPages(dev *guest.Device, termMS uint32) *pages {
	p := &pages{dev: dev, termMS: termMS}
	dev.Write(abi.RegPages, 0)
	var old []int
	for i := range abi.DevicePages {
		if dev.RAM.Load(guest.PageAt(i)+guest.PageVersionAt) == 0 {
			p.free = append(p.free, i)
		} else {
			dev.RAM.Store(guest.PageAt(i)+guest.PageMagicAt, 0)
			old = append(old, i)
		}
	}
	p.free = append(p.free, old...)
	return p
}

// take returns a page for a new program: a free one, or else the one with the fewest tasks.
func (p *pages) take() int {
	if len(p.free) > 0 {
		page := p.free[0]
		p.free = p.free[1:]
		p.format(page)
		return page
	}
	least := 0
	for i, n := range p.count {
		if n < p.count[least] {
			least = i
		}
	}
	return least
}

// roomElsewhere tells whether take would return a page with a free slot.
func (p *pages) roomElsewhere() bool {
	return len(p.free) > 0 || slices.Min(p.count[:]) < abi.PageSlots
}

// format makes a page an empty tag page, and commits it.
func (p *pages) format(page int) {
	at, ram := guest.PageAt(page), p.dev.RAM
	for word := uint32(0); word < abi.PageSize; word += 4 {
		ram.Store(at+word, 0)
	}
	ram.Store(at+guest.PageVersionAt, abi.PageVersion)
	ram.Store(at+guest.PageSlotsAt, abi.PageSlots)
	ram.Store(at+guest.PageTermAt, p.termMS)
	ram.Store(at+guest.PageMagicAt, abi.PageMagic)
	guest.Fence()
	p.dev.Write(abi.RegPages, p.dev.Read(abi.RegPages)|1<<page)
}

// drop gives a page up that has no tasks any more.
func (p *pages) drop(page int) {
	p.dev.Write(abi.RegPages, p.dev.Read(abi.RegPages)&^(1<<page))
	p.dev.RAM.Store(guest.PageAt(page)+guest.PageMagicAt, 0)
	p.free = append(p.free, page)
}

// open fills a free slot of a page in.
func (p *pages) open(page int, id uint32, name string) (slot int, err error) {
	for slot = range p.used[page] {
		if !p.used[page][slot] {
			break
		}
	}
	if p.used[page][slot] {
		return 0, errFull
	}
	p.used[page][slot] = true
	p.count[page]++
	at, ram := guest.SlotAt(page, slot), p.dev.RAM
	ram.Store(at+guest.SlotTaskAt, id)
	ram.Store(at+guest.SlotDepthAt, 0)
	var text [abi.SlotNameBytes]byte
	copy(text[:], name)
	for i := 0; i < len(text); i += 4 {
		word := uint32(text[i]) | uint32(text[i+1])<<8 | uint32(text[i+2])<<16 |
			uint32(text[i+3])<<24
		ram.Store(at+guest.SlotNameAt+uint32(i), word)
	}
	ram.Store(at+guest.SlotFlagsAt, abi.SlotUsed)
	guest.Fence()
	p.dev.Write(abi.RegRegister, id)
	return slot, nil
}

// close frees a slot, and the host forgets its task.
func (p *pages) close(page, slot int, id uint32) {
	p.dev.RAM.Store(guest.SlotAt(page, slot)+guest.SlotFlagsAt, abi.SlotFree)
	guest.Fence()
	p.dev.Write(abi.RegUnregister, id)
	p.used[page][slot] = false
	p.count[page]--
}

// setDepth sets a task's depth in the name of a program that has no mapping, and rings.
func (p *pages) setDepth(page, slot int, id, depth uint32, enter bool) {
	at := guest.SlotAt(page, slot) + guest.SlotDepthAt
	p.dev.RAM.Store(at, depth)
	guest.Fence()
	p.ring(id, enter)
}

// ring tells the host that a task's depth has changed. The machine may be moved inside.
func (p *pages) ring(id uint32, enter bool) {
	register := uint32(abi.RegExit)
	if enter {
		register = abi.RegEnter
	}
	p.dev.Write(register, id)
}

func (p *pages) depth(page, slot int) uint32 {
	return p.dev.RAM.Load(guest.SlotAt(page, slot) + guest.SlotDepthAt)
}

// renew renews the leases of the pages that are in use. It returns the pages that the host gave up,
// because they were not renewed for too long.
func (p *pages) renew() (lapsed []int) {
	p.lease++
	for page, n := range p.count {
		if n == 0 {
			continue
		}
		if p.dev.RAM.Load(guest.PageAt(page)+guest.PageMagicAt) != abi.PageMagic {
			lapsed = append(lapsed, page)
			continue
		}
		p.dev.RAM.Store(guest.PageAt(page)+guest.PageLeaseAt, p.lease)
	}
	return lapsed
}

// state returns what the device says of migrations.
func (p *pages) state() guest.Migration {
	return guest.Migration{
		State:      abi.MigrationState(p.dev.Read(abi.RegState)),
		DeadlineMS: p.dev.Read(abi.RegDeadlineMS),
		Epoch:      p.dev.Read(abi.RegEpoch),
	}
}
