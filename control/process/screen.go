package process

import (
	"bytes"
	"io"
	"sync"
	"time"
)

const (
	// guestQuiet is how long a guest must have printed nothing to count as being at a prompt.
	// lineWait is how long a log line waits for that, or for the end of the guest's line.
	guestQuiet = 100 * time.Millisecond
	lineWait   = 500 * time.Millisecond
	// repeatable is the most bytes of the guest's line that can be printed again.
	repeatable = 4 << 10
)

// screen is a file, usually a terminal, to which a guest prints and a log is written.
//
// The guest's output comes in pieces that begin and end anywhere. A log line between two of them
// would tear the guest's line apart. So the log line waits for the end of that line. If the guest
// waits, too, as at a prompt, the log line gets a line of its own, and the guest's unfinished line
// is printed again below it. Either way, each line of the guest appears whole somewhere.
type screen struct {
	w    io.Writer
	over chan struct{} // closed once the guest prints no more
	once sync.Once     // closes it

	mu     sync.Mutex    // held while w is written; guards everything below
	line   []byte        // the guest's unfinished line; only its first bytes if it is long
	long   bool          // it has more bytes than line keeps
	last   time.Time     // when the guest printed last
	moved  chan struct{} // closed, and replaced, when it prints
	marked bool          // the last byte that was written belongs to its line
}

func newScreen(w io.Writer) *screen {
	return &screen{w: w, over: make(chan struct{}), moved: make(chan struct{})}
}

// guestWrite prints a piece of the guest's output.
func (s *screen) guestWrite(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.w.Write(p)
	if n > 0 {
		s.note(p[:n])
	}
	return n, err
}

// note records the guest's line after a piece of its output. mu must be held.
func (s *screen) note(p []byte) {
	if end := bytes.LastIndexByte(p, '\n'); end >= 0 {
		s.line, s.long, p = s.line[:0], false, p[end+1:]
	}
	room := repeatable - len(s.line)
	s.long = s.long || len(p) > room
	s.line = append(s.line, p[:min(len(p), room)]...)
	s.marked = s.within()
	s.last = time.Now()
	close(s.moved)
	s.moved = make(chan struct{})
}

// within tells whether the guest is in the middle of a line. mu must be held. After a carriage
// return alone, it is at the beginning of one.
func (s *screen) within() bool { return len(bytes.Trim(s.line, "\r")) > 0 }

// Write writes a log line where it does not tear the guest's line apart.
func (s *screen) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.await(time.Now().Add(lineWait))
	text := line
	if s.marked {
		text = append([]byte("\n"), line...)
	}
	s.marked = false
	if s.within() && !s.long && !s.isOver() {
		text = append(text[:len(text):len(text)], s.line...)
		s.marked = true
	}
	if _, err := s.w.Write(text); err != nil {
		return 0, err
	}
	return len(line), nil
}

// await returns once the guest is between lines or is quiet, or at until. mu must be held; await
// releases it while it waits.
func (s *screen) await(until time.Time) {
	for s.within() && !s.isOver() {
		now := time.Now()
		left := min(until.Sub(now), s.last.Add(guestQuiet).Sub(now))
		if left <= 0 {
			return
		}
		moved := s.moved
		s.mu.Unlock()
		timer := time.NewTimer(left)
		select {
		case <-moved:
		case <-s.over:
		case <-timer.C:
		}
		timer.Stop()
		s.mu.Lock()
	}
}

// end says that the guest prints no more.
func (s *screen) end() { s.once.Do(func() { close(s.over) }) }

func (s *screen) isOver() bool {
	select {
	case <-s.over:
		return true
	default:
		return false
	}
}

// endLine ends a line that the guest has left open, before somebody else writes. It does not wait
// for a write that is stuck.
func (s *screen) endLine() {
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	if s.marked {
		_, _ = s.w.Write([]byte("\n"))
		s.marked = false
	}
}
