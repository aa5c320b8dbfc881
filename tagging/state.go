package tagging

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// The saved state is little-endian, without padding:
//
//	magic "TAGS", version u16, 0 u16
//	epoch, state, page latch, clock latch: u32; tag page u64, 0 for none
//	enters, exits, registers, unregisters: u64
//	errors of access, task, full, page: u64
//	number of tasks u32, then the tasks by ascending id:
//	  id, depth, flags u32; segments u64; since i64, in ns since 1970;
//	  inside, outside i64, in ns
//
// It includes neither what the listener knows nor notify, which Moved sets.
const (
	stateMagic     = "TAGS"
	stateVersion   = 1
	stateFastFlag  = 1
	stateHeadBytes = 8 + 4*4 + 8 + 8*8 + 4
	stateTaskBytes = 3*4 + 4*8

	// maxSpent bounds loaded times, so that additions to them cannot overflow.
	maxSpent = math.MaxInt64 / 2

	// MaxStateBytes is the most bytes that Save returns and Load accepts.
	MaxStateBytes = stateHeadBytes + MaxTasks*stateTaskBytes
)

// Save returns the port's state for the destination.
func (p *Port) Save() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	le := binary.LittleEndian
	b := make([]byte, 0, stateHeadBytes+len(p.table.tasks)*stateTaskBytes)
	b = append(b, stateMagic...)
	b = le.AppendUint16(b, stateVersion)
	b = le.AppendUint16(b, 0)
	for _, v := range []uint32{p.epoch, uint32(p.state), p.pageLo, p.clockHi} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint64(b, p.pageGPA())
	for _, v := range []uint64{
		p.counters.Enters, p.counters.Exits, p.counters.Registers, p.counters.Unregisters,
		p.errors.Access, p.errors.Task, p.errors.Full, p.errors.Page,
	} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, uint32(len(p.table.tasks)))
	now := p.now()
	for _, id := range slices.Sorted(maps.Keys(p.table.tasks)) {
		t := p.table.tasks[id]
		t.sumUp(now)
		b = t.append(b, id)
	}
	return b
}

func (t *task) append(b []byte, id uint32) []byte {
	le := binary.LittleEndian
	var flags uint32
	if t.fast {
		flags |= stateFastFlag
	}
	b = le.AppendUint32(b, id)
	b = le.AppendUint32(b, t.depth)
	b = le.AppendUint32(b, flags)
	b = le.AppendUint64(b, t.segments)
	b = le.AppendUint64(b, uint64(t.since.UnixNano()))
	b = le.AppendUint64(b, uint64(t.inside))
	return le.AppendUint64(b, uint64(t.outside))
}

// Load replaces the port's state by one that Save returned, possibly on another host. It trusts
// nothing in it. On error, the port is unchanged. Load does not read the tag page, because the page
// may arrive later.
func (p *Port) Load(state []byte) error {
	p.order.Lock()
	defer p.order.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	loaded, err := p.parse(state)
	if err != nil {
		return fmt.Errorf("load tag port: %w", err)
	}
	p.epoch, p.state = loaded.epoch, loaded.state
	p.pageLo, p.clockHi = loaded.pageLo, loaded.clockHi
	p.counters, p.errors = loaded.counters, loaded.errors
	p.table, p.page = loaded.table, loaded.page
	p.seen = slots{} // so that the next look counts
	return nil
}

// decoder takes fields off a byte slice that is known to be long enough.
type decoder []byte

func (d *decoder) u16() uint16 {
	v := binary.LittleEndian.Uint16(*d)
	*d = (*d)[2:]
	return v
}

func (d *decoder) u32() uint32 {
	v := binary.LittleEndian.Uint32(*d)
	*d = (*d)[4:]
	return v
}

func (d *decoder) u64() uint64 {
	v := binary.LittleEndian.Uint64(*d)
	*d = (*d)[8:]
	return v
}

