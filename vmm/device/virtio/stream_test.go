package virtio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// peer is a program that is a network.
type peer struct {
	t    testing.TB
	l    net.Listener
	conn net.Conn
}

func newPeer(t testing.TB) (*peer, string) {
	path := filepath.Join(t.TempDir(), "s")
	p := &peer{t: t}
	p.listen(path)
	return p, path
}

func (p *peer) listen(path string) {
	var err error
	p.l, err = net.Listen("unix", path)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { p.l.Close() })
}

// accept takes the next connection.
func (p *peer) accept() {
	var err error
	p.conn, err = p.l.Accept()
	require.NoError(p.t, err)
	p.t.Cleanup(func() { p.conn.Close() })
	require.NoError(p.t, p.conn.SetDeadline(time.Now().Add(patience)))
}

// send sends a frame with a length of its own.
func (p *peer) send(length uint32, frame []byte) {
	_, err := p.conn.Write(append(binary.BigEndian.AppendUint32(nil, length), frame...))
	require.NoError(p.t, err)
}

// read reads a frame.
func (p *peer) read() []byte {
	p.t.Helper()
	var length [4]byte
	_, err := io.ReadFull(p.conn, length[:])
	require.NoError(p.t, err)
	frame := make([]byte, binary.BigEndian.Uint32(length[:]))
	_, err = io.ReadFull(p.conn, frame)
	require.NoError(p.t, err)
	return frame
}

func newStream(t testing.TB) (*stream, *peer) {
	p, path := newPeer(t)
	s, err := openStream(path)
	require.NoError(t, err)
	t.Cleanup(s.close)
	p.accept()
	return s, p
}

// ofBytes is a frame of n equal bytes, with a header.
func ofBytes(n int, b byte) []byte {
	return append(make([]byte, netHeaderBytes), bytes.Repeat([]byte{b}, n)...)
}

// TestStreamFrames: frames cross with their lengths, in both directions, whatever their size. Those
// that are no Ethernet frames are skipped.
func TestStreamFrames(t *testing.T) {
	s, p := newStream(t)
	got := make([]byte, netHeaderBytes+maxFrame)
	for _, n := range []int{minFrame, 60, 1514, maxFrame} {
		f := ofBytes(n, byte(n))
		go s.send(0, [][]byte{f[:5], f[5:20], f[20:]})
		require.True(t, bytes.Equal(f[netHeaderBytes:], p.read()), n)
		p.send(minFrame-1, make([]byte, minFrame-1))
		go p.send(uint32(n), f[netHeaderBytes:])
		got[0] = 0xee
		m, err := s.receive(0, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(f, got[:m]), n)
	}
}

// TestStreamNonsense: a length that no frame has ends the connection.
func TestStreamNonsense(t *testing.T) {
	for _, length := range []uint32{0, maxFrame + 1, 1 << 31} {
		s, p := newStream(t)
		p.send(length, nil)
		_, err := s.receive(0, make([]byte, netHeaderBytes+maxFrame))
		require.ErrorContains(t, err, "want the framing of QEMU's stream sockets")
		_, err = p.conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	}
}

// TestStreamFullPeer: a peer that does not read holds a sender up only while the card may wait.
// Whatever it reads later are whole frames.
func TestStreamFullPeer(t *testing.T) {
	s, p := newStream(t)
	s.hold()
	const size = 60_000
	var sent byte
	full := func() bool { s.sending.Lock(); defer s.sending.Unlock(); return len(s.rest) > 0 }
	s.release()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ; !full(); sent++ {
			s.send(0, [][]byte{ofBytes(size, sent)})
		}
	}()
	require.Eventually(t, func() bool {
		s.hold() // as a device that is quiesced
		s.release()
		return full()
	}, patience, 10*time.Millisecond)
	<-done
	s.hold()
	s.send(0, [][]byte{ofBytes(size, 0xfe)}) // lost at once
	s.release()
	read := make(chan struct{})
	defer close(read)
	go func() { // one that waits for too long is lost
		for {
			select {
			case <-read:
				return
			default:
				s.send(0, [][]byte{ofBytes(100, 0xff)})
			}
		}
	}()
	last := -1
	for {
		f := p.read()
		if f[0] == 0xff {
			require.Len(t, f, 100)
			break
		}
		require.Len(t, f, size)
		require.Equal(t, bytes.Repeat(f[:1], size), f, "one frame, and not the rest of another")
		require.NotEqual(t, byte(0xfe), f[0])
		require.Greater(t, int(f[0]), last, "in order")
		last = int(f[0])
	}
}

// TestStreamClose: whoever waits comes back when the wire is closed.
func TestStreamClose(t *testing.T) {
	s, _ := newStream(t)
	received := make(chan error)
	go func() {
		_, err := s.receive(0, make([]byte, netHeaderBytes+maxFrame))
		received <- err
	}()
	s.close()
	require.ErrorIs(t, <-received, errClosed)
	require.False(t, s.reconnect())
	s.send(0, [][]byte{ofBytes(100, 1)})
}

