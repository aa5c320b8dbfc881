package virtio

import (
	"bytes"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"taskguide/memory"
	"taskguide/vmm/device"
	"taskguide/vmm/device/pci"
)

const (
	slotConsole  = 2
	idConsole    = 3
	classConsole = 0x078000 // simple communication controller
	consoleQueue = 64

	consoleInput  = 0 // queue with room for what a user types
	consoleOutput = 1 // queue with what the guest prints

	// consoleConfigBytes is the size of struct virtio_console_config. All of it is 0, because it
	// counts only with features that this device does not have.
	consoleConfigBytes = 12

	// Most bytes that wait for the guest, and for the writer.
	consoleTyped   = 4096
	consolePrinted = 64 << 10
)

// Console is a virtio console with one port, hvc0 for Linux.
//
// What the guest prints waits in its queue until there is room for it, so no vCPU is kept waiting.
// Linux polls until its text was taken. So once the writer has taken nothing for a second, text for
// which there is no room is lost, as on COM1.
//
// Bytes belong to the state until the writer has them: they move with the guest. So no input is
// taken from when the state is saved until it is known that the guest stays here.
type Console struct {
	*Device
	port *port
}

// port is a console's device.
type port struct {
	ram  *memory.Guest
	wake func(queue int) // may be called with locks held
	out  *outlet

	mu sync.Mutex // guards what follows; taken with the device's lock held
	// done is how many bytes of the next chain of output were taken.
	done  int
	typed []byte
	away  bool // what was typed belongs to whoever loads the saved state
}

// NewConsole returns a console on a bus, which sends to out. Its Queue is 64 KiB at most.
func NewConsole(host *pci.Host, out device.Console, log *slog.Logger) *Console {
	p := &port{}
	d := newDevice(host, spec{
		name: "console", slot: slotConsole, id: idConsole, class: classConsole,
		sizes: []uint16{consoleQueue, consoleQueue}, config: make([]byte, consoleConfigBytes),
	}, p, log)
	p.wake = d.wake
	p.out = newOutlet(out, func() { d.wake(consoleOutput) })
	return &Console{Device: d, port: p}
}

// Input sends bytes to the guest as far as there is room, and returns how many it took.
func (c *Console) Input(b []byte) int {
	n := c.port.take(b)
	c.wake(consoleInput)
	return n
}

func (p *port) take(b []byte) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return 0
	}
	n := min(len(b), consoleTyped-len(p.typed))
	p.typed = append(p.typed, b[:n]...)
	return n
}

func (p *port) start(ram *memory.Guest) { p.ram = ram }
func (*port) serve(request)             {}
func (p *port) close()                  { p.out.close() }

// handle implements [prompt].
func (p *port) handle(queue int, c chain) (written uint32, done bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if queue == consoleInput {
		return p.input(c)
	}
	return 0, p.output(c), nil
}

// input passes on what was typed; mu is held.
func (p *port) input(c chain) (written uint32, done bool, err error) {
	n := min(c.writeBytes, len(p.typed))
	switch {
	case c.writeBytes == 0:
		return 0, false, broken("a buffer for input has no room for any")
	case n == 0:
		return 0, false, nil
	}
	scatter(p.ram, c.writable, p.typed[:n])
	p.typed = append(p.typed[:0], p.typed[n:]...)
	return uint32(n), true, nil
}

// output takes what was printed as far as there is room, and tells whether that is all. A chain may
// have gigabytes, so it takes a part at a time: whoever waits for the device's lock comes in
// between; mu is held.
func (p *port) output(c chain) bool {
	for left := consolePrinted; p.done < c.readBytes; {
		room, drop := p.out.room(c.readBytes - p.done)
		if drop {
			break
		}
		if room == 0 {
			return false
		}
		if left == 0 {
			p.wake(consoleOutput)
			return false
		}
		room = min(room, left)
		left -= room
		_, rest := cut(c.readable, p.done)
		part, _ := cut(rest, room)
		p.out.put(gather(p.ram, part))
		p.done += room
	}
	p.done = 0
	return true
}

// reset implements [stateful]. What was printed is still written, and what was typed waits for the
// next driver.
func (p *port) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = 0
}

// The state is a count of bytes of the next chain, what was typed, and what was printed.
const savedPort = 4 + 2

// save implements [stateful].
func (p *port) save() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = true
	b := le.AppendUint32(nil, uint32(p.done))
	b = le.AppendUint16(b, uint16(len(p.typed)))
	b = append(b, p.typed...)
	return append(b, p.out.giveAway()...)
}

// load implements [stateful].
func (p *port) load(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(b) < savedPort {
		return fmt.Errorf("%d bytes of a console", len(b))
	}
	done, typed, b := le.Uint32(b), int(le.Uint16(b[4:])), b[savedPort:]
	if typed > consoleTyped || typed > len(b) || len(b)-typed > consolePrinted {
		return fmt.Errorf("%d bytes typed and %d printed", typed, len(b)-typed)
	}
	p.done, p.typed = int(done), append([]byte(nil), b[:typed]...)
	p.out.inherit(b[typed:])
	return nil
}

// stay implements [stateful].
func (p *port) stay() {
	p.mu.Lock()
	p.away = false
	p.mu.Unlock()
	p.out.stay()
}

const (
	// outletChunk is how many bytes the writer gets at once.
	outletChunk = 4 << 10
	// outletPatience is how long a writer may take for a chunk before output is lost, by default.
	outletPatience = time.Second
	// outletFlush is how long the end of a machine waits for the writer.
	outletFlush = time.Second
)

