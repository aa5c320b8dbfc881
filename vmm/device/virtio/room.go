package virtio

import "errors"

// Why chains cannot be had.
var (
	errNoDriver = errors.New("no driver that wants it")
	errNoRoom   = errors.New("no room in the queue")
)

// room is chains that a backend fills together.
type room struct {
	chains   []chain
	features uint64 // what the driver and the device agreed on
	queue    int
	life     uint64
}

// want says which room a backend needs.
type want struct {
	queue func() int // which one it is; called with the device's lock held
	bytes int        // in all chains together
	needs uint64     // features that the driver must have agreed on
	merge uint64     // the feature with which it may be in several chains
}

// takeRoom takes chains of a queue that the backend pulls. It takes all that are needed, or none.
// The backend must fill them and call giveRoom. While the device is quiesced, takeRoom waits.
func (d *Device) takeRoom(w want) (room, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.quiet && d.begun && !d.closed {
		d.resumed.Wait()
	}
	queue := w.queue()
	if !d.serves(queue) || !d.actor.pulls(queue) || w.needs&^d.driverFeatures != 0 {
		return room{}, errNoDriver
	}
	most := 1
	if d.driverFeatures&w.merge != 0 {
		most = int(d.queues[queue].size)
	}
	chains, err := d.queues[queue].takeRoom(w.bytes, most)
	if errors.Is(err, errBroken) {
		d.breakDown(queue, err)
		err = errNoDriver
	}
	if err != nil {
		return room{}, err
	}
	d.inFlight += len(chains)
	return room{
		chains: chains, features: d.driverFeatures, queue: queue, life: d.life,
	}, nil
}

// giveRoom gives chains back, with the number of bytes that were written to each of them.
func (d *Device) giveRoom(r room, written []uint32) {
	all := make([]used, len(r.chains))
	for i, c := range r.chains {
		all[i] = used{c.head, written[i]}
	}
	d.give(r.queue, r.life, all, nil)
}

// act does something that takes a while for the backend, unless the device must not act. A device
// that is to be quiesced waits for it.
func (d *Device) act(f func()) {
	d.mu.Lock()
	acts := !d.quiet && !d.closed && d.works()
	if acts {
		d.inFlight++
	}
	life := d.life
	d.mu.Unlock()
	if !acts {
		return
	}
	f()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.land(1)
	if life != d.life {
		d.stale--
	}
}

// changeConfig changes the device's own registers, and tells the driver if it agreed on a feature.
// mu is held, and the device is not quiesced.
func (d *Device) changeConfig(feature uint64, f func(config []byte)) {
	f(d.config)
	d.generation++
	if d.status&statusDriverOK != 0 && d.driverFeatures&feature != 0 {
		d.interruptConfig()
	}
}
