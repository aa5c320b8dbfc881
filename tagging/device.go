package tagging

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"time"

	"taskguide/tagging/abi"
)

// PCIDevice is the device number of the tag port's PCI function.
const PCIDevice = abi.PCIDevice

// DevicePages is how many tag pages the device's own RAM holds, which has DeviceBytes.
const (
	DevicePages = abi.DevicePages
	DeviceBytes = abi.DeviceBytes
)

// A page's lease ends when nobody has renewed it for the term that the page says, within these
// bounds. Time is counted in steps, at most two [LeaseStep] in each, so a host that did not get to
// count for a while does not end a lease by that.
const (
	LeaseStep = 100 * time.Millisecond
	minTerm   = 5 * LeaseStep
	maxTerm   = abi.MaxTerm
)

// devicePages are the tag pages in device RAM. The port's mu guards them.
type devicePages struct {
	pages     []tagPage // DevicePages, or none
	committed uint32    // bit i: the port looks at page i
	leases    [DevicePages]lease
	more      chan struct{} // tells CountLeases' caller that there are pages
	counted   time.Time     // until when leases were counted
	lapsed    uint64        // pages that were given up
}

// lease is what the port knows of a page's lease.
type lease struct {
	known bool // seen is its word
	seen  uint32
	idle  time.Duration // since it was renewed
}

// all returns the committed pages by number.
func (d *devicePages) all() iter.Seq2[int, *tagPage] {
	return func(yield func(int, *tagPage) bool) {
		for rest := d.committed; rest != 0; rest &= rest - 1 {
			i := bits.TrailingZeros32(rest)
			if !yield(i, &d.pages[i]) {
				return
			}
		}
	}
}

// renew begins all leases anew.
func (d *devicePages) renew() { d.leases = [DevicePages]lease{} }

// count adds time to the idle leases, and returns the pages whose leases have ended, one bit for
// each.
func (d *devicePages) count(passed time.Duration) (ended uint32) {
	for i, page := range d.all() {
		l := &d.leases[i]
		word, term := page.load(pageLeaseAt), page.load(pageTermAt)
		if term == 0 || !l.known || word != l.seen {
			*l = lease{known: true, seen: word}
			continue
		}
		l.idle += passed
		if l.idle >= min(max(time.Duration(term)*time.Millisecond, minTerm), maxTerm) {
			ended |= 1 << i
		}
	}
	return ended
}

// UseDevice gives the port DeviceBytes of device RAM, page-aligned, for tag pages that a guest
// commits by the register PAGES. It must stay mapped as long as the port is used. A machine that
// has none does without UseDevice.
func (p *Port) UseDevice(ram []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(ram) != DeviceBytes || !aligned(ram) {
		panic(fmt.Sprintf("device RAM of %d bytes", len(ram)))
	}
	for i := range DevicePages {
		page := tagPage{bytes: ram[i*PageSize : (i+1)*PageSize : (i+1)*PageSize]}
		p.device.pages = append(p.device.pages, page)
	}
}

// commit makes the pages of a set those that the port looks at in device RAM, bit i for page i. It
// refuses pages without the header of a tag page. Both locks must be held.
func (p *Port) commit(set uint32) {
	d := &p.device
	if set>>DevicePages != 0 || len(d.pages) == 0 && set != 0 {
		p.countErrors(GuestErrors{Page: 1})
		return
	}
	for i, page := range d.all() {
		if set&(1<<i) == 0 {
			page.setNotify(false)
		}
	}
	d.committed = set
	for i, page := range d.all() {
		if !page.valid() {
			d.committed &^= 1 << i
			p.countErrors(GuestErrors{Page: 1})
		}
		d.leases[i] = lease{}
		// A task changes its slot and then loads notify. This side stores notify, and then looks.
		page.setNotify(p.attached != nil)
	}
	d.announce()
	var c change
	seen := p.look(&c)
	p.transition(&c, seen)
}

// announce tells that there are pages. mu must be held.
func (d *devicePages) announce() {
	if d.committed == 0 {
		return
	}
	select {
	case d.more <- struct{}{}:
	default: // nobody has heard of the last time yet
	}
}

