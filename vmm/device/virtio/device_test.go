package virtio

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/device"
	"taskguide/vmm/device/pci"
)

// held is a backend that keeps every request until a test releases it.
type held struct {
	requests chan request
	closed   bool
}

func newHeld(log *slog.Logger) (*Device, *held) {
	h := &held{requests: make(chan request, 16)}
	return newDevice(pci.NewHost(), spec{
		name: "held", slot: 5, id: 4, class: 0xff0000, sizes: []uint16{8, 8},
		config: []byte{1, 2, 3},
	}, h, log), h
}

func (*held) start(*memory.Guest) {}
func (h *held) serve(r request)   { h.requests <- r }
func (h *held) close()            { h.closed = true }

func (h *held) next(t *testing.T) request {
	t.Helper()
	select {
	case r := <-h.requests:
		return r
	case <-time.After(patience):
		t.Fatal("no request came")
		return request{}
	}
}

var someBytes = desc{gpa: bufferBase, bytes: 16, flags: flagWrite}

// TestNegotiation: a driver gets no further than the standard lets it.
func TestNegotiation(t *testing.T) {
	dev, _ := newHeld(noLog)
	d, _ := newDriver(t, dev)
	d.begin(featureVersion1)
	require.Zero(t, d.read(regStatus, 1)&statusFeaturesOK, "an old driver")
	d.begin(0)
	require.NotZero(t, d.read(regStatus, 1)&statusFeaturesOK)
	d.write(0x08, 4, 0)
	d.write(0x0c, 4, 1)
	require.NotEqual(t, uint64(1), d.read(0x0c, 4), "features stay once they are agreed on")
	d.write(regStatus, 1, 0)
	d.write(regStatus, 1, statusAcknowledge|statusDriver)
	d.write(0x08, 4, 0)
	d.write(0x0c, 4, 1) // one that the device does not have
	d.write(0x08, 4, 1)
	d.write(0x0c, 4, 1)
	d.write(regStatus, 1, statusFeaturesOK)
	require.Zero(t, d.read(regStatus, 1)&statusFeaturesOK, "features that nobody offered")
	d.write(regStatus, 1, statusDriverOK)
	require.Zero(t, d.read(regStatus, 1)&statusDriverOK, "a driver without features")
	require.EqualValues(t, statusAcknowledge|statusDriver, d.read(regStatus, 1))
	d.write(regStatus, 1, statusFailed)
	require.EqualValues(t, statusAcknowledge|statusDriver|statusFailed, d.read(regStatus, 1))
	for _, which := range []uint64{2, 1 << 31} {
		d.write(0x00, 4, which)
		require.Zero(t, d.read(0x04, 4), "features beyond the last")
	}
}

// TestRegistersOfAQueue: what a driver sets up stays as it is once the queue is enabled, and what
// it reads of a queue that is not there is 0.
func TestRegistersOfAQueue(t *testing.T) {
	dev, _ := newHeld(noLog)
	d, _ := newDriver(t, dev)
	require.EqualValues(t, 0xffffffff, d.read(0, 4), "nobody answers before the guest says so")
	d.start(4, 0)
	require.EqualValues(t, 2, d.read(0x12, 2))
	for _, f := range fields[9:] {
		d.write(regSelect, 2, 1)
		before := d.read(f.offset, f.size)
		if f.offset != 0x1a { // the vector
			d.write(f.offset, f.size, 0)
			require.Equal(t, before, d.read(f.offset, f.size), "%#x", f.offset)
		}
		d.write(regSelect, 2, 2)
		d.write(f.offset, f.size, 1)
		require.Zero(t, d.read(f.offset, f.size), "%#x", f.offset)
	}
	d.write(regSelect, 2, 1)
	d.write(0x1a, 2, 3)
	require.EqualValues(t, noVector, d.read(0x1a, 2), "there are three vectors")
	// An access to anything but a whole register is ignored.
	for _, at := range [][2]uint64{
		{0x12, 4}, {0x14, 2}, {0x13, 1}, {0x20, 8}, {0x38, 4}, {0x0e, 2},
	} {
		require.EqualValues(t, 1<<(8*at[1])-1, d.read(at[0], int(at[1])), "%#x", at[0])
	}
	require.EqualValues(t, 0x030201, d.read(barConfig, 4))
	require.EqualValues(t, 0x03, d.read(barConfig+2, 2))
	require.EqualValues(t, 0, d.read(barConfig+3, 8))
	require.EqualValues(t, 0xff, d.read(0x6000, 1))
}

