package guest

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/tagging/abi"
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

// FuzzAnswer: whatever a daemon answers, a client returns an error or what it can use.
func FuzzAnswer(f *testing.F) {
	for _, a := range []string{
		`{"id":1,"page":0,"slot":1}`, `{"id":1,"page":-1,"slot":1}`, `{"page":15,"slot":64}`,
		`{"error":"no"}`, `{"migration":{"state":2,"deadline_ms":5,"asked":true}}`, `{`, `[]`,
		`{"page":1e9}`, `{"migration":null}`,
	} {
		f.Add([]byte(a))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) == 0 || len(packet) > MaxAnswer {
			return // no packet, or one that no socket of the daemon sends
		}
		if s, err := answered(t, packet).Open("task"); err == nil {
			require.Less(t, s.page, uint32(abi.DeviceBytes))
			require.Less(t, s.at, s.page+abi.PageSize)
			require.ErrorIs(t, s.Enter(), ErrUntagged, "the page has no magic")
		}
		m, err := answered(t, packet).Migration()
		if err != nil {
			require.Zero(t, m)
		}
	})
}

// answered returns a client whose next question has the packet for its answer, with the RAM of a
// device in which nothing is.
func answered(t *testing.T, packet []byte) *Client {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fds[1])
	ram, err := unix.MemfdCreate("ram", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	defer unix.Close(ram)
	require.NoError(t, unix.Ftruncate(ram, abi.DeviceBytes))
	require.NoError(t, unix.Sendmsg(fds[1], packet, unix.UnixRights(ram), nil, 0))
	ours := os.NewFile(uintptr(fds[0]), "client")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	require.NoError(t, err)
	c := &Client{conn: conn.(*net.UnixConn), looks: 2}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
