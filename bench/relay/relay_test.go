package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

func dialTCP(to net.Addr) func(context.Context) (*net.TCPConn, error) {
	return func(ctx context.Context) (*net.TCPConn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
}

// through returns both ends of a connection by a relay with that round trip.
func through(t testing.TB, trip time.Duration) (near, far *net.TCPConn) {
	t.Helper()
	server := listen(t)
	r, err := Start(listen(t), dialTCP(server.Addr()), trip)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	near, err = dialTCP(r.Addr())(t.Context())
	require.NoError(t, err)
	far, err = server.AcceptTCP()
	require.NoError(t, err)
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// TestBytesCross in both directions at once, and an end of input closes one direction alone.
func TestBytesCross(t *testing.T) {
	near, far := through(t, 4*time.Millisecond)
	random := rand.NewChaCha8([32]byte{1})
	there, back := make([]byte, 5<<20), make([]byte, 3<<20)
	random.Read(there)
	random.Read(back)
	var all sync.WaitGroup
	send := func(c *net.TCPConn, b []byte) {
		_, err := c.Write(b)
		if err == nil {
			err = c.CloseWrite()
		}
		if err != nil {
			t.Error(err)
		}
	}
	all.Go(func() { send(near, there) })
	got, err := io.ReadAll(far)
	require.NoError(t, err)
	require.True(t, bytes.Equal(there, got))
	all.Go(func() { send(far, back) }) // the other direction is open still
	got, err = io.ReadAll(near)
	require.NoError(t, err)
	require.True(t, bytes.Equal(back, got))
	all.Wait()
}

// TestAnswerTakesARoundTrip, and not less. Each way has a half of it, which the tests of a line
// measure in virtual time: how long an answer takes at most is up to the host.
func TestAnswerTakesARoundTrip(t *testing.T) {
	const trip = 20 * time.Millisecond
	r, err := Start(listen(t), dialTCP(nil), trip)
	require.NoError(t, err)
	require.Equal(t, trip/2, r.delay)
	require.NoError(t, r.Close())
	near, far := through(t, trip)
	go io.Copy(far, far)
	begun := time.Now()
	_, err = near.Write([]byte("ping"))
	require.NoError(t, err)
	_, err = io.ReadFull(near, make([]byte, 4))
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(begun), trip)
}

// TestAcknowledgesAtOnce: what a sender has written leaves its queue without the delay with which
// TCP waits for something to send along, though the connection's ends have talked to each other:
// TCP is out of that mode after each read.
func TestAcknowledgesAtOnce(t *testing.T) {
	ln := listen(t)
	near, err := dialTCP(ln.Addr())(t.Context())
	require.NoError(t, err)
	defer near.Close()
	far, err := ln.AcceptTCP()
	require.NoError(t, err)
	defer far.Close()
	raw, err := far.SyscallConn()
	require.NoError(t, err)
	atOnce := func() (on int) {
		require.NoError(t, raw.Control(func(fd uintptr) {
			on, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK)
		}))
		require.NoError(t, err)
		return on
	}
	read := func(from io.Reader) {
		_, err := near.Write([]byte("ping"))
		require.NoError(t, err)
		_, err = io.ReadFull(from, make([]byte, 4))
		require.NoError(t, err)
	}
	for i := 0; atOnce() == 1; i++ { // until TCP takes it for a conversation
		require.Less(t, i, 1000, "TCP delays nothing here")
		read(far)
		_, err = far.Write([]byte("pong"))
		require.NoError(t, err)
		_, err = io.ReadFull(near, make([]byte, 4))
		require.NoError(t, err)
	}
	l := newLine(time.Millisecond, 100, func(time.Time) {})
	go l.fill(far)
	read(received{l})
	require.Equal(t, 1, atOnce())
}

// received is what a line has taken in.
type received struct{ l *line }

func (r received) Read(b []byte) (int, error) {
	m := <-r.l.marks
	copy(b, r.l.ring[r.l.head:r.l.head+m.n])
	r.l.release(m.n)
	return m.n, m.err
}

