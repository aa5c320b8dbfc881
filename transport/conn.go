package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// IdleTimeout is how long a peer may send nothing, or take nothing, before the connection
	// counts as dead. Every byte that moves restarts it, so that a slow link does not count as
	// dead.
	IdleTimeout = 30 * time.Second
	// KeepAliveInterval is how long a connection is idle before it sends a keep-alive.
	KeepAliveInterval = 2 * time.Second

	farewellTimeout = time.Second
	// rearmAfter is the age of a read deadline at which arriving bytes renew it.
	rearmAfter = time.Second
	// recordSize is the most bytes that TLS sends in one record (RFC 8446, 5.1).
	recordSize = 16 << 10
)

// ErrTimeout is returned when the peer sent nothing, or took nothing, for too long.
var ErrTimeout = errors.New("the peer does not answer")

// ErrInterrupted is returned by writes after Interrupt.
var ErrInterrupted = errors.New("interrupted")

// Conn carries frames over a connection whose greeting is done. One goroutine may
// read while others write.
type Conn struct {
	nc  net.Conn
	vec vectored
	ack acknowledger
	tls bool

	// IdleTimeout replaces the package's default; set it before use.
	IdleTimeout time.Duration

	wmu       sync.Mutex // one frame at a time; guards whdr and lastWrite
	whdr      [headerSize]byte
	lastWrite time.Time
	broken    bool // a frame was cut off: the peer would not understand what follows
	rhdr      [headerSize]byte

	imu         sync.Mutex  // orders Interrupt and WriteLast
	interrupted atomic.Bool // writes
	closing     atomic.Bool // only a farewell is still to be sent
	unread      atomic.Bool // reads are interrupted
	sent        atomic.Int64
	received    atomic.Int64
	progress    atomic.Int64 // of received, without keep-alives and announcements

	// The reader's own: when the deadline was set, and whether a header is being read,
	// which may turn out to be a keep-alive's.
	armed    time.Time
	inHeader bool

	amu       sync.Mutex // guards the peer's last announcement, below
	announced time.Time  // when it came
	waits     time.Duration
}

// NewConn takes over nc, which it closes on Close.
func NewConn(nc net.Conn) *Conn {
	c := &Conn{nc: nc, ack: newAcknowledger(nc), IdleTimeout: IdleTimeout}
	_, c.tls = nc.(*tls.Conn)
	c.vec.init(nc, c.got)
	return c
}

// Close closes the connection; reads and writes under way return an error.
func (c *Conn) Close() error { return c.nc.Close() }

// Abort is Close without TLS's goodbye, which waits for seconds if the peer takes nothing.
func (c *Conn) Abort() { _ = bareConn(c.nc).Close() }

// BytesSent is how many bytes of frames this side has sent.
func (c *Conn) BytesSent() int64 { return c.sent.Load() }

// BytesReceived is how many bytes of frames have arrived.
func (c *Conn) BytesReceived() int64 { return c.received.Load() }

// Progress is how many bytes have arrived in frames other than keep-alives and announcements of
// waits: those only show that the peer is alive.
func (c *Conn) Progress() int64 { return c.progress.Load() }

// Announced returns when the peer said that it waits, and for how long at most. Both are zero if it
// has sent something else since. The duration is the peer's claim, so a caller must bound it.
func (c *Conn) Announced() (at time.Time, atMost time.Duration) {
	c.amu.Lock()
	defer c.amu.Unlock()
	return c.announced, c.waits
}

func (c *Conn) announce(at time.Time, atMost time.Duration) {
	c.amu.Lock()
	defer c.amu.Unlock()
	c.announced, c.waits = at, atMost
}

// Announce tells the peer that this side waits or works, and will send nothing else for at most d.
func (c *Conn) Announce(d time.Duration) error {
	return c.WriteMessage(TypeWaiting, uint32(min(max(d.Milliseconds(), 0), math.MaxUint32)), nil)
}

