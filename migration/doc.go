// Package migration is the pre-copy engine: it moves a running machine to another
// host, guided by the tasks inside it.
//
// # Pre-copy
//
// The guest keeps running while its memory is sent. Round 1 sends all of it; every later round
// sends the pages written during the one before. When little enough is left, the vCPUs are paused,
// the rest and the machine's state are sent (stop-and-copy), and the destination runs the guest.
// The guest's downtime is the time of the stop-and-copy, which depends on how many pages are dirty
// at that moment:
//
//	           round 1          round 2    3   4   stop-and-copy
//	source  |================|=========|=====|==|■■■■|
//	guest    runs                                paused   runs at the destination
//	dest.   |================|=========|=====|==|■■■■|=========>
//
// # When
//
// A policy (Rule) judges from what it can measure whether pre-copy has converged. Guidance adds
// what only the program knows: the tag port's gate is open while the tasks are in segments in which
// a switchover is cheap, and a closed gate holds back what the mode says (Guidance). Both must
// agree before a switchover; Params.MaxDefer bounds for how long guidance may defer it.
//
// A Head in package policy decides all of this from what it is told. Source is its hands: it tells
// the head what happened, with Source.mu held, and does what the head answers.
//
// # Source
//
//	setup --> waiting --> pre-copy <--> suspended
//	             (gate)    |    ^          (gate)
//	                       v    | gate closed while pausing, standstill too long, storage hangs
//	          held <-- converged+--> drain --> stop-and-copy --> handover --> done
//
// Until the commit is sent, every failure and every cancellation leads back: the guest runs on at
// the source, with dirty logging off.
//
// # Handover
//
// Never two copies run, and never none:
//
//	source                         destination
//	paused; last pages --------->
//	                          <-- flush         all pages there: until here the source
//	state ---------------------->               can take it back and send rounds again
//	                          <-- prepared      loaded, digests if asked
//	commit --------------------->
//	                          <-- running       vCPUs run
//
// Before it sends commit the source may always resume; the destination may run only after it has
// received commit. If the connection breaks in between, the source asks over a new one how it
// ended. While nobody can tell, its copy stays paused until the operator decides.
//
// # Files
//
//	source.go       Source, from Run to its end
//	setup.go        what precedes the first round
//	precopy.go      rounds, until the stop-and-copy may begin
//	guide.go        the hands of the head: events, the gate, EXITs, waits
//	holders.go      for whom a migration waits
//	counsel.go      who is asked besides the head: the program of an exec policy, shadows
//	switchover.go   the guest stands still, the last pages go
//	storage.go      what of a switchover waits for the host's storage
//	standstill.go   for how long it may, and taking a switchover back
//	handover.go     state, verification, commit
//	fixed.go        what of a downtime does not depend on the pages, before it begins
//	waterfall.go    the parts of a downtime, and what they do not explain
//	digests.go      what verification compares
//	declared.go     memory that the guest declares to be not worth moving
//	machine.go      what the engine sees of a machine
//	params.go       an order
//	report.go       its outcome
//	events.go       who is told of it meanwhile
//	oneline.go      an error as people see it
//
//	destination.go  Destination, and an attempt from its first message to its last
//	listen.go       the listening side: connections that say what they want
//	admission.go    which attempt they belong to, and how attempts ended
//	receive.go      pages into RAM
//	populate.go     memory behind RAM before pages arrive
//	takeover.go     the state is loaded, the guest runs, or its time is over
//
// Package policy has the head: what is decided, and why. Package stream has the rounds
// themselves. Package peer has the connections, and what each end knows of the other.
//
// # Words
//
// An event (policy.Event) is what the engine tells its head. A notice (Notice) is what it tells the
// observer of a migration. The control socket turns a notice into an event of its own
// (control.Event), because there it is one of several things that can happen to a VM. What QEMU
// calls an event (qmp.Event) is neither.
//
// A standstill is a stretch of time for which the engine makes the guest stand still. When a
// switchover is taken back, the guest runs here again and the migration goes on. An attempt is one
// source's try at a destination, and, in frames, one switchover of a migration.
//
// # Locks
//
// A goroutine that holds a lock may take only the locks below it. Locks without a branch are
// leaves.
//
//	tagging.Port, order         the engine is told of the gate with it held
//	└── Source.emitMu, Source.mu, stream.Stream's
//
//	Source.vcpus                while vCPUs are waited for: no exit may take it
//	├── tagging.Port's
//	└── Source.emitMu           one notice at a time; the observer is called with it held
//	    └── Source.mu           never held while waiting
//	        ├── peer.Doubt's, peer.Peer's, peer.Links'
//	        ├── program.Counsel's, and a Program's; a question waits with none of these held
//	        └── stream.Stream's progress and rate
//
//	stream.Stream.track         the dirty log; never with Source.mu held
//	├── stream.Stream's progress
//	└── tagging.Port's mu       what the guest declares
//
//	admission.mu
//	greetings.mu
//	peer.Watch's
//	└── peer.Links'
//
// A vCPU's exit may take all but vcpus, so nobody may wait for vCPUs with another lock held. There
// is one exception to the order: attach takes the port's locks with Source.mu held. The port tells
// the engine nothing before attach, so nobody can take them in the other order.
//
// # Without KVM
//
// The engine sees a Machine, a Builder and connections, all interfaces. Its tests
// drive every rule, mode and failure over a machine in memory whose guest follows a
// script, in virtual time.
package migration
