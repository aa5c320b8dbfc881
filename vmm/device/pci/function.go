package pci

import (
	"errors"
	"sync"

	"taskguide/vmm/device"
)

// Registers of configuration space, and their bits and values (PCI Local Bus Specification 3.0,
// chapter 6).
const (
	regVendor       = 0x00
	regDevice       = 0x02
	regCommand      = 0x04
	regStatus       = 0x06
	regRevision     = 0x08
	regClass        = 0x09
	regCacheLine    = 0x0c
	regBAR          = 0x10
	regBAR2         = 0x18
	regSubVendor    = 0x2c
	regSubDevice    = 0x2e
	regCapabilities = 0x34
	regLine         = 0x3c

	commandMemory    = 1 << 1
	commandMaster    = 1 << 2
	commandParity    = 1 << 6
	commandSERR      = 1 << 8
	commandNoINTx    = 1 << 10
	commandBits      = commandMemory | commandMaster | commandParity | commandSERR | commandNoINTx
	statusHasList    = 1 << 4
	firstCapability  = 0x40
	configBytes      = 256 // of functionBytes; the rest is empty
	capabilityMSIX   = 0x11
	capabilityVendor = 0x09

	// barPrefetch says that reads of a BAR have no effect, so that it is memory.
	barPrefetch = 1 << 3
)

// barStride is the distance between the BARs of two slots.
const barStride = 1 << 20

// Spec says what a function is.
type Spec struct {
	// Slot is the function's slot on the bus, 1 to 31.
	Slot           int
	Vendor, Device uint16
	Class          uint32 // class, subclass and programming interface
	Revision       uint8
	Subsystem      uint16
	// BARBytes is the size of its BAR: 0 for none, or a power of 2 of at most 1 MiB.
	BARBytes uint32
	// RAMBytes is the size of BAR 2, which is memory: 0 for none, or a power of 2 of at most half
	// of the distance between two slots' BARs. Its board gives the guest the memory, at RAMAddress
	// and nowhere else, whether or not the guest has the function answer accesses.
	RAMBytes uint32
	// Capabilities are vendor-specific ones, without the two bytes that chain them.
	Capabilities [][]byte
	// Vectors is how many messages it may send, 0 to [MaxVectors]. Their table is at TableOffset in
	// the BAR, and the pending bits are at PendingOffset. Each takes a page.
	Vectors                    int
	TableOffset, PendingOffset uint32
	// Window, unless nil, answers accesses to the BAR that come by way of configuration space. The
	// function then has a capability for them. No lock of the function is held.
	Window func(a device.Access)
	// OnMaster, unless nil, is called when the guest allows the function to access RAM and to send
	// messages. It is called with the function's lock held.
	OnMaster func()
}

// Function is a device on the bus: its configuration space, its BAR and its interrupts.
type Function struct {
	Spec

	// mu guards what follows. It is taken with a device's locks held, and takes the board's.
	mu sync.Mutex
	config
	msix
	decodes, masters bool // from the command register, see settle
}

// config is configuration space: mask has the bits that a guest can change.
type config struct {
	value, mask, reset [configBytes]byte
	msixAt, windowAt   int // registers of the capabilities; 0: none
}

// NewFunction makes a function that is not on a bus yet.
func NewFunction(s Spec) *Function {
	f := &Function{Spec: s}
	f.set16(regVendor, s.Vendor, 0)
	f.set16(regDevice, s.Device, 0)
	f.set16(regCommand, 0, commandBits)
	f.value[regRevision] = s.Revision
	f.value[regClass], f.value[regClass+1] = byte(s.Class), byte(s.Class>>8)
	f.value[regClass+2] = byte(s.Class >> 16)
	f.mask[regCacheLine], f.mask[regLine] = 0xff, 0xff
	f.set16(regSubVendor, s.Vendor, 0)
	f.set16(regSubDevice, s.Subsystem, 0)
	if s.BARBytes != 0 {
		f.set32(regBAR, uint32(s.BARAddress()), ^(s.BARBytes - 1))
	}
	if s.RAMBytes != 0 {
		f.set32(regBAR2, uint32(s.RAMAddress())|barPrefetch, ^(s.RAMBytes - 1))
	}
	f.addCapabilities()
	f.reset = f.value
	f.msix.init(s.Vectors)
	return f
}

func (c *config) set16(at int, v, mask uint16) {
	le.PutUint16(c.value[at:], v)
	le.PutUint16(c.mask[at:], mask)
}

func (c *config) set32(at int, v, mask uint32) {
	le.PutUint32(c.value[at:], v)
	le.PutUint32(c.mask[at:], mask)
}