// WriteMessage sends a frame that is not pages.
func (c *Conn) WriteMessage(t Type, arg uint32, payload []byte) error {
	if len(payload) > MaxMessage {
		return fmt.Errorf("message of type %d: %d bytes is more than the protocol's %d", t,
			len(payload), MaxMessage)
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

// writeLocked sends bufs and consumes them. It fails if the peer takes nothing for IdleTimeout,
// however long the whole write takes.
func (c *Conn) writeLocked(bufs *net.Buffers) error {
	var err error
	for begun := false; len(*bufs) > 0 && err == nil; {
		c.lastWrite = time.Now()
		timeout := c.IdleTimeout
		if c.closing.Load() {
			timeout = farewellTimeout
		}
		if err := c.nc.SetWriteDeadline(c.lastWrite.Add(timeout)); err != nil {
			return err
		}
		// Check only after the deadline is set. Interrupt does both in the opposite order, so that
		// one of the two always sees the other.
		if c.interrupted.Load() {
			c.broken = c.broken || begun
			return ErrInterrupted
		}
		var n int64
		n, err = c.writeSome(bufs)
		c.sent.Add(n)
		begun = begun || n > 0
		slow := n > 0 && errors.Is(err, os.ErrDeadlineExceeded) // slow, not dead
		if slow && !c.interrupted.Load() && !c.closing.Load() {
			err = nil
		}
	}
	if err != nil {
		c.broken = true
	}
	return c.explain(err)
}

// writeSome writes all of bufs, or what fits before the deadline. A TLS write that hits its
// deadline breaks the connection, so with TLS it writes at most one record.
func (c *Conn) writeSome(bufs *net.Buffers) (int64, error) {
	if !c.tls {
		return bufs.WriteTo(c.nc)
	}
	first := &(*bufs)[0]
	n, err := c.nc.Write((*first)[:min(len(*first), recordSize)])
	if *first = (*first)[n:]; len(*first) == 0 {
		*bufs = (*bufs)[1:]
	}
	return int64(n), err
}

// Interrupt makes writes fail from now on, including one that is stuck.
func (c *Conn) Interrupt() {
	c.imu.Lock()
	defer c.imu.Unlock()
	if c.closing.Load() {
		return
	}
	c.interrupted.Store(true)
	_ = c.nc.SetWriteDeadline(time.Now())
}

// WriteLast interrupts all other writes and sends a last message, unless a frame was cut off, after
// which the peer would not understand it. It waits only briefly.
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

// KeepAlive sends a keep-alive whenever the connection was idle, until ctx ends or a write fails.
// The next reader or writer gets the error.
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

// Next waits for the next frame that is neither a keep-alive nor an announcement of a wait, and
// returns its header. The caller must then read its payload, by ReadMessage or a Receiver.
func (c *Conn) Next() (Header, error) {
	for {
		c.inHeader = true
		err := c.readFull(c.rhdr[:])
		c.inHeader = false
		if err != nil {
			return Header{}, err
		}
		h, err := parseHeader(c.rhdr[:])
		if err != nil {
			return Header{}, err
		}
		if h.Type != TypeKeepAlive && h.Type != TypeWaiting {
			c.progress.Add(headerSize)
			c.announce(time.Time{}, 0) // it waits no longer
			return h, nil
		}
		if h.Length != 0 {
			return Header{}, fmt.Errorf("%w: message of type %d with a payload", ErrFrame, h.Type)
		}
		if h.Type == TypeWaiting {
			c.announce(time.Now(), time.Duration(h.Arg)*time.Millisecond)
		}
	}
}

// ReadMessage receives the payload of a frame that does not hold pages.
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

// readFull fills b. It fails if nothing arrives for IdleTimeout.
func (c *Conn) readFull(b []byte) error {
	if err := c.armRead(); err != nil {
		return err
	}
	for total := 0; total < len(b); {
		n, err := c.nc.Read(b[total:])
		total += n
		if errGot := c.got(n); err == nil {
			err = errGot
		}
		if err != nil && total < len(b) {
			return c.explain(err)
		}
	}
	return nil
}

// armRead sets the deadline of the next read, or fails if reads are interrupted.
func (c *Conn) armRead() error {
	c.armed = time.Now()
	if err := c.nc.SetReadDeadline(c.armed.Add(c.IdleTimeout)); err != nil {
		return err
	}
	if c.unread.Load() { // after the deadline is set, as in writeLocked
		return ErrInterrupted
	}
	return nil
}

// got counts bytes that arrived and renews the deadline of the read under way.
func (c *Conn) got(n int) error {
	c.received.Add(int64(n))
	if !c.inHeader {
		c.progress.Add(int64(n))
	}
	if time.Since(c.armed) < rearmAfter {
		return nil
	}
	return c.armRead()
}

// InterruptRead makes reads fail from now on, including one that waits.
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
