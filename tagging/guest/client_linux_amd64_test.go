package guest

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDaemonThatHangs: a client without a page to look at waits for an answer, but not for ever.
func TestDaemonThatHangs(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	require.NoError(t, err)
	defer l.Close()
	for name, ask := range map[string]func(*Client) error{
		"open":      func(c *Client) error { _, err := c.Open("task"); return err },
		"migration": func(c *Client) error { _, err := c.Migration(); return err },
		"ask":       func(c *Client) error { _, err := c.Ask(Request{Op: "begin"}); return err },
	} {
		c, err := Dial(socket)
		require.NoError(t, err)
		require.Equal(t, 600, c.looks, "of 50 ms each")
		c.looks = 3
		require.ErrorIs(t, ask(c), ErrUntagged, name)
		require.ErrorIs(t, ask(c), ErrUntagged, name)
	}
}
