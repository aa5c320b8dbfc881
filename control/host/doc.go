// Package host is the life of one VM's process, from its order to its exit status.
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
// [Host] is that state machine. It is what the control socket's server steers: it decides who may pause, resume,
// stop or migrate the VM and when, and it makes sure of the rule that all else serves: a guest that was handed
// over never runs here again. While a migration is under way the vCPUs belong to its engine, and a user's
// pause or resume is refused rather than raced.
//
// [Run] is everything around it: the machine and its kernel, or a destination that waits for one; the console,
// signals, the control socket, and the order in which all that goes away, so that a client which follows a
// migration learns its outcome even though the process is about to exit because of it.
package host