// TestResetCrosses: an end that dies is an error for the other one, in either direction.
func TestResetCrosses(t *testing.T) {
	for _, nearDies := range []bool{true, false} {
		near, far := through(t, 2*time.Millisecond)
		dies, lives := far, near
		if nearDies {
			dies, lives = near, far
		}
		reset(dies)
		_, err := io.ReadAll(lives)
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
}

// TestNobodyThere: what cannot be forwarded is reset.
func TestNobodyThere(t *testing.T) {
	no := func(context.Context) (*net.TCPConn, error) { return nil, errors.New("nobody") }
	r, err := Start(listen(t), no, time.Millisecond)
	require.NoError(t, err)
	defer r.Close()
	c, err := dialTCP(r.Addr())(t.Context())
	if err == nil { // it can be reset before the dial is over
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

// TestCloseEndsEverything, though a receiver takes nothing and the line is full.
func TestCloseEndsEverything(t *testing.T) {
	server := listen(t)
	r, err := Start(listen(t), dialTCP(server.Addr()), 2*time.Millisecond)
	require.NoError(t, err)
	near, err := dialTCP(r.Addr())(t.Context())
	require.NoError(t, err)
	defer near.Close()
	far, err := server.AcceptTCP()
	require.NoError(t, err)
	defer far.Close()
	sent := make(chan error)
	go func() {
		_, err := near.Write(make([]byte, 64<<20)) // more than all buffers hold
		sent <- err
	}()
	require.NoError(t, r.Close())
	require.Error(t, <-sent)
	_, err = dialTCP(r.Addr())(t.Context())
	require.Error(t, err)
}

// TestRoundTripsAreBounded, and so is what a line holds.
func TestRoundTripsAreBounded(t *testing.T) {
	for _, trip := range []time.Duration{0, -time.Second, MaxRoundTrip + 1} {
		_, err := Start(listen(t), nil, trip)
		require.ErrorIs(t, err, ErrRoundTrip)
	}
	r, err := Start(listen(t), nil, MaxRoundTrip)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, leastRing, ringOf(time.Microsecond))
	require.Equal(t, mostRing, ringOf(MaxRoundTrip/2))
	require.Equal(t, fullRate/100, ringOf(10*time.Millisecond))
}

// stream measures one connection's throughput.
func stream(b *testing.B, near, far *net.TCPConn) {
	const chunk = 1 << 20
	done := make(chan error)
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{far},
			make([]byte, chunk))
		done <- err
	}()
	buffer := make([]byte, chunk)
	b.SetBytes(chunk)
	for b.Loop() {
		if _, err := near.Write(buffer); err != nil {
			b.Fatal(err)
		}
	}
	near.CloseWrite()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkStream compares a stream by a relay with one that goes straight.
func BenchmarkStream(b *testing.B) {
	b.Run("straight", func(b *testing.B) {
		server := listen(b)
		near, err := dialTCP(server.Addr())(b.Context())
		require.NoError(b, err)
		defer near.Close()
		far, err := server.AcceptTCP()
		require.NoError(b, err)
		defer far.Close()
		stream(b, near, far)
	})
	for _, trip := range []time.Duration{2 * time.Millisecond, 20 * time.Millisecond} {
		b.Run(trip.String(), func(b *testing.B) {
			near, far := through(b, trip)
			stream(b, near, far)
		})
	}
}

// BenchmarkAnswer is how long a small question takes to be answered: the round trip, and what the
// relay adds to it.
func BenchmarkAnswer(b *testing.B) {
	for _, trip := range []time.Duration{2 * time.Millisecond, 20 * time.Millisecond} {
		b.Run(trip.String(), func(b *testing.B) {
			near, far := through(b, trip)
			go io.Copy(far, far)
			word := make([]byte, 16)
			for b.Loop() {
				if _, err := near.Write(word); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(near, word); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
