package virtio

import (
	"fmt"
	"log/slog"
	"sync"

	"taskguide/memory"
	"taskguide/vmm/device"
	"taskguide/vmm/device/pci"
	"taskguide/vmm/state"
)

// Features that do not depend on the kind of device.
const (
	featureIndirect   = 1 << 28 // VIRTIO_F_RING_INDIRECT_DESC
	featureEventIndex = 1 << 29 // VIRTIO_F_RING_EVENT_IDX
	featureVersion1   = 1 << 32 // VIRTIO_F_VERSION_1
	commonFeatures    = featureIndirect | featureEventIndex | featureVersion1
)

// Bits of the status register: how far the driver has come.
const (
	statusAcknowledge = 1 << 0
	statusDriver      = 1 << 1
	statusDriverOK    = 1 << 2
	statusFeaturesOK  = 1 << 3
	statusNeedsReset  = 1 << 6 // set by the device
	statusFailed      = 1 << 7
	driverBits        = statusAcknowledge | statusDriver | statusDriverOK | statusFeaturesOK |
		statusFailed
)

// spec describes a device.
type spec struct {
	name     string   // of its state's kind
	slot     int      // on the bus
	id       uint16   // as the standard numbers kinds of devices
	class    uint32   // as PCI numbers classes
	features uint64   // beyond commonFeatures
	sizes    []uint16 // the greatest sizes of its queues
	config   []byte   // device-specific registers, which a driver only reads
}

// backend is what a device does for its driver.
type backend interface {
	// start passes the guest's RAM. It comes before any request.
	start(ram *memory.Guest)
	// serve carries out a request, at once or later. The queue's goroutine calls it, and may be
	// kept waiting.
	serve(r request)
	// close ends the backend. serve is not called any more.
	close()
}

// prompt is a backend that serves chains at once, under the device's lock. So it has none in
// flight, and may leave one in its queue until it has something for it. serve is not called.
type prompt interface {
	// handle serves the next chain of a queue. It returns false to leave the chain there; then it
	// is called again when the driver or [Device.wake] rings. It must not wait.
	handle(queue int, c chain) (written uint32, done bool, err error)
}

// actor is a backend that also acts unasked: it has something for its driver that comes from
// outside. Except for rung, its methods are called with the device's lock held and must not wait.
type actor interface {
	// pulls tells whether the backend takes a queue's chains itself, by [Device.takeRoom]. Then the
	// queue's goroutine calls rung when its doorbell rings.
	pulls(queue int) bool
	rung(queue int)
	// quiesce makes requests end that wait for the host. The device then waits for them.
	quiesce()
	// arrive comes before the first resume after a move.
	arrive()
	resume()
}

// stateful is a backend with a state of its own. The device's lock is held in all calls.
type stateful interface {
	// save returns the state. From then on the state belongs to whoever loads it, so what this
	// backend does must not change it until stay is called.
	save() []byte
	// load replaces the state by one that comes from another host.
	load(state []byte) error
	// stay says that the guest goes on here.
	stay()
	// reset is called when the driver resets the device.
	reset()
}

// reliable is a backend with a state that a driver relies on though no register shows it.
type reliable interface {
	// relied returns that state. The device's lock is held.
	relied() []byte
}

// request is a chain that a backend is to serve.
type request struct {
	chain
	queue    int
	features uint64 // what the driver and the device agreed on
	life     uint64 // of the device: it is reset if that changes
	// done must be called once, from any goroutine, with the number of bytes written. An error
	// means that the driver is at fault, and breaks the device.
	done func(written uint32, err error)
}

// Device is a virtio device. Each of its queues has a goroutine, so no vCPU waits for a backend.
type Device struct {
	spec
	*pci.Function
	host    *pci.Host
	backend backend
	actor   actor // the backend, or nil if it does not act unasked
	log     *slog.Logger

	bells   []device.Doorbell // one a queue
	workers sync.WaitGroup

	// mu guards what follows. The function's lock and the board's are taken with it.
	mu sync.Mutex
	registers
	queues   []*queue
	quiet    bool
	begun    bool // it was resumed once
	closed   bool
	loaded   bool   // a state was loaded, and the device not resumed yet
	accused  bool   // the log has been told of a driver that breaks rules
	fault    string // why the device is broken
	inFlight int    // chains that the backend has
	// stale counts the chains that the backend has had since before the last reset. The reset is
	// complete once there are none.
	stale   int
	life    uint64    // counts resets
	idle    sync.Cond // inFlight is 0
	resumed sync.Cond // quiet or closed has changed
	given   sync.Cond // a backend is done with chains
	// drained is closed and set to nil once inFlight is 0, or the device resumed. nil: nobody waits
	// for it.
	drained chan struct{}
	// generation counts the changes of spec.config, modulo 256.
	generation uint8
}

