package pci

import (
	"math/bits"

	"taskguide/vmm/device"
)

const (
	// Bits of the capability's control register.
	msixEnable  = 1 << 15
	msixMaskAll = 1 << 14

	// An entry of the table: a message's address, its data, and whether it may be sent.
	entryBytes   = 16
	entryData    = 8
	entryControl = 12
	entryMask    = 1 << 0

	// MaxVectors is the most messages that a function has, because their pending bits are one word.
	MaxVectors = 64
	// msixPage is the size of the BAR's part for the table, and of that for the pending bits.
	msixPage = 4096
)

// msix is a function's messages (MSI-X; PCI Local Bus Specification 3.0, section 6.8.2).
//
// Each message that is due is first noted as pending, and then sent if no mask holds it back. Code
// that lifts a mask then sends what is pending, so no message is forgotten.
type msix struct {
	table      []byte
	pending    uint64 // bit i: the message of vector i
	interrupts []device.Interrupt
	// sends says that the guest allows messages at all, and maskedAll that it masks all of them.
	sends, maskedAll bool
}

func (m *msix) init(vectors int) {
	m.table = make([]byte, vectors*entryBytes)
	for v := range vectors {
		m.table[v*entryBytes+entryControl] = entryMask
	}
}

func (m *msix) entry(v int) []byte { return m.table[v*entryBytes:][:entryBytes] }

// pend notes that a message is due.
func (m *msix) pend(v int) { m.pending |= 1 << v }

// deliver sends the messages that are pending and not masked.
func (m *msix) deliver() {
	if !m.sends || m.maskedAll {
		return
	}
	for rest := m.pending; rest != 0; rest &= rest - 1 {
		v := bits.TrailingZeros64(rest)
		e := m.entry(v)
		if e[entryControl]&entryMask != 0 {
			continue
		}
		m.pending &^= 1 << v
		m.interrupts[v].Send(le.Uint64(e), le.Uint32(e[entryData:]))
	}
}

// prepare says which messages may be sent as they are in the table.
func (m *msix) prepare() {
	if !m.sends || m.maskedAll {
		return
	}
	for v, i := range m.interrupts {
		if e := m.entry(v); e[entryControl]&entryMask == 0 {
			i.Prepare(le.Uint64(e), le.Uint32(e[entryData:]))
		}
	}
}

// accessTable answers an access to the table. It ignores accesses that have neither 32 nor 64 bits.
func (m *msix) accessTable(at int, a device.Access) {
	if (a.Size != 4 && a.Size != 8) || at%a.Size != 0 || at >= len(m.table) {
		a.Ignore()
		return
	}
	a.Each(func(p []byte) {
		if a.Write {
			copy(m.table[at:], p)
			m.keepDefined(at / entryBytes)
		} else {
			copy(p, m.table[at:])
		}
	})
	if a.Write {
		m.deliver()
	}
}

// keepDefined clears the bits of an entry that have no meaning.
func (m *msix) keepDefined(v int) {
	e := m.entry(v)
	e[0] &^= 3 // messages go to multiples of 4
	le.PutUint32(e[entryControl:], le.Uint32(e[entryControl:])&entryMask)
}

// accessPending answers an access to the pending bits, which a guest can only read.
func (m *msix) accessPending(at int, a device.Access) {
	if (a.Size != 4 && a.Size != 8) || at%a.Size != 0 || at >= 8 || a.Write {
		a.Ignore()
		return
	}
	word := le.AppendUint64(nil, m.pending)
	a.Each(func(p []byte) { copy(p, word[at:]) })
}

func (m *msix) save() []byte {
	if len(m.table) == 0 {
		return nil
	}
	return le.AppendUint64(append([]byte(nil), m.table...), m.pending)
}

// load replaces table and pending bits by what save returned. data has the length of that state.
func (m *msix) load(data []byte) error {
	if len(m.table) == 0 {
		return nil
	}
	table, pending := data[:len(m.table)], le.Uint64(data[len(m.table):])
	loaded := msix{table: append([]byte(nil), table...)}
	vectors := len(table) / entryBytes
	for v := range vectors {
		loaded.keepDefined(v)
	}
	if string(loaded.table) != string(table) || pending>>vectors != 0 {
		return errState
	}
	m.table, m.pending = loaded.table, pending
	return nil
}
