package virtio

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// stream is a connection to a program that is the network, as passt or gvproxy. Each frame
// crosses with its length before it, 4 bytes in network order, as QEMU's -netdev stream has it.
// Frames are finished: they have no header.
type stream struct {
	path   string
	ctx    context.Context // until it is closed
	cancel context.CancelFunc
	// These belong to receive and reconnect.
	reader *bufio.Reader
	began  time.Time     // when the last connection began
	delay  time.Duration // the last delay before a connection

	// sending is held by a sender. It is taken before mu.
	sending sync.Mutex
	rest    []byte // of a frame of which a part was sent; sending guards it
	stage   []byte // a frame to be sent; sending guards it

	mu   sync.Mutex // guards what follows
	conn net.Conn   // nil: there is no other end
	held bool
}

const (
	streamLength = 4 // bytes of a frame's length
	// sendPatience is how long a frame waits for the other end to read.
	sendPatience = time.Second
	// A program that went away is looked for after the first delay, and then less and less often. A
	// connection that lasts for as long as the last delay is a good one.
	firstRetry = 500 * time.Millisecond
	lastRetry  = 10 * time.Second
)

func openStream(path string) (*stream, error) {
	s := &stream{path: path}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.connect(); err != nil {
		s.cancel()
		return nil, fmt.Errorf("connect to it: %w: start the program that listens there", err)
	}
	return s, nil
}

func (s *stream) connect() error {
	var d net.Dialer
	conn, err := d.DialContext(s.ctx, "unix", s.path)
	if err != nil {
		if op := new(net.OpError); errors.As(err, &op) {
			err = op.Err
		}
		return err
	}
	s.sending.Lock()
	s.rest = nil
	s.sending.Unlock()
	s.reader, s.began = bufio.NewReaderSize(conn, maxFrame), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		conn.Close()
		return errClosed
	}
	s.conn = conn
	return nil
}

func (s *stream) receive(_ int, frame []byte) (int, error) {
	for {
		n, err := s.read(frame)
		switch {
		case s.ctx.Err() != nil:
			return 0, errClosed
		case err != nil:
			s.disconnect()
			return 0, err
		case n >= netHeaderBytes+minFrame:
			return n, nil
		}
	}
}

// read reads a frame of any length that fits.
func (s *stream) read(frame []byte) (int, error) {
	var length [streamLength]byte
	if _, err := io.ReadFull(s.reader, length[:]); err != nil {
		return 0, gone(err)
	}
	n := binary.BigEndian.Uint32(length[:])
	if n == 0 || n > uint32(min(maxFrame, len(frame)-netHeaderBytes)) {
		return 0, fmt.Errorf("a frame of %d bytes came: want the framing of QEMU's "+
			"stream sockets", n)
	}
	clear(frame[:netHeaderBytes])
	if _, err := io.ReadFull(s.reader, frame[netHeaderBytes:][:n]); err != nil {
		return 0, gone(err)
	}
	return netHeaderBytes + int(n), nil
}

// gone returns the error of a connection in words.
func gone(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the other end has closed the connection")
	}
	if op := new(net.OpError); errors.As(err, &op) {
		return op.Err
	}
	return err
}

func (s *stream) disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// reconnect implements [wire]. Each connection is preceded by a delay, so that a program that
// closes them at once is not called all the time, and does not fill the log.
func (s *stream) reconnect() bool {
	for lasted := time.Since(s.began); ; lasted = 0 {
		select {
		case <-s.ctx.Done():
			return false
		case <-time.After(s.backOff(lasted)):
		}
		if s.connect() == nil {
			return true
		}
	}
}

// backOff returns the delay before the next connection, after one that lasted for some time.
func (s *stream) backOff(lasted time.Duration) time.Duration {
	if lasted >= lastRetry {
		s.delay = 0
	}
	s.delay = min(max(2*s.delay, firstRetry), lastRetry)
	return s.delay
}

// send implements [wire]. It copies the frame, so that its length and content cannot change.
func (s *stream) send(_ int, parts [][]byte) {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.stage = append(s.stage[:0], make([]byte, streamLength)...)
	skip := netHeaderBytes
	for _, p := range parts {
		n := min(skip, len(p))
		skip -= n
		s.stage = append(s.stage, p[n:]...)
	}
	binary.BigEndian.PutUint32(s.stage, uint32(len(s.stage)-streamLength))
	// The rest of the frame before comes first, or the other end would lose count.
	if rest, ok := s.write(s.rest); !ok {
		s.rest = rest
		return
	}
	s.rest = nil
	if rest, ok := s.write(s.stage); !ok && len(rest) < len(s.stage) {
		s.rest = slices.Clone(rest)
	}
}

// write writes to the connection, and returns what was not written. It waits for the other end only
// while the wire is not held.
func (s *stream) write(b []byte) (rest []byte, ok bool) {
	conn := s.ready()
	if conn == nil || len(b) == 0 {
		return nil, conn != nil
	}
	n, err := conn.Write(b)
	return b[n:], err == nil
}

// ready returns the connection, with a deadline for a write.
func (s *stream) ready() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		deadline := time.Now()
		if !s.held {
			deadline = deadline.Add(sendPatience)
		}
		_ = s.conn.SetWriteDeadline(deadline)
	}
	return s.conn
}

func (s *stream) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
	if s.conn != nil {
		_ = s.conn.SetWriteDeadline(time.Now())
	}
}

func (s *stream) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = false
}

// offload implements [wire]: frames are always finished.
func (s *stream) offload(uint64) {}

func (s *stream) close() {
	s.cancel()
	s.disconnect()
}
