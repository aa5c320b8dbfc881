package tagging

import (
	"time"

	"taskguide/tagging/abi"
)

// Quorum says how many registered tasks must be inside a segment to open the gate.
type Quorum string

const (
	All Quorum = "all" // every registered task
	Any Quorum = "any" // at least one
)

// MigrationState is what a guest reads from STATE.
type MigrationState = abi.MigrationState

// The states of a migration.
const (
	StateNone          = abi.StateNone
	StateWaiting       = abi.StateWaiting
	StatePreCopy       = abi.StatePreCopy
	StateSuspended     = abi.StateSuspended
	StateSwitchingOver = abi.StateSwitchingOver
)

// Memory is guest RAM, which holds the tag page.
type Memory interface {
	// Slice returns the n bytes of live guest RAM at gpa, or false if any of them is outside RAM.
	// The port only reads them.
	Slice(gpa uint64, n int) ([]byte, bool)
	// StoreUint32 stores a word of RAM atomically and tells the dirty log, because KVM's log does
	// not see what the host writes. It must not call the port.
	StoreUint32(gpa uint64, v uint32) bool
}

// GateState is the gate at one moment.
type GateState struct {
	Open  bool
	Tasks int // registered; with 0 there is no guidance, and the gate is open
}

// Listener is told of the gate while it is attached, on the thread of the vCPU whose write opens or
// closes the gate. Calls never overlap, and follow the gate: if Attach returned it open, the calls
// are GateClosing, then GateClosed unless GateClosing held, then GateOpened, and so on.
//
// While a call runs, that vCPU waits, and so does any other that writes to the port. Reads of the
// port do not wait. So a call may use the port (Gate, SetState, Detach), but must neither call
// Attach nor wait for the vCPUs to stand still.
type Listener interface {
	// GateOpened is called after the gate has opened.
	GateOpened()
	// GateClosing is called before the gate closes: the task is still at the end of its segment,
	// usually at its EXIT. The gate closes once the call returns, whatever it returns. hold says
	// that the listener has asked the machine to pause, so that the switchover happens at this very
	// boundary. The guest then continues at the destination, where it finds the gate closed.
	GateClosing() (hold bool)
	// GateClosed is called after the gate has closed, unless GateClosing held. It comes alone where
	// pages were given up, because their lease ended: no vCPU is at an EXIT then.
	GateClosed()
}

// Forewarned is a listener that needs a while to decide about an EXIT that closes the gate.
// GateMayClose is called at every EXIT that would close the gate as things are, on the thread of
// the vCPU, with no lock of the port held, before anything has changed. GateClosing follows, unless
// other tasks change things meanwhile. It may also come without a warning, because of anything but
// an EXIT.
type Forewarned interface {
	GateMayClose()
}

// Deadliner is a listener that knows how long the migration can still be held back. Deadline is
// called on the thread of a vCPU that reads the register, at any time while the listener is
// attached, or shortly afterwards. ok is false if nothing ends the wait.
type Deadliner interface {
	Deadline() (left time.Duration, ok bool)
}

// Change names what a task did.
type Change string

const (
	Registered   Change = "register"
	Unregistered Change = "unregister"
	Entered      Change = "enter"
	Exited       Change = "exit"
)

// Transition is one thing that a task did, as Subscribe reports it.
type Transition struct {
	Time    time.Time `json:"time"`
	Event   Change    `json:"event"`
	Task    uint32    `json:"task"`
	Depth   uint32    `json:"depth"` // after it
	Fast    bool      `json:"fast"`
	GateAll bool      `json:"gate_all"` // after it, with All as quorum
	GateAny bool      `json:"gate_any"`
	// transitions lost just before this one: the subscriber was slow
	Dropped uint64 `json:"dropped"`
}

// Info is a snapshot of a port, for people. Every field is always present.
type Info struct {
	Epoch   uint32         `json:"epoch"`
	State   MigrationState `json:"state"`
	GateAll bool           `json:"gate_all"` // open with All as quorum
	GateAny bool           `json:"gate_any"`
	// Page is the guest-physical address of the tag page, 0 for none.
	Page uint64 `json:"page"`
	// DevicePages is how many tag pages are in the device's own RAM, and LapsedPages how many were
	// given up so far because nobody renewed their lease.
	DevicePages int    `json:"device_pages"`
	LapsedPages uint64 `json:"lapsed_pages"`
	// DeclaredRanges are the ranges of memory that are not worth moving, with what overlaps or
	// touches joined; see [Port.Declared]. DeclaredBytes is what the guest says of their size.
	DeclaredRanges int         `json:"declared_ranges"`
	DeclaredBytes  uint64      `json:"declared_bytes"`
	MaxTasks       int         `json:"max_tasks"`
	Tasks          []TaskInfo  `json:"tasks"` // by id
	Counters       Counters    `json:"counters"`
	GuestErrors    GuestErrors `json:"guest_errors"`
}

// TaskInfo is one registered task. Times of a fast task are as exact as the host's looks at the tag
// page, which are rare without a migration.
type TaskInfo struct {
	ID        uint32    `json:"id"`
	Name      string    `json:"name"` // from its slot of a tag page, printable ASCII; else empty
	Depth     uint32    `json:"depth"`
	Inside    bool      `json:"inside"` // depth is not 0
	Fast      bool      `json:"fast"`   // has a slot of the tag page
	Since     time.Time `json:"since"`  // inside or outside since then
	InsideMS  float64   `json:"inside_ms"`
	OutsideMS float64   `json:"outside_ms"`
	Segments  uint64    `json:"segments"` // begun
}

// Counters counts writes to the registers of tags. They include those in GuestErrors.Task and
// GuestErrors.Full.
type Counters struct {
	Enters      uint64 `json:"enters"`
	Exits       uint64 `json:"exits"`
	Registers   uint64 `json:"registers"`
	Unregisters uint64 `json:"unregisters"`
}

// GuestErrors counts a guest's mistakes. None of them has an effect.
type GuestErrors struct {
	Total  uint64 `json:"total"`
	Access uint64 `json:"access"` // size, alignment, offset or direction
	// EXIT or UNREGISTER of a task that is not inside or not registered
	Task uint64 `json:"task"`
	Full uint64 `json:"full"` // a task beyond MaxTasks
	Page uint64 `json:"page"` // tag page outside RAM, unaligned, or with a bad header or slot
}
