// Package migration is the pre-copy engine: it moves a running machine to another
// host, guided by the tasks inside it.
//
// # Pre-copy
//
// The guest keeps running while its memory is sent. Round 1 sends all of it; every
// later round sends the pages written during the one before. When little enough is
// left, the vCPUs are paused, the rest and the machine's state are sent
// (stop-and-copy), and the destination runs the guest. The guest's downtime is what
// stop-and-copy takes, which depends on how many pages are dirty just then:
//
//	           round 1          round 2    3   4   stop-and-copy
//	source  |================|=========|=====|==|■■■■|
//	guest    runs                                paused   runs at the destination
//	dest.   |================|=========|=====|==|■■■■|=========>
//
// # When
//
// A stop rule (Rule) judges from what it can measure whether pre-copy has
// converged. Guidance adds what only the program knows: the tag port's gate is open
// while the tasks are in segments in which a switchover is cheap, and a closed gate
// holds back what the mode says (Guidance). Both are needed to switch over; neither
// may hold the machine's host hostage (Params.MaxDefer).
//
// # Source
//
//	setup ──► waiting ──► pre-copy ◄──► suspended
//	             (gate)    │    ▲          (gate)
//	                       ▼    │ gate closed while pausing
//	          held ◄── converged┴──► stop-and-copy ──► handover ──► done
//
// Until the commit is sent, every failure and every cancellation leads back: the
// guest runs on at the source, dirty logging off.
//
// # Handover
//
// Never two copies run, and never none:
//
//	source                         destination
//	paused; last pages, state ──►
//	                          ◄── prepared      loaded, digests if asked
//	commit ─────────────────────►
//	                          ◄── running       vCPUs run
//
// Before it sends commit the source may always resume; the destination may run
// only after it has received commit. If the connection breaks in between, the
// source asks over a new one how it ended; while nobody can tell, its copy stays
// paused, for the operator to decide.
//
// # Without KVM
//
// The engine sees a Machine, a Builder and connections, all interfaces. Its tests
// drive every rule, mode and failure over a machine in memory whose guest follows a
// script, in virtual time.
package migration
