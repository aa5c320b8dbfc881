package tagging

import (
	"math"
	"sync"
	"time"

	"taskguide/tagging/abi"
)

// These are the registers of package abi.
const (
	PortBase  = abi.PortBase
	PortBytes = abi.PortBytes
	MMIOBase  = abi.MMIOBase
	MMIOBytes = abi.MMIOBytes

	RegID         = abi.RegID
	RegVersion    = abi.RegVersion
	RegEnter      = abi.RegEnter
	RegExit       = abi.RegExit
	RegState      = abi.RegState
	RegEpoch      = abi.RegEpoch
	RegRegister   = abi.RegRegister
	RegUnregister = abi.RegUnregister
	RegPageLo     = abi.RegPageLo
	RegPageHi     = abi.RegPageHi
	RegClockLo    = abi.RegClockLo
	RegClockHi    = abi.RegClockHi
	RegDeadlineMS = abi.RegDeadlineMS
	RegClones     = abi.RegClones
	RegPages      = abi.RegPages

	ID      = abi.ID
	Version = abi.Version
)

// Port is the tag port of one machine: its registers, the tasks behind them and
// the gate. It is safe for concurrent use.
//
// Lock order: order, then mu. The port calls the listener with order held and mu free, so that
// calls do not overlap and registers can still be read.
type Port struct {
	mem Memory
	now func() time.Time

	// order is held during a write to the registers, including the listener's calls, and during
	// anything that must not happen in the middle of one.
	order sync.Mutex

	mu     sync.Mutex
	table  table
	page   *tagPage // in guest RAM; nil for none
	device devicePages
	seen   slots // the pages as the table knows them
	// forgotten is set once the pages' memory may be gone. seen then stays as it is.
	forgotten bool
	attached  *attachment
	// asking is set while a change waits for GateClosing to return. The table must not change then.
	asking      bool
	state       MigrationState
	epoch       uint32
	pageLo      uint32 // latched until RegPageHi is written
	clockHi     uint32 // latched by reading RegClockLo
	counters    Counters
	errors      GuestErrors
	subscribers map[*subscriber]struct{}
	quiet       bool // the machine stands still, RAM must stay as it is
	notifyDue   bool // notify is to be set once it runs
}

// attachment is one attachment of a listener. Its address distinguishes it from others of the same
// listener.
type attachment struct {
	quorum   Quorum
	listener Listener
}

// NewPort returns a port without tasks. Slices of mem must stay mapped as long as the port is used.
func NewPort(mem Memory) *Port { return newPort(mem, time.Now) }

func newPort(mem Memory, now func() time.Time) *Port {
	return &Port{
		mem:         mem,
		now:         now,
		table:       newTable(),
		subscribers: make(map[*subscriber]struct{}),
		device:      devicePages{more: make(chan struct{}, 1)},
	}
}

// Read is a guest's read of size bytes at offset. Only a whole readable register has a value. Any
// other read returns 0 and is counted as a guest error.
func (p *Port) Read(offset uint64, size int) uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if size != 4 {
		p.countErrors(GuestErrors{Access: 1})
		return 0
	}
	switch offset {
	case RegID:
		return ID
	case RegVersion:
		return Version
	case RegState:
		return uint32(p.state)
	case RegEpoch:
		return p.epoch
	case RegClockLo:
		ns := uint64(p.now().UnixNano())
		p.clockHi = uint32(ns >> 32)
		return uint32(ns)
	case RegClockHi:
		return p.clockHi
	case RegDeadlineMS:
		return p.deadline()
	case RegClones:
		return 0 // no snapshot of this machine was restored
	case RegPages:
		return p.device.committed
	}
	p.countErrors(GuestErrors{Access: 1})
	return 0
}

// Write is a guest's write of the size low bytes of v at offset. Only a write of a whole writable
// register has an effect. Any other write is counted as a guest error. The listener may hold the
// calling vCPU in here.
func (p *Port) Write(offset uint64, size int, v uint32) {
	if offset == RegExit && size == 4 {
		p.forewarn(v)
	}
	p.order.Lock()
	defer p.order.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if size != 4 {
		p.countErrors(GuestErrors{Access: 1})
		return
	}
	switch offset {
	case RegEnter:
		p.counters.Enters++
		p.tag(Entered, v)
	case RegExit:
		p.counters.Exits++
		p.tag(Exited, v)
	case RegRegister:
		p.counters.Registers++
		p.tag(Registered, v)
	case RegUnregister:
		p.counters.Unregisters++
		p.tag(Unregistered, v)
	case RegPageLo:
		p.pageLo = v
	case RegPageHi:
		p.setPage(uint64(v)<<32 | uint64(p.pageLo))
	case RegPages:
		p.commit(v)
	default:
		p.countErrors(GuestErrors{Access: 1})
	}
}

// deadline returns how long the attached migration can still be held back, in ms, rounded up, or 0
// if that is not known. mu must be held, and is released while the listener is asked.
func (p *Port) deadline() uint32 {
	if p.attached == nil {
		return 0
	}
	l, ok := p.attached.listener.(Deadliner)
	if !ok {
		return 0
	}
	var left time.Duration
	p.unlocked(func() { left, ok = l.Deadline() })
	if !ok {
		return 0
	}
	// 0 would say that there is no deadline.
	return uint32(min(max(left.Milliseconds(), 1), math.MaxUint32))
}

// forewarn tells a listener that wants to know it of an EXIT that would close the gate.
func (p *Port) forewarn(id uint32) {
	if l := p.wouldClose(id); l != nil {
		l.GateMayClose()
	}
}

