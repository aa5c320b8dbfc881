package transport

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestQueued: what the peer does not take waits here, and is gone once it does.
func TestQueued(t *testing.T) {
	for network, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": t.TempDir() + "/s"} {
		ln, err := net.Listen(network, addr)
		require.NoError(t, err)
		defer ln.Close()
		nc, err := net.Dial(network, ln.Addr().String())
		require.NoError(t, err)
		peer, err := ln.Accept()
		require.NoError(t, err)
		defer peer.Close()
		c := NewConn(nc)
		defer c.Close()
		require.Zero(t, c.Queued())

		c.IdleTimeout = 50 * time.Millisecond // until the buffers are full
		sent := int64(0)
		for c.WriteMessage(TypeState, 0, make([]byte, 1<<20)) == nil {
			sent++
		}
		require.Positive(t, c.Queued(), network)
		require.LessOrEqual(t, c.Queued(), (sent+2)<<20)
		go io.Copy(io.Discard, peer)
		require.Eventually(t, func() bool { return c.Queued() == 0 }, 20*time.Second, time.Millisecond, network)
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	require.Zero(t, NewConn(near).Queued(), "nobody knows")
}

// TestAcknowledge: what was read is off the sender's queue at once, not when TCP's
// patience ends. On the loopback an acknowledgement arrives before the call that
// sends it returns, unless the kernel has too much to do.
func TestAcknowledge(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	peer, err := ln.Accept()
	require.NoError(t, err)
	from, to := NewConn(nc), NewConn(peer)
	defer from.Close()
	defer to.Close()
	const rounds = 200
	atOnce := 0
	for range rounds {
		require.NoError(t, from.WriteMessage(TypeState, 0, make([]byte, 100)))
		h, err := to.Next()
		require.NoError(t, err)
		_, err = to.ReadMessage(h)
		require.NoError(t, err)
		to.Acknowledge()
		if from.Queued() == 0 {
			atOnce++
		}
		// The other way, so that TCP takes it for a dialogue and is patient.
		require.NoError(t, to.WriteMessage(TypeState, 0, nil))
		h, err = from.Next()
		require.NoError(t, err)
		_, err = from.ReadMessage(h)
		require.NoError(t, err)
	}
	require.Greater(t, atOnce, rounds/2)
	require.Zero(t, testing.AllocsPerRun(10, to.Acknowledge))
	near, far := net.Pipe()
	defer far.Close()
	NewConn(near).Acknowledge() // nothing to do, and no harm
}
