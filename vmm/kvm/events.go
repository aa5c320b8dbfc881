package kvm

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// EventFD is an eventfd(2), by which KVM and this process tell each other that something happened,
// without a vCPU's thread in between: a guest's store becomes a count that a goroutine reads
// ([FD.WatchStores]), and a count that this process writes becomes an interrupt
// ([FD.DeliverEvents]).
type EventFD int

// NewEventFD makes an eventfd that does not block: reading it while its count is 0 fails with
// unix.EAGAIN.
func NewEventFD() (EventFD, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	return EventFD(fd), err
}

// Signal adds 1 to the count.
func (e EventFD) Signal() error {
	one := binary.NativeEndian.AppendUint64(make([]byte, 0, 8), 1)
	for {
		if _, err := unix.Write(int(e), one); err != unix.EINTR {
			return err
		}
	}
}

// Close closes the eventfd. KVM keeps what was set up with it until the VM is closed.
func (e EventFD) Close() error { return unix.Close(int(e)) }

// irqEvent is struct kvm_irqfd. gokvm has neither this structure nor those below.
type irqEvent struct {
	fd, gsi uint32
	_       uint32 // flags: KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE
	_       uint32 // with KVM_IRQFD_FLAG_RESAMPLE, another file descriptor
	_       [16]byte
}

// DeliverEvents makes each signal of an eventfd raise the VM's interrupt with the given number
// (GSI).
func (fd FD) DeliverEvents(e EventFD, gsi uint32) error {
	return setIRQFD.Do(fd, &irqEvent{fd: uint32(e), gsi: gsi})
}

// storeEvent is struct kvm_ioeventfd.
type storeEvent struct {
	_       uint64 // the value, with KVM_IOEVENTFD_FLAG_DATAMATCH
	address uint64
	length  uint32
	fd      int32
	_       uint32 // flags: none, so any value at an address of guest-physical memory
	_       [36]byte
}

// WatchStores makes each of the guest's stores of the given number of bytes to a guest-physical
// address signal an eventfd. KVM handles these stores, so no vCPU comes out of KVM_RUN for them.
func (fd FD) WatchStores(e EventFD, gpa uint64, bytes uint32) error {
	return setIOEventFD.Do(fd, &storeEvent{address: gpa, length: bytes, fd: int32(e)})
}

// IRQ chips by KVM's numbers, and their numbers of pins.
const (
	ChipPICMaster = 0
	ChipPICSlave  = 1
	ChipIOAPIC    = 2

	IOAPICPins = 24
	picPins    = 8
)

const (
	routeChip    = 1 // KVM_IRQ_ROUTING_IRQCHIP
	routeMessage = 2 // KVM_IRQ_ROUTING_MSI
)

// Route is struct kvm_irq_routing_entry: it says where an interrupt goes.
type Route struct {
	gsi, kind uint32
	_, _      uint32    // flags, none defined for x86
	to        [8]uint32 // union of the ways
}

// MaxRoutes is the greatest number of routes that a VM has here. KVM's own bound is 4096
// (KVM_MAX_IRQ_ROUTES).
const MaxRoutes = 1024

// PinRoute leads to a pin of an interrupt controller.
func PinRoute(gsi, chip, pin uint32) Route {
	return Route{gsi: gsi, kind: routeChip, to: [8]uint32{chip, pin}}
}

// MessageRoute sends a message (MSI), which stores data to an address of local APICs.
func MessageRoute(gsi uint32, address uint64, data uint32) Route {
	to := [8]uint32{uint32(address), uint32(address >> 32), data}
	return Route{gsi: gsi, kind: routeMessage, to: to}
}

// DefaultRoutes returns the routes of a VM on which SetRoutes was never called: interrupts 0 to 15
// go to both PICs and the IOAPIC, as in a PC, and the others to the IOAPIC alone.
func DefaultRoutes() []Route {
	var routes []Route
	for gsi := range uint32(IOAPICPins) {
		routes = append(routes, PinRoute(gsi, ChipIOAPIC, gsi))
		if gsi < 2*picPins {
			routes = append(routes, PinRoute(gsi, ChipPICMaster+gsi/picPins, gsi%picPins))
		}
	}
	return routes
}

// routing is struct kvm_irq_routing with room for entries.
type routing struct {
	n       uint32
	_       uint32 // flags, none defined
	entries [MaxRoutes]Route
}

// SetRoutes replaces all routes of a VM.
func (fd FD) SetRoutes(routes []Route) error {
	if len(routes) > MaxRoutes {
		return &Error{setRouting.name, unix.E2BIG}
	}
	t := &routing{n: uint32(len(routes))}
	copy(t.entries[:], routes)
	return setRouting.Do(fd, t)
}
