package heartbeat

import (
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Watch is a clock outside of the guest: it reads a console as soon as there is something to read,
// and notes the time. A guest that prints a dot every millisecond (dots=1ms) thus shows when it
// ran, and how soon somebody outside heard of it.
type Watch struct {
	mu    sync.Mutex
	times []time.Time // of all reads, in order

	done chan struct{}
}

// watchBuffer is the most bytes of one read.
const watchBuffer = 64 << 10

// NewWatch reads console to its end and then closes it. Its output goes to log once after is
// closed. The file must be in blocking mode, as those of os.Pipe are after Fd was called.
//
// The reader has its own thread, with a higher priority if the host permits that (as root), because
// the reader's delay must not count as the guest's.
func NewWatch(console *os.File, log io.Writer, after <-chan struct{}) *Watch {
	w := &Watch{done: make(chan struct{})}
	heard := make(chan []byte, 4096)
	go w.read(console, heard)
	go func() {
		defer close(w.done)
		<-after
		for piece := range heard {
			_, _ = log.Write(piece) // a Log never fails
		}
	}()
	return w
}

// watchNice is the priority of the reader's thread, setpriority(2).
const watchNice = -15

func (w *Watch) read(console *os.File, heard chan<- []byte) {
	// The thread must live on: a process that it started with Pdeathsig would end with it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self := unix.Gettid()
	if raw, err := unix.Getpriority(unix.PRIO_PROCESS, self); err == nil {
		// The system call returns 20 - nice.
		const nice0 = 20
		_ = unix.Setpriority(unix.PRIO_PROCESS, self, watchNice) // as far as permitted
		defer func() { _ = unix.Setpriority(unix.PRIO_PROCESS, self, nice0-raw) }()
	}
	defer close(heard)
	defer console.Close()
	fd := int(console.Fd())
	buf := make([]byte, watchBuffer)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		now := time.Now()
		w.mu.Lock()
		w.times = append(w.times, now)
		w.mu.Unlock()
		heard <- slices.Clone(buf[:n])
	}
}

// Done is closed once all of the guest's output is in the log.
func (w *Watch) Done() <-chan struct{} { return w.done }

// Times returns the times of all reads so far, in order.
func (w *Watch) Times() []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.times)
}

// Silences are the longest times without output from a guest's consoles around a move.
type Silences struct {
	Before time.Duration // of the source, in the second before the request
	Rounds time.Duration // of the source, from the request to its last word
	Switch time.Duration // from the source's last word to the destination's first
	After  time.Duration // of the destination, in its first second
}

// silenceSpan is how long the guest is heard on either side of the move.
const silenceSpan = time.Second

// SilencesOf finds them in the times at which the consoles of source and destination were heard. It
// returns false if there are too few times.
func SilencesOf(source, destination []time.Time, requested time.Time) (Silences, bool) {
	// The output that begins or ends a silence may lie outside of its span.
	at, _ := slices.BinarySearchFunc(source, requested, time.Time.Compare)
	if at == 0 || len(destination) == 0 {
		return Silences{}, false
	}
	last := source[len(source)-1]
	if destination[0].Before(last) {
		return Silences{}, false // two guests, or two clocks
	}
	begin, _ := slices.BinarySearchFunc(source, requested.Add(-silenceSpan), time.Time.Compare)
	until := destination[0].Add(silenceSpan)
	end, _ := slices.BinarySearchFunc(destination, until, time.Time.Compare)
	return Silences{
		Before: longest(source[begin:at]),
		Rounds: longest(source[at-1:]),
		Switch: destination[0].Sub(last),
		After:  longest(destination[:end]),
	}, true
}

// longest is the longest time between two neighbours.
func longest(times []time.Time) time.Duration {
	var most time.Duration
	for i := 1; i < len(times); i++ {
		most = max(most, times[i].Sub(times[i-1]))
	}
	return most
}
