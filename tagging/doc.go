// Package tagging is the host's side of task guidance: through the tag port,
// programs in a guest say when they are easy to migrate, and a migration listens.
//
// # The idea
//
// A live migration copies memory while the guest runs and stops it at the end to send
// what is still dirty: the more the guest happens to write just then, the longer the
// downtime. A migration can only guess from dirty rates when writing is about to
// calm down. A program knows. It marks its calm stretches as segments:
//
//	task 1  ────┐ ENTER    EXIT ┌──────────────┐ ENTER    EXIT ┌───
//	  writes    └───────────────┘     a lot    └───────────────┘
//	task 2  ───────────┐ ENTER            EXIT ┌──────┐ ENTER
//	  writes           └───────────────────────┘      └────────────
//	gate "all"         |  open  |                     |  open  |
//	gate "any"  |            open              |      open     ...
//
// A task is whatever has phases of its own: a thread, a process, a whole guest. It
// takes part from REGISTER or its first ENTER until UNREGISTER. The gate is open when
// every registered task is inside a segment (All), or when one is (Any); without
// tasks there is no guidance and the gate is open. What an open or a closed gate
// means is up to the migration, which this package knows nothing of: it attaches a
// [Listener], and the transitions reach it on the thread of the vCPU that causes them,
// inside its exit. So at a task's EXIT the listener can still have the machine pause
// right there, at the boundary, with nothing racing.
//
// # The registers
//
// 32-bit little-endian registers at I/O port [PortBase] and guest-physical [MMIOBase]:
//
//	0x00 ID          R  "TAG1"
//	0x04 VERSION     R  1
//	0x08 ENTER       W  a task enters a segment (nests); registers it too
//	0x0c EXIT        W  it leaves it
//	0x10 STATE       R  MigrationState
//	0x14 EPOCH       R  completed migrations of this machine
//	0x18 REGISTER    W  a task takes part
//	0x1c UNREGISTER  W  it does no longer
//	0x20 PAGE_LO     W  guest-physical address of the tag page,
//	0x24 PAGE_HI     W  upper half; commits, 0 turns it off
//	0x28 CLOCK_LO    R  host's CLOCK_REALTIME in ns, latched,
//	0x2c CLOCK_HI    R  upper half
//
// Any other access, and whatever a task cannot do (EXIT at depth 0, UNREGISTER of an
// unknown task, more than [MaxTasks] tasks, a tag page that is no page of RAM), reads
// 0, changes nothing, and is counted in [GuestErrors]. All memory is bounded,
// whatever a guest writes.
//
// # Fast tags
//
// A write to a register costs an exit, which is microseconds. A guest can register a
// page of its RAM instead, in which each task has a slot that it alone writes:
//
//	0x000  magic "TAGP"   version 1   notify   number of slots, up to 63
//	0x040  slot 0: flags (0 free, 1 used, 2 being set up), task, depth
//	0x080  slot 1 ...     64 bytes each, a cache line, the rest reserved
//
// The slot is the truth about its task, registration included. Only notify is the
// host's to write: while it is set, which is while a listener is attached, the task
// rings after changing its slot, by writing its id to the register that it would
// write as a plain task. Such a write means "look at the page", and is idempotent.
// No transition is lost because both sides store, fence, and load:
//
//	guest: store depth,  full barrier, load notify, ring if set
//	host:  store notify, full barrier, load depths
//
// Whatever the order, one of them sees the other's store. The host looks at all slots
// at every ring and whenever it is asked for the gate; it writes notify only while the
// magic is in place, since a program that dies leaves its page to the guest's kernel.
// These writes bypass KVM's dirty log and are reported to [Memory].MarkDirty.
//
// # Two views
//
// The port's table holds the tasks as the listener has been told of them, and changes
// only with a transition that the listener hears of. [Port.Gate] and [Port.Snapshot]
// read the slots anew and overlay them without touching the table; otherwise a look
// between a fast task's store and its ring would swallow the transition. The
// listener is asked between working out a change and applying it, with the table
// standing still.
package tagging
