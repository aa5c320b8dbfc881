package vmm

import "golang.org/x/sys/unix"

// latencySlice is the shortest slice of CPU time that Linux lets a thread ask for, in nanoseconds.
const latencySlice = 100_000

// preferLatency asks for the calling thread to be run soon rather than long.
//
// A thread of the normal policy has a deadline of one slice (EEVDF). A thread with a short slice is
// picked before bulk work of the same weight, and preempts it when it wakes up, while its share of
// the CPU stays the same. Lowering the weight of bulk work by nice instead would take time from
// threads that hold locks. This needs no privilege, but Linux 6.12 or later, see sched_setattr(2);
// on older kernels nothing changes. Threads of other policies are left alone.
//
// The caller's goroutine must be locked to its thread.
func preferLatency() {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		return
	}
	attr.Runtime = latencySlice
	_ = unix.SchedSetAttr(0, attr, 0) // this is only advice, so a failure does no harm
}
