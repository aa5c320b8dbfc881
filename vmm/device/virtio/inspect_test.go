package virtio

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/device"
)

// TestInspect follows a device through its life, and finds each chain where it is.
func TestInspect(t *testing.T) {
	dev, h := newHeld(noLog)
	d, _ := newDriver(t, dev)
	idle := device.QueueInfo{Size: 8}
	require.Equal(t, device.Info{
		Name: "held", State: device.StateUnused, Queues: []device.QueueInfo{idle, idle},
	}, dev.Inspect())
	d.config(pciCommand, 2, memoryMaster, true)
	d.write(regStatus, 1, statusAcknowledge)
	require.Equal(t, device.StateSetUp, dev.Inspect().State)
	dev.Resume()
	d.start(4, 0)
	r := d.queues[1]
	for range 3 {
		r.offer(r.chain(someBytes))
	}
	r.ring()
	h.next(t).done(0, nil)
	second := h.next(t)
	h.requests <- h.next(t)
	require.Equal(t, device.Info{
		Name: "held", State: device.StateWorking, Queues: []device.QueueInfo{
			{Size: 4, Ready: true}, {Size: 4, Ready: true, Available: 3, Used: 1, InFlight: 2},
		},
	}, dev.Inspect())
	second.done(0, errors.New("nonsense"))
	info := dev.Inspect()
	require.Equal(t, device.StateBroken, info.State)
	require.Equal(t, "queue 1: nonsense", info.Broken)
	h.next(t).done(0, nil)
	d.start(8, 0)
	info = dev.Inspect()
	require.Equal(t, device.StateWorking, info.State)
	require.Empty(t, info.Broken)
}
