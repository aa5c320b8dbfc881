// Package process is the life of one VM's process, from its order to its exit status.
//
//	            boot                          guest ends, Stop, signal
//	starting ----------> running <-> paused ---------------------------> stopped
//	   |                    ^  |        |
//	   v       arrival      |  | migration completed
//	incoming ---------------+  +-------------------> moved
//	                           |
//	                           | migration lost between commit and answer
//	                           +-------------------> unknown -- forced resume --> running
//
// [VM] is that state machine. The control socket's server steers it. It decides who may pause,
// resume, stop or migrate the VM and when, and it enforces the most important rule: a guest that
// was handed over never runs here again. While a migration is under way, the vCPUs belong to its
// engine, so VM refuses a user's pause or resume.
//
// [Run] is everything around it: the machine and its kernel, or a destination that waits for one;
// the console, signals and the control socket. It also ends them in an order in which a client that
// follows a migration learns its outcome, even though the process is about to exit.
//
// The process logs on a goroutine of its own, so that a log that nobody reads holds nothing up. If
// the log and the guest share a terminal, a screen keeps their lines apart.
package process
