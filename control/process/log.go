package process

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/migration"
)

// LogConfig says what is logged, how, and where. The zero value logs text, from level info on, to
// standard error.
type LogConfig struct {
	Level  slog.Level
	Format LogFormat
	File   string // the log is appended to it; empty: standard error
}

// LogFormat is how a log line looks.
type LogFormat string

const (
	LogText LogFormat = "text" // key=value
	LogJSON LogFormat = "json" // one object in each line
)

// handler writes records to w, each by one Write.
func (c LogConfig) handler(w io.Writer) slog.Handler {
	options := &slog.HandlerOptions{Level: c.Level, ReplaceAttr: oneLine}
	if c.Format == LogJSON {
		return slog.NewJSONHandler(w, options)
	}
	return slog.NewTextHandler(w, options)
}

// oneLine keeps an error with several causes on one line.
func oneLine(_ []string, a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		return slog.String(a.Key, migration.OneLine(err.Error()))
	}
	return a
}

// open returns the file that lines go to.
func (c LogConfig) open(stderr *os.File) (f *os.File, err error) {
	if c.File == "" {
		return stderr, nil
	}
	// Non-blocking, so that a pipe that nobody reads gives an error and does not hang the process.
	flags := os.O_WRONLY | os.O_APPEND | os.O_CREATE |
		unix.O_NOFOLLOW | unix.O_NOCTTY | unix.O_NONBLOCK
	if f, err = os.OpenFile(c.File, flags, 0o600); err != nil {
		return nil, fmt.Errorf("log: %w", NewFileError(err))
	}
	return f, nil
}

// logbook is the log of a VM's process.
type logbook struct {
	*slog.Logger
	file   *os.File // standard error, or opened here
	owned  bool
	screen *screen
	lines  *logWriter
}

func openLog(cfg LogConfig, vm string, stderr *os.File) (*logbook, error) {
	file, err := cfg.open(stderr)
	if err != nil {
		return nil, err
	}
	l := &logbook{file: file, owned: cfg.File != "", screen: newScreen(file)}
	l.lines = newLogWriter(l.screen, func(n int) []byte {
		var line bytes.Buffer
		slog.New(cfg.handler(&line)).Warn("messages were lost, because nobody read them",
			"vm", vm, "count", n)
		return line.Bytes()
	})
	l.Logger = slog.New(cfg.handler(l.lines)).With("vm", vm)
	return l, nil
}

// shares makes the guest's output keep clear of log lines, if both go to the same file.
func (l *logbook) shares(c *console) {
	a, errA := l.file.Stat()
	b, errB := c.file.Stat()
	if errA == nil && errB == nil && os.SameFile(a, b) {
		c.screen = l.screen
	}
}

// close writes the queued lines. If the process ends with an error, that is the last line.
func (l *logbook) close(err error) {
	if err != nil && l.owned {
		l.Error("ended", "error", err) // without a log file, main writes it to standard error
	}
	l.screen.end()
	l.lines.close()
	if err != nil {
		l.screen.endLine()
	}
	if l.owned {
		l.file.Close()
	}
}

const (
	// logLines is how many lines the queue holds.
	logLines = 256
	// logFlush is how long the end of a process waits for the queue to be written.
	logFlush = time.Second
)

// logWriter writes lines on a goroutine of its own. A log that nobody reads, or that cannot be
// written, must neither delay nor end the process. Lines that find the queue full are lost and
// counted.
type logWriter struct {
	done     chan struct{} // closed once the last line was written
	lostLine func(n int) []byte

	mu     sync.Mutex // guards everything below
	lines  chan []byte
	lost   int
	closed bool
}

// newLogWriter writes to w; lostLine is the line that says how many were lost.
func newLogWriter(w io.Writer, lostLine func(n int) []byte) *logWriter {
	l := &logWriter{
		done: make(chan struct{}), lostLine: lostLine, lines: make(chan []byte, logLines),
	}
	go func() {
		defer close(l.done)
		for line := range l.lines {
			// Nobody is left to be told of an error.
			_, _ = w.Write(append(l.takeLost(), line...))
		}
		if lost := l.takeLost(); lost != nil {
			_, _ = w.Write(lost)
		}
	}()
	return l
}

// takeLost returns the line about lost lines, or nothing if none were lost.
func (l *logWriter) takeLost() []byte {
	l.mu.Lock()
	n := l.lost
	l.lost = 0
	l.mu.Unlock()
	if n == 0 {
		return nil
	}
	return l.lostLine(n)
}

// Write queues a line and never waits.
func (l *logWriter) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, os.ErrClosed
	}
	select {
	case l.lines <- append([]byte(nil), line...):
	default:
		l.lost++
	}
	return len(line), nil
}

// close writes the queued lines, but waits no longer than logFlush.
func (l *logWriter) close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.lines)
	}
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-time.After(logFlush):
	}
}
