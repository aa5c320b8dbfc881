package devicetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"

	"taskguide/memory"
	"taskguide/vmm/device"
)

// Board is a machine without vCPUs, for one device.
type Board struct {
	Device  device.Device
	Windows []device.Window

	ram    *memory.RAM
	guest  *memory.Guest
	shadow []byte // RAM at the last look; nil: no look yet, RAM was zero
	marked *memory.Bitmap
	memory [][]byte     // of the device's own
	irqs   atomic.Int64 // how often a line was driven or a message was sent
	ended  atomic.Bool
	closed bool // the device is closed and must not be called any more
}

// NewBoard attaches a device to a board.
func NewBoard(d device.Device) (*Board, error) {
	ram, err := memory.New(memory.MinSize)
	if err != nil {
		return nil, err
	}
	m := &Board{
		Device: d, ram: ram, guest: memory.NewGuest(ram),
		marked: memory.NewBitmap(ram.Pages()),
	}
	m.Windows = d.Attach(m)
	return m, nil
}

// Close closes the device and frees RAM. A device that still writes RAM then crashes the test.
func (m *Board) Close() {
	m.closeDevice()
	for _, b := range m.memory {
		_ = memory.FreePrivate(b)
	}
	_ = m.ram.Close()
}

func (m *Board) closeDevice() {
	if !m.closed {
		m.Device.Close()
		m.closed = true
	}
}

// RAM implements [device.Board].
func (m *Board) RAM() *memory.Guest { return m.guest }

// SetIRQ implements [device.Board].
func (m *Board) SetIRQ(uint32, bool) { m.irqs.Add(1) }

// Interrupt implements [device.Board].
func (m *Board) Interrupt() device.Interrupt { return interrupt{m} }

// interrupt counts a message like a driven line.
type interrupt struct{ board *Board }

func (i interrupt) Send(uint64, uint32)  { i.board.irqs.Add(1) }
func (interrupt) Prepare(uint64, uint32) {}

// Memory implements [device.Board].
func (m *Board) Memory(_ uint64, bytes int) []byte {
	b, err := memory.NewPrivate(bytes)
	if err != nil {
		panic(err)
	}
	m.memory = append(m.memory, b)
	return b
}

// Doorbell implements [device.Board]. There is no vCPU whose stores could ring it; a test's stores
// are accesses.
func (m *Board) Doorbell(uint64) device.Doorbell {
	return &doorbell{rung: make(chan struct{}, 1), closed: make(chan struct{})}
}

// doorbell is a doorbell that only the device rings.
type doorbell struct {
	rung   chan struct{}
	closed chan struct{}
}

func (d *doorbell) Ring() {
	select {
	case d.rung <- struct{}{}:
	default: // several rings count as one
	}
}

func (d *doorbell) Wait() bool {
	select {
	case <-d.rung:
		return true
	case <-d.closed:
		return false
	}
}

func (d *doorbell) Close() { close(d.closed) }

// MayWait implements [device.Board]: no access waits, because there is no vCPU.
func (m *Board) MayWait() bool { return false }

// Exit implements [device.Board].
func (m *Board) Exit(uint8) { m.ended.Store(true) }

// Reset implements [device.Board].
func (m *Board) Reset() { m.ended.Store(true) }

// PowerOff implements [device.Board].
func (m *Board) PowerOff() { m.ended.Store(true) }

// Prefer implements [device.Board].
func (m *Board) Prefer(string) {}

// Access is an access to one of the device's windows.
func (m *Board) Access(window int, a device.Access) { m.Windows[window].Access(a) }

// look records all that a quiesced device must leave alone.
type look struct {
	irqs        int64
	fingerprint []byte
	marked      int   // pages
	written     []int // pages that differ from the look before
	unmarked    []int // those of them that are not marked
}

// look takes a look. Pages written before it are forgotten.
func (m *Board) look() look {
	l := look{irqs: m.irqs.Load()}
	if !m.closed {
		l.fingerprint = m.Device.Fingerprint()
	}
	m.marked.Reset()
	l.marked = m.guest.TakeMarked(m.marked)
	if m.shadow == nil {
		m.shadow = make([]byte, m.ram.Size())
	}
	if bytes.Equal(m.ram.Bytes(), m.shadow) {
		return l // comparing page by page takes longer
	}
	for page := range m.ram.Pages() {
		now, before := m.ram.Page(page), m.shadow[page*memory.PageSize:][:memory.PageSize]
		if bytes.Equal(now, before) {
			continue
		}
		copy(before, now)
		l.written = append(l.written, page)
		if !m.marked.Test(page) {
			l.unmarked = append(l.unmarked, page)
		}
	}
	return l
}

// changed tells what changed between two looks, nil if nothing did.
func (l look) changed(since look) error {
	switch {
	case len(l.written) > 0 || l.marked > 0:
		return fmt.Errorf("it wrote to RAM: pages %v, marked are %d", l.written, l.marked)
	case l.irqs != since.irqs:
		return errors.New("it raised an interrupt")
	case !bytes.Equal(l.fingerprint, since.fingerprint):
		return fmt.Errorf("its state changed from %x to %x", since.fingerprint, l.fingerprint)
	}
	return nil
}
