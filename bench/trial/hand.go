package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
)

// HandName is the name under which an agent serves a Hand.
const HandName = "Hand"

// VMMFile is the name of the vmm program in the folder of an agent.
const VMMFile = "vmm"

// Hand does at a host what trials need there. Its exported methods are called through net/rpc by
// the Host of a controller. What it starts ends with its process.
type Hand struct {
	dir string

	mu       sync.Mutex
	children map[int]*heldChild
	listener *listener
}

// heldChild is a child that a Hand has started.
type heldChild struct {
	*localChild
	ended  chan struct{}
	ending Ending // once ended is closed
	meter  func() float64
}

// NewHand makes a Hand that works in the folder dir.
func NewHand(dir string) *Hand { return &Hand{dir: dir, children: map[int]*heldChild{}} }

// StartOrder is a vmm run to start.
type StartOrder struct {
	Dir  string // its runtime directory, in the agent's folder
	Name string
	Args []string
}

// console is the unix socket, in the agent's folder, that gives what the run prints.
func (o StartOrder) console() string { return filepath.Join(o.Dir, o.Name+".console") }

// MakeFolder makes a folder for a trial, and returns its path.
func (h *Hand) MakeFolder(name string, path *string) error {
	*path = filepath.Join(h.dir, filepath.Base(name))
	return os.Mkdir(*path, 0o700)
}

// RemoveFolder removes a trial's folder.
func (h *Hand) RemoveFolder(name string, _ *struct{}) error {
	return os.RemoveAll(filepath.Join(h.dir, filepath.Base(name)))
}

// Start starts a vmm run and returns its process. What it prints goes to the first connection at
// its console.
func (h *Hand) Start(o StartOrder, pid *int) error {
	l, err := net.Listen("unix", filepath.Join(h.dir, o.console()))
	if err != nil {
		return err
	}
	out, in, err := os.Pipe()
	if err != nil {
		l.Close()
		return err
	}
	dir := filepath.Join(h.dir, o.Dir)
	c, err := startLocal(filepath.Join(h.dir, VMMFile), dir, Side{}, in, o.Args)
	if err != nil {
		l.Close()
		out.Close()
		return err
	}
	go h.tell(l, out)
	held := &heldChild{localChild: c, ended: make(chan struct{})}
	go func() {
		held.ending = c.wait()
		close(held.ended)
	}()
	h.mu.Lock()
	defer h.mu.Unlock()
	*pid = c.cmd.Process.Pid
	h.children[*pid] = held
	return nil
}

// tell gives a console to the first connection.
func (h *Hand) tell(l net.Listener, console io.ReadCloser) {
	defer console.Close()
	conn, err := l.Accept()
	l.Close()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.Copy(conn, console) // until one of them ends
}

// child finds a child.
func (h *Hand) child(pid int) (*heldChild, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.children[pid]
	if c == nil {
		return nil, fmt.Errorf("process %d is none that was started here", pid)
	}
	return c, nil
}

// Wait waits for the end of a process, and forgets it.
func (h *Hand) Wait(pid int, e *Ending) error {
	c, err := h.child(pid)
	if err != nil {
		return err
	}
	<-c.ended
	*e = c.ending
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.children, pid)
	return nil
}

// Kill ends a process, if it has not ended.
func (h *Hand) Kill(pid int, _ *struct{}) error {
	c, err := h.child(pid)
	if err == nil {
		c.kill()
	}
	return err
}

// CPUSeconds is the processor time of a process so far.
func (h *Hand) CPUSeconds(pid int, s *float64) error {
	c, err := h.child(pid)
	if err == nil {
		*s, err = c.cpuSeconds()
	}
	return err
}

// Meter begins to measure the processor time of a process' vCPUs.
func (h *Hand) Meter(pid int, _ *struct{}) error {
	c, err := h.child(pid)
	if err != nil {
		return err
	}
	stop, err := c.meterGuest()
	h.mu.Lock()
	defer h.mu.Unlock()
	c.meter = stop
	return err
}

// Metered ends what Meter has begun, and returns the seconds.
func (h *Hand) Metered(pid int, s *float64) error {
	c, err := h.child(pid)
	if err != nil {
		return err
	}
	h.mu.Lock()
	stop := c.meter
	c.meter = nil
	h.mu.Unlock()
	if stop == nil {
		return fmt.Errorf("process %d is not measured", pid)
	}
	*s = stop()
	return nil
}

// Quiet measures what the host does before a trial.
func (h *Hand) Quiet(_ struct{}, n *Noise) error {
	*n = listen(context.Background())
	return nil
}

// Listen begins to measure what others do during a trial.
func (h *Hand) Listen(_ struct{}, _ *struct{}) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listener == nil {
		h.listener = newListener()
	}
	return nil
}

// Heard ends what Listen has begun.
func (h *Hand) Heard(_ struct{}, n *NoiseDuring) error {
	h.mu.Lock()
	l := h.listener
	h.listener = nil
	h.mu.Unlock()
	if l == nil {
		return errors.New("nobody listens")
	}
	*n = l.stop()
	return nil
}

// Close ends what was started, and waits until it has ended.
func (h *Hand) Close() {
	h.mu.Lock()
	var all []*heldChild
	for _, c := range h.children {
		all = append(all, c)
	}
	h.mu.Unlock()
	for _, c := range all {
		c.kill()
		<-c.ended
	}
}
