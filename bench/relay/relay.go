package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// MaxRoundTrip is the longest round trip that a relay makes.
const MaxRoundTrip = 2 * time.Second

// Bounds of a ring, in bytes. fullRate is the bandwidth, in bytes per second, at which a sender is
// not held back yet: 10 Gbit/s.
const (
	fullRate  = 1_250_000_000
	leastRing = 1 << 20
	mostRing  = 64 << 20
)

// ErrRoundTrip is returned for a round trip that a relay cannot make.
var ErrRoundTrip = fmt.Errorf("use a round trip of more than 0 and at most %v", MaxRoundTrip)

// Relay forwards connections to one place. Its methods may be called from several goroutines.
type Relay struct {
	ln    *net.TCPListener
	dial  func(context.Context) (*net.TCPConn, error)
	delay time.Duration

	ctx    context.Context // ends with the relay
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// Start forwards each connection that ln takes to one that dial makes, with that round trip. The
// relay owns ln. A connection whose dial fails is reset.
func Start(
	ln *net.TCPListener, dial func(context.Context) (*net.TCPConn, error), trip time.Duration,
) (*Relay, error) {
	if trip <= 0 || trip > MaxRoundTrip {
		return nil, fmt.Errorf("round trip %v: %w", trip, ErrRoundTrip)
	}
	r := &Relay{ln: ln, dial: dial, delay: trip / 2}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.work.Go(r.accept)
	return r, nil
}

// Addr is where the relay listens.
func (r *Relay) Addr() net.Addr { return r.ln.Addr() }

// Close resets all connections and waits for their end.
func (r *Relay) Close() error {
	r.cancel()
	err := r.ln.Close()
	r.work.Wait()
	return err
}

func (r *Relay) accept() {
	for {
		in, err := r.ln.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed) || r.ctx.Err() != nil:
			return
		case err != nil: // too many open files, for instance
			time.Sleep(time.Millisecond)
			continue
		}
		r.work.Go(func() { r.forward(in) })
	}
}

func (r *Relay) forward(in *net.TCPConn) {
	out, err := r.dial(r.ctx)
	if err != nil {
		reset(in)
		return
	}
	stop := context.AfterFunc(r.ctx, func() { reset(in); reset(out) })
	defer stop()
	var both sync.WaitGroup
	pass := func(from, to *net.TCPConn) {
		l := newLine(r.delay, ringOf(r.delay), sleepUntil)
		both.Go(func() { l.fill(from) })
		both.Go(func() {
			if l.drain(to) != nil {
				reset(in)
				reset(out)
			}
		})
	}
	pass(in, out)
	pass(out, in)
	both.Wait()
	in.Close()
	out.Close()
}

// ringOf is bandwidth times delay, within bounds.
func ringOf(delay time.Duration) int {
	return min(max(int(delay.Seconds()*fullRate), leastRing), mostRing)
}

// reset closes a connection so that its other end sees an error, and no orderly end.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // it may be closed already
	c.Close()
}

// exact is the part of a wait that is left to the kernel's timer. Go's own wakes up to a
// millisecond late in a process that has nothing else to do.
const exact = 2 * time.Millisecond

// sleepUntil waits until a moment.
func sleepUntil(due time.Time) {
	if left := time.Until(due); left > 2*exact {
		time.Sleep(left - exact)
	}
	for {
		left := time.Until(due)
		if left <= 0 {
			return
		}
		t := unix.NsecToTimespec(left.Nanoseconds())
		_ = unix.Nanosleep(&t, nil) // a signal ends it early
	}
}
