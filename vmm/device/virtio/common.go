package virtio

import (
	"taskguide/vmm/device"
)

// Kinds of the capabilities that say where the parts of the BAR are.
const (
	capCommon = 1
	capNotify = 2
	capISR    = 3
	capDevice = 4
)

const (
	isrQueue  = 1 << 0
	isrConfig = 1 << 1

	noVector    = 0xffff // for a reason that does not interrupt
	commonBytes = 0x38
)

// registers are what a driver sets up in addition to its queues.
type registers struct {
	status         uint8
	isr            uint8
	deviceSelect   uint32 // the half of the device's features that is shown
	driverSelect   uint32 // the half of the driver's features that is written
	driverFeatures uint64
	queueSelect    uint16
	configVector   uint16
	vectors        []uint16 // by queue
}

// capabilities returns the structures virtio_pci_cap, without their first two bytes.
func (s *spec) capabilities() [][]byte {
	entry := func(kind byte, offset, length uint32, more ...byte) []byte {
		b := []byte{byte(16 + len(more)), kind, 0, 0, 0, 0}
		b = le.AppendUint32(b, offset)
		return append(le.AppendUint32(b, length), more...)
	}
	list := [][]byte{
		entry(capCommon, barCommon, commonBytes),
		entry(capNotify, barNotify, uint32(len(s.sizes))*notifyStride, notifyStride, 0, 0, 0),
		entry(capISR, barISR, 1),
	}
	if len(s.config) > 0 {
		list = append(list, entry(capDevice, barConfig, uint32(len(s.config))))
	}
	return list
}

// access answers an access to the BAR in memory.
func (d *Device) access(a device.Access) {
	if !d.Decodes() {
		a.Ignore()
		return
	}
	d.accessBAR(a)
}

// accessBAR answers an access to the BAR, however it came.
func (d *Device) accessBAR(a device.Access) {
	if d.AccessMSIX(a) {
		return
	}
	offset := a.Offset % barPage
	switch a.Offset - offset {
	case barCommon:
		d.accessCommon(offset, a)
	case barISR:
		d.accessISR(offset, a)
	case barConfig:
		d.accessConfig(offset, a)
	case barNotify:
		d.accessNotify(offset, a)
	default:
		a.Ignore()
	}
}