// PagesCommitted tells when there are pages in device RAM, whose leases are to be counted until
// HasDevicePages is false.
func (p *Port) PagesCommitted() <-chan struct{} { return p.device.more }

// HasDevicePages tells whether the port looks at pages in device RAM.
func (p *Port) HasDevicePages() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.device.committed != 0
}

// CountLeases counts the time since its last call for the leases of pages in device RAM, and gives
// up the pages whose leases have ended: it clears their magic, and looks at them no more. The tasks
// that were in them leave the gate. It returns how many pages those are.
//
// The device calls it every [LeaseStep], on a thread of its own, which is held at no EXIT. running
// tells whether vCPUs run: a daemon that cannot run cannot renew anything. It is asked with the
// port's locks held. No lease ends while vCPUs stand or a switchover is under way.
func (p *Port) CountLeases(running func() bool) (ended int) {
	p.order.Lock()
	defer p.order.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	passed := min(max(now.Sub(p.device.counted), 0), 2*LeaseStep)
	p.device.counted = now
	if p.quiet || p.state == StateSwitchingOver || !running() {
		return 0
	}
	gone := p.device.count(passed)
	if gone == 0 {
		return 0
	}
	for i, page := range p.device.all() {
		if gone&(1<<i) != 0 {
			page.store(pageMagicAt, 0)
		}
	}
	p.device.committed &^= gone
	ended = bits.OnesCount32(gone)
	p.device.lapsed += uint64(ended)
	var c change
	seen := p.look(&c)
	p.lapse(&c, seen)
	return ended
}

// The saved state of device RAM is little-endian, without padding:
//
//	committed u32; lapsed u64; bit i: page i is not zero u32; those pages
const deviceHeadBytes = 4 + 8 + 4

// MaxDeviceStateBytes is the most bytes that SaveDevice returns.
const MaxDeviceStateBytes = deviceHeadBytes + DeviceBytes

// SaveDevice returns device RAM and what the port knows of it. No vCPU may run. Pages that are all
// zero take no room.
func (p *Port) SaveDevice() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.saveDevice(p.device.lapsed)
}

func (p *Port) saveDevice(lapsed uint64) []byte {
	le := binary.LittleEndian
	d := &p.device
	b := make([]byte, deviceHeadBytes, MaxDeviceStateBytes)
	var used uint32
	for i, page := range d.pages {
		if [PageSize]byte(page.bytes) != [PageSize]byte{} {
			used |= 1 << i
			b = append(b, page.bytes...)
		}
	}
	le.PutUint32(b, d.committed)
	le.PutUint64(b[4:], lapsed)
	le.PutUint32(b[12:], used)
	return b
}

// LoadDevice replaces device RAM by what SaveDevice returned, possibly on another host. It trusts
// nothing in it. On error, nothing is changed.
func (p *Port) LoadDevice(state []byte) error {
	p.order.Lock()
	defer p.order.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(state) < deviceHeadBytes {
		return fmt.Errorf("load tag pages: %d bytes", len(state))
	}
	le := binary.LittleEndian
	committed, used := le.Uint32(state), le.Uint32(state[12:])
	pages := state[deviceHeadBytes:]
	switch {
	case len(p.device.pages) == 0:
		return errors.New("load tag pages: this machine has no RAM for them")
	case committed>>DevicePages != 0, used>>DevicePages != 0:
		return fmt.Errorf("load tag pages: committed are %#x, used %#x", committed, used)
	case len(pages) != bits.OnesCount32(used)*PageSize:
		return fmt.Errorf("load tag pages: used are %#x, with %d bytes", used, len(pages))
	}
	d := &p.device
	for i, page := range d.pages {
		clear(page.bytes)
		if used&(1<<i) != 0 {
			copy(page.bytes, pages)
			pages = pages[PageSize:]
		}
	}
	d.committed, d.lapsed = committed, le.Uint64(state[4:])
	d.renew()
	d.announce()
	p.seen = slots{}
	return nil
}

// FingerprintDevice returns what of SaveDevice a guest can see.
func (p *Port) FingerprintDevice() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.saveDevice(0)
}
