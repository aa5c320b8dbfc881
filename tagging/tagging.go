package tagging

import "time"

// Policy says how many registered tasks must be inside a segment for the gate to
// be open.
type Policy string

const (
	All Policy = "all" // every registered task
	Any Policy = "any" // at least one
)

// MigrationState is what a guest reads from STATE.
type MigrationState uint32

const (
	StateNone          MigrationState = 0 // no migration
	StateWaiting       MigrationState = 1 // requested, waiting for the gate
	StatePreCopy       MigrationState = 2
	StateSuspended     MigrationState = 3 // the gate closed, no page is sent
	StateSwitchingOver MigrationState = 4
)

// Memory is guest RAM, of which the port uses the tag page.
type Memory interface {
	// Slice returns the n bytes of live guest RAM at gpa, false if any of them is
	// outside RAM.
	Slice(gpa uint64, n int) ([]byte, bool)
	// MarkDirty reports n bytes at gpa as written by the host: such writes bypass
	// KVM's dirty log. It must not call the port.
	MarkDirty(gpa uint64, n int)
}

// GateState is the gate at one moment.
type GateState struct {
	Open  bool
	Tasks int // registered; 0 means that there is no guidance, and the gate is open
}

// Listener is told of the gate while it is attached, on the thread of the vCPU
// whose write opens or closes it. Calls never overlap, and follow the gate: after
// Attach returned it open, GateClosing, then GateClosed unless that held, then
// GateOpened, and so on.
//
// While a call runs, that vCPU and any other that writes to the port wait; reads of
// the port do not. So a call may use the port (Gate, SetState, Detach), but neither
// Attach nor what waits for the vCPUs to stand still.
type Listener interface {
	// GateOpened comes after the gate has opened.
	GateOpened()
	// GateClosing comes before the gate closes: the task is still at the end of its
	// segment, mostly at its EXIT. The gate closes once the call returns, whatever it
	// returns. Hold says that the listener has asked the machine to pause, so that
	// the switchover happens at this very boundary; the guest then goes on past it
	// at the destination, where it finds the gate closed.
	GateClosing() (hold bool)
	// GateClosed comes after the gate has closed, unless GateClosing held.
	GateClosed()
}

// Event names what a task did.
type Event string

const (
	Registered   Event = "register"
	Unregistered Event = "unregister"
	Entered      Event = "enter"
	Exited       Event = "exit"
)

// Transition is one thing that a task did, as Subscribe reports it.
type Transition struct {
	Time    time.Time `json:"time"`
	Event   Event     `json:"event"`
	Task    uint32    `json:"task"`
	Depth   uint32    `json:"depth"` // after it
	Fast    bool      `json:"fast"`
	GateAll bool      `json:"gate_all"` // open under policy All, after it
	GateAny bool      `json:"gate_any"`
	Dropped uint64    `json:"dropped"` // transitions lost just before this one: the subscriber was slow
}

// Info is a snapshot of a port, for people. Every field is always present.
type Info struct {
	Epoch   uint32         `json:"epoch"`
	State   MigrationState `json:"state"`
	GateAll bool           `json:"gate_all"` // open under policy All
	GateAny bool           `json:"gate_any"`
	// Page is the guest-physical address of the tag page, 0 for none.
	Page        uint64      `json:"page"`
	MaxTasks    int         `json:"max_tasks"`
	Tasks       []TaskInfo  `json:"tasks"` // by id
	Counters    Counters    `json:"counters"`
	GuestErrors GuestErrors `json:"guest_errors"`
}

// TaskInfo is one registered task. Times of a fast task are as exact as the host's
// looks at the tag page, which are rare while no migration goes on.
type TaskInfo struct {
	ID        uint32    `json:"id"`
	Depth     uint32    `json:"depth"`
	Inside    bool      `json:"inside"` // depth is not 0
	Fast      bool      `json:"fast"`   // has a slot of the tag page
	Since     time.Time `json:"since"`  // inside or outside since then
	InsideMS  float64   `json:"inside_ms"`
	OutsideMS float64   `json:"outside_ms"`
	Segments  uint64    `json:"segments"` // begun
}

// Counters counts writes to the registers of tags, those in GuestErrors.Task and
// GuestErrors.Full included.
type Counters struct {
	Enters      uint64 `json:"enters"`
	Exits       uint64 `json:"exits"`
	Registers   uint64 `json:"registers"`
	Unregisters uint64 `json:"unregisters"`
}

// GuestErrors counts what a guest did wrong. Nothing of it has an effect.
type GuestErrors struct {
	Total  uint64 `json:"total"`
	Access uint64 `json:"access"` // size, alignment, offset or direction
	Task   uint64 `json:"task"`   // EXIT or UNREGISTER of a task that is not inside or not registered
	Full   uint64 `json:"full"`   // a task beyond MaxTasks
	Page   uint64 `json:"page"`   // tag page outside RAM, unaligned, or with a bad header or slot
}
