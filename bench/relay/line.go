package relay

import (
	"io"
	"net"
	"sync"
	"time"
)

// mostMarks is how many reads a line may hold. Small messages fill it before they fill the ring.
const mostMarks = 1 << 14

// mostOfRead bounds one read, so that its first byte does not wait for its last one.
const mostOfRead = 256 << 10

// writer is the end of a line that its bytes come out of.
type writer interface {
	io.WriteCloser
	CloseWrite() error
}

// mark says when the next n bytes of the ring are due or, with an error, when the input's end is.
type mark struct {
	due time.Time
	n   int
	err error
}

// line delays one direction of a connection.
type line struct {
	delay time.Duration
	until func(due time.Time) // waits
	ring  []byte
	marks chan mark

	tail int // the next free byte; only fill uses it
	head int // the next byte to write; only drain uses it

	mu   sync.Mutex // guards used
	room *sync.Cond // some bytes of the ring became free
	used int
}

func newLine(delay time.Duration, bytes int, until func(time.Time)) *line {
	l := &line{
		delay: delay, until: until, ring: make([]byte, bytes), marks: make(chan mark, mostMarks),
	}
	l.room = sync.NewCond(&l.mu)
	return l
}

// fill reads into the ring until the input ends, and acknowledges at once what TCP delivers. Its
// last mark has the error that ended it, io.EOF for an orderly end.
func (l *line) fill(from io.Reader) {
	if c, is := from.(*net.TCPConn); is {
		from = newPrompt(c)
	}
	defer close(l.marks)
	for {
		n, err := from.Read(l.free())
		due := time.Now().Add(l.delay)
		if n > 0 {
			l.mu.Lock()
			l.used += n
			l.mu.Unlock()
			l.tail = (l.tail + n) % len(l.ring)
			l.marks <- mark{due: due, n: n}
		}
		if err != nil {
			l.marks <- mark{due: due, err: err}
			return
		}
	}
}

// free waits until the ring has room, and returns some of it.
func (l *line) free() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.used == len(l.ring) {
		l.room.Wait()
	}
	n := min(len(l.ring)-l.used, len(l.ring)-l.tail, mostOfRead)
	return l.ring[l.tail : l.tail+n]
}

// drain writes what is due, until the input has ended. It returns nil after an orderly end, when it
// has closed that direction. If a write fails, it closes to, so that reading from there fails, too:
// the other direction's line then ends the connection, after its delay.
func (l *line) drain(to writer) error {
	var failed error
	for m := range l.marks {
		l.until(m.due)
		switch {
		case failed != nil:
		case m.err == io.EOF:
			failed = to.CloseWrite()
		case m.err != nil:
			failed = m.err
		default:
			if _, failed = to.Write(l.ring[l.head : l.head+m.n]); failed != nil {
				to.Close()
			}
		}
		l.release(m.n)
	}
	return failed
}

// release gives the oldest n bytes of the ring back.
func (l *line) release(n int) {
	l.head = (l.head + n) % len(l.ring)
	l.mu.Lock()
	l.used -= n
	l.mu.Unlock()
	l.room.Signal()
}