// TestStreamBacksOff: a program that closes each connection at once gets fewer and fewer of them,
// until one lasts.
func TestStreamBacksOff(t *testing.T) {
	s, p := newStream(t)
	for _, want := range []time.Duration{firstRetry, 2 * firstRetry} {
		p.conn.Close()
		_, err := s.receive(0, make([]byte, netHeaderBytes+maxFrame))
		require.Error(t, err)
		require.True(t, s.reconnect())
		require.Equal(t, want, s.delay)
		p.accept()
	}
	for range 10 {
		s.backOff(lastRetry - 1)
	}
	require.Equal(t, lastRetry, s.backOff(0))
	require.Equal(t, firstRetry, s.backOff(lastRetry))
}

// TestNetOnAStream: a card's frames cross, and a program that comes back is connected to again. The
// guest is told each time, and the log has a line.
func TestNetOnAStream(t *testing.T) {
	var log bytes.Buffer
	p, path := newPeer(t)
	n, err := OpenNet(NetConfig{Backend: NetUnix, Name: path, MAC: testMAC},
		slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	p.accept()
	require.False(t, n.Identity().Offloads())
	dev := NewNet(newRNG().host, 0, n, noLog)
	d, _ := newDriver(t, dev)
	dev.Resume()
	d.start(64, 0)
	exchange := func() {
		t.Helper()
		r := d.queues[queueReceive]
		given := r.given()
		d.offerRoom(1, 2048)
		p.send(60, bytes.Repeat([]byte{3}, 60))
		r.await(given + 1)
		head, written := r.used(given)
		want := ofBytes(60, 3)
		want[netHeaderBuffers] = 1
		require.Equal(t, want, d.bytes(dataAt+uint64(head)<<12, int(written)))
		d.ram.Write(requestAt, ofBytes(70, 4))
		d.queues[queueTransmit].do(desc{gpa: requestAt, bytes: netHeaderBytes + 70})
		require.Equal(t, bytes.Repeat([]byte{4}, 70), p.read())
	}
	exchange()
	p.l.Close()
	p.conn.Close()
	await(t, func() bool { return d.netStatus() == 0 })
	d.queues[queueTransmit].do(desc{gpa: requestAt, bytes: netHeaderBytes + 70}) // lost
	p.listen(path)
	p.accept()
	await(t, func() bool { return d.netStatus() == netLinkUp })
	exchange()
	dev.Close() // before the log is read: the end of the test's connection would go there, too
	require.Equal(t, 2, bytes.Count(log.Bytes(), []byte("\n")), log.String())
	require.Contains(t, log.String(), "the other end has closed the connection")
}

// TestNetRefusals: a card that cannot be connected is refused by a line that says what to do.
func TestNetRefusals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nobody")
	for _, c := range []struct {
		card NetConfig
		want string
	}{
		{
			NetConfig{Backend: NetUnix, Name: path},
			"network card unix:" + path + ": connect to it: connect: no such file or directory: " +
				"start the program that listens there",
		},
		{
			NetConfig{Backend: NetTAP, Name: "nobody"}, "network card tap:nobody: there is no " +
				"such interface: make one with ip tuntap add dev nobody mode tap user $USER",
		},
		{NetConfig{Backend: NetTAP, Name: "seventeen.letters"}, "at most 15 bytes"},
		{NetConfig{Backend: "vde", Name: "x"}, "use tap:IFNAME or unix:PATH"},
	} {
		_, err := OpenNet(c.card, noLog)
		require.ErrorContains(t, err, c.want)
	}
}

// FuzzStream gives a stream bytes of another program: each frame of it has a legal length, and
// nonsense ends it.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0, 0, 0, 14, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		s, p := newStream(t)
		_, err := p.conn.Write(data)
		require.NoError(t, err)
		require.NoError(t, p.conn.(*net.UnixConn).CloseWrite())
		frame := make([]byte, netHeaderBytes+maxFrame)
		for {
			n, err := s.receive(0, frame)
			if err != nil {
				require.False(t, errors.Is(err, errClosed))
				return
			}
			require.GreaterOrEqual(t, n, netHeaderBytes+minFrame)
			require.LessOrEqual(t, n, len(data)-streamLength+netHeaderBytes)
			require.Equal(t, make([]byte, netHeaderBytes), frame[:netHeaderBytes])
		}
	})
}

// TestStreamHeld: what is sent while the card must not wait is lost, and nothing of it comes later.
func TestStreamHeld(t *testing.T) {
	s, p := newStream(t)
	s.hold()
	s.send(0, [][]byte{ofBytes(60, 1)})
	s.release()
	s.send(0, [][]byte{ofBytes(70, 2)})
	require.Equal(t, bytes.Repeat([]byte{2}, 70), p.read())
}

// TestStreamBeginsAnew: a new connection begins with a frame, and not with the rest of one that the
// connection before did not take whole.
func TestStreamBeginsAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	p := &peer{t: t}
	p.listen(path)
	s, err := openStream(path)
	require.NoError(t, err)
	t.Cleanup(s.close)
	p.accept()
	for len(s.rest) == 0 {
		s.send(0, [][]byte{ofBytes(60_000, 1)})
	}
	p.conn.Close()
	_, err = s.receive(0, make([]byte, netHeaderBytes+maxFrame))
	require.Error(t, err)
	require.True(t, s.reconnect())
	p.accept()
	s.send(0, [][]byte{ofBytes(70, 2)})
	require.Equal(t, bytes.Repeat([]byte{2}, 70), p.read())
}