// Readied is a writer that may have nobody to write to, as a socket without a client.
type Readied interface {
	// Ready returns true once there is somebody, or false if there is nobody and cancel is closed.
	Ready(cancel <-chan struct{}) bool
}

// outlet carries a console's output to a writer that may be slow. Its goroutine begins with the
// first output.
type outlet struct {
	device.Console
	drained  func()        // called without locks when there may be room, or none is waited for
	end      chan struct{} // closed by close
	over     chan struct{} // closed when the goroutine has ended
	patience time.Duration // outletPatience, except in tests

	mu      sync.Mutex // guards what follows; taken with the port's lock held
	changed sync.Cond  // queue, away or closed has changed
	queue   []byte
	away    bool      // the queue belongs to whoever loads the saved state
	begun   bool      // the goroutine
	closed  bool      // no more output comes
	writing int       // bytes that the writer has
	since   time.Time // how long the goroutine has waited for the writer; zero: it does not
	stuck   bool      // the writer has taken nothing for too long
	lost    int64     // bytes, since it got stuck
}

func newOutlet(c device.Console, drained func()) *outlet {
	if c.Queue == 0 || c.Queue > consolePrinted {
		c.Queue = consolePrinted
	}
	o := &outlet{
		Console: c, drained: drained, away: true,
		end: make(chan struct{}), over: make(chan struct{}), patience: outletPatience,
	}
	o.changed.L = &o.mu
	return o
}

// room returns for how many of n bytes there is room. Instead, it may tell the caller to drop all
// of them; then they are counted.
func (o *outlet) room(n int) (room int, drop bool) {
	o.mu.Lock()
	room = min(n, max(0, o.Queue-len(o.queue)))
	drop = o.Writer == nil || o.closed || o.stuck && room == 0
	first := drop && o.stuck && o.lost == 0
	if drop && o.stuck {
		o.lost += int64(n)
	}
	o.mu.Unlock()
	if first && o.Lossy != nil {
		o.Lossy(0)
	}
	return room, drop
}

// put takes output for which there is room.
func (o *outlet) put(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = append(o.queue, b...)
	o.write()
}

// write makes the goroutine look at the queue; mu is held.
func (o *outlet) write() {
	if !o.begun {
		o.begun = true
		go o.drain()
	}
	o.changed.Broadcast()
}

// giveAway returns the queue, which from then on stays as it is.
func (o *outlet) giveAway() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.away = true
	return bytes.Clone(o.queue)
}

// inherit takes a queue over that was given away. Nothing of it is written before stay.
func (o *outlet) inherit(queue []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue, o.away = bytes.Clone(queue), true
}

// stay lets the queue be written out here.
func (o *outlet) stay() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.away = false
	switch {
	case o.Writer == nil:
		o.queue = nil
	case len(o.queue) > 0:
		o.write()
	}
}

// close writes the queue out, as far as the writer takes it in outletFlush, unless it was given
// away. It reports what is lost.
func (o *outlet) close() {
	o.mu.Lock()
	o.closed = true
	begun := o.begun
	o.changed.Broadcast()
	o.mu.Unlock()
	close(o.end)
	if !begun {
		return
	}
	select {
	case <-o.over:
	case <-time.After(outletFlush):
	}
	o.mu.Lock()
	lost := o.lost + int64(o.writing)
	if !o.away {
		lost += int64(len(o.queue))
	}
	o.mu.Unlock()
	if lost > 0 && o.Lossy != nil {
		o.Lossy(lost)
	}
}

// drain writes the queue out until the machine ends.
func (o *outlet) drain() {
	defer close(o.over)
	patience := time.AfterFunc(o.patience, o.giveUp)
	defer patience.Stop()
	who, waits := o.Writer.(Readied)
	chunk := make([]byte, outletChunk)
	for o.await(patience) {
		if waits && !who.Ready(o.end) {
			return
		}
		if n := o.next(chunk); n > 0 {
			o.drained() // the guest goes on printing meanwhile
			// The error of a writer that went away does not concern the guest.
			_, _ = o.Writer.Write(chunk[:n])
		}
		o.wrote(patience)
	}
}

// await returns true once there is something to write, or false if there will be nothing any more.
func (o *outlet) await(patience *time.Timer) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for (len(o.queue) == 0 || o.away) && !o.closed {
		o.changed.Wait()
	}
	o.since = time.Now()
	patience.Reset(o.patience)
	return len(o.queue) > 0 && !o.away
}

// next takes the next bytes out of the queue, unless it was given away meanwhile.
func (o *outlet) next(chunk []byte) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.away {
		return 0
	}
	o.writing = copy(chunk, o.queue)
	o.queue = append(o.queue[:0], o.queue[o.writing:]...)
	return o.writing
}

// wrote is called when the writer has taken its bytes.
func (o *outlet) wrote(patience *time.Timer) {
	o.mu.Lock()
	patience.Stop()
	lost := o.lost
	o.since, o.stuck, o.lost, o.writing = time.Time{}, false, 0, 0
	o.mu.Unlock()
	if lost > 0 && o.Lossy != nil {
		o.Lossy(lost)
	}
	o.drained()
}

// giveUp marks the writer as stuck if it has taken nothing for too long.
func (o *outlet) giveUp() {
	o.mu.Lock()
	if !o.since.IsZero() && time.Since(o.since) >= o.patience {
		o.stuck = true
	}
	o.mu.Unlock()
	o.drained()
}
