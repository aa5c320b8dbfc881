package virtio

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/device"
	"taskguide/vmm/device/devicetest"
	"taskguide/vmm/device/pci"
)

// patience is for what another goroutine does.
const patience = time.Minute

// board is a machine for one device on a bus. It keeps the messages that were sent.
type board struct {
	*devicetest.Board

	// onSend, unless nil, is called for each message before it is kept.
	onSend func()

	mu   sync.Mutex // guards sent
	sent []uint32   // data
}

func (b *board) Interrupt() device.Interrupt { return line{b} }

type line struct{ board *board }

func (l line) Send(_ uint64, data uint32) {
	if l.board.onSend != nil {
		l.board.onSend()
	}
	l.board.mu.Lock()
	defer l.board.mu.Unlock()
	l.board.sent = append(l.board.sent, data)
}

func (line) Prepare(uint64, uint32) {}

// messages returns the data of the messages that were sent since the last call.
func (b *board) messages() []uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	sent := b.sent
	b.sent = nil
	return sent
}

// driver drives a device as a guest does: by its registers, and by rings in RAM.
type driver struct {
	t      testing.TB
	dev    *Device
	bus    []device.Window // of the host bridge
	bar    device.Window
	ram    *memory.Guest
	queues []*ring
}

// newDriver makes a driver of a device on a board of its own.
func newDriver(t testing.TB, dev *Device) (*driver, *board) {
	plain, err := devicetest.NewBoard(dev.host)
	require.NoError(t, err)
	b := &board{Board: plain}
	d := driverOf(t, dev, dev.Attach(b)[0], b.RAM())
	t.Cleanup(func() {
		if !dev.closed { // by the test
			dev.Close()
		}
		plain.Close()
	})
	return d, b
}

// driverOf makes one of a device that is attached.
func driverOf(t testing.TB, dev *Device, bar device.Window, ram *memory.Guest) *driver {
	return &driver{t: t, dev: dev, bus: dev.host.Attach(nil), bar: bar, ram: ram}
}

// access is an access of size bytes in a window.
func access(w device.Window, offset uint64, size int, v uint64, write bool) uint64 {
	word := le.AppendUint64(nil, v)
	w.Access(device.Access{Offset: offset, Size: size, Data: word[:size], Write: write})
	clear(word[size:])
	return le.Uint64(word)
}

func (d *driver) write(offset uint64, size int, v uint64) { access(d.bar, offset, size, v, true) }

func (d *driver) read(offset uint64, size int) uint64 {
	return access(d.bar, offset, size, 0, false)
}

// config accesses configuration space by ECAM.
func (d *driver) config(register uint64, size int, v uint64, write bool) uint64 {
	return access(d.bus[2], uint64(d.dev.Slot)<<15+register, size, v, write)
}

// Registers that the driver uses.
const (
	regStatus    = barCommon + 0x14
	regSelect    = barCommon + 0x16
	pciCommand   = 4
	pciMSIX      = 0x40 // of this program's functions
	memoryMaster = 6
)

// messageOf is the data of the message that the driver sets for a vector.
func messageOf(vector int) uint32 { return 0x4000 + uint32(vector) }

// begin sets a device up to the point of its features: all that it offers, except those in without.
func (d *driver) begin(without uint64) {
	d.config(pciCommand, 2, memoryMaster, true)
	d.write(regStatus, 1, 0)
	through := func() bool { return d.read(regStatus, 1) == 0 }
	require.Eventually(d.t, through, patience, time.Millisecond)
	for v := range d.dev.Vectors {
		entry := uint64(barTable + 16*v)
		d.write(entry, 8, 0xfee00000)
		d.write(entry+8, 4, uint64(messageOf(v)))
		d.write(entry+12, 4, 0)
	}
	d.config(pciMSIX+2, 2, 0x8000, true)
	d.write(regStatus, 1, statusAcknowledge|statusDriver)
	for i := range uint64(2) {
		d.write(0x00, 4, i)
		d.write(0x08, 4, i)
		d.write(0x0c, 4, d.read(0x04, 4)&^half(without, uint32(i)))
	}
	d.write(regStatus, 1, statusAcknowledge|statusDriver|statusFeaturesOK)
}

// start sets a device up, with queues of so many entries.
func (d *driver) start(size uint16, without uint64) {
	d.begin(without)
	require.NotZero(d.t, d.read(regStatus, 1)&statusFeaturesOK)
	d.write(0x10, 2, 0) // configuration: vector 0
	d.queues = nil
	for i := range d.dev.queues {
		r := &ring{driver: d, index: i, size: size, base: ringBase + uint64(i)*ringStride}
		r.event = without&featureEventIndex == 0
		r.setUp()
		d.queues = append(d.queues, r)
	}
	d.write(regStatus, 1, statusAcknowledge|statusDriver|statusFeaturesOK|statusDriverOK)
}

