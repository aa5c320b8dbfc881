package device

import (
	"errors"
	"sync"

	"taskguide/vmm/state"
)

// Ports of the ACPI device, with a register of one byte each. Package boot's tables name them.
const (
	PortACPI = 0x600

	acpiSleepControl = 0 // SLP_TYP in bits 2 to 4, SLP_EN in bit 5
	acpiSleepStatus  = 1 // WAK_STS in bit 7: never set, because no guest wakes up here
	acpiReset        = 2
	acpiEvents       = 3 // what has happened; writing a 1 clears it
	acpiBytes        = 4

	// ACPIIRQ is the input line that is up while an event is pending.
	ACPIIRQ = 9

	sleepType    = 7 << 2
	sleepEnable  = 1 << 5
	sleepOff     = 5 << 2 // the type that \_S5 of the DSDT names
	resetValue   = 1      // the value that the FADT names
	eventPower   = 1 << 0 // somebody pressed the power button
	acpiKnown    = eventPower
	acpiStateLen = 1
)

// ACPI is the hardware that a machine's ACPI tables describe: two registers that switch the machine
// off and reset it, and a power button. The tables say that ACPI here is hardware-reduced, so there
// is nothing else: no timer, no fixed events, no handover from firmware.
//
// The button is an event of the Generic Event Device: a press sets a bit and raises an interrupt
// line, and the guest's method (_EVT in dsdt.asl) reads the bit and clears it.
type ACPI struct {
	board Board

	mu      sync.Mutex // guards all below
	pending byte       // events
	quiet   bool
	pressed bool // pressed while quiet; takes effect at Resume
}

// Kind implements [Device].
func (*ACPI) Kind() state.Kind { return state.Kind{Name: "acpi", Version: 1} }

// Attach implements [Device].
func (d *ACPI) Attach(b Board) []Window {
	d.board, d.quiet = b, true
	return []Window{{Ports, PortACPI, acpiBytes, d.access}}
}

// Press presses the power button.
func (d *ACPI) Press() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.quiet {
		d.pressed = true
		return
	}
	d.raise(eventPower)
}

// raise sets an event and raises the line; mu is held.
func (d *ACPI) raise(event byte) {
	d.pending |= event
	d.board.SetIRQ(ACPIIRQ, true)
}

// access handles accesses to the registers, which take one byte each.
func (d *ACPI) access(a Access) {
	if a.Size != 1 {
		a.Ignore()
		return
	}
	for i := range a.Data {
		if a.Write {
			d.write(a.Offset, a.Data[i])
		} else {
			a.Data[i] = d.read(a.Offset)
		}
	}
}

func (d *ACPI) read(register uint64) byte {
	if register != acpiEvents {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pending
}

func (d *ACPI) write(register uint64, v byte) {
	switch {
	case register == acpiSleepControl && v&(sleepType|sleepEnable) == sleepOff|sleepEnable:
		d.board.PowerOff()
	case register == acpiReset && v == resetValue:
		d.board.Reset()
	case register == acpiEvents:
		d.clear(v)
	}
}

func (d *ACPI) clear(events byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending &^= events
	if d.pending == 0 {
		d.board.SetIRQ(ACPIIRQ, false)
	}
}

// Quiesce implements [Device].
func (d *ACPI) Quiesce() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet = true
}

// Resume implements [Device].
func (d *ACPI) Resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet = false
	if d.pressed {
		d.pressed = false
		d.raise(eventPower)
	}
}

// Close implements [Device].
func (d *ACPI) Close() { d.Quiesce() }

// Save implements [Device].
func (d *ACPI) Save() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return []byte{d.pending}
}

// Fingerprint implements [Device].
func (d *ACPI) Fingerprint() []byte { return d.Save() }

// Load implements [Device].
func (d *ACPI) Load(_ uint16, data []byte) error {
	if len(data) != acpiStateLen || data[0]&^acpiKnown != 0 {
		return errors.New("acpi: a state that is none")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending = data[0]
	return nil
}
