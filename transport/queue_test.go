package transport

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestQueued: bytes that the peer does not take are counted until it takes them.
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

		c.IdleTimeout = 300 * time.Millisecond // until the buffers are full
		sent := int64(0)
		for c.WriteMessage(TypeState, 0, make([]byte, 1<<20)) == nil {
			sent++
		}
		require.Positive(t, c.Queued(), network)
		require.LessOrEqual(t, c.Queued(), (sent+2)<<20)
		go io.Copy(io.Discard, peer)
		require.Eventually(t, func() bool { return c.Queued() == 0 }, time.Minute,
			time.Millisecond, network)
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	require.Zero(t, NewConn(near).Queued(), "nobody knows")
}

// TestAcknowledge: bytes that were read leave the sender's queue at once, not after TCP's delay. On
// the loopback, an acknowledgement arrives before the call that sends it returns, unless the kernel
// is very busy.
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
		// Write the other way, so that TCP takes it for a dialogue and delays acknowledgements.
		require.NoError(t, to.WriteMessage(TypeState, 0, nil))
		h, err = from.Next()
		require.NoError(t, err)
		_, err = from.ReadMessage(h)
		require.NoError(t, err)
	}
	// Acknowledgements that TCP delays are hardly ever there at once, busy kernel or not.
	require.Greater(t, atOnce, rounds/10)
	require.Zero(t, testing.AllocsPerRun(10, to.Acknowledge))
	near, far := net.Pipe()
	defer far.Close()
	NewConn(near).Acknowledge() // nothing to do, and no harm
}

// TestBoundQueue: when the link takes nothing, a socket with a large buffer still takes little more
// than the bound. The rest waits in the write.
func TestBoundQueue(t *testing.T) {
	const bound, most = 32 << 10, 256 << 10
	queued := func(bind bool) int64 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close()
		nc, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		peer, err := ln.Accept()
		require.NoError(t, err)
		defer peer.Close()
		require.NoError(t, peer.(*net.TCPConn).SetReadBuffer(16<<10))
		require.NoError(t, nc.(*net.TCPConn).SetWriteBuffer(8<<20))
		c := NewConn(nc)
		defer c.Close()
		if bind {
			require.NoError(t, c.BoundQueue(bound))
		}
		c.IdleTimeout = 300 * time.Millisecond // until the buffers are full
		for c.WriteMessage(TypeState, 0, make([]byte, 1<<20)) == nil {
			continue
		}
		return c.Queued()
	}
	require.LessOrEqual(t, queued(true), int64(most))
	require.Greater(t, queued(false), int64(most), "or the bound bounds nothing")

	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	require.NoError(t, NewConn(near).BoundQueue(bound), "nothing to bound")
}