// Offsets of the parts of the BAR, which take a page each.
const (
	barCommon  = 0x0000
	barISR     = 0x1000
	barConfig  = 0x2000
	barNotify  = 0x3000
	barTable   = 0x4000
	barPending = 0x5000
	barBytes   = 0x8000
	barPage    = 0x1000

	// notifyStride is the distance between two queues' doorbells, in bytes.
	notifyStride = 4
)

const (
	pciVendor      = 0x1af4
	pciFirstDevice = 0x1040
	pciRevision    = 1
	pciSubsystem   = 0x40
)

// newDevice makes a device that is not attached yet.
func newDevice(host *pci.Host, s spec, b backend, log *slog.Logger) *Device {
	s.features |= commonFeatures
	d := &Device{spec: s, host: host, backend: b, log: log, quiet: true}
	d.idle.L, d.resumed.L, d.given.L = &d.mu, &d.mu, &d.mu
	d.Function = pci.NewFunction(pci.Spec{
		Slot: s.slot, Vendor: pciVendor, Device: pciFirstDevice + s.id,
		Class: s.class, Revision: pciRevision, Subsystem: pciSubsystem,
		BARBytes: barBytes, Capabilities: s.capabilities(),
		Vectors: 1 + len(s.sizes), TableOffset: barTable, PendingOffset: barPending,
		OnMaster: d.ring, Window: d.accessBAR,
	})
	for _, size := range s.sizes {
		d.queues = append(d.queues, &queue{max: size})
	}
	d.actor, _ = b.(actor)
	d.clear()
	return d
}

// Kind implements [device.Device].
func (d *Device) Kind() state.Kind { return state.Kind{Name: d.name, Version: 1} }

// Attach implements [device.Device].
func (d *Device) Attach(b device.Board) []device.Window {
	d.Function.Attach(b)
	d.host.Plug(d.Function)
	d.backend.start(b.RAM())
	for i, q := range d.queues {
		q.ram = b.RAM()
		bell := b.Doorbell(d.BARAddress() + barNotify + uint64(i)*notifyStride)
		d.bells = append(d.bells, bell)
		d.workers.Go(func() {
			for bell.Wait() {
				d.answer(i)
			}
		})
	}
	return []device.Window{
		{Space: device.MMIO, Start: d.BARAddress(), Size: barBytes, Access: d.access},
	}
}

// answer does what a queue's doorbell asks for.
func (d *Device) answer(i int) {
	d.mu.Lock()
	pulled := d.pulled(i)
	d.mu.Unlock()
	if pulled {
		d.actor.rung(i)
		return
	}
	d.serveAll(i)
}

// pulled tells whether the backend takes a queue's chains itself; mu is held.
func (d *Device) pulled(i int) bool { return d.actor != nil && d.actor.pulls(i) }

// serveAll serves a queue until it is empty or the device must stop.
func (d *Device) serveAll(i int) {
	if p, ok := d.backend.(prompt); ok {
		for d.handle(p, i) {
		}
		return
	}
	for {
		r, ok := d.take(i)
		if !ok {
			return
		}
		d.backend.serve(r)
	}
}

// take takes the next chain of a queue.
func (d *Device) take(i int) (r request, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// A driver that came meanwhile may use the queue for something else.
	if !d.serves(i) || d.pulled(i) {
		return request{}, false
	}
	c, ok, err := d.queues[i].take()
	if err != nil {
		d.breakDown(i, err)
	}
	if !ok {
		return request{}, false
	}
	d.inFlight++
	life := d.life
	done := func(written uint32, err error) { d.give(i, life, []used{{c.head, written}}, err) }
	return request{
		chain: c, queue: i, features: d.driverFeatures, life: life, done: done,
	}, true
}

// serves tells whether chains of a queue may be taken; mu is held.
func (d *Device) serves(i int) bool {
	return !d.quiet && !d.closed && d.works() && d.queues[i].enabled
}

// stopping tells whether somebody waits for the backend to be done with its requests.
func (d *Device) stopping() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.quiet || d.closed
}

// handle has the backend handle the next chain of a queue. It returns false when nothing is left to
// do.
func (d *Device) handle(p prompt, i int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.serves(i) {
		return false
	}
	c, ok, err := d.queues[i].peek()
	if err != nil {
		d.breakDown(i, err)
	}
	if !ok {
		return false
	}
	written, done, err := p.handle(i, c)
	switch {
	case err != nil:
		d.breakDown(i, err)
		return false
	case !done:
		return false
	}
	d.queues[i].taken++
	if d.queues[i].give(used{c.head, written}) {
		d.interruptQueue(i)
	}
	return true
}

