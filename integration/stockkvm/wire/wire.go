// Package wire is the protocol between the rig on the developer's machine and the agent that is
// process 1 of the emulated host.
//
// Both ends write JSON objects, one in each line, over one virtio-serial port. A Request names a
// job by a number that the rig chose. Every Event about that job carries the number back, so
// several jobs (a running machine, a migration, a command that looks at both) share the port.
// Output travels as bytes (base64 in JSON), because test output is not always text, and must not be
// taken for framing.
package wire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// PortName is the name of the virtio-serial port, as the inner kernel shows it in
// /sys/class/virtio-ports/*/name.
const PortName = "stockkvm.control"

// MaxLine bounds one message, in bytes, so that a broken peer cannot make the other end allocate
// without limit. Output is cut into much smaller pieces.
const MaxLine = 1 << 20

// ErrLineTooLong is returned if the peer sent more than MaxLine bytes without a newline. It does
// not speak this protocol.
var ErrLineTooLong = errors.New("message longer than the protocol allows")

// Request is one message from the rig to the agent. Exactly one of its pointers or slices is set.
type Request struct {
	Job    int     `json:"job"`
	Start  *Start  `json:"start,omitempty"`
	Input  []byte  `json:"input,omitempty"`
	Signal int     `json:"signal,omitempty"` // signal number for the job's process group
	Clock  *Adjust `json:"clock,omitempty"`
}

// Start runs a program.
type Start struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"` // added to the agent's own, NAME=VALUE
	Dir  string   `json:"dir,omitempty"`

	// Input says that the program reads what the rig sends. Otherwise it has no input.
	Input bool `json:"input,omitempty"`
}

// Adjust steps the inner machine's CLOCK_REALTIME. The answer is an Event with Clock set, so
// Adjust{} just reads the clock.
type Adjust struct {
	StepNanos int64 `json:"step_ns"`
}

// Message is one message from the agent to the rig.
type Message struct {
	Job   int    `json:"job"`
	Hello *Hello `json:"hello,omitempty"` // once, job 0: the inner machine is up
	Out   []byte `json:"out,omitempty"`
	Err   []byte `json:"err,omitempty"`
	Exit  *Exit  `json:"exit,omitempty"`     // last event of a job
	Clock int64  `json:"clock_ns,omitempty"` // CLOCK_REALTIME, ns since the epoch
}

// Hello describes the inner machine.
type Hello struct {
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	KVM    string `json:"kvm"` // "" when /dev/kvm is missing
	CPUs   int    `json:"cpus"`
	TSCKHz int    `json:"tsc_khz"` // of virtual machines at the host's pace; 0 if KVM does not say
	// LoadedKHz is what KVM gives a new machine by itself: what the kernel took its TSC for when
	// KVM was loaded.
	LoadedKHz int `json:"loaded_khz"`
}

// Exit is how a job ended.
type Exit struct {
	Code   int    `json:"code"`             // -1 when a signal ended it or it never started
	Signal int    `json:"signal,omitempty"` // the signal that ended it
	Reason string `json:"reason,omitempty"` // "" for a plain exit
}

// Status is the exit status as a shell reports it: 128 plus the number of the signal that ended the
// program, or 127 if it did not start.
func (e Exit) Status() int {
	switch {
	case e.Signal != 0:
		return 128 + e.Signal
	case e.Code < 0:
		return 127
	}
	return e.Code
}

// Reader reads messages of type T, one a line.
type Reader[T any] struct{ s *bufio.Scanner }

// NewReader returns a Reader over r.
func NewReader[T any](r io.Reader) *Reader[T] {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), MaxLine)
	return &Reader[T]{s: s}
}

// Read returns the next message, or io.EOF at the end of the stream.
func (r *Reader[T]) Read() (T, error) {
	var m T
	if !r.s.Scan() {
		if err := r.s.Err(); errors.Is(err, bufio.ErrTooLong) {
			return m, ErrLineTooLong
		} else if err != nil {
			return m, fmt.Errorf("read message: %w", err)
		}
		return m, io.EOF
	}
	if err := json.Unmarshal(r.s.Bytes(), &m); err != nil {
		return m, fmt.Errorf("decode message: %w", err)
	}
	return m, nil
}

// Writer writes messages of type T, one a line. It is safe for concurrent use.
type Writer[T any] struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns a Writer to w.
func NewWriter[T any](w io.Writer) *Writer[T] { return &Writer[T]{w: w} }

// Write sends one message.
func (w *Writer[T]) Write(m T) error {
	line, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}
