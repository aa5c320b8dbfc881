package device_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/device"
)

// wired is a board that writes down what an ACPI device does to it.
type wired struct {
	device.Board
	line       bool
	off, reset int
}

func (w *wired) RAM() *memory.Guest { return nil }
func (w *wired) SetIRQ(line uint32, level bool) {
	if line == device.ACPIIRQ {
		w.line = level
	}
}
func (w *wired) PowerOff() { w.off++ }
func (w *wired) Reset()    { w.reset++ }

// newACPI is a device that works, its board, and an access of a byte to its registers.
func newACPI() (*device.ACPI, *wired, func(register uint64, v byte, write bool) byte) {
	d, w := &device.ACPI{}, &wired{}
	window := d.Attach(w)[0]
	d.Resume()
	return d, w, func(register uint64, v byte, write bool) byte {
		data := []byte{v}
		window.Access(device.Access{Offset: register, Size: 1, Data: data, Write: write})
		return data[0]
	}
}

// Registers, as the ACPI tables have them.
const (
	sleepControl = iota
	sleepStatus
	resetRegister
	events
)

func TestOffAndReset(t *testing.T) {
	_, w, access := newACPI()
	for v := range 256 {
		off := byte(v)&0x3c == 0x34 // SLP_EN, SLP_TYP 5; the other bits are reserved
		before := w.off
		access(sleepControl, byte(v), true)
		require.Equal(t, off, w.off > before, "%#x", v)
		before = w.reset
		access(resetRegister, byte(v), true)
		require.Equal(t, v == 1, w.reset > before, "%#x", v)
		access(sleepStatus, byte(v), true)
	}
	for register := range uint64(4) {
		require.Zero(t, access(register, 0xff, false))
	}
	require.False(t, w.line)
}

func TestPowerButton(t *testing.T) {
	d, w, access := newACPI()
	d.Press()
	require.True(t, w.line)
	require.Equal(t, byte(1), access(events, 0, false))
	require.Equal(t, byte(1), access(events, 0, false), "reading changes nothing")
	access(events, 0xfe, true)
	require.True(t, w.line, "another event was cleared")
	access(events, 1, true)
	require.False(t, w.line)
	require.Zero(t, access(events, 0, false))
}

// TestPressedWhilePaused: the guest learns of it when it goes on.
func TestPressedWhilePaused(t *testing.T) {
	d, w, access := newACPI()
	d.Quiesce()
	d.Press()
	require.False(t, w.line)
	require.Equal(t, []byte{0}, d.Save())
	d.Resume()
	require.True(t, w.line)
	access(events, 1, true)
	d.Quiesce()
	d.Resume()
	require.False(t, w.line, "once")
}

// TestPressTravels: a press that the guest has not seen is there after a move, its line in the
// state of the interrupt controllers.
func TestPressTravels(t *testing.T) {
	d, _, _ := newACPI()
	d.Press()
	d.Quiesce()
	to, w := &device.ACPI{}, &wired{}
	window := to.Attach(w)[0]
	require.NoError(t, to.Load(1, d.Save()))
	to.Resume()
	require.False(t, w.line, "driven already")
	data := []byte{0}
	window.Access(device.Access{Offset: events, Size: 1, Data: data})
	require.Equal(t, []byte{1}, data)
	for _, bad := range [][]byte{nil, {2}, {0, 0}} {
		require.Error(t, to.Load(1, bad))
	}
}
