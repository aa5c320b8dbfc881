package process

import (
	"runtime"

	"taskguide/memory"
	"taskguide/migration"
)

// These goroutines, besides vCPUs and bulk workers, are in the way of a vCPU or a device, or can
// keep a CPU busy.
const (
	consoleWriters = 1
	engines        = 1 // the migration's own: harvests at a source, populates at a destination
	apiServers     = 1 // control socket, events
	reserve        = 1
)

// processors is how many of the scheduler's processors, GOMAXPROCS, a VM's process needs.
//
// A goroutine that a vCPU or a device waits for must find one free: one that comes out of KVM_RUN,
// or writes the console, needs a processor at once. Bulk workers hold theirs even while their
// threads wait for a CPU. So if there are fewer processors than busy goroutines, a guest's output
// waits until the scheduler takes one away, for up to 10 ms. The kernel distributes the threads
// among CPUs, so CPUs and quotas bound the workers (memory.Workers) and never this number.
func processors(vcpus int) int {
	bulk := max(memory.Workers(), migration.MaxChannels)
	return vcpus + bulk + consoleWriters + engines + apiServers + reserve
}

// raiseProcessors raises GOMAXPROCS for a VM. It never lowers it.
func raiseProcessors(vcpus int) {
	if n := processors(vcpus); n > runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(n)
	}
}