// TestByConfigurationSpace: a driver that never maps the BAR drives the device by the window in
// configuration space, doorbells and messages included.
func TestByConfigurationSpace(t *testing.T) {
	dev, h := newHeld(noLog)
	d, b := newDriver(t, dev)
	dev.Resume()
	window := uint64(0)
	for at := d.config(0x34, 1, 0, false); at != 0; at = d.config(at+1, 1, 0, false) {
		if d.config(at, 1, 0, false) == 9 && d.config(at+3, 1, 0, false) == 5 {
			window = at
		}
	}
	require.NotZero(t, window)
	inMemory := d.bar
	d.bar = device.Window{Access: func(a device.Access) {
		step := min(a.Size, 4) // more do not fit
		for i := 0; i < a.Size; i += step {
			d.config(window+8, 4, a.Offset+uint64(i), true)
			d.config(window+12, 4, uint64(step), true)
			part := a.Data[i : i+step]
			d.bus[2].Access(device.Access{
				Offset: uint64(dev.Slot)<<15 + window + 16, Size: step, Data: part, Write: a.Write,
			})
		}
	}}
	d.start(8, 0)
	d.config(pciCommand, 2, 4, true) // it may access RAM, and does not answer in memory
	require.EqualValues(t, 0xffffffff, access(inMemory, 0, 4, 0, false))
	r := d.queues[1]
	r.offer(r.chain(someBytes))
	r.ring()
	h.next(t).done(9, nil)
	r.await(1)
	require.Equal(t, []uint32{messageOf(2)}, b.messages())
	require.EqualValues(t, isrQueue, d.read(barISR, 1))
}

// TestServed: a driver is interrupted by its vector, or not at all if it wants none.
func TestServed(t *testing.T) {
	dev, h := newHeld(noLog)
	d, b := newDriver(t, dev)
	dev.Resume()
	d.start(8, 0)
	r := d.queues[1]
	for i := range uint16(20) {
		wanted := i%2 == 0
		if wanted {
			r.wantNext(i)
		}
		head := r.chain(someBytes)
		r.offer(head)
		r.ring()
		h.next(t).done(9, nil)
		r.await(i + 1)
		id, written := r.used(i)
		require.EqualValues(t, head, id)
		require.EqualValues(t, 9, written)
		if wanted {
			require.Equal(t, []uint32{messageOf(2)}, b.messages(), "%d", i)
			require.EqualValues(t, isrQueue, d.read(barISR, 1))
		}
		require.Empty(t, b.messages(), "%d", i)
		require.Zero(t, d.read(barISR, 1))
	}
}

// TestOutOfOrder: requests are given back in whatever order they are done.
func TestOutOfOrder(t *testing.T) {
	dev, h := newHeld(noLog)
	d, _ := newDriver(t, dev)
	dev.Resume()
	d.start(8, 0)
	r := d.queues[0]
	for range 3 {
		r.offer(r.chain(someBytes))
	}
	r.ring()
	a, b, c := h.next(t), h.next(t), h.next(t)
	for i, req := range []request{c, a, b} {
		req.done(0, nil)
		id, _ := r.used(uint16(i))
		require.EqualValues(t, req.head, id)
	}
	require.EqualValues(t, 3, r.given())
}

// TestQuiesceWaitsForWhatIsInFlight: Quiesce waits for requests in flight and takes no new ones.
// Those that come meanwhile are served after Resume.
func TestQuiesceWaitsForWhatIsInFlight(t *testing.T) {
	dev, h := newHeld(noLog)
	d, _ := newDriver(t, dev)
	dev.Resume()
	d.start(8, 0)
	r := d.queues[0]
	r.offer(r.chain(someBytes))
	r.ring()
	req := h.next(t)
	quiet := make(chan struct{})
	go func() {
		dev.Quiesce()
		close(quiet)
	}()
	require.Eventually(t, func() bool {
		dev.mu.Lock()
		defer dev.mu.Unlock()
		return dev.quiet
	}, patience, time.Millisecond)
	r.offer(r.chain(someBytes))
	r.ring()
	select {
	case <-quiet:
		t.Fatal("a request was in flight")
	case r := <-h.requests:
		r.done(0, nil)
		t.Fatal("a request was taken")
	case <-time.After(20 * time.Millisecond):
	}
	req.done(0, nil)
	<-quiet
	require.EqualValues(t, 1, r.given())
	dev.Resume()
	h.next(t).done(0, nil)
	r.await(2)
}

