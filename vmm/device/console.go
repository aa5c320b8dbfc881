package device

import (
	"io"
	"runtime"
	"sync"
	"time"
)

const (
	// consoleQueue is how many bytes may wait for a slow writer before the guest has to wait.
	consoleQueue = 64 << 10
	// consoleChunk is how many bytes the writer gets at once.
	consoleChunk = 4 << 10
	// consolePatience is how long a writer may take for a chunk while vCPUs wait for room.
	consolePatience = time.Second
	// consoleFlush is how long the end of a machine waits for its console's writer.
	consoleFlush = time.Second
)

// Console is where a UART's output goes.
type Console struct {
	// Writer gets the output, from one goroutine; nil drops it. It may block. Once it has taken
	// nothing for a second it no longer holds the guest up: output is lost until it takes some
	// again.
	Writer io.Writer
	// Lossy, unless nil, is called with 0 when output begins to be lost for that reason, and with
	// the number of lost bytes when the loss ends. It must not block.
	Lossy func(lost int64)
	// Queue is how many bytes may wait for a slow writer before the guest waits; 0 is 64 KiB.
	Queue int
}

// ConsoleInfo counts the bytes of a console's output in this process. What was printed and is
// neither written nor lost waits for the writer.
type ConsoleInfo struct {
	Printed int64 // by the guest
	Written int64 // the writer has returned from these, also with an error
	Lost    int64 // because the writer took nothing for too long
}

// console carries what the guest sends to COM1 to an io.Writer that may be slow.
//
// The vCPUs put bytes into a queue, and a goroutine writes them out. When the queue is full, a vCPU
// waits for room, as a guest on a real serial line would. When a pause is requested, the vCPU stops
// waiting, puts its bytes into the queue beyond the limit, and parks. So the console does not hold
// a pause up, and the queue exceeds its limit by at most one access per vCPU.
//
// A writer that takes nothing for consolePatience (a pipe that nobody reads) is stuck. From then
// on, until it takes something again, output that finds the queue full is lost and the guest goes
// on, because a guest's diagnostics must not stop the guest.
type console struct {
	Console
	mayWait func() bool // set before the first access

	mu sync.Mutex
	// changed says that bytes were queued or written out, that the machine is asked to stand still,
	// or that the console was closed.
	changed sync.Cond
	queue   []byte
	closed  bool
	begun   time.Time // of the chunk that the writer has; zero: none
	stuck   bool      // the writer has had it for too long
	lost    int64     // bytes, since it got stuck
	count   ConsoleInfo
	drained chan struct{} // the writer's goroutine has ended
}

func newConsole(cfg Console) *console {
	if cfg.Queue == 0 {
		cfg.Queue = consoleQueue
	}
	c := &console{Console: cfg, drained: make(chan struct{})}
	c.changed.L = &c.mu
	return c
}

// start starts the writer's goroutine.
func (c *console) start(h Board) {
	c.mayWait = h.MayWait
	if c.Writer == nil {
		close(c.drained)
	} else {
		go c.drain(h)
	}
}

// write queues p.
func (c *console) write(p []byte) {
	if c.Writer == nil {
		return
	}
	if c.put(p) && c.Lossy != nil {
		c.Lossy(0)
	}
}

// put is write without the call of Lossy. It tells whether p is the first output that is lost.
func (c *console) put(p []byte) (beginsLoss bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) >= c.Queue && !c.closed && !c.stuck && c.mayWait() {
		c.changed.Wait()
	}
	c.count.Printed += int64(len(p))
	switch {
	case c.closed:
		c.count.Lost += int64(len(p))
		return false
	case c.stuck && len(c.queue) >= c.Queue:
		beginsLoss = c.lost == 0
		c.lost += int64(len(p))
		c.count.Lost += int64(len(p))
		return beginsLoss
	}
	c.queue = append(c.queue, p...)
	c.changed.Broadcast()
	return false
}

// info returns what was counted so far.
func (c *console) info() ConsoleInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// giveUp marks the writer as stuck if its chunk has taken too long.
func (c *console) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.begun.IsZero() && time.Since(c.begun) >= consolePatience {
		c.stuck = true
		c.changed.Broadcast()
	}
}

// hurry makes waiting vCPUs look at mayWait again.
func (c *console) hurry() {
	// Without the lock, a vCPU between its check and its wait would miss this.
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

func (c *console) drain(h Board) {
	defer close(c.drained)
	// The goroutine has a thread of its own, which ends with it, because output is as urgent as the
	// vCPUs.
	runtime.LockOSThread()
	h.Prefer("console")
	patience := time.AfterFunc(consolePatience, c.giveUp)
	defer patience.Stop()
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
		for rest := out; len(rest) > 0; {
			n := min(len(rest), consoleChunk)
			c.begin(patience)
			// The error of a console that went away does not concern the guest.
			_, _ = c.Writer.Write(rest[:n])
			c.end(patience, n)
			rest = rest[n:]
		}
	}
}

// begin and end enclose each write, of n bytes, of the draining goroutine.
func (c *console) begin(patience *time.Timer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = time.Now()
	patience.Reset(consolePatience)
}

func (c *console) end(patience *time.Timer, n int) {
	c.mu.Lock()
	patience.Stop()
	c.count.Written += int64(n)
	lost := c.lost
	c.begun, c.stuck, c.lost = time.Time{}, false, 0
	c.mu.Unlock()
	if lost > 0 && c.Lossy != nil {
		c.Lossy(lost)
	}
}
