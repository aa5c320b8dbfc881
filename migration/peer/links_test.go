package peer

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
)

// TestLinks: channels come in any order, and whoever looks meanwhile sees those that are there.
func TestLinks(t *testing.T) {
	var l Links
	require.Empty(t, l.All())
	require.Zero(t, l.Sent()+l.Queued()+l.Progress())
	l.Close()

	main, mainsEnd := pipe(t)
	last, lastsEnd := pipe(t)
	l.Put(0, main)
	before := l.All()
	l.Put(2, last)
	require.Len(t, before, 1, "nobody changes what somebody looks at")
	require.Equal(t, []*transport.Conn{main, nil, last}, l.All())
	require.Same(t, main, l.Main())

	for _, from := range []*transport.Conn{mainsEnd, lastsEnd} {
		go from.WriteMessage(transport.TypeCommit, 0, nil)
	}
	for _, c := range []*transport.Conn{main, last} {
		_, err := c.Next()
		require.NoError(t, err)
	}
	require.Equal(t, main.Progress()+last.Progress(), l.Progress())
	require.Equal(t, 2*main.Progress(), l.Progress(), "both count")

	l.Close()
	for _, end := range []*transport.Conn{mainsEnd, lastsEnd} {
		_, err := end.Next()
		require.Error(t, err, "it is closed")
	}
}

// pipe is a connection and its other end.
func pipe(t *testing.T) (near, far *transport.Conn) {
	a, b := net.Pipe()
	near, far = transport.NewConn(a), transport.NewConn(b)
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}
