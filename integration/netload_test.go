package integration

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
)

// netLoad is a guest that sends frames all the time, several at a time, and verifies each one that
// comes back.
var netLoad = []string{"--memory", "64M", "--cmdline", "workload=net depth=16"}

// mirror is a guest's network that sends each frame back. It returns the network's address.
func (b *box) mirror(name string) string {
	l, err := net.Listen("unix", b.path(name))
	require.NoError(b.t, err)
	b.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go reflect(conn)
		}
	}()
	return b.unix(name)
}

// reflect sends back what comes on a connection, until its end. A frame follows its length.
func reflect(conn net.Conn) {
	defer conn.Close()
	for {
		frame := make([]byte, 4)
		if _, err := io.ReadFull(conn, frame); err != nil {
			return
		}
		frame = append(frame, make([]byte, binary.BigEndian.Uint32(frame)&0xffff)...)
		if _, err := io.ReadFull(conn, frame[4:]); err != nil {
			return
		}
		if _, err := conn.Write(frame); err != nil {
			return
		}
	}
}

// TestBusyCardMoves: a guest whose network card always has frames under way moves again and again,
// and its frames go on to come back as they were sent.
func TestBusyCardMoves(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	card := []string{"--net", b.mirror("net")}
	at := b.run(g, "vm0", append(card, netLoad...)...)
	for hop := range 5 {
		before := g.readsOf(b)
		next, to := b.incoming(g, fmt.Sprintf("vm%d", hop+1), b.unix(fmt.Sprintf("in%d", hop)),
			card...)
		requireVerified(t, b.migrate(at.name, to, "--verify"))
		require.Equal(t, 0, at.wait())
		next.awaitState(control.StateRunning)
		for g.readsOf(b) < before+1000 { // frames
		}
		at = next
	}
}
