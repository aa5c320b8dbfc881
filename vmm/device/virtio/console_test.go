package virtio

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/device"
	"taskguide/vmm/device/devicetest"
	"taskguide/vmm/device/pci"
)

// reader is who reads a console. It takes what comes only while it may.
type reader struct {
	mu      sync.Mutex // guards what follows
	changed sync.Cond
	got     bytes.Buffer
	may     int // bytes that it still takes
	lost    []int64
}

const everything = 1 << 30

func newReader(may int) *reader {
	r := &reader{may: may}
	r.changed.L = &r.mu
	return r
}

func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.may < len(p) {
		r.changed.Wait()
	}
	r.may -= len(p)
	return r.got.Write(p)
}

func (r *reader) allow(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.may += n
	r.changed.Broadcast()
}

func (r *reader) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got.String()
}

func (r *reader) lossy(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = append(r.lost, n)
}

func (r *reader) losses() []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]int64(nil), r.lost...)
}

func (r *reader) await(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return r.text() == text }, patience, time.Millisecond)
}

// newTestConsole returns a console on a bus of its own, with a queue of so many bytes.
func newTestConsole(r *reader, queue int) *Console {
	return NewConsole(pci.NewHost(), device.Console{Writer: r, Lossy: r.lossy, Queue: queue}, noLog)
}

// newPatientConsole is a console whose writer may be as slow as the host is: nothing is lost.
func newPatientConsole(r *reader, queue int) *Console {
	c := newTestConsole(r, queue)
	c.port.out.patience = time.Hour
	return c
}

// prints offers a text to the console, cut into parts of two buffers.
func (r *ring) prints(text string) {
	at := bufferBase + uint64(r.put%r.size)<<16
	r.driver.ram.Write(at, []byte(text))
	half := uint32(len(text) / 2)
	r.offer(r.chain(desc{gpa: at, bytes: half},
		desc{gpa: at + uint64(half), bytes: uint32(len(text)) - half}))
	r.ring()
}

// TestConsoleKeepsTheContract: text goes both ways as the device is quiesced.
func TestConsoleKeepsTheContract(t *testing.T) {
	devicetest.Run(t, devicetest.Suite{
		New: func() device.Device { return newTestConsole(newReader(everything), 64) },
		Work: func(m *devicetest.Board) {
			d := driverOf(t, m.Device.(*Console).Device, m.Windows[0], m.RAM())
			d.start(consoleQueue, 0)
			in, out := d.queues[consoleInput], d.queues[consoleOutput]
			for i := range uint64(8) {
				in.offer(in.chain(desc{gpa: bufferBase + i<<20, bytes: 16, flags: flagWrite}))
				in.ring()
				out.prints("some text, more than there is room for\n")
			}
		},
		Outside: func(m *devicetest.Board) { m.Device.(*Console).Input([]byte("keys")) },
	})
}

// TestConsoleTakesTurns: a chain of any length holds the device's lock for a part of it at a time,
// and reaches the writer whole.
func TestConsoleTakesTurns(t *testing.T) {
	r := newReader(everything)
	c := newTestConsole(r, 0)
	newDriver(t, c.Device)
	c.port.out.Queue = everything // as if the writer always kept up
	var long chain
	for range 8 {
		long.readable = append(long.readable, memory.Range{GPA: bufferBase, Bytes: 1 << 20})
		long.readBytes += 1 << 20
	}
	turns := 0
	for done := false; !done; turns++ {
		before := c.port.done
		_, done, _ = c.port.handle(consoleOutput, long)
		if !done {
			require.Equal(t, before+consolePrinted, c.port.done)
		}
	}
	require.Equal(t, long.readBytes/consolePrinted, turns)

	// The device comes back to what is left by itself.
	r = newReader(everything)
	c = newPatientConsole(r, 0)
	d, _ := newDriver(t, c.Device)
	c.Resume()
	d.start(8, 0)
	d.queues[consoleOutput].do(desc{gpa: bufferBase, bytes: 1 << 20})
	require.Eventually(t, func() bool { return len(r.text()) == 1<<20 }, patience, time.Millisecond)
}