// TestReset: a reset while the backend has a request is complete only when that is done, and the
// device does not give it back to the old ring.
func TestReset(t *testing.T) {
	dev, h := newHeld(noLog)
	d, b := newDriver(t, dev)
	dev.Resume()
	d.start(8, 0)
	d.queues[0].offer(d.queues[0].chain(someBytes))
	d.queues[0].ring()
	req := h.next(t)
	d.write(regStatus, 1, 0)
	require.NotZero(t, d.read(regStatus, 1))
	d.write(regStatus, 1, statusAcknowledge)
	req.done(16, nil)
	require.Zero(t, d.read(regStatus, 1))
	require.Zero(t, d.queues[0].given())
	require.Empty(t, b.messages())
	d.start(8, 0)
	d.queues[0].offer(d.queues[0].chain(someBytes))
	d.queues[0].ring()
	h.next(t).done(0, nil)
	require.EqualValues(t, 1, d.queues[0].given())
}

// TestBrokenDriver: a driver that breaks a rule gets a device that does nothing until it is reset,
// and the log one line however often that happens.
func TestBrokenDriver(t *testing.T) {
	var log bytes.Buffer
	dev, h := newHeld(slog.New(slog.NewTextHandler(&log, nil)))
	d, b := newDriver(t, dev)
	dev.Resume()
	for range 3 {
		d.start(8, 0)
		r := d.queues[1]
		r.offer(r.chain(desc{gpa: memory.LowEnd, bytes: 1}))
		r.ring()
		d.awaitBroken()
		require.Equal(t, []uint32{messageOf(0)}, b.messages(), "of its configuration")
		require.EqualValues(t, isrConfig, d.read(barISR, 1))
		for _, r := range d.queues {
			r.offer(r.chain(someBytes))
			r.ring()
			require.Zero(t, r.given())
		}
		require.Empty(t, h.requests)
	}
	// One whose backend finds that a request makes no sense.
	d.start(8, 0)
	d.queues[0].offer(d.queues[0].chain(someBytes))
	d.queues[0].ring()
	h.next(t).done(0, errors.New("nonsense"))
	d.awaitBroken()
	require.Zero(t, d.queues[0].given())
	// One that enables a queue of nothing.
	d.begin(0)
	d.write(0x18, 2, 3)
	d.write(0x1c, 2, 1)
	require.Zero(t, d.read(0x1c, 2))
	d.awaitBroken()
	require.Equal(t, 1, bytes.Count(log.Bytes(), []byte("\n")))
	require.Contains(t, log.String(), "outside of RAM")
}

// TestNotWithoutLeave: a device does nothing while its guest does not allow it to access RAM, and
// goes on when it is allowed again.
func TestNotWithoutLeave(t *testing.T) {
	dev, h := newHeld(noLog)
	d, _ := newDriver(t, dev)
	dev.Resume()
	d.start(8, 0)
	d.config(pciCommand, 2, 2, true)
	r := d.queues[0]
	r.offer(r.chain(someBytes))
	r.ring()
	select {
	case r := <-h.requests:
		r.done(0, nil)
		t.Fatal("a request was taken")
	case <-time.After(20 * time.Millisecond):
	}
	d.config(pciCommand, 2, memoryMaster, true)
	h.next(t).done(0, nil)
	require.EqualValues(t, 1, r.given())
}

// TestAfterAMove: after a move each queue interrupts once, whatever the event index says, and so
// does the configuration. The device looks at each queue once without a doorbell.
func TestAfterAMove(t *testing.T) {
	src, h := newHeld(noLog)
	d, _ := newDriver(t, src)
	src.Resume()
	d.start(8, 0)
	for _, r := range d.queues {
		r.wantNext(100)
		r.offer(r.chain(someBytes))
		r.ring()
		h.next(t).done(0, nil)
	}
	src.Quiesce()
	r := d.queues[0]
	r.offer(r.chain(someBytes)) // and no ring arrives

	dst, h2 := newHeld(noLog)
	d2, b := newDriver(t, dst)
	all, _ := d.ram.Slice(0, memory.MinSize)
	d2.ram.Write(0, all)
	require.NoError(t, dst.Load(1, src.Save()))
	require.Equal(t, src.Fingerprint(), dst.Fingerprint())
	require.Empty(t, b.messages())
	dst.Resume()
	h2.next(t).done(3, nil)
	require.Equal(t,
		[]uint32{messageOf(1), messageOf(2), messageOf(0), messageOf(1)}, b.messages(),
		"all vectors, and the first request whatever its event index")
	// After a mere pause nothing is unknown, so nothing interrupts.
	dst.Quiesce()
	dst.Resume()
	require.Empty(t, b.messages())
}

