package devicetest

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"taskguide/memory"
	"taskguide/vmm/device"
	"taskguide/vmm/state"
)

// A Counter counts in the first word of each of these pages of RAM, in turn.
const (
	CounterGPA   = 13 << 20
	CounterPages = 64
)

// Fault is a way in which a Counter breaks its contract.
type Fault string

const (
	NoFault Fault = ""
	// WritesOn is the fault of a device that goes on writing after Quiesce.
	WritesOn Fault = "writes on"
	// Unmarked is the fault of a device that writes RAM without marking it.
	Unmarked Fault = "unmarked"
)

// Counter is a device that writes RAM from a goroutine: 1, 2, 3, ... to its pages, in turn.
type Counter struct {
	fault Fault
	ram   *memory.Guest
	done  chan struct{} // the goroutine has ended

	mu      sync.Mutex
	changed sync.Cond // quiet or closed has changed
	quiet   bool
	closed  bool
	n       uint64
}

// NewCounter returns a counter at 0.
func NewCounter(fault Fault) *Counter {
	c := &Counter{fault: fault, quiet: true, done: make(chan struct{})}
	c.changed.L = &c.mu
	return c
}

// Kind implements [device.Device].
func (*Counter) Kind() state.Kind { return state.Kind{Name: "counter", Version: 1} }

// Attach implements [device.Device]. The device has no windows; the guest finds the numbers in RAM.
func (c *Counter) Attach(h device.Board) []device.Window {
	c.ram = h.RAM()
	go c.count()
	return nil
}

func (c *Counter) count() {
	defer close(c.done)
	for c.step() {
		time.Sleep(10 * time.Microsecond)
	}
}

// step writes the next number. It returns false once the device is closed.
func (c *Counter) step() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.quiet && !c.closed {
		c.changed.Wait()
	}
	if c.closed {
		return false
	}
	c.n++
	number := binary.LittleEndian.AppendUint64(nil, c.n)
	gpa := uint64(CounterGPA + c.n%CounterPages*memory.PageSize)
	if c.fault == Unmarked {
		past, _ := c.ram.Slice(gpa, len(number))
		copy(past, number)
		return true
	}
	return c.ram.Write(gpa, number)
}

// Quiesce implements [device.Device]. Numbers are written with mu held, so none is half written
// once Quiesce has held mu.
func (c *Counter) Quiesce() {
	if c.fault == WritesOn {
		return
	}
	c.set(&c.quiet, true)
}

// Resume implements [device.Device].
func (c *Counter) Resume() { c.set(&c.quiet, false) }

// Close implements [device.Device].
func (c *Counter) Close() {
	c.set(&c.closed, true)
	<-c.done
}

func (c *Counter) set(what *bool, v bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*what = v
	c.changed.Broadcast()
}

// Count returns the last number that was written.
func (c *Counter) Count() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// Save implements [device.Device].
func (c *Counter) Save() []byte { return binary.LittleEndian.AppendUint64(nil, c.Count()) }

// Fingerprint implements [device.Device].
func (c *Counter) Fingerprint() []byte { return c.Save() }

// Load implements [device.Device].
func (c *Counter) Load(_ uint16, data []byte) error {
	if len(data) != 8 {
		return fmt.Errorf("counter: state of %d bytes", len(data))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n = binary.LittleEndian.Uint64(data)
	return nil
}

// Check returns an error unless RAM has exactly the numbers of a quiesced counter.
func (c *Counter) Check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := c.n; n > 0 && c.n-n < CounterPages; n-- {
		word, ok := c.ram.Slice(CounterGPA+n%CounterPages*memory.PageSize, 8)
		if !ok {
			return fmt.Errorf("number %d has no RAM", n)
		}
		if got := binary.LittleEndian.Uint64(word); got != n {
			return fmt.Errorf("number %d of %d is lost: %d is in its place", n, c.n, got)
		}
	}
	return nil
}