// Where the driver has its rings and what is in them.
const (
	ringBase   = 1 << 20
	ringStride = 64 << 10
	ringAvail  = 16 << 10
	ringUsed   = 32 << 10
	ringTable  = 48 << 10 // an indirect one
	bufferBase = 4 << 20
)

// ring is a queue, as its driver has it.
type ring struct {
	driver *driver
	index  int
	size   uint16
	base   uint64
	event  bool
	put    uint16 // chains, ever
	desc   uint16 // next one to use
}

func (r *ring) setUp() {
	d := r.driver
	for _, part := range []uint64{0, ringAvail, ringUsed, ringTable} {
		d.ram.Write(r.base+part, make([]byte, 16<<10))
	}
	d.write(regSelect, 2, uint64(r.index))
	d.write(0x18, 2, uint64(r.size))
	d.write(0x1a, 2, uint64(1+r.index))
	for offset, gpa := range map[uint64]uint64{
		0x20: r.base, 0x28: r.base + ringAvail, 0x30: r.base + ringUsed,
	} {
		d.write(offset, 4, gpa&0xffffffff)
		d.write(offset+4, 4, gpa>>32)
	}
	d.write(0x1c, 2, 1)
	require.EqualValues(d.t, 1, d.read(0x1c, 2))
}

// desc is a descriptor.
type desc struct {
	gpa   uint64
	bytes uint32
	flags uint16
	next  uint16
}

func (d desc) bytesOf() []byte {
	b := le.AppendUint64(nil, d.gpa)
	b = le.AppendUint32(b, d.bytes)
	b = le.AppendUint16(b, d.flags)
	return le.AppendUint16(b, d.next)
}

// chain writes descriptors that follow one another, and returns the number of the first one.
func (r *ring) chain(parts ...desc) uint16 {
	first := r.desc
	for i, p := range parts {
		at := r.desc % r.size
		r.desc++
		if i < len(parts)-1 {
			p.flags |= flagNext
			p.next = r.desc % r.size
		}
		r.driver.ram.Write(r.base+uint64(at)*descBytes, p.bytesOf())
	}
	return first % r.size
}

// offer puts the number of a chain into the available ring.
func (r *ring) offer(head uint16) {
	at := r.base + ringAvail + ringEntries + uint64(r.put%r.size)*availEntry
	r.driver.ram.StoreUint16(at, head)
	r.put++
	r.driver.ram.StoreUint16(r.base+ringAvail+ringIndex, r.put)
}

// ring rings the doorbell.
func (r *ring) ring() { r.driver.write(barNotify+uint64(r.index)*notifyStride, 2, uint64(r.index)) }

// given is how many chains the device gave back, ever.
func (r *ring) given() uint16 {
	v, _ := r.driver.ram.LoadUint16(r.base + ringUsed + ringIndex)
	return v
}

// used is an entry of the used ring.
func (r *ring) used(n uint16) (head, written uint32) {
	at := r.base + ringUsed + ringEntries + uint64(n%r.size)*usedEntry
	b, _ := r.driver.ram.Slice(at, usedEntry)
	return le.Uint32(b), le.Uint32(b[usedLength:])
}

// wantNext asks for an interrupt for the next chain that is given back.
func (r *ring) wantNext(n uint16) {
	at := r.base + ringAvail + ringEntries + uint64(r.size)*availEntry
	r.driver.ram.StoreUint16(at, n)
}

// await waits until the device gave so many chains back.
func (r *ring) await(n uint16) {
	r.driver.t.Helper()
	done := func() bool { return r.given() == n }
	require.Eventually(r.driver.t, done, patience, time.Millisecond)
}

// do makes the device serve a chain, and returns how many bytes it wrote.
func (r *ring) do(parts ...desc) uint32 {
	r.driver.t.Helper()
	n := r.given()
	head := r.chain(parts...)
	r.offer(head)
	r.ring()
	r.await(n + 1)
	id, written := r.used(n)
	require.EqualValues(r.driver.t, head, id)
	return written
}

// awaitBroken waits until the device wants to be reset.
func (d *driver) awaitBroken() {
	d.t.Helper()
	require.Eventually(d.t, func() bool {
		return d.read(regStatus, 1)&statusNeedsReset != 0
	}, patience, time.Millisecond)
}

var noLog = slog.New(slog.DiscardHandler)

// newRNG returns a source of random numbers on a bus of its own.
func newRNG() *Device { return NewRNG(pci.NewHost(), noLog) }