// accessISR answers a read of the reasons of interrupts, which also clears them.
func (d *Device) accessISR(offset uint64, a device.Access) {
	if offset != 0 || a.Size != 1 || a.Write {
		a.Ignore()
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	a.Each(func(p []byte) { p[0], d.isr = d.isr, 0 })
}

// accessConfig answers a read of the device's own registers. Reads beyond their end return 0.
func (d *Device) accessConfig(offset uint64, a device.Access) {
	if a.Write {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	a.Each(func(p []byte) {
		clear(p)
		if offset < uint64(len(d.config)) {
			copy(p, d.config[offset:])
		}
	})
}

// accessNotify answers accesses to doorbells that KVM does not handle: all but stores of 16 bits.
func (d *Device) accessNotify(offset uint64, a device.Access) {
	i := offset / notifyStride
	if !a.Write || offset%notifyStride != 0 || i >= uint64(len(d.bells)) {
		a.Ignore()
		return
	}
	d.bells[i].Ring()
}

// field is a register that all devices have. It can only be accessed as a whole.
type field struct {
	offset uint64
	size   int
	read   func(d *Device) uint64
	write  func(d *Device, v uint64) // nil: read only
}

// fields are struct virtio_pci_common_cfg.
var fields = []field{
	{0x00, 4, func(d *Device) uint64 { return uint64(d.deviceSelect) },
		func(d *Device, v uint64) { d.deviceSelect = uint32(v) }},
	{0x04, 4, func(d *Device) uint64 { return half(d.features, d.deviceSelect) }, nil},
	{0x08, 4, func(d *Device) uint64 { return uint64(d.driverSelect) },
		func(d *Device, v uint64) { d.driverSelect = uint32(v) }},
	{0x0c, 4, func(d *Device) uint64 { return half(d.driverFeatures, d.driverSelect) },
		(*Device).acceptFeatures},
	{0x10, 2, func(d *Device) uint64 { return uint64(d.configVector) },
		func(d *Device, v uint64) { d.configVector = d.vector(v) }},
	{0x12, 2, func(d *Device) uint64 { return uint64(len(d.queues)) }, nil},
	{0x14, 1, (*Device).readStatus, (*Device).writeStatus},
	{0x15, 1, func(d *Device) uint64 { return uint64(d.generation) }, nil},
	{0x16, 2, func(d *Device) uint64 { return uint64(d.queueSelect) },
		func(d *Device, v uint64) { d.queueSelect = uint16(v) }},
	ofQueue(0x18, 2, func(d *Device, i int) uint64 { return uint64(d.queues[i].size) },
		setUp(func(q *queue, v uint64) { q.size = uint16(v) })),
	ofQueue(0x1a, 2, func(d *Device, i int) uint64 { return uint64(d.vectors[i]) },
		func(d *Device, i int, v uint64) { d.vectors[i] = d.vector(v) }),
	ofQueue(0x1c, 2, (*Device).queueEnabled, (*Device).enableQueue),
	ofQueue(0x1e, 2, func(_ *Device, i int) uint64 { return uint64(i) }, nil),
	addressOf(0x20, 0, func(q *queue) *uint64 { return &q.desc }),
	addressOf(0x24, 1, func(q *queue) *uint64 { return &q.desc }),
	addressOf(0x28, 0, func(q *queue) *uint64 { return &q.avail }),
	addressOf(0x2c, 1, func(q *queue) *uint64 { return &q.avail }),
	addressOf(0x30, 0, func(q *queue) *uint64 { return &q.used }),
	addressOf(0x34, 1, func(q *queue) *uint64 { return &q.used }),
}

// ofQueue returns a field of the selected queue. The fields of a queue that does not exist are 0.
func ofQueue(offset uint64, size int, read func(d *Device, i int) uint64,
	write func(d *Device, i int, v uint64)) field {
	f := field{offset: offset, size: size, read: func(d *Device) uint64 {
		if int(d.queueSelect) >= len(d.queues) {
			return 0
		}
		return read(d, int(d.queueSelect))
	}}
	if write != nil {
		f.write = func(d *Device, v uint64) {
			if int(d.queueSelect) < len(d.queues) {
				write(d, int(d.queueSelect), v)
			}
		}
	}
	return f
}

// setUp writes a setting of a queue, which is possible only before the queue is enabled.
func setUp(set func(q *queue, v uint64)) func(d *Device, i int, v uint64) {
	return func(d *Device, i int, v uint64) {
		if !d.queues[i].enabled {
			set(d.queues[i], v)
		}
	}
}

// addressOf returns the field for half of an address of the selected queue.
func addressOf(offset uint64, which uint32, of func(q *queue) *uint64) field {
	return ofQueue(offset, 4,
		func(d *Device, i int) uint64 { return half(*of(d.queues[i]), which) },
		setUp(func(q *queue, v uint64) { setHalf(of(q), which, v) }))
}

// half returns the lower (0) or the upper half (1) of 64 bits.
func half(v uint64, which uint32) uint64 {
	if which > 1 {
		return 0
	}
	return v >> (32 * which) & 0xffffffff
}

func setHalf(p *uint64, which uint32, v uint64) {
	if which <= 1 {
		*p = *p&^(0xffffffff<<(32*which)) | v<<(32*which)
	}
}

func (d *Device) accessCommon(offset uint64, a device.Access) {
	for i := range fields {
		if f := &fields[i]; f.offset == offset && f.size == a.Size {
			d.accessField(f, a)
			return
		}
	}
	a.Ignore()
}

func (d *Device) accessField(f *field, a device.Access) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a.Each(func(p []byte) {
		var word [8]byte
		switch {
		case !a.Write:
			le.PutUint64(word[:], f.read(d))
			copy(p, word[:])
		case f.write != nil:
			copy(word[:], p)
			f.write(d, le.Uint64(word[:]))
		}
	})
}

// vector returns the vector that results from a driver's choice.
func (d *Device) vector(v uint64) uint16 {
	if v >= uint64(d.Vectors) {
		return noVector
	}
	return uint16(v)
}

func (d *Device) acceptFeatures(v uint64) {
	if d.status&statusFeaturesOK == 0 {
		setHalf(&d.driverFeatures, d.driverSelect, v)
	}
}

// readStatus returns the status. It becomes 0 only when a reset is complete, because until then the
// backend may still write RAM.
func (d *Device) readStatus() uint64 {
	if d.stale > 0 {
		return statusAcknowledge
	}
	return uint64(d.status)
}

// writeStatus resets the device if v is 0, and otherwise sets bits. A driver cannot clear single
// bits.
func (d *Device) writeStatus(v uint64) {
	if v == 0 {
		d.clear()
		return
	}
	if d.stale > 0 {
		return
	}
	added := uint8(v) & driverBits &^ d.status
	if added&statusFeaturesOK != 0 && !d.featuresFit() {
		added &^= statusFeaturesOK
	}
	if (d.status|added)&statusFeaturesOK == 0 {
		added &^= statusDriverOK
	}
	d.status |= added
	if added&statusDriverOK != 0 {
		d.ring()
	}
}

func (d *Device) featuresFit() bool {
	return d.driverFeatures&^d.features == 0 && d.driverFeatures&featureVersion1 != 0
}

// clear resets the device.
func (d *Device) clear() {
	d.life++
	d.stale = d.inFlight
	if s, ok := d.backend.(stateful); ok {
		s.reset()
	}
	d.registers = registers{configVector: noVector}
	for _, q := range d.queues {
		*q = queue{ram: q.ram, max: q.max, size: q.max}
		d.vectors = append(d.vectors, noVector)
	}
}

func (d *Device) queueEnabled(i int) uint64 {
	if d.queues[i].enabled {
		return 1
	}
	return 0
}

// enableQueue enables a queue if its settings are valid.
func (d *Device) enableQueue(i int, v uint64) {
	q := d.queues[i]
	if v != 1 || q.enabled || d.status&statusFeaturesOK == 0 {
		return
	}
	if err := q.check(); err != nil {
		d.breakDown(i, err)
		return
	}
	d.enable(q)
	d.bells[i].Ring()
}

func (d *Device) enable(q *queue) {
	q.enabled = true
	q.eventIndex = d.driverFeatures&featureEventIndex != 0
	q.indirect = d.driverFeatures&featureIndirect != 0
}
