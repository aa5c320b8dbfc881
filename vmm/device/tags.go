package device

import (
	"encoding/binary"

	"taskguide/tagging"
	"taskguide/vmm/state"
)

// Tags gives the guest access to the machine's tag port, by a window in each address space. Package
// tagging says what the port does.
type Tags struct {
	// Port is set once the device is attached.
	Port *tagging.Port
}

// Kind implements [Device].
func (*Tags) Kind() state.Kind { return state.Kind{Name: "tags", Version: 1} }

// Attach implements [Device].
func (d *Tags) Attach(h Board) []Window {
	d.Port = tagging.NewPort(h.RAM())
	d.Port.Quiesce()
	return []Window{
		{Ports, tagging.PortBase, tagging.PortBytes, d.Access},
		{MMIO, tagging.MMIOBase, tagging.MMIOBytes, d.Access},
	}
}

// Access hands accesses to the port, which judges offset and size itself.
func (d *Tags) Access(a Access) {
	a.Each(func(p []byte) {
		var word [8]byte
		if a.Write {
			copy(word[:], p)
			d.Port.Write(a.Offset, a.Size, binary.LittleEndian.Uint32(word[:]))
			return
		}
		binary.LittleEndian.PutUint32(word[:], d.Port.Read(a.Offset, a.Size))
		copy(p, word[:])
	})
}

// Quiesce implements [Device]. The port has no goroutines. Calls by a migration or an operator
// meanwhile do not write RAM.
func (d *Tags) Quiesce() { d.Port.Quiesce() }

// Resume implements [Device].
func (d *Tags) Resume() { d.Port.Resume() }

// Close implements [Device]. The port still answers questions about its tasks.
func (d *Tags) Close() { d.Port.Quiesce() }

// Save implements [Device].
func (d *Tags) Save() []byte { return d.Port.Save() }

// Load implements [Device].
func (d *Tags) Load(_ uint16, data []byte) error { return d.Port.Load(data) }

// Fingerprint implements [Device].
func (d *Tags) Fingerprint() []byte { return d.Port.Fingerprint() }