// wake makes a queue's worker look at it. It takes no lock.
func (d *Device) wake(i int) {
	if i < len(d.bells) { // otherwise the machine came without this device
		d.bells[i].Ring()
	}
}

// works tells whether the device may act; mu is held.
func (d *Device) works() bool {
	return d.status&(statusDriverOK|statusNeedsReset) == statusDriverOK && d.Masters()
}

// give gives chains back that the backend is done with.
func (d *Device) give(i int, life uint64, chains []used, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.given.Broadcast()
	d.land(len(chains))
	if d.inFlight == 0 {
		defer d.endDrain() // the chains are not given back yet
	}
	switch {
	case life != d.life:
		d.stale -= len(chains) // the queue was reset, so they are not given back
	case d.status&statusNeedsReset != 0:
	case err != nil:
		d.breakDown(i, err)
	case d.queues[i].give(chains...):
		d.interruptQueue(i)
	}
}

// land counts chains that the backend no longer has; mu is held.
func (d *Device) land(n int) {
	d.inFlight -= n
	if d.inFlight == 0 {
		d.idle.Broadcast()
	}
}

// breakDown ends the device's work until it is reset; mu is held.
func (d *Device) breakDown(i int, err error) {
	d.status |= statusNeedsReset
	d.fault = fmt.Sprintf("queue %d: %v", i, err)
	if d.status&statusDriverOK != 0 {
		d.interruptConfig()
	}
	if !d.accused {
		d.accused = true
		d.log.Warn("device "+d.name+" stops until its guest resets it; this is said once",
			"queue", i, "error", err)
	}
}

// interruptQueue and interruptConfig tell the driver of chains given back, and of a change of the
// device; mu is held.
func (d *Device) interruptQueue(i int) {
	d.isr |= isrQueue
	d.Signal(int(d.vectors[i]))
}

func (d *Device) interruptConfig() {
	d.isr |= isrConfig
	d.Signal(int(d.configVector))
}

// ring makes the workers look at their queues.
func (d *Device) ring() {
	for _, b := range d.bells {
		b.Ring()
	}
}

// drain is Drain of a device that is a [device.Drainer]. A device is one if its backend may have to
// wait for the host, and gives every chain back.
func (d *Device) drain() (idle <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet = true
	if d.inFlight == 0 {
		none := make(chan struct{})
		close(none)
		return none
	}
	if d.drained == nil {
		d.drained = make(chan struct{})
	}
	return d.drained
}

// endDrain ends waits for a drained device; mu is held.
func (d *Device) endDrain() {
	if d.drained != nil {
		close(d.drained)
		d.drained = nil
	}
}

// busy tells whether the backend has a chain.
func (d *Device) busy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inFlight > 0
}

// Quiesce implements [device.Device].
func (d *Device) Quiesce() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet = true
	if d.actor != nil {
		d.actor.quiesce()
	}
	d.awaitIdle()
}

// awaitIdle returns once the backend has no chain; mu is held.
func (d *Device) awaitIdle() {
	for d.inFlight > 0 {
		d.idle.Wait()
	}
}

// Resume implements [device.Device].
func (d *Device) Resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet, d.begun = false, true
	moved := d.loaded
	d.loaded = false
	if moved {
		d.interruptAll()
	}
	if s, ok := d.backend.(stateful); ok {
		s.stay()
	}
	d.endDrain()
	if d.actor != nil {
		if moved {
			d.actor.arrive()
		}
		d.actor.resume()
	}
	d.resumed.Broadcast()
	d.ring() // what came meanwhile has not been looked at
}

// Stay implements [device.Stayer].
func (d *Device) Stay() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s, ok := d.backend.(stateful); ok {
		s.stay()
	}
}

// interruptAll interrupts for everything that may have been given back or changed on the host
// before; mu is held.
func (d *Device) interruptAll() {
	if d.status&statusDriverOK == 0 {
		return
	}
	for i, q := range d.queues {
		if q.enabled {
			d.interruptQueue(i)
		}
	}
	d.interruptConfig()
}

// Close implements [device.Device].
func (d *Device) Close() {
	d.mu.Lock()
	d.closed = true
	if d.actor != nil {
		d.actor.quiesce()
	}
	d.resumed.Broadcast()
	d.awaitIdle()
	d.mu.Unlock()
	for _, b := range d.bells {
		b.Close()
	}
	d.workers.Wait()
	d.backend.close()
}
