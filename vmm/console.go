package vmm

import (
	"io"
	"sync"
	"time"
)

const (
	// consoleQueue is how many bytes wait for a slow console writer before the guest
	// has to wait.
	consoleQueue = 64 << 10
	// consoleFlush is how long the end of a machine waits for its console's writer.
	consoleFlush = time.Second
)

// console carries what the guest sends to COM1 to an io.Writer that may be slow.
//
// The vCPUs put bytes into a queue and a goroutine of its own writes them out. When
// the queue is full, a vCPU waits for room, as a guest on a real serial line would,
// but never longer than the machine runs: with a pause requested it puts its bytes
// into the queue beyond the limit and goes on to park. So nothing is lost and a pause
// is not held up; the queue exceeds its limit by at most one access a vCPU.
type console struct {
	w       io.Writer
	mayWait func() bool // false while the machine is asked to stand still or has ended
	limit   int         // bytes in the queue from which on vCPUs wait

	mu      sync.Mutex
	changed sync.Cond // bytes were queued or written out, the machine is asked to stand still, or closed
	queue   []byte
	closed  bool
	drained chan struct{} // the writer's goroutine has ended
}

// newConsole starts the writer's goroutine; w may be nil.
func newConsole(w io.Writer, mayWait func() bool) *console {
	c := &console{w: w, mayWait: mayWait, limit: consoleQueue, drained: make(chan struct{})}
	c.changed.L = &c.mu
	if w == nil {
		close(c.drained)
	} else {
		go c.drain()
	}
	return c
}

// write queues p.
func (c *console) write(p []byte) {
	if c.w == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) >= c.limit && !c.closed && c.mayWait() {
		c.changed.Wait()
	}
	if c.closed {
		return
	}
	c.queue = append(c.queue, p...)
	c.changed.Broadcast()
}

// hurry makes waiting vCPUs look at mayWait again.
func (c *console) hurry() {
	// Without the lock, a vCPU between its look and its wait would miss this.
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed.Broadcast()
}

// close writes out what is queued, as far as the writer takes it in consoleFlush.
func (c *console) close() {
	c.mu.Lock()
	c.closed = true
	c.changed.Broadcast()
	c.mu.Unlock()
	select {
	case <-c.drained:
	case <-time.After(consoleFlush):
	}
}

func (c *console) drain() {
	defer close(c.drained)
	var out []byte
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.closed {
			c.changed.Wait()
		}
		if len(c.queue) == 0 {
			c.mu.Unlock()
			return
		}
		out, c.queue = c.queue, out[:0]
		c.changed.Broadcast()
		c.mu.Unlock()
		// A console that went away takes no part in the guest's life.
		_, _ = c.w.Write(out)
	}
}
