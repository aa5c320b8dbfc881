package integration

import (
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
)

// network listens on a socket as a program that is a guest's network, and takes all connections.
func (b *box) network(name string) string {
	l, err := net.Listen("unix", b.path(name))
	require.NoError(b.t, err)
	b.t.Cleanup(func() { l.Close() })
	go func() {
		var conns []net.Conn // open until the end of the test
		for {
			conn, err := l.Accept()
			if err != nil {
				break
			}
			conns = append(conns, conn)
		}
		for _, c := range conns {
			c.Close()
		}
	}()
	return b.unix(name)
}

// TestCardsMove: a guest's card needs one at the destination that can be the same, or the guest
// goes on where it is.
func TestCardsMove(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	here, there := b.network("here"), b.network("there")
	source := b.run(g, "source", append([]string{"--net", here + ",mac=02:00:00:00:00:01"},
		busy...)...)
	g.alive(b, 1)
	for name, c := range map[string]struct {
		nets []string
		want string
	}{
		"none": {nil, "use vmm run --incoming --net unix:PATH"},
		"two":  {[]string{"--net", there, "--net", there}, "it has 1 and 2 were given"},
		"address": {
			[]string{"--net", there + ",mac=02:00:00:00:00:02"}, "has 02:00:00:00:00:01: give that",
		},
		"gone": {[]string{"--net", there + "-gone"}, "start the program that listens there"},
	} {
		destination, to := b.incoming(&guest{}, name, b.unix(name), c.nets...)
		r := b.vmm("migrate", "source", to)
		require.Equal(t, 1, r.status, name)
		require.Contains(t, r.stderr, c.want)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
		source.untouched()
		destination.kill()
		destination.wait()
	}
	destination, to := b.incoming(g, "destination", b.unix("in"), "--net", there)
	requireVerified(t, b.migrate("source", to, "--verify"))
	require.Equal(t, 0, source.wait())
	destination.awaitState(control.StateRunning)
	g.alive(b, 2)
}
