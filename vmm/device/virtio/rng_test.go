package virtio

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/device"
	"taskguide/vmm/device/devicetest"
)

// TestRNGKeepsTheContract: requests are under way when it is quiesced.
func TestRNGKeepsTheContract(t *testing.T) {
	devicetest.Run(t, devicetest.Suite{
		New: func() device.Device { return newRNG() },
		Work: func(m *devicetest.Board) {
			d := driverOf(t, m.Device.(*Device), m.Windows[0], m.RAM())
			d.start(rngQueue, 0)
			r := d.queues[0]
			for i := range uint64(rngQueue) {
				r.offer(r.chain(desc{gpa: bufferBase + i<<12, bytes: 512, flags: flagWrite}))
				r.ring()
			}
		},
	})
}

// TestRNGFills: the device fills as many bytes as it reports, in all ranges, and nothing else.
func TestRNGFills(t *testing.T) {
	d, _ := newDriver(t, newRNG())
	d.dev.Resume()
	d.start(8, 0)
	parts := []desc{
		{gpa: bufferBase, bytes: 100, flags: flagWrite},
		{gpa: bufferBase + 4096, bytes: 64, flags: flagWrite},
	}
	require.EqualValues(t, 164, d.queues[0].do(parts...))
	zeros := make([]byte, 100)
	for _, p := range parts {
		b, _ := d.ram.Slice(p.gpa, int(p.bytes)+100)
		require.NotEqual(t, zeros[:p.bytes], b[:p.bytes])
		require.Equal(t, zeros, b[p.bytes:])
	}
	first, _ := d.ram.Slice(bufferBase, 64)
	before := string(first)
	d.queues[0].do(parts[0])
	require.NotEqual(t, before, string(first), "the same twice")
}

// TestRNGIsBounded: of a request that is too large only the beginning is filled.
func TestRNGIsBounded(t *testing.T) {
	d, _ := newDriver(t, newRNG())
	d.dev.Resume()
	d.start(8, 0)
	require.EqualValues(t, rngAtOnce,
		d.queues[0].do(desc{gpa: bufferBase, bytes: 1 << 20, flags: flagWrite}))
	beyond, _ := d.ram.Slice(bufferBase+rngAtOnce, 4096)
	require.Equal(t, make([]byte, 4096), beyond)
}

// TestRNGWithoutRoom: a request that can get nothing breaks the device.
func TestRNGWithoutRoom(t *testing.T) {
	d, _ := newDriver(t, newRNG())
	d.dev.Resume()
	d.start(8, 0)
	r := d.queues[0]
	r.offer(r.chain(desc{gpa: bufferBase, bytes: 8}))
	r.ring()
	d.awaitBroken()
	require.Zero(t, r.given())
}
