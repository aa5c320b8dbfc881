package memory

import (
	"time"

	"golang.org/x/sys/unix"
)

// turnLength is how long bulk work runs before it yields. Shorter turns make the total longer: a
// guest that uses all of its CPU gets most of what the copying gives up. Longer turns come near the
// kernel's own tick, of up to 10 ms.
const turnLength = time.Millisecond

// Turn is how long a goroutine that does bulk work keeps a CPU that a vCPU may want. Its zero value
// begins with a Yield. It is not safe for concurrent use.
//
// The kernel takes a CPU from a busy thread only at its tick, every 4 ms with CONFIG_HZ=250, and
// inside a long system call perhaps not even then (PREEMPT_NONE). A vCPU that shares its CPU with
// two threads that copy would stand still for two ticks or more. A thread that yields gives up the
// rest of its slice (sched_yield(2), EEVDF), so a vCPU waits for a turn and not for a tick. If
// nobody else wants the CPU, the thread goes on at once.
type Turn struct{ began time.Time }

// Yield lets others have the CPU if the turn is over. Call it between two pieces of work that each
// take much less than a millisecond.
func (t *Turn) Yield() {
	if !t.over(time.Now()) {
		return
	}
	// It cannot fail.
	_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	t.began = time.Now()
}

// over tells whether the turn has lasted its time.
func (t *Turn) over(now time.Time) bool { return now.Sub(t.began) >= turnLength }