// wouldClose returns the listener to forewarn of a task's EXIT, nil if there is none or the EXIT
// would not close the gate.
func (p *Port) wouldClose(id uint32) Forewarned {
	p.order.Lock()
	defer p.order.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attached == nil {
		return nil
	}
	l, ok := p.attached.listener.(Forewarned)
	if !ok {
		return nil
	}
	c, _ := p.change(Exited, id)
	// What the look found about pages will not be found again. All else will be.
	p.countErrors(GuestErrors{Page: c.errors.Page})
	quorum := p.attached.quorum
	if !p.table.gate(quorum).Open || p.table.gateAfter(quorum, &c).Open {
		return nil
	}
	return l
}

// tag carries out what a task wrote. Both locks must be held.
func (p *Port) tag(event Change, id uint32) {
	c, seen := p.change(event, id)
	p.transition(&c, seen)
}

// change returns what a task's write changes, and the look at the tag pages that this comes from.
// If the task has a slot, its write only asks for that look. Both locks must be held.
func (p *Port) change(event Change, id uint32) (c change, seen slots) {
	seen = p.look(&c)
	switch {
	case seen.has(id) && event == Unregistered:
		c.errors.Task++ // it must give its slot up first
	case seen.has(id):
	case event == Unregistered && p.hasPages() && !p.knows(&c, id):
		// It is a fast task's, whose freed slot was seen before this ring.
	default:
		p.table.tag(event, id, &c)
	}
	return c, seen
}

func (p *Port) knows(c *change, id uint32) bool {
	_, known := p.table.state(c, id)
	return known
}

// setPage makes the page at gpa the tag page, or turns it off if gpa is 0. Both locks must be held.
func (p *Port) setPage(gpa uint64) {
	var page *tagPage
	if gpa != 0 {
		var ok bool
		if page, ok = newTagPage(p.mem, gpa); !ok || !page.valid() {
			p.countErrors(GuestErrors{Page: 1})
			return
		}
	}
	if p.page != nil {
		p.page.setNotify(false)
	}
	p.page = page
	if page != nil {
		page.setNotify(p.attached != nil)
	}
	var c change
	seen := p.look(&c)
	p.transition(&c, seen)
}

// hasPages tells whether tasks can have slots. mu must be held.
func (p *Port) hasPages() bool { return p.page != nil || p.device.committed != 0 }

// look adds to c what the tag pages have that the table does not know, and returns the slots. It
// gives up pages that are no longer tag pages, whose slots it does not return. Both locks must be
// held.
func (p *Port) look(c *change) slots {
	if p.forgotten {
		return p.seen
	}
	seen := newSlots(len(p.seen.used))
	if p.page != nil && !p.page.read(&seen) {
		p.page = nil
		c.errors.Page++
	}
	for i, page := range p.device.all() {
		if !page.read(&seen) {
			p.device.committed &^= 1 << i
			c.errors.Page++
		}
	}
	p.compare(&seen, c)
	return seen
}

// compare adds to c how seen differs from what the table knows of the tag page.
func (p *Port) compare(seen *slots, c *change) {
	if !seen.equal(&p.seen) {
		p.table.look(seen, c)
	}
}

// transition applies c, and tells the listener if c opens or closes the gate. seen is the look at
// the tag page that c comes from. Both locks must be held. mu is released during the listener's
// calls.
func (p *Port) transition(c *change, seen slots) {
	p.transitionUnless(c, seen, Listener.GateClosing)
}

// lapse is transition for tasks whose pages were given up. Nobody is at an EXIT there, so nobody is
// held: a machine that is asked to pause waits for its vCPUs, and not for who counts leases.
func (p *Port) lapse(c *change, seen slots) {
	p.transitionUnless(c, seen, func(Listener) (hold bool) { return false })
}

func (p *Port) transitionUnless(c *change, seen slots, holds func(Listener) bool) {
	a := p.attached
	if a == nil {
		p.apply(c, seen)
		return
	}
	before, after := p.table.gate(a.quorum), p.table.gateAfter(a.quorum, c)
	hold := false
	if before.Open && !after.Open {
		p.asking = true
		p.unlocked(func() { hold = holds(a.listener) })
		p.asking = false
	}
	p.apply(c, seen)
	switch {
	case p.attached != a: // the listener was detached meanwhile
	case !before.Open && after.Open:
		p.unlocked(a.listener.GateOpened)
	case before.Open && !after.Open && !hold:
		p.unlocked(a.listener.GateClosed)
	}
}

// Forget drops all tag pages, because their memory is about to be unmapped. The tasks in them stay
// as they were seen last: nothing has happened to them.
func (p *Port) Forget() {
	p.order.Lock()
	defer p.order.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgotten = true
	p.page, p.device.pages, p.device.committed = nil, nil, 0
}

// unlocked runs f with mu free.
func (p *Port) unlocked(f func()) {
	p.mu.Unlock()
	defer p.mu.Lock()
	f()
}

// apply carries out c and tells the subscribers. mu must be held.
func (p *Port) apply(c *change, seen slots) {
	p.countErrors(c.errors)
	p.seen = seen
	if len(c.edits) == 0 {
		return
	}
	now := p.now()
	for _, e := range c.edits {
		if e.event == Unregistered {
			// There is room again for a task of a tag page that was refused, so the next look must
			// count.
			p.seen = slots{}
		}
		p.table.apply(e, now)
		p.publish(e, now)
	}
}

// countErrors adds errors to the port's, and to their total.
func (p *Port) countErrors(e GuestErrors) {
	p.errors.Access += e.Access
	p.errors.Task += e.Task
	p.errors.Full += e.Full
	p.errors.Page += e.Page
	p.errors.Total += e.Access + e.Task + e.Full + e.Page
}
