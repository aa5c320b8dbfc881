package device

import "taskguide/vmm/state"

// Ports of devices that are too small for a file of their own.
const (
	PortExit    = 0xf4
	PortI8042   = 0x64 // its command and status register
	I8042Reset  = 0xfe // command: pulse the processor's reset line
	i8042Status = 0    // ready for a command, nothing to read
	portCMOS    = 0x70 // index and data of the CMOS clock
)

// Exit ends the machine with the status that the guest writes.
type Exit struct {
	Stateless
	board Board
}

// Kind implements [Device].
func (*Exit) Kind() state.Kind { return state.Kind{Name: "exit"} }

// Attach implements [Device].
func (d *Exit) Attach(b Board) []Window {
	d.board = b
	return []Window{{Ports, PortExit, 1, d.access}}
}

func (d *Exit) access(a Access) {
	if !a.Write || len(a.Data) == 0 {
		a.Ignore()
		return
	}
	d.board.Exit(a.Data[0])
}

// I8042 is the part of a keyboard controller that is still needed: the reset line.
type I8042 struct {
	Stateless
	board Board
}

// Kind implements [Device].
func (*I8042) Kind() state.Kind { return state.Kind{Name: "i8042"} }

// Attach implements [Device].
func (d *I8042) Attach(b Board) []Window {
	d.board = b
	return []Window{{Ports, PortI8042, 1, d.access}}
}

func (d *I8042) access(a Access) {
	switch {
	case !a.Write || len(a.Data) == 0:
		a.fill(i8042Status)
	case a.Data[0] == I8042Reset:
		d.board.Reset()
	}
}

// CMOS is a clock without a battery: all registers are 0, which kernels take as a time that is not
// set. With all ones they would wait for the end of an update in progress.
type CMOS struct{ Stateless }

// Kind implements [Device].
func (*CMOS) Kind() state.Kind { return state.Kind{Name: "cmos"} }

// Attach implements [Device].
func (d *CMOS) Attach(Board) []Window { return []Window{{Ports, portCMOS, 2, d.access}} }

func (*CMOS) access(a Access) {
	if !a.Write {
		a.fill(0)
	}
}
