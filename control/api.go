package control

import (
	"errors"
	"time"

	"taskguide/migration"
	"taskguide/tagging"
)

// A [Backend] or [Migrations] returns these errors, wrapped, with the reason in words. The server
// answers each with its own status code.
var (
	// ErrConflict is returned if the VM cannot do this in its present state.
	ErrConflict = errors.New("conflict")
	// ErrNotFound is returned if what the client asked for does not exist.
	ErrNotFound = errors.New("not found")
	// ErrInvalid is returned if the request makes no sense in any state.
	ErrInvalid = errors.New("invalid")
)

// State is what a VM is doing.
type State string

const (
	StateStarting State = "starting" // being set up, its RAM being populated
	StateIncoming State = "incoming" // no guest yet: waiting for a migration to bring one
	StateRunning  State = "running"
	StatePaused   State = "paused"
	// StateUnknown: the destination was told to run the guest and has not answered since. The guest
	// stands still here, because if it ran there could be two of it, and if it ended there could be
	// none.
	StateUnknown State = "unknown"
	StateMoved   State = "moved"   // the guest runs elsewhere, and this process is about to exit
	StateStopped State = "stopped" // the guest has ended, and this process is about to exit
)

// Ending is how a VM's life in its process ended. Later versions may add more.
type Ending string

const (
	EndMoved  Ending = "moved"   // the guest runs elsewhere
	EndStop   Ending = "stopped" // by vmm stop or this API, or Ctrl-A X on the console's terminal
	EndSignal Ending = "signal"  // by a signal to the process
	EndExit   Ending = "exit"    // the guest wrote a status to its exit port
	EndReset  Ending = "reset"   // the guest asked for a reset
	// EndPowerOff: the guest switched the machine off by itself.
	EndPowerOff Ending = "poweroff"
	EndFailed   Ending = "failed" // the guest crashed, or KVM could not run it any more
)

// VM describes a VM and its process.
type VM struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	State State  `json:"state"`
	// MemoryBytes and CPUs are 0 until a migration has brought the guest.
	MemoryBytes int64 `json:"memory_bytes"`
	CPUs        int   `json:"cpus"`
	// UptimeMS is how long this process has had the VM.
	UptimeMS float64 `json:"uptime_ms"`
	// DirtyLogging tells whether the guest's writes are being tracked, as they are during a
	// migration or a trace.
	DirtyLogging bool `json:"dirty_logging"`
	// Incoming is the address on which a migration is awaited.
	Incoming string `json:"incoming,omitempty"`
	// MovedTo is the destination of a VM in StateMoved.
	MovedTo string `json:"moved_to,omitempty"`
	// Stopping: the VM was ordered to stop, or its guest has ended.
	Stopping bool `json:"stopping,omitempty"`
	// Migration sums up the present or last migration away, if there was one.
	Migration *MigrationSummary `json:"migration,omitempty"`
}

// MigrationSummary is the short form of a report.
type MigrationSummary struct {
	ID          int              `json:"id"` // see Started
	Status      migration.Status `json:"status"`
	Phase       migration.Phase  `json:"phase"`
	Destination string           `json:"destination"`
	Error       string           `json:"error,omitempty"`
}

// Kinds of events beyond those of package migration.
const (
	EventState  = "state"  // the VM's state changed; also the first event of every stream
	EventTag    = "tag"    // a task entered or left a segment; only with ?tags=1 and in traces
	EventBeat   = "beat"   // the guest printed a heartbeat; only in traces
	EventLagged = "lagged" // this client was too slow and lost Dropped events
)

// Started is the answer to the start of a migration: its report so far, and the number that its
// events carry.
type Started struct {
	ID int `json:"id"` // counts this process' migrations, from 1
	migration.Report
}

// Event is something that happened to a VM. Kind says which of the other fields are set.
type Event struct {
	Time time.Time `json:"time"`
	Kind string    `json:"kind"`
	// MigrationID is the Started.ID of the migration that it belongs to, or 0.
	MigrationID int `json:"migration_id,omitempty"`

	State State `json:"state,omitempty"`
	// Ending is set with StateMoved and StateStopped.
	Ending   Ending              `json:"ending,omitempty"`
	Phase    migration.Phase     `json:"phase,omitempty"`
	GateOpen *bool               `json:"gate_open,omitempty"`
	Progress *migration.Progress `json:"progress,omitempty"`
	Round    *migration.Round    `json:"round,omitempty"`
	Report   *migration.Report   `json:"report,omitempty"`
	// Standstill is set for kind "standstill": a switchover was taken back.
	Standstill *migration.Standstill `json:"standstill,omitempty"`
	// Tag is set for kind "tag", which only clients that ask for it get, because guests may tag
	// very often.
	Tag *tagging.Transition `json:"tag,omitempty"`
	// Beat is set for kind "beat".
	Beat    *Beat `json:"beat,omitempty"`
	Dropped int   `json:"dropped,omitempty"`
}

// Beat is a heartbeat. The embedded guest prints one a second for each of its tasks, and so may
// others (package guestkernel/heartbeat).
type Beat struct {
	Time      time.Time `json:"time"` // when its line was complete on the console
	Task      int       `json:"task"`
	ElapsedMS int64     `json:"elapsed_ms"` // by the guest's own clock
	Passes    uint64    `json:"passes"`
	Writes    uint64    `json:"writes"`
	GapUS     int64     `json:"gap_us"` // the longest pause between two steps since the last beat
}

// FromMigration turns an event of the engine into one of the control socket.
func FromMigration(id int, e migration.Notice) Event {
	return Event{
		Time: e.Time, Kind: string(e.Kind), MigrationID: id, Phase: e.Phase, GateOpen: &e.GateOpen,
		Progress: e.Progress, Round: e.Round, Report: e.Report, Standstill: e.Standstill,
	}
}

// errorBody is the JSON of every answer that is not a success.
type errorBody struct {
	Error string `json:"error"`
}