// TestConsolePrints: what the guest prints reaches the writer once, in order.
func TestConsolePrints(t *testing.T) {
	r := newReader(everything)
	c := newTestConsole(r, 0)
	d, _ := newDriver(t, c.Device)
	c.Resume()
	d.start(8, 0)
	var want strings.Builder
	for i := range uint16(30) {
		line := fmt.Sprintf("line %d\n", i)
		want.WriteString(line)
		d.queues[consoleOutput].prints(line)
		d.queues[consoleOutput].await(i + 1)
	}
	r.await(t, want.String())
	require.Empty(t, r.losses())
}

// TestConsoleInput: what is typed waits for buffers, in bounds, and fills them.
func TestConsoleInput(t *testing.T) {
	c := newTestConsole(newReader(0), 0)
	d, _ := newDriver(t, c.Device)
	require.Equal(t, 5, c.Input([]byte("early")))
	c.Resume()
	d.start(8, 0)
	in := d.queues[consoleInput]
	require.EqualValues(t, 3, in.do(desc{gpa: bufferBase, bytes: 3, flags: flagWrite}))
	require.EqualValues(t, 2, in.do(desc{gpa: bufferBase + 3, bytes: 64, flags: flagWrite}))
	got, _ := d.ram.Slice(bufferBase, 5)
	require.Equal(t, "early", string(got))
	in.offer(in.chain(desc{gpa: bufferBase, bytes: 8, flags: flagWrite}))
	in.ring()
	require.Equal(t, 1, c.Input([]byte("x")), "into a buffer that waits")
	in.await(3)
	require.Equal(t, consoleTyped, c.Input(make([]byte, 2*consoleTyped)))
	require.Zero(t, c.Input([]byte("y")), "nobody reads")
	in.offer(in.chain(desc{gpa: bufferBase, bytes: 8})) // cannot be written
	in.ring()
	d.awaitBroken()
	d.start(8, 0)
	require.EqualValues(t, 64, d.queues[consoleInput].do(
		desc{gpa: bufferBase, bytes: 64, flags: flagWrite}), "it waits for the next driver")
}

// TestConsoleIsBounded: what there is no room for waits in the guest. When the writer is stuck, it
// is lost, and counted; what had room is not.
func TestConsoleIsBounded(t *testing.T) {
	r := newReader(0)
	c := newTestConsole(r, 100)
	d, _ := newDriver(t, c.Device)
	c.Resume()
	d.start(8, 0)
	out := d.queues[consoleOutput]
	text := strings.Repeat("0123456789", 500)
	out.prints(text)
	out.await(1) // because the writer is stuck
	r.allow(everything)
	require.Eventually(t, func() bool { return len(r.losses()) == 2 }, patience, time.Millisecond)
	kept := len(text) - int(r.losses()[1])
	require.Zero(t, r.losses()[0])
	require.GreaterOrEqual(t, kept, 100)
	require.Less(t, kept, len(text))
	r.await(t, text[:kept])
	out.prints("more")
	r.await(t, text[:kept]+"more")
}

// TestConsoleWithoutAWriter: the guest prints into the void, at once.
func TestConsoleWithoutAWriter(t *testing.T) {
	c := NewConsole(pci.NewHost(), device.Console{}, noLog)
	d, _ := newDriver(t, c.Device)
	c.Resume()
	d.start(8, 0)
	d.queues[consoleOutput].prints("text")
	d.queues[consoleOutput].await(1)
	require.Empty(t, c.port.out.queue)
}

// moved loads a console's state into another one that has a driver in the same RAM.
func (c *Console) movedTo(t *testing.T, to *Console, from *driver) *driver {
	all, _ := from.ram.Slice(0, memory.MinSize)
	d, _ := newDriver(t, to.Device)
	d.ram.Write(0, all)
	require.NoError(t, to.Load(1, c.Save()))
	for _, q := range from.queues {
		moved := *q
		moved.driver = d
		d.queues = append(d.queues, &moved)
	}
	return d
}