// TestForeignState: state that no device can have is refused.
func TestForeignState(t *testing.T) {
	src, _ := newHeld(noLog)
	d, _ := newDriver(t, src)
	src.Resume()
	d.start(8, 0)
	src.Quiesce()
	saved := src.Save()
	at := src.SaveBytes() // where the registers begin
	queue := at + savedRegisters
	for name, c := range map[string]struct {
		at   int
		data []byte
		want string
	}{
		"status":              {at, []byte{0x10}, "status 0x10"},
		"status, features":    {at, []byte{statusDriverOK}, "status 0x4"},
		"queues, no features": {at, []byte{statusDriver}, "queue 0: enabled with status 0x2"},
		"interrupt status":    {at + 1, []byte{4}, "interrupt status 0x4"},
		"features":            {at + 10, []byte{1}, "its driver uses features"},
		"vector":              {at + 20, []byte{3, 0}, "vector 3"},
		"enabled":             {queue, []byte{2}, "queue 0: enabled 2 times"},
		"a queue's vector":    {queue + 2, []byte{3, 0}, "queue 0: vector 3"},
		"size":                {queue + 4, []byte{16}, "queue 0: the driver broke"},
		"descriptors":         {queue + 6, []byte{8}, "queue 0: the driver broke"},
		"beyond RAM": {
			queue + savedQueue + 14 + 4, []byte{1}, "queue 1: the driver broke",
		},
		"in flight": {queue + 30, []byte{3}, "queue 0: 3 chains in flight"},
		"not enabled": {
			queue, append(make([]byte, 30), 3, 0, 3, 0), "queue 0: 3 chains without being enabled",
		},
		"the bus": {0, []byte{1}, "PCI: bad state"},
	} {
		t.Run(name, func(t *testing.T) {
			dst, _ := newHeld(noLog)
			newDriver(t, dst)
			data := bytes.Clone(saved)
			copy(data[c.at:], c.data)
			require.ErrorContains(t, dst.Load(1, data), c.want)
		})
	}
	dst, _ := newHeld(noLog)
	newDriver(t, dst)
	require.ErrorContains(t, dst.Load(1, saved[1:]), "bytes, want")
	require.NoError(t, dst.Load(1, saved))
}

// FuzzDevice gives a device accesses of any kind, and any content of RAM. It must not panic, and
// its state must move at the end.
func FuzzDevice(f *testing.F) {
	f.Add([]byte{0x14, 0, 1, 0, 0x1c, 0, 2, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		dev := newRNG()
		d, _ := newDriver(t, dev)
		dev.Resume()
		d.start(8, 0)
		for ; len(ops) >= 4; ops = ops[4:] {
			offset, size := uint64(le.Uint16(ops)&0x7fff), 1<<(ops[2]&3)
			switch ops[2] >> 2 & 3 {
			case 0:
				d.read(offset, size)
			case 1:
				d.write(offset, size, uint64(ops[3]))
			case 2:
				d.ram.Write(ringBase+offset*2, ops[3:4])
			case 3:
				d.queues[0].ring()
			}
		}
		dev.Quiesce()
		to := newRNG()
		d2, _ := newDriver(t, to)
		all, _ := d.ram.Slice(0, memory.MinSize)
		copyRAM(d2.ram, all)
		require.NoError(t, to.Load(1, dev.Save()))
		require.Equal(t, dev.Fingerprint(), to.Fingerprint())
	})
}

// FuzzDeviceLoad gives a device a state of another host. It takes it whole or refuses it, and what
// it takes neither panics nor blocks it once it runs.
func FuzzDeviceLoad(f *testing.F) {
	working := newRNG()
	d, _ := newDriver(f, working)
	working.Resume()
	d.start(8, 0)
	working.Quiesce()
	state := working.Save()
	f.Add(state)
	f.Add(state[:len(state)-1])
	for i := range state {
		changed := bytes.Clone(state)
		changed[i] ^= 0x41
		f.Add(changed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dev := newRNG()
		newDriver(t, dev)
		if dev.Load(1, data) != nil {
			return
		}
		require.Equal(t, data, dev.Save())
		dev.Resume() // rings, too
		dev.Quiesce()
	})
}

// copyRAM copies what the tests use of RAM.
func copyRAM(to *memory.Guest, all []byte) {
	to.Write(ringBase, all[ringBase:ringBase+2*ringStride])
}
