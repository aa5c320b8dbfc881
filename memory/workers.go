package memory

import "runtime"

// workers is GOMAXPROCS before anybody changed it: the number of CPUs that this process may use, or
// its cgroup's quota if that is smaller.
var workers = runtime.GOMAXPROCS(0)

// Workers is how many goroutines a program should keep busy with bulk work on RAM (copying,
// populating, digesting). It is the number of CPUs that the process may use, by affinity, cgroup
// quota and the environment's GOMAXPROCS, at its start. More workers would take quota away from
// vCPUs, for which a program raises GOMAXPROCS itself.
func Workers() int { return workers }
