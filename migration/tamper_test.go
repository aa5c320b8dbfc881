package migration

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"taskguide/transport"
)

// action is what happens to a message on its way.
type action int

const (
	pass action = iota
	cut
	last // the message passes, nothing after it does
	drop // the message vanishes, the connection lives
)

func cutIf(c bool) action {
	if c {
		return cut
	}
	return pass
}

// cutAt cuts the connection at a message of one type.
func cutAt(at transport.Type) func(transport.Type) action {
	return func(typ transport.Type) action { return cutIf(typ == at) }
}

// tamper connects through a man in the middle that looks at every frame's type.
func tamper(b *ends, up, down func(transport.Type) action) func(context.Context) (net.Conn, error) {
	first := true
	return func(ctx context.Context) (net.Conn, error) {
		nc, err := b.ln.dial(ctx)
		if err != nil || !first {
			return nc, err
		}
		first = false
		near, mid := net.Pipe()
		closeAll := func() { mid.Close(); nc.Close() }
		go relay(mid, nc, 44, up, closeAll)
		go relay(nc, mid, 24, down, closeAll)
		return near, nil
	}
}

// relay copies frames after a greeting of some bytes.
func relay(from, to net.Conn, greeting int, judge func(transport.Type) action, closeAll func()) {
	defer closeAll()
	buf := make([]byte, 2<<20)
	if _, err := readFull(from, buf[:greeting]); err != nil {
		return
	}
	if _, err := to.Write(buf[:greeting]); err != nil {
		return
	}
	for {
		if _, err := readFull(from, buf[:16]); err != nil {
			return
		}
		n := int(uint32(buf[4]) | uint32(buf[5])<<8 | uint32(buf[6])<<16 | uint32(buf[7])<<24)
		if _, err := readFull(from, buf[16:16+n]); err != nil {
			return
		}
		what := pass
		if judge != nil {
			what = judge(transport.Type(buf[0]))
		}
		if what == cut {
			return
		}
		if what == drop {
			continue
		}
		if _, err := to.Write(buf[:16+n]); err != nil || what == last {
			return
		}
	}
}

func readFull(c net.Conn, b []byte) (int, error) {
	for n := 0; n < len(b); {
		k, err := c.Read(b[n:])
		n += k
		if err != nil {
			return n, err
		}
	}
	return len(b), nil
}

// blackhole yields nothing once it is on, not even the connection's end: only its deadline,
// or the end of its own side, ends a read.
type blackhole struct {
	net.Conn
	on *atomic.Bool
	*deadline
}

type deadline struct {
	mu     sync.Mutex
	at     time.Time
	closed bool
}

func (c blackhole) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.at = t
	c.mu.Unlock()
	return c.Conn.SetReadDeadline(t)
}

func (c blackhole) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	return c.Conn.Close()
}

func (c blackhole) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	for c.on.Load() {
		c.mu.Lock()
		at, closed := c.at, c.closed
		c.mu.Unlock()
		switch {
		case closed:
			return 0, net.ErrClosed
		case !at.IsZero() && !time.Now().Before(at):
			return 0, os.ErrDeadlineExceeded
		}
		time.Sleep(100 * time.Millisecond)
	}
	return n, err
}

// swallow makes the network swallow what the destination sends on the first connection, once on is
// set. Later connections work if reachable is set.
func (b *ends) swallow(on *atomic.Bool, reachable *atomic.Bool) {
	first := true
	b.dial = func(ctx context.Context) (net.Conn, error) {
		if first {
			first = false
			nc, err := b.ln.dial(ctx)
			return blackhole{nc, on, new(deadline)}, err
		}
		if !reachable.Load() {
			return nil, errors.New("no route to host")
		}
		return b.ln.dial(ctx)
	}
}

func set(v bool) *atomic.Bool {
	b := new(atomic.Bool)
	b.Store(v)
	return b
}
