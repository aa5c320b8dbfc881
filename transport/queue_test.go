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
