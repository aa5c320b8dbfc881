// Package heartbeat reads what the embedded guest prints on its serial port.
//
// Once a second every task of the guest prints one line of key=value fields:
//
//	hb task=0 ms=1000 passes=12 writes=196608 gap_us=84
//
// ms is the guest's own elapsed time, passes and writes count its work, and gap_us
// is the longest pause between two consecutive steps since the line before: what
// the guest itself saw of a migration's downtime. Fields may be appended; the ones
// without a name here are in Beat.Fields. A guest that finds its memory changed under
// it prints a line with CORRUPT, which is the worst that a migration can do.
//
// The same guest prints the same lines under any virtual machine monitor, so that
// one reader serves tests and comparisons of all of them. The load of
// examples/workloads prints them, too, in a Linux guest.
package heartbeat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Beat is one heartbeat.
type Beat struct {
	At      time.Time // when the line was complete here
	Task    int
	Elapsed time.Duration // the guest's own clock
	Passes  uint64
	Writes  uint64
	Gap     time.Duration // longest pause between two steps

	Fields map[string]string // all fields, as printed
}

// Float returns the field of the given name, or false if it is missing or not a number.
func (b Beat) Float(name string) (float64, bool) {
	v, err := strconv.ParseFloat(b.Fields[name], 64)
	return v, err == nil
}

// Parse reads one line. It returns false for anything but a whole heartbeat.
func Parse(line string) (Beat, bool) {
	words := strings.Fields(line)
	if len(words) == 0 || words[0] != "hb" {
		return Beat{}, false
	}
	b := Beat{Fields: map[string]string{}}
	for _, w := range words[1:] {
		key, value, ok := strings.Cut(w, "=")
		if !ok {
			return Beat{}, false
		}
		b.Fields[key] = value
	}
	whole := true
	number := func(key string, bits int) uint64 {
		v, err := strconv.ParseUint(b.Fields[key], 10, bits)
		whole = whole && err == nil
		return v
	}
	// The widths keep times within time.Duration: 40 bits of milliseconds are
	// 34 years.
	b.Task = int(number("task", 31))
	b.Elapsed = time.Duration(number("ms", 40)) * time.Millisecond
	b.Passes, b.Writes = number("passes", 64), number("writes", 64)
	b.Gap = time.Duration(number("gap_us", 50)) * time.Microsecond
	return b, whole
}

// ErrCorrupt is returned if the guest found its memory changed.
var ErrCorrupt = errors.New("the guest's memory is corrupt")

// Log collects a guest's serial output. It is an io.Writer that never fails or
// blocks, and safe for concurrent use.
type Log struct {
	mu      sync.Mutex
	text    bytes.Buffer
	line    int // where the unfinished line begins in text
	beats   []Beat
	corrupt string
	changed chan struct{} // closed and replaced at every change
}

// Write takes the next piece of output.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	for {
		rest := l.text.Bytes()[l.line:]
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			break
		}
		line := strings.TrimSpace(string(rest[:end]))
		if b, ok := Parse(line); ok {
			b.At = time.Now()
			l.beats = append(l.beats, b)
		} else if strings.Contains(line, "CORRUPT") && l.corrupt == "" {
			l.corrupt = line
		}
		l.line += end + 1
	}
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	return len(p), nil
}

// String returns all output so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Beats returns all heartbeats so far, in order.
func (l *Log) Beats() []Beat {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Beat(nil), l.beats...)
}

// WaitText waits until the output contains text. Like WaitBeats it gives up with
// ErrCorrupt as soon as the guest says so.
func (l *Log) WaitText(ctx context.Context, text string) error {
	return l.wait(ctx, fmt.Sprintf("%q in the guest's output", text), func() bool {
		return bytes.Contains(l.text.Bytes(), []byte(text))
	})
}

// WaitLine waits until a whole line begins with prefix and returns it, without its end.
func (l *Log) WaitLine(ctx context.Context, prefix string) (string, error) {
	var found string
	err := l.wait(ctx, fmt.Sprintf("a line %q", prefix), func() bool {
		for line := range bytes.Lines(l.text.Bytes()[:l.line]) {
			if bytes.HasPrefix(line, []byte(prefix)) {
				found = strings.TrimRight(string(line), "\r\n")
				return true
			}
		}
		return false
	})
	return found, err
}

// WaitBeats waits until there are more than n heartbeats and returns all. With n the
// length of an earlier Beats it waits for the next one.
func (l *Log) WaitBeats(ctx context.Context, n int) ([]Beat, error) {
	err := l.wait(ctx, fmt.Sprintf("heartbeat %d", n+1), func() bool { return len(l.beats) > n })
	return l.Beats(), err
}

func (l *Log) wait(ctx context.Context, what string, ok func() bool) error {
	for {
		l.mu.Lock()
		if l.corrupt != "" {
			defer l.mu.Unlock()
			return fmt.Errorf("%w: %s", ErrCorrupt, l.corrupt)
		}
		if ok() {
			l.mu.Unlock()
			return nil
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; so far it printed: %q", what, ctx.Err(),
				tail(l.String(), 300))
		}
	}
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// Corrupt returns the guest's line about corrupt memory, or "" if there is none.
func (l *Log) Corrupt() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.corrupt
}
