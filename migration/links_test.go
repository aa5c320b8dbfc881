package migration

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
)

// memListener is a listener of connections in memory.
type memListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *memListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *memListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

func (l *memListener) dial(ctx context.Context) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// cutConn breaks, for both ends, after some bytes in one direction.
type cutConn struct {
	net.Conn
	left *atomic.Int64
}

func (c cutConn) Write(b []byte) (int, error) {
	n := int64(len(b))
	if left := c.left.Add(-n); left < 0 {
		part := max(left+n, 0)
		if part > 0 {
			c.Conn.Write(b[:part])
		}
		c.Conn.Close()
		return int(part), io.ErrClosedPipe
	}
	return c.Conn.Write(b)
}

// hookConn calls before with everything that is about to be written.
type hookConn struct {
	net.Conn
	before func([]byte)
}

func (c hookConn) Write(b []byte) (int, error) {
	c.before(b)
	return c.Conn.Write(b)
}

// bufferedLink takes what is written at once, as a socket does, and delivers it at
// the pace of a slow link.
type bufferedLink struct {
	net.Conn
	writes chan []byte
	queued *atomic.Int64
	gone   chan struct{}
	once   *sync.Once
}

func newBufferedLink(nc net.Conn, bytesPerS int) bufferedLink {
	l := bufferedLink{
		nc, make(chan []byte, 1000), new(atomic.Int64), make(chan struct{}), new(sync.Once),
	}
	go func() {
		for {
			select {
			case b := <-l.writes:
				time.Sleep(time.Duration(len(b)) * time.Second / time.Duration(bytesPerS))
				nc.Write(b)
				l.queued.Add(-int64(len(b)))
			case <-l.gone:
				return
			}
		}
	}()
	return l
}

func (l bufferedLink) Queued() int64 { return l.queued.Load() }

func (l bufferedLink) Write(b []byte) (int, error) {
	l.queued.Add(int64(len(b)))
	select {
	case l.writes <- slices.Clone(b):
		return len(b), nil
	case <-l.gone:
		return 0, net.ErrClosed
	}
}

func (l bufferedLink) Close() error {
	l.once.Do(func() { close(l.gone) })
	return l.Conn.Close()
}

// stuckConn never gets rid of what it was given.
type stuckConn struct{ net.Conn }

func (stuckConn) Queued() int64 { return 1 }

// stallConn swallows everything once stalled, and yields nothing.
type stallConn struct {
	net.Conn
	stalled chan struct{}
}

func (c stallConn) Write(b []byte) (int, error) {
	select {
	case <-c.stalled:
		return len(b), nil
	default:
		return c.Conn.Write(b)
	}
}

func (c stallConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		select {
		case <-c.stalled:
			if err != nil {
				return 0, err
			}
		default:
			return n, err
		}
	}
}

// slowLink takes what is written until its buffer is full, and delivers it at a pace.
type slowLink struct {
	net.Conn
	queue  chan []byte
	queued atomic.Int64
	gone   chan struct{}
	once   sync.Once
}

func newSlowLink(nc net.Conn, bytesPerS float64, buffer int) *slowLink {
	l := &slowLink{Conn: nc, queue: make(chan []byte, buffer/1024), gone: make(chan struct{})}
	go func() {
		for {
			select {
			case b := <-l.queue:
				time.Sleep(time.Duration(float64(len(b)) / bytesPerS * 1e9))
				nc.Write(b)
				l.queued.Add(-int64(len(b)))
			case <-l.gone:
				return
			}
		}
	}()
	return l
}

func (l *slowLink) Queued() int64 { return l.queued.Load() }

// Deadlines of writes are not the link's own: what it has taken it delivers.
func (l *slowLink) SetWriteDeadline(time.Time) error { return nil }
func (l *slowLink) SetDeadline(t time.Time) error    { return l.Conn.SetReadDeadline(t) }

func (l *slowLink) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		c := append([]byte(nil), b[:min(1024, len(b))]...)
		select {
		case l.queue <- c:
			l.queued.Add(int64(len(c)))
		case <-l.gone:
			return 0, io.ErrClosedPipe
		}
		b = b[len(c):]
	}
	return n, nil
}

func (l *slowLink) Close() error {
	l.once.Do(func() { close(l.gone) })
	return l.Conn.Close()
}

// brake is a link on which every write takes a while once it is on. It counts how
// often somebody dialled.
type brake struct {
	on    atomic.Bool
	delay time.Duration
	dials atomic.Int64
}

type brakedConn struct {
	net.Conn
	*brake
	deadline *atomic.Pointer[time.Time]
	changed  chan struct{} // the deadline, while a write waits
}

func (c brakedConn) SetWriteDeadline(t time.Time) error {
	c.deadline.Store(&t)
	select {
	case c.changed <- struct{}{}:
	default:
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c brakedConn) Write(b []byte) (int, error) {
	// Keep-alives pass, because in virtual time nobody may wait for a lock that this goroutine
	// holds.
	if c.on.Load() && !(len(b) == 16 && transport.Type(b[0]) == transport.TypeKeepAlive) {
		for end := time.After(c.delay); end != nil; {
			select {
			case <-end:
				end = nil
			case <-c.changed:
				if t := *c.deadline.Load(); !t.IsZero() && !t.After(time.Now()) {
					return 0, os.ErrDeadlineExceeded
				}
			}
		}
	}
	return c.Conn.Write(b)
}

// braked has the connections of both ends go over a brake.
func braked(b *ends, delay time.Duration) *brake {
	k := &brake{delay: delay}
	b.dial = func(ctx context.Context) (net.Conn, error) {
		k.dials.Add(1)
		nc, err := b.ln.dial(ctx)
		return brakedConn{nc, k, new(atomic.Pointer[time.Time]), make(chan struct{})}, err
	}
	return k
}

// buffered has the connections of both ends take what is written at once, as sockets do while the
// destination is busy.
func buffered(b *ends) {
	b.dial = func(ctx context.Context) (net.Conn, error) {
		nc, err := b.ln.dial(ctx)
		return newBufferedLink(nc, 100*mbit/8), err
	}
}

// crawl is a link between two sockets that can be braked.
func crawl(t *testing.T, from, to net.Conn, stop *atomic.Bool) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			to.Close()
			return
		}
		for stop.Load() {
			time.Sleep(time.Millisecond)
		}
		if _, err := to.Write(buf[:n]); err != nil {
			from.Close()
			return
		}
	}
}

// tcpPair is a connection through the host's TCP.
func tcpPair(t *testing.T) (a, b net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	a, err = net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	b, err = ln.Accept()
	require.NoError(t, err)
	return a, b
}