// TestConsoleMoves: each byte that the guest prints reaches the old or the new writer, once and in
// order, though the move comes in the middle of a text that has no room.
func TestConsoleMoves(t *testing.T) {
	text := strings.Repeat("a line that is long enough\n", 1000)
	writers := []*reader{newReader(0)}
	c := newPatientConsole(writers[0], 1000)
	d, _ := newDriver(t, c.Device)
	c.Resume()
	d.start(8, 0)
	require.Equal(t, 4, c.Input([]byte("keys")))
	d.queues[consoleOutput].prints(text)
	full := func() bool {
		c.port.mu.Lock()
		defer c.port.mu.Unlock()
		return c.port.done >= 2000 // the writer has the first half, and the queue is full again
	}
	require.Eventually(t, full, patience, time.Millisecond)
	for range 4 {
		c.Quiesce()
		next := newReader(everything)
		to := newPatientConsole(next, 1000)
		d = c.movedTo(t, to, d)
		writers[len(writers)-1].allow(everything)
		c.Close() // the source ends only after the destination runs
		require.Empty(t, next.text(), "before the destination runs")
		next.mu.Lock()
		next.may = 5000
		next.mu.Unlock()
		to.Resume()
		require.Eventually(t, func() bool { return next.text() != "" }, patience, time.Millisecond)
		writers, c = append(writers, next), to
	}
	writers[len(writers)-1].allow(everything)
	d.queues[consoleOutput].await(1)
	require.Eventually(t, func() bool {
		var all strings.Builder
		for _, w := range writers {
			all.WriteString(w.text())
		}
		return all.String() == text
	}, patience, time.Millisecond)
	in := d.queues[consoleInput]
	require.EqualValues(t, 4, in.do(desc{gpa: bufferBase, bytes: 64, flags: flagWrite}))
}

// TestConsoleStays: a machine that stays, though its state was saved, prints all of it itself.
func TestConsoleStays(t *testing.T) {
	for name, stays := range map[string]func(c *Console){
		"and goes on": func(c *Console) { c.Resume() },
		"paused":      func(c *Console) { c.Stay() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newReader(0)
			c := newTestConsole(r, 0)
			d, _ := newDriver(t, c.Device)
			c.Resume()
			d.start(8, 0)
			text := strings.Repeat("0123456789", 1000)
			d.queues[consoleOutput].prints(text)
			d.queues[consoleOutput].await(1)
			require.Eventually(t, func() bool {
				c.port.out.mu.Lock()
				defer c.port.out.mu.Unlock()
				return c.port.out.writing > 0
			}, patience, time.Millisecond)
			c.Quiesce()
			c.Save()
			r.allow(everything)
			require.Eventually(t, func() bool { return r.text() == text[:outletChunk] }, patience,
				time.Millisecond, "the writer had this part already")
			stays(c)
			r.await(t, text)
		})
	}
}

// TestConsoleForeignState is refused.
func TestConsoleForeignState(t *testing.T) {
	c := newTestConsole(newReader(0), 0)
	newDriver(t, c.Device)
	saved := c.Save()
	for name, more := range map[string][]byte{
		"short":        {0, 0},
		"typed":        {0, 0, 0, 0, 1, 0},
		"typed, much":  append([]byte{0, 0, 0, 0, 1, 0x10}, make([]byte, 5000)...),
		"printed much": append([]byte{0, 0, 0, 0, 0, 0}, make([]byte, consolePrinted+1)...),
	} {
		require.ErrorContains(t, c.Load(1, append(saved[:len(saved)-savedPort:len(saved)-savedPort],
			more...)), `state of device "console"`, name)
	}
}

// FuzzConsoleLoad gives a console the state of another host. It takes it whole or refuses it.
func FuzzConsoleLoad(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 2, 0, 'a', 'b', 'c'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &port{out: newOutlet(device.Console{Writer: newReader(everything)}, func() {})}
		if p.load(data) != nil {
			return
		}
		require.LessOrEqual(t, len(p.typed), consoleTyped)
		require.LessOrEqual(t, len(p.out.queue), consolePrinted)
		require.Equal(t, data, p.save())
		p.output(chain{})
		p.stay()
		p.close()
	})
}
