package pci

import (
	"encoding/binary"
	"fmt"
	"sync"

	"taskguide/vmm/device"
	"taskguide/vmm/state"
)

var le = binary.LittleEndian

// Addresses of the bus. The guest gets them in the tables that it boots with, so they never change.
const (
	ECAMBase  = 0xe0000000
	ECAMBytes = slots * functions * functionBytes

	// BARs lie in [BARBase, BAREnd).
	BARBase = 0xc0000000
	BAREnd  = 0xd0000000

	portAddress = 0xcf8
	portData    = 0xcfc

	slots         = 32
	functions     = 8 // per slot; each device here is the first
	functionBytes = 4096
)

// The host bridge's own function, in slot 0. Kernels look for its class to find out whether there
// is a bus at all.
const (
	// Vendor is the vendor of devices that only this program has. PCI-SIG never assigned the
	// number, and free software shares it.
	Vendor       = 0xf055
	bridgeDevice = 0x6862
	bridgeClass  = 0x060000
)

// Host is the bridge between the processors and the bus.
type Host struct {
	bridge *Function
	slots  [slots]*Function // fixed before any vCPU runs

	mu      sync.Mutex // guards address
	address uint32     // the last value written to portAddress
}

// NewHost returns a bus with nothing on it.
func NewHost() *Host {
	h := &Host{}
	h.bridge = NewFunction(Spec{Vendor: Vendor, Device: bridgeDevice, Class: bridgeClass})
	h.slots[0] = h.bridge
	return h
}

// Plug puts a function into a slot. It panics if the slot is taken, because this program fixes the
// slots.
func (h *Host) Plug(f *Function) {
	if h.slots[f.Slot] != nil {
		panic(fmt.Sprintf("two PCI functions in slot %d", f.Slot))
	}
	h.slots[f.Slot] = f
}

// Kind implements [device.Device].
func (*Host) Kind() state.Kind { return state.Kind{Name: "pci", Version: 1} }

// Attach implements [device.Device]. The bridge does not answer accesses that begin at 0xcf9 to
// 0xcfb.
func (h *Host) Attach(device.Board) []device.Window {
	return []device.Window{
		{Space: device.Ports, Start: portAddress, Size: 1, Access: h.accessAddress},
		{Space: device.Ports, Start: portData, Size: 4, Access: h.accessData},
		{Space: device.MMIO, Start: ECAMBase, Size: ECAMBytes, Access: h.accessECAM},
	}
}

// Quiesce implements [device.Device]. The bridge acts only in accesses.
func (*Host) Quiesce() {}

// Resume implements [device.Device].
func (*Host) Resume() {}

// Close implements [device.Device].
func (*Host) Close() {}

func (h *Host) accessAddress(a device.Access) {
	if a.Size != 4 {
		a.Ignore()
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	a.Each(func(p []byte) {
		if a.Write {
			h.address = le.Uint32(p) & addressBits
		} else {
			le.PutUint32(p, h.address)
		}
	})
}

// Fields of a value written to portAddress: the numbers of bus, slot, function and register, and
// whether portData leads there.
const (
	addressEnabled = 1 << 31
	addressBits    = addressEnabled | 0xfffffc
)

func (h *Host) accessData(a device.Access) {
	h.mu.Lock()
	address := h.address
	h.mu.Unlock()
	bus, devfn := address>>16&0xff, address>>8&0xff
	if address&addressEnabled == 0 || bus != 0 {
		a.Ignore()
		return
	}
	h.access(int(devfn), int(address&0xfc)+int(a.Offset), a)
}

func (h *Host) accessECAM(a device.Access) {
	h.access(int(a.Offset/functionBytes), int(a.Offset%functionBytes), a)
}

// access answers an access to a register of a function. Registers have 32 bits. An access to more
// than one, or to a part that is not aligned, is ignored.
func (h *Host) access(devfn, register int, a device.Access) {
	f := h.slots[devfn/functions]
	aligned := (a.Size == 1 || a.Size == 2 || a.Size == 4) && register%a.Size == 0
	if f == nil || devfn%functions != 0 || !aligned {
		a.Ignore()
		return
	}
	a.Each(func(p []byte) {
		if a.Write {
			f.writeConfig(register, p)
		} else {
			f.readConfig(register, p)
		}
	})
}

// Save implements [device.Device].
func (h *Host) Save() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(le.AppendUint32(nil, h.address), h.bridge.Save()...)
}

// Fingerprint implements [device.Device].
func (h *Host) Fingerprint() []byte { return h.Save() }

// Load implements [device.Device].
func (h *Host) Load(_ uint16, data []byte) error {
	if len(data) < 4 || le.Uint32(data)&^addressBits != 0 {
		return errState
	}
	if err := h.bridge.Load(data[4:]); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.address = le.Uint32(data)
	return nil
}
