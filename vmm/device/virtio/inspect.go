package virtio

import "taskguide/vmm/device"

// Inspect implements [device.Inspector].
func (d *Device) Inspect() device.Info {
	d.mu.Lock()
	defer d.mu.Unlock()
	info := device.Info{Name: d.name, State: d.state()}
	if info.State == device.StateBroken {
		info.Broken = d.fault
	}
	for _, q := range d.queues {
		info.Queues = append(info.Queues, q.inspect())
	}
	return info
}

// state returns what the device is doing; mu is held.
func (d *Device) state() string {
	switch {
	case d.status&statusNeedsReset != 0:
		return device.StateBroken
	case d.status&statusDriverOK != 0:
		return device.StateWorking
	case d.status != 0:
		return device.StateSetUp
	}
	return device.StateUnused
}

func (q *queue) inspect() device.QueueInfo {
	info := device.QueueInfo{Size: int(q.size), Ready: q.enabled}
	if q.enabled {
		info.Available, _ = q.ram.LoadUint16(q.avail + ringIndex)
		info.Used, info.InFlight = q.given, int(q.taken-q.given)
	}
	return info
}
