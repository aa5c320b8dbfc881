package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// IdleTimeout is how long a peer may be silent, or a write may be stuck, before
	// the connection counts as dead.
	IdleTimeout = 30 * time.Second
	// KeepAliveInterval is how often a connection that has nothing to say speaks.
	KeepAliveInterval = 2 * time.Second

	farewellTimeout = time.Second
)

// ErrTimeout is returned when the peer was silent, or took nothing, for too long.
var ErrTimeout = errors.New("the peer does not answer")

// ErrInterrupted is returned by writes after Interrupt.
var ErrInterrupted = errors.New("interrupted")

// Conn carries frames over a connection whose greeting is done. One goroutine may
// read while others write.
type Conn struct {
	nc  net.Conn
	vec vectored
	ack acknowledger

	// IdleTimeout replaces the package's default; set it before use.
	IdleTimeout time.Duration

	wmu       sync.Mutex // one frame at a time; guards whdr and lastWrite
	whdr      [headerSize]byte
	lastWrite time.Time
	broken    bool // a frame was cut off: nothing after it would be understood
	rhdr      [headerSize]byte

	imu         sync.Mutex  // orders Interrupt and WriteLast
	interrupted atomic.Bool // writes
	closing     atomic.Bool // only a farewell is still to be sent
	unread      atomic.Bool // reads are interrupted
	sent        atomic.Int64
	received    atomic.Int64
}

// NewConn takes over nc.
func NewConn(nc net.Conn) *Conn {
	c := &Conn{nc: nc, ack: newAcknowledger(nc), IdleTimeout: IdleTimeout}
	c.vec.init(nc)
	return c
}

// Close closes the connection; reads and writes under way return an error.
func (c *Conn) Close() error { return c.nc.Close() }

// BytesSent is how much this side put on the wire in frames.
func (c *Conn) BytesSent() int64 { return c.sent.Load() }

// BytesReceived is how much arrived in frames.
func (c *Conn) BytesReceived() int64 { return c.received.Load() }

// WriteMessage sends a frame that is not pages.
func (c *Conn) WriteMessage(t Type, arg uint32, payload []byte) error {
	if len(payload) > MaxMessage {
		return fmt.Errorf("message of type %d: %d bytes is more than the protocol's %d", t, len(payload), MaxMessage)
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	Header{Type: t, Length: len(payload), Arg: arg}.put(c.whdr[:])
	bufs := net.Buffers{c.whdr[:]}
	if len(payload) > 0 {
		bufs = append(bufs, payload)
	}
	return c.writeLocked(&bufs)
}

// writeLocked sends buffers as they are and consumes them.
func (c *Conn) writeLocked(bufs *net.Buffers) error {
	c.lastWrite = time.Now()
	timeout := c.IdleTimeout
	if c.closing.Load() {
		timeout = farewellTimeout
	}
	if err := c.nc.SetWriteDeadline(c.lastWrite.Add(timeout)); err != nil {
		return err
	}
	// After the deadline is set: Interrupt goes the other way round, so that one of
	// the two always sees the other.
	if c.interrupted.Load() {
		return ErrInterrupted
	}
	n, err := bufs.WriteTo(c.nc)
	c.sent.Add(n)
	if err != nil {
		c.broken = true
	}
	return c.explain(err)
}

// Interrupt makes writes fail from now on, one that is stuck included.
func (c *Conn) Interrupt() {
	c.imu.Lock()
	defer c.imu.Unlock()
	if c.closing.Load() {
		return
	}
	c.interrupted.Store(true)
	_ = c.nc.SetWriteDeadline(time.Now())
}

// WriteLast interrupts all other writes and sends a last message, if the peer would
// still understand it. It does not wait long.
func (c *Conn) WriteLast(t Type, payload []byte) error {
	c.Interrupt()
	c.wmu.Lock()
	broken := c.broken
	c.wmu.Unlock()
	if broken {
		return ErrInterrupted
	}
	c.imu.Lock()
	c.closing.Store(true)
	c.interrupted.Store(false)
	c.imu.Unlock()
	return c.WriteMessage(t, 0, payload[:min(len(payload), maxAnswerText)])
}

// KeepAlive speaks on the connection whenever nothing else did, until ctx ends or
// a write fails. A failure surfaces at the next reader or writer.
func (c *Conn) KeepAlive(ctx context.Context) {
	tick := time.NewTicker(KeepAliveInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if !c.wmu.TryLock() {
				continue // a frame is under way
			}
			quiet := time.Since(c.lastWrite) >= KeepAliveInterval
			c.wmu.Unlock()
			if quiet && c.WriteMessage(TypeKeepAlive, 0, nil) != nil {
				return
			}
		}
	}
}

// Next waits for the next frame that is not a keep-alive and returns its header.
// Its payload must be read next, by ReadMessage or a Receiver.
func (c *Conn) Next() (Header, error) {
	for {
		if err := c.readFull(c.rhdr[:]); err != nil {
			return Header{}, err
		}
		h, err := parseHeader(c.rhdr[:])
		if err != nil {
			return Header{}, err
		}
		if h.Type != TypeKeepAlive {
			return h, nil
		}
		if h.Length != 0 {
			return Header{}, fmt.Errorf("%w: a keep-alive with a payload", ErrFrame)
		}
	}
}

// ReadMessage receives the payload of a frame that is not pages.
func (c *Conn) ReadMessage(h Header) ([]byte, error) {
	if h.Type == TypePages {
		return nil, fmt.Errorf("%w: pages where a message was due", ErrFrame)
	}
	// The buffer grows with what arrives, not with what the header promises.
	const step = 64 << 10
	var b []byte
	for len(b) < h.Length {
		n := min(step, h.Length-len(b))
		b = append(b, make([]byte, n)...)
		if err := c.readFull(b[len(b)-n:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// readFull fills b; the connection may be silent for IdleTimeout.
func (c *Conn) readFull(b []byte) error {
	if err := c.armRead(); err != nil {
		return err
	}
	n, err := io.ReadFull(c.nc, b)
	c.received.Add(int64(n))
	return c.explain(err)
}

// armRead sets the deadline of the read to come, or refuses it.
func (c *Conn) armRead() error {
	if err := c.nc.SetReadDeadline(time.Now().Add(c.IdleTimeout)); err != nil {
		return err
	}
	if c.unread.Load() { // after the deadline is set, as in writeLocked
		return ErrInterrupted
	}
	return nil
}

// InterruptRead makes reads fail from now on, one that waits included.
func (c *Conn) InterruptRead() {
	c.unread.Store(true)
	_ = c.nc.SetReadDeadline(time.Now())
}

func (c *Conn) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		if c.unread.Load() || c.interrupted.Load() {
			return ErrInterrupted
		}
		return fmt.Errorf("%w for %v", ErrTimeout, c.IdleTimeout)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the peer closed the connection: %w", io.ErrUnexpectedEOF)
	}
	return err
}
