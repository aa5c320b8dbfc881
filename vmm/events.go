package vmm

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"taskguide/vmm/device"
	"taskguide/vmm/kvm"
)

// routes say where a machine's interrupts go: first those of pins, then those of devices that send
// messages. KVM takes all routes at once, so they are in one place.
type routes struct {
	fd  kvm.FD
	set func([]kvm.Route) error // fd.SetRoutes, except in tests

	mu     sync.Mutex // guards what follows; taken with devices' locks held
	all    []kvm.Route
	untold bool   // KVM does not know all of them as they are
	next   uint32 // number of the next interrupt
	events []kvm.EventFD
}

func newRoutes(fd kvm.FD) *routes {
	return &routes{fd: fd, set: fd.SetRoutes, all: kvm.DefaultRoutes(), next: kvm.IOAPICPins}
}

// message is an interrupt that is sent as a message (MSI).
type message struct {
	vm      *VM
	event   kvm.EventFD
	gsi     uint32
	route   int // index of its route; -1 before it has one
	address uint64
	data    uint32
}

// Interrupt implements [device.Board].
func (b board) Interrupt() device.Interrupt {
	m, err := b.vm.routes.newMessage()
	if err != nil {
		b.vm.fail(fmt.Errorf("make an interrupt: %w", err))
		return lost{}
	}
	m.vm = b.vm
	return m
}

// lost is the interrupt of a machine that has ended.
type lost struct{}

func (lost) Send(uint64, uint32)    {}
func (lost) Prepare(uint64, uint32) {}

func (r *routes) newMessage() (*message, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	event, err := kvm.NewEventFD()
	if err != nil {
		return nil, err
	}
	r.events = append(r.events, event)
	m := &message{event: event, gsi: r.next, route: -1}
	if err := r.fd.DeliverEvents(event, m.gsi); err != nil {
		return nil, err
	}
	r.next++
	return m, nil
}

// Messages to the local APICs go to these addresses (Intel SDM, volume 3, section 11.11.1).
const (
	apicMessages     = 0xfee00000
	apicMessagesMask = 0xffffffff_fff00000
)

// Send implements [device.Interrupt].
func (m *message) Send(address uint64, data uint32) {
	if address&apicMessagesMask != apicMessages {
		return // no local APIC sees a store to another address
	}
	if err := m.vm.routes.lead(m, address, data); err != nil {
		m.vm.fail(fmt.Errorf("route an interrupt: %w", err))
		return
	}
	if err := m.event.Signal(); err != nil {
		m.vm.fail(fmt.Errorf("raise an interrupt: %w", err))
	}
}

// Prepare implements [device.Interrupt].
func (m *message) Prepare(address uint64, data uint32) {
	if address&apicMessagesMask != apicMessages {
		return
	}
	r := m.vm.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(m, address, data)
}

// lead sets the message that an interrupt sends.
func (r *routes) lead(m *message, address uint64, data uint32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(m, address, data)
	return r.tell()
}

// settle tells KVM the routes that devices have prepared, in one call. Without it, a route is told
// when its interrupt, or another one that changes, is sent.
func (r *routes) settle() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tell()
}

// note notes the message that an interrupt sends; mu is held.
func (r *routes) note(m *message, address uint64, data uint32) {
	if m.route >= 0 && m.address == address && m.data == data {
		return
	}
	m.address, m.data = address, data
	route := kvm.MessageRoute(m.gsi, address, data)
	if m.route < 0 {
		m.route = len(r.all)
		r.all = append(r.all, route)
	} else {
		r.all[m.route] = route
	}
	r.untold = true
}

// tell tells KVM all routes; mu is held. It asks KVM only if one has changed, because that takes
// KVM a while.
func (r *routes) tell() error {
	if !r.untold {
		return nil
	}
	if err := r.set(r.all); err != nil {
		return err
	}
	r.untold = false
	return nil
}

// close closes the events. No device sends any more.
func (r *routes) close() {
	for _, e := range r.events {
		e.Close()
	}
}

// doorbellBytes is the size of the stores that ring a doorbell.
const doorbellBytes = 2

// Doorbell implements [device.Board].
func (b board) Doorbell(gpa uint64) device.Doorbell {
	event, err := kvm.NewEventFD()
	if err != nil {
		b.vm.fail(fmt.Errorf("make a doorbell: %w", err))
		return silent{}
	}
	if err := b.vm.fd.WatchStores(event, gpa, doorbellBytes); err != nil {
		event.Close()
		b.vm.fail(fmt.Errorf("make a doorbell: %w", err))
		return silent{}
	}
	// The eventfd does not block, so Go's poller waits for it without a thread.
	return doorbell{os.NewFile(uintptr(event), "doorbell")}
}

// doorbell is an eventfd that KVM signals.
type doorbell struct{ event *os.File }

// Ring implements [device.Doorbell].
func (d doorbell) Ring() {
	// The write fails once the doorbell is closed.
	_, _ = d.event.Write(binary.NativeEndian.AppendUint64(nil, 1))
}

// Wait implements [device.Doorbell].
func (d doorbell) Wait() bool {
	var count [8]byte
	_, err := d.event.Read(count[:])
	return err == nil
}

// Close implements [device.Doorbell].
func (d doorbell) Close() { d.event.Close() }

// silent is the doorbell of a machine that has ended.
type silent struct{}

func (silent) Ring()      {}
func (silent) Wait() bool { return false }
func (silent) Close()     {}
