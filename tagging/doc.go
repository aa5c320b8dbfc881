// Package tagging is the host's side of task guidance: programs in a guest say through the tag port
// when they are easy to migrate, and a migration listens.
//
// # The idea
//
// A live migration copies memory while the guest runs, and stops it at the end to send what is
// still dirty. The more the guest writes just then, the longer the downtime. A migration can only
// guess from dirty rates when writing will calm down. A program knows. It marks its calm stretches
// as segments:
//
//	task 1  ────┐ ENTER    EXIT ┌──────────────┐ ENTER    EXIT ┌───
//	  writes    └───────────────┘     a lot    └───────────────┘
//	task 2  ───────────┐ ENTER            EXIT ┌──────┐ ENTER
//	  writes           └───────────────────────┘      └────────────
//	gate "all"         |  open  |                     |  open  |
//	gate "any"  |            open              |      open     ...
//
// A task is anything with phases of its own: a thread, a process, a whole guest. It takes part from
// REGISTER or its first ENTER until UNREGISTER. The gate is open when every registered task is
// inside a segment (All), or when one is (Any). Without tasks there is no guidance, and the gate is
// open. The migration decides what an open or a closed gate means; this package knows nothing of
// it. A migration attaches a [Listener], which is called on the thread of the vCPU that causes a
// transition, inside its exit. So at a task's EXIT the listener can still have the machine pause
// right there, at the boundary, and nothing races with it.
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
//	0x30 DEADLINE_MS R  ms until the migration is forced, 0 if that does not happen
//	0x34 CLONES      R  restores of a snapshot of this machine; 0 as long as there are none
//	0x38 PAGES       RW the tag pages in device RAM, bit i for page i
//
// Any other access reads 0, changes nothing, and is counted in [GuestErrors]. So is anything that a
// task cannot do: EXIT at depth 0, UNREGISTER of an unknown task, more than [MaxTasks] tasks, a tag
// page that is not a page of RAM. All memory is bounded, whatever a guest writes.
//
// # Fast tags
//
// A write to a register costs an exit, which takes microseconds. A guest can instead register a
// page of its RAM, in which each task has a slot that only it writes:
//
//	0x000  magic "TAGP"   version 1   notify   number of slots, up to 63
//	0x010  lease   term in ms; both count only in device RAM
//	0x040  slot 0: flags (0 free, 1 used, 2 being set up), task, depth; at 0x20 a name, 32 bytes
//	0x080  slot 1 ...     64 bytes each, a cache line, the rest reserved and 0
//
// The slot is the truth about its task, including its registration. Its name is for people:
// printable ASCII, up to the first 0.
//
// The host writes only notify, and in device RAM the magic, see below. While notify is set, which
// is while a listener is attached, a task rings after changing its slot: it writes its id to the
// register that it would write as a plain task. That write means "look at the page", and repeating
// it does no harm. No transition is lost because both sides store, fence, and load:
//
//	guest: store depth,  full barrier, load notify, ring if set
//	host:  store notify, full barrier, load depths
//
// In any order, one of them sees the other's store. The host reads all slots at every ring and
// whenever it is asked for the gate. It writes notify only while the magic is in place, because a
// program that dies leaves its page to the guest's kernel. These writes bypass KVM's dirty log;
// [Memory].StoreUint32 adds them to it.
//
// # Pages in device RAM
//
// A page of guest RAM suits guests that own their frames. A program under an operating system does
// not: its kernel may move the page, or give the frame to somebody else. So the tag device has RAM
// of its own, [DevicePages] pages, which programs map. It is no guest RAM: no round of a migration
// has it, and it is saved with the device's state, when the vCPUs stand.
//
// The pages have the layout above, and several may be in use at once, one for each client program.
// Whoever owns the device, a daemon in the guest, keeps them:
//
//   - It writes a page's header, the magic last, and then PAGES, with the bits of all pages that
//     there are to be. From then on the port looks at the page. A page without a header is left
//     out, so reading PAGES tells which pages count. Writing PAGES again commits the same pages
//     anew: notify is up to date afterwards, and their leases begin again.
//   - It chooses slots and ids, and passes the pages on. Clients change depth only.
//   - It renews the lease: it changes the lease word of each page, by any change, well within the
//     page's term.
//
// When a lease has not been renewed for its term, the daemon is dead, and nobody would unregister
// tasks that die. So the port clears the page's magic and looks at the page no more, and its tasks
// leave the gate. Clients look at the magic, which is in the cache line of notify, at each tag. The
// term is at least half a second and at most ten minutes, whatever the page says, and 0 means that
// there is no lease. Time counts only while the vCPUs run, and not while a switchover is under way.
// A lease begins anew with a commit, a resume and a load. See [Port.CountLeases].
//
// Everybody who maps device RAM can write all of it. What a client can do by that is to tag in the
// names of others, or to end their tags, and nothing else. The host writes nothing to device RAM
// but notify and a magic of 0.
//
// Device RAM may be uncached memory for the guest. On it, a task stores, executes a fence
// instruction, and loads. A locked instruction would stop the bus of the whole host.
//
// # Two views
//
// The port's table holds the tasks as the listener was told of them, and changes only with a
// transition that the listener hears of. [Port.Gate] and [Port.Snapshot] read the slots anew and
// overlay them without changing the table. If they changed it, a look between a fast task's store
// and its ring would swallow the transition. The port asks the listener after it has worked out a
// change and before it applies it. The table does not change meanwhile.
package tagging
