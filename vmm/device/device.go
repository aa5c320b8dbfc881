package device

import (
	"taskguide/memory"
	"taskguide/vmm/state"
)

// Device is a part of a machine that its guest reaches by accesses to I/O ports or memory.
//
// A machine calls the methods one at a time, in the order that doc.go shows. Accesses come at any
// time between Resume and Quiesce, from several vCPUs at once.
type Device interface {
	// Kind names the device and the section of its state; package state explains the other fields.
	// A device with version 0 has no state, and nothing of it is saved or announced, so a
	// destination cannot know of it. Version 0 is only for devices that every machine has had from
	// the beginning. Any other device begins with version 1, even if its state is empty.
	Kind() state.Kind

	// Attach puts the device into a machine. It returns the addresses that the device answers. The
	// device begins quiesced.
	Attach(h Board) []Window
	// Quiesce stops the device: after it returns and until Resume, the device does not change its
	// state, write RAM or drive an interrupt line. What comes from outside meanwhile waits. No vCPU
	// runs. Quiesce is part of the downtime, so it takes microseconds and waits only for the
	// device's own goroutines. A device that may have to wait for the host is a [Drainer].
	Quiesce()
	// Resume lets the device work, and take in what has waited. No vCPU runs yet, except when it
	// undoes [Drainer.Drain].
	Resume()
	// Close ends the device and its goroutines, because RAM is unmapped once it returns. It is the
	// last call, whether or not the device is quiesced.
	Close()

	// Save returns the state of the quiesced device, in the kind's version. Load on a fresh device
	// makes that one equal. Save changes nothing of it, because the machine may be resumed
	// afterwards. A device that gives something away with it is a [Stayer].
	Save() []byte
	// Load replaces the state of a quiesced device by one that was saved in any version of the
	// kind's range. The state comes from another host, so nothing in it is trusted. After an error
	// the device is only closed. Load does not drive interrupt lines, because the interrupt
	// controllers' state has their levels.
	Load(version uint16, data []byte) error
	// Fingerprint returns the part of the quiesced device's state that the guest can see or rely
	// on, without what passes with time. It is equal on both sides of a faithful migration, so
	// every version of the device returns the same for the same state.
	Fingerprint() []byte
}

// Waiter is a device that may keep a vCPU waiting in an access.
type Waiter interface {
	// Hurry is called once [Board.MayWait] is false, and makes waiting vCPUs go on. Any thread may
	// call it, including a vCPU's own in an access to another device, so it must not wait.
	Hurry()
}

// Stayer is a device that gives something away with its state.
type Stayer interface {
	// Stay takes that back: the state was saved, and the guest stays here all the same. Resume does
	// so, too; Stay is for a guest that was paused, and stays so.
	Stay()
}

// Drainer is a device that carries out requests for which it may have to wait for the host, like a
// disk. The machine drains it while its vCPUs still run, so that Quiesce finds nothing to wait for,
// and never calls Quiesce before that. A host that hangs keeps the machine from being quiesced, but
// keeps no lock and no vCPU.
type Drainer interface {
	// Drain makes the device take no new request, and returns at once. vCPUs may run, and what they
	// ask for waits. The channel is closed once the requests that the device has taken are done and
	// their pages marked, or Resume undoes Drain. A second call changes nothing.
	Drain() (idle <-chan struct{})
	// Busy names what the device still waits for, in words for people. It is empty if that is
	// nothing.
	Busy() string
}

// Board is the machine that a device is attached to.
type Board interface {
	// RAM is guest RAM.
	RAM() *memory.Guest
	// SetIRQ drives an input line of the interrupt controllers. It may be called with a device's
	// locks held.
	SetIRQ(line uint32, level bool)
	// Memory gives the guest memory of the device's own: that many bytes, all zero, at a
	// guest-physical address outside of RAM, both multiples of a page. It belongs to the device's
	// state, not to RAM: no round of a migration has it. A device calls it in Attach. If the
	// machine cannot make the memory, it ends with the error, and the guest does not see what is
	// returned. The memory stays mapped until the machine is closed.
	Memory(gpa uint64, bytes int) []byte
	// Interrupt makes an interrupt that is sent as a message, and Doorbell watches the guest's
	// 16-bit stores to a guest-physical address. A device calls them in Attach. If the machine
	// cannot make one, it ends with the error.
	Interrupt() Interrupt
	Doorbell(gpa uint64) Doorbell
	// MayWait tells whether an access may keep its vCPU waiting. It is false while the machine is
	// asked to stand still. See [Waiter].
	MayWait() bool
	// Exit ends the machine with the guest's own status; Reset and PowerOff end it because the
	// guest asked for that. The vCPU whose access calls them goes no further.
	Exit(status uint8)
	Reset()
	PowerOff()
	// Prefer names the calling goroutine's thread, and asks for it to run as soon as the vCPUs'
	// threads. The goroutine must have locked its thread and never unlock it.
	Prefer(name string)
}

// Interrupt is an interrupt that needs no line: a message to the processors' local APICs (MSI).
type Interrupt interface {
	// Send sends a message: the data that a device would store, and its address. It may be called
	// with a device's locks held. A message that no local APIC takes is lost.
	Send(address uint64, data uint32)
	// Prepare says which message will probably be sent next, so that the machine can get ready for
	// the messages of all devices at once. A device calls it in Load. It sends nothing.
	Prepare(address uint64, data uint32)
}

// Doorbell tells a device's goroutine that there is work, without making a vCPU wait. The guest's
// stores ring it, and are then not accesses of the device's window. Several rings may count as one.
type Doorbell interface {
	// Ring rings the doorbell without a guest's store.
	Ring()
	// Wait waits until it rings. It returns false once the doorbell is closed.
	Wait() bool
	Close()
}

// Window is a range of addresses that a device answers.
type Window struct {
	Space       Space
	Start, Size uint64
	Access      func(a Access)
}

// Space is an address space of a machine.
type Space uint8

const (
	Ports Space = iota // I/O ports
	MMIO               // guest-physical memory
)

// Access is one or more accesses of Size bytes each, in order, to the address at Offset in a
// window. Data has one for a plain access and more for a string instruction. A read fills Data in.
type Access struct {
	Offset uint64
	Size   int
	Data   []byte
	Write  bool
}

// Each calls f for each of the accesses, in order. f gets Size bytes and must not keep them.
func (a Access) Each(f func(p []byte)) {
	for data := a.Data; a.Size > 0 && len(data) >= a.Size; data = data[a.Size:] {
		f(data[:a.Size])
	}
}

// Ignore answers an access as if there were no device: reads return all ones and writes are lost.
func (a Access) Ignore() {
	if !a.Write {
		a.fill(0xff)
	}
}

func (a Access) fill(v byte) {
	for i := range a.Data {
		a.Data[i] = v
	}
}

// Stateless is embedded by a device that has no state and acts only in accesses.
type Stateless struct{}

func (Stateless) Quiesce()                  {}
func (Stateless) Resume()                   {}
func (Stateless) Close()                    {}
func (Stateless) Save() []byte              { return nil }
func (Stateless) Load(uint16, []byte) error { return nil }
func (Stateless) Fingerprint() []byte       { return nil }
