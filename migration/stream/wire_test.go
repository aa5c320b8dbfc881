package stream_test

import (
	"bytes"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/migration/stream"
	"taskguide/transport"
)

// pipe is a connection to nobody that remembers what was written.
type pipe struct {
	net.Conn
	mu   sync.Mutex
	sent bytes.Buffer
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent.Write(b)
}
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }

func newWire(t *testing.T, ram *memory.RAM, deltas bool) *stream.Wire {
	w, err := stream.NewWire(t.Context(), transport.NewConn(&pipe{}), 0, stream.WireConfig{
		RAM: ram, Channels: 1, Packings: []transport.Packing{transport.PackRaw}, Deltas: deltas,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w
}

// TestWireForgetsZeros: a page that was zero in between is no base for a delta.
func TestWireForgetsZeros(t *testing.T) {
	g := newGuest(t, false)
	g.write(5, 3)
	w := newWire(t, g.ram, true)
	content := func() int {
		g.write(5, 3)
		deltas, err := w.Content(t.Context(), 5, g.ram.Range(5, 3))
		require.NoError(t, err)
		require.NoError(t, w.Flush(t.Context()))
		return deltas
	}
	require.Equal(t, 0, content(), "no version is known yet")
	require.Equal(t, 3, content())
	require.NoError(t, w.Zeros(t.Context(), 6, 1))
	require.Equal(t, 2, content())
	require.Equal(t, 3, content())
}

// TestZerosAreSentInTime: they make no frame full, and only what arrives is progress.
func TestZerosAreSentInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, newGuest(t, false).ram, false)
		_, err := w.Ready(t.Context())
		require.NoError(t, err)
		for p := range 100 {
			require.NoError(t, w.Zeros(t.Context(), 2*p, 1))
			time.Sleep(time.Second)
			_, err := w.Ready(t.Context())
			require.NoError(t, err)
		}
		const frame = 16 + 8 // a header, and a run
		require.GreaterOrEqual(t, w.Sent(), int64(100/6*frame), "every five seconds")
		require.Less(t, w.Sent(), int64(100*frame), "and no more often")
	})
}