// parse returns a port with the fields that Load takes over.
func (p *Port) parse(state []byte) (*Port, error) {
	if len(state) < stateHeadBytes || string(state[:4]) != stateMagic {
		return nil, fmt.Errorf("%d bytes are no tag port state", len(state))
	}
	d := decoder(state[4:])
	if v := d.u16(); v != stateVersion {
		return nil, fmt.Errorf("state version %d is unknown, this is version %d: use the same "+
			"version on both hosts", v, stateVersion)
	}
	if d.u16() != 0 {
		return nil, errors.New("reserved field is set")
	}
	loaded := newPort(p.mem, p.now)
	loaded.device.pages = p.device.pages // which are loaded later
	loaded.epoch, loaded.state = d.u32(), MigrationState(d.u32())
	if loaded.state > StateSwitchingOver {
		return nil, fmt.Errorf("migration state %d is unknown", loaded.state)
	}
	loaded.pageLo, loaded.clockHi = d.u32(), d.u32()
	if err := loaded.parsePage(d.u64()); err != nil {
		return nil, err
	}
	loaded.counters = Counters{
		Enters: d.u64(), Exits: d.u64(), Registers: d.u64(), Unregisters: d.u64(),
	}
	loaded.countErrors(GuestErrors{Access: d.u64(), Task: d.u64(), Full: d.u64(), Page: d.u64()})
	tasks := d.u32()
	if tasks > MaxTasks || len(d) != int(tasks)*stateTaskBytes {
		return nil, fmt.Errorf("%d tasks in %d bytes", tasks, len(d))
	}
	return loaded, loaded.parseTasks(d)
}

// slotsAtMost is how many slots of tag pages there can be.
func (p *Port) slotsAtMost() int {
	n := 0
	if p.page != nil {
		n = PageSlots
	}
	return n + len(p.device.pages)*PageSlots
}

func (p *Port) parsePage(gpa uint64) error {
	if gpa == 0 {
		return nil
	}
	page, ok := newTagPage(p.mem, gpa)
	if !ok {
		return fmt.Errorf("tag page %#x is no page of RAM", gpa)
	}
	p.page = page
	return nil
}

func (p *Port) parseTasks(d decoder) error {
	now := p.now()
	next := uint64(0) // smallest id that may come next
	for len(d) > 0 {
		id, depth, flags := d.u32(), d.u32(), d.u32()
		t := &task{fast: flags&stateFastFlag != 0, depth: depth, marked: now}
		t.segments, t.since = d.u64(), time.Unix(0, int64(d.u64()))
		inside, outside := d.u64(), d.u64()
		switch {
		case uint64(id) < next:
			return fmt.Errorf("task %d is out of order", id)
		case flags&^stateFastFlag != 0:
			return fmt.Errorf("task %d has unknown flags %#x", id, flags)
		case t.fast && len(p.table.fast) >= p.slotsAtMost():
			return fmt.Errorf("task %d has no slot in the tag page", id)
		case inside > maxSpent || outside > maxSpent:
			return fmt.Errorf("task %d was there for longer than a century", id)
		}
		next = uint64(id) + 1
		t.inside, t.outside = time.Duration(inside), time.Duration(outside)
		p.table.insert(id, t)
	}
	return nil
}

// Fingerprint returns the part of the port's state that a guest can read back or relies on, without
// times, counts and what a migration changes (EPOCH, STATE). It is equal on both sides of a
// faithful migration. It leaves fast tasks out, because the truth about them is in guest RAM.
func (p *Port) Fingerprint() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	le := binary.LittleEndian
	b := le.AppendUint64(nil, p.pageGPA())
	b = le.AppendUint32(b, p.pageLo)
	b = le.AppendUint32(b, p.clockHi)
	for _, id := range slices.Sorted(maps.Keys(p.table.tasks)) {
		if t := p.table.tasks[id]; !t.fast {
			b = le.AppendUint32(b, id)
			b = le.AppendUint32(b, t.depth)
		}
	}
	return b
}

// pageGPA returns the address of the tag page, or 0 if there is none.
func (p *Port) pageGPA() uint64 {
	if p.page == nil {
		return 0
	}
	return p.page.gpa
}