// addCapabilities makes the list of capabilities. Each begins with its kind and the place of the
// next one.
func (f *Function) addCapabilities() {
	link, at := regCapabilities, firstCapability
	add := func(id byte, content []byte) int {
		here := at
		f.value[link] = byte(here)
		f.value[here] = id
		copy(f.value[here+2:], content)
		link, at = here+1, (here+2+len(content)+3)&^3
		return here
	}
	if f.Vectors > 0 {
		content := le.AppendUint16(nil, uint16(f.Vectors-1))
		content = le.AppendUint32(content, f.TableOffset) // in BAR 0
		content = le.AppendUint32(content, f.PendingOffset)
		f.msixAt = add(capabilityMSIX, content)
		le.PutUint16(f.mask[f.msixAt+2:], msixEnable|msixMaskAll)
	}
	for _, c := range f.Capabilities {
		add(capabilityVendor, c)
	}
	if f.Window != nil {
		f.addWindow(add(capabilityVendor, windowCapability()))
	}
	if link != regCapabilities {
		f.value[regStatus] = statusHasList
	}
}

// BARAddress returns the guest-physical address of the function's BAR.
func (s *Spec) BARAddress() uint64 { return BARBase + uint64(s.Slot)*barStride }

// RAMAddress returns the guest-physical address of BAR 2.
func (s *Spec) RAMAddress() uint64 { return s.BARAddress() + barStride/2 }

// Attach gives the function the interrupts that its board makes.
func (f *Function) Attach(b device.Board) {
	for range f.Vectors {
		f.interrupts = append(f.interrupts, b.Interrupt())
	}
}

// Decodes tells whether the function answers accesses to its BAR.
func (f *Function) Decodes() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.decodes
}

// Masters tells whether the guest allows the function to access RAM and send messages.
func (f *Function) Masters() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.masters
}

// readConfig and writeConfig access a register, or a part of one.
func (f *Function) readConfig(register int, p []byte) {
	if f.readWindow(register, p) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(p)
	if register < configBytes {
		copy(p, f.value[register:])
	}
}

func (f *Function) writeConfig(register int, p []byte) {
	if register >= configBytes {
		return
	}
	f.writeWindow(register, p)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, v := range p {
		at, mask := register+i, f.mask[register+i]
		f.value[at] = f.value[at]&^mask | v&mask
	}
	mastered := f.masters
	f.settle()
	f.deliver()
	if f.masters && !mastered && f.OnMaster != nil {
		f.OnMaster()
	}
}

// settle carries out what configuration space says.
func (f *Function) settle() {
	command := le.Uint16(f.value[regCommand:])
	f.masters = command&commandMaster != 0
	f.decodes = command&commandMemory != 0 &&
		le.Uint32(f.value[regBAR:]) == uint32(f.BARAddress())
	if f.msixAt != 0 {
		control := le.Uint16(f.value[f.msixAt+2:])
		f.sends = f.masters && control&msixEnable != 0
		f.maskedAll = control&msixMaskAll != 0
	}
}

// Signal sends the message of a vector, now or when its mask is lifted. With messages turned off,
// or with a vector that the function does not have, it does nothing.
func (f *Function) Signal(vector int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sends && vector < f.Vectors {
		f.pend(vector)
		f.deliver()
	}
}

// AccessMSIX answers an access to the table of messages or to the pending bits. It returns false if
// the access is to neither of them.
func (f *Function) AccessMSIX(a device.Access) bool {
	if f.Vectors == 0 {
		return false
	}
	table, pending := a.Offset-uint64(f.TableOffset), a.Offset-uint64(f.PendingOffset)
	if table >= msixPage && pending >= msixPage {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if table < msixPage {
		f.accessTable(int(table), a)
	} else {
		f.accessPending(int(pending), a)
	}
	return true
}

// errState is returned for saved state that a function cannot have.
var errState = errors.New("PCI: bad state")

// Save returns the function's state: what the guest can change of configuration space, the table
// of messages, and which of them are pending.
func (f *Function) Save() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b []byte
	for i, mask := range f.mask {
		if mask != 0 {
			b = append(b, f.value[i]&mask)
		}
	}
	return append(b, f.msix.save()...)
}

// SaveBytes returns the length of the state in bytes.
func (f *Function) SaveBytes() int { return len(f.Save()) }

// Load replaces the state by one that Save returned on another host, which is not trusted. It sends
// no messages.
func (f *Function) Load(data []byte) error {
	if len(data) != f.SaveBytes() {
		return errState
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	value := f.reset
	for i, mask := range f.mask {
		if mask == 0 {
			continue
		}
		if data[0]&^mask != 0 {
			return errState
		}
		value[i] = value[i]&^mask | data[0]
		data = data[1:]
	}
	if err := f.msix.load(data); err != nil {
		return err
	}
	f.value = value
	f.settle()
	f.prepare()
	return nil
}
