package virtio

import (
	"fmt"
)

// The state is that of the function on the bus, then the registers, the queues, and what the
// backend has, if it has any.
const (
	savedRegisters = 1 + 1 + 4 + 4 + 8 + 2 + 2
	savedQueue     = 2 + 2 + 2 + 8 + 8 + 8 + 2 + 2
)

// Save implements [device.Device].
func (d *Device) Save() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.visible()
	if s, ok := d.backend.(stateful); ok {
		b = append(b, s.save()...)
	}
	return b
}

// Fingerprint implements [device.Device]. Of what the backend has, the guest sees the device's own
// registers, and may rely on more.
func (d *Device) Fingerprint() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := append(append(d.visible(), d.generation), d.config...)
	if r, ok := d.backend.(reliable); ok {
		b = append(b, r.relied()...)
	}
	return b
}

// visible returns the state without the backend's; mu is held.
func (d *Device) visible() []byte {
	b := d.Function.Save()
	b = append(b, d.status, d.isr)
	b = le.AppendUint32(b, d.deviceSelect)
	b = le.AppendUint32(b, d.driverSelect)
	b = le.AppendUint64(b, d.driverFeatures)
	b = le.AppendUint16(b, d.queueSelect)
	b = le.AppendUint16(b, d.configVector)
	for i, q := range d.queues {
		b = le.AppendUint16(b, uint16(d.queueEnabled(i)))
		b = le.AppendUint16(b, d.vectors[i])
		b = le.AppendUint16(b, q.size)
		b = le.AppendUint64(b, q.desc)
		b = le.AppendUint64(b, q.avail)
		b = le.AppendUint64(b, q.used)
		b = le.AppendUint16(b, q.taken)
		b = le.AppendUint16(b, q.given)
	}
	return b
}

// Load implements [device.Device]. The queues are checked as if their driver enabled them here.
func (d *Device) Load(_ uint16, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	own := d.SaveBytes()
	want := own + savedRegisters + len(d.queues)*savedQueue
	s, more := d.backend.(stateful)
	if len(data) < want || len(data) > want && !more {
		return d.refuse(fmt.Errorf("%d bytes, want %d", len(data), want))
	}
	if err := d.Function.Load(data[:own]); err != nil {
		return d.refuse(err)
	}
	d.clear()
	if err := d.loadRegisters(data[own:]); err != nil {
		return d.refuse(err)
	}
	for i := range d.queues {
		saved := data[own+savedRegisters+i*savedQueue:][:savedQueue]
		if err := d.loadQueue(i, saved); err != nil {
			return d.refuse(fmt.Errorf("queue %d: %w", i, err))
		}
	}
	if more {
		if err := s.load(data[want:]); err != nil {
			return d.refuse(err)
		}
	}
	d.loaded = true
	return nil
}

func (d *Device) refuse(err error) error {
	return fmt.Errorf("state of device %q: %w", d.name, err)
}

func (d *Device) loadRegisters(b []byte) error {
	d.status, d.isr = b[0], b[1]
	d.deviceSelect, d.driverSelect = le.Uint32(b[2:]), le.Uint32(b[6:])
	d.driverFeatures = le.Uint64(b[10:])
	d.queueSelect, d.configVector = le.Uint16(b[18:]), le.Uint16(b[20:])
	const ready = statusDriverOK | statusFeaturesOK
	switch {
	case d.status&^(driverBits|statusNeedsReset) != 0 || d.status&ready == statusDriverOK:
		return fmt.Errorf("status %#x", d.status)
	case d.isr&^(isrQueue|isrConfig) != 0:
		return fmt.Errorf("interrupt status %#x", d.isr)
	case d.status&statusFeaturesOK != 0 && !d.featuresFit():
		return fmt.Errorf("its driver uses features %#x, this device has %#x: "+
			"give it one as at the source", d.driverFeatures, d.features)
	case d.vector(uint64(d.configVector)) != d.configVector:
		return fmt.Errorf("vector %d", d.configVector)
	}
	return nil
}

func (d *Device) loadQueue(i int, b []byte) error {
	q := d.queues[i]
	enabled := le.Uint16(b)
	d.vectors[i], q.size = le.Uint16(b[2:]), le.Uint16(b[4:])
	q.desc, q.avail, q.used = le.Uint64(b[6:]), le.Uint64(b[14:]), le.Uint64(b[22:])
	q.taken, q.given = le.Uint16(b[30:]), le.Uint16(b[32:])
	switch {
	case enabled > 1:
		return fmt.Errorf("enabled %d times", enabled)
	case q.taken != q.given && d.status&statusNeedsReset == 0:
		return fmt.Errorf("%d chains in flight", q.taken-q.given)
	case enabled == 0 && q.taken != 0:
		return fmt.Errorf("%d chains without being enabled", q.taken)
	case d.vector(uint64(d.vectors[i])) != d.vectors[i]:
		return fmt.Errorf("vector %d", d.vectors[i])
	case enabled == 0:
		return nil // its driver may still write anything
	case d.status&statusFeaturesOK == 0:
		return fmt.Errorf("enabled with status %#x", d.status)
	}
	if err := q.check(); err != nil {
		return err
	}
	d.enable(q)
	return nil
}
