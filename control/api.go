package control

import (
	"errors"
	"time"

	"taskguide/migration"
	"taskguide/tagging"
)

// Errors that a [Machine] or [Migrations] returns (wrapped, with the reason in words) so that the server
// answers with the right status code.
var (
	// ErrConflict: not in the VM's present state.
	ErrConflict = errors.New("conflict")
	// ErrNotFound: what was asked for is not there.
	ErrNotFound = errors.New("not found")
	// ErrInvalid: the request makes no sense, whatever the state.
	ErrInvalid = errors.New("invalid")
)

// State is what a VM is doing.
type State string

const (
	StateStarting State = "starting" // being set up, its RAM being populated
	StateIncoming State = "incoming" // no guest yet: waiting for a migration to bring one
	StateRunning  State = "running"
	StatePaused   State = "paused"
	// StateUnknown: the destination was told to run the guest and was heard of no more. The guest stands still here;
	// running it could make two of it.
	StateUnknown State = "unknown"
	StateMoved   State = "moved"   // the guest runs elsewhere, this process is about to exit
	StateStopped State = "stopped" // the guest has ended, this process is about to exit
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
	// DirtyLogging tells whether the guest's writes are being tracked, as they are during a migration.
	DirtyLogging bool `json:"dirty_logging"`
	// Incoming is the address on which a migration is awaited.
	Incoming string `json:"incoming,omitempty"`
	// MovedTo is the destination of a VM in StateMoved.
	MovedTo string `json:"moved_to,omitempty"`
	// Migration sums up the last or present migration away, if there was one.
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
	EventTag    = "tag"    // a task entered or left a segment; only with ?tags=1
	EventLagged = "lagged" // this client was too slow and lost Dropped events
)

// Started is the answer to the start of a migration: its report so far, and the number that its events carry.
type Started struct {
	ID int `json:"id"` // counts this process' migrations, from 1
	migration.Report
}

// Event is one thing that happened to a VM. Kind says which of the other fields are set.
type Event struct {
	Time time.Time `json:"time"`
	Kind string    `json:"kind"`
	// MigrationID is the Started.ID of the migration that it belongs to, 0 if to none.
	MigrationID int `json:"migration_id,omitempty"`

	State    State               `json:"state,omitempty"`
	Phase    migration.Phase     `json:"phase,omitempty"`
	GateOpen *bool               `json:"gate_open,omitempty"`
	Progress *migration.Progress `json:"progress,omitempty"`
	Round    *migration.Round    `json:"round,omitempty"`
	Report   *migration.Report   `json:"report,omitempty"`
	// Tag is set for kind "tag", which a client gets only if it asks for it: guests may tag very often.
	Tag     *tagging.Transition `json:"tag,omitempty"`
	Dropped int                 `json:"dropped,omitempty"`
}

// FromMigration turns an event of the engine into one of the control socket.
func FromMigration(id int, e migration.Event) Event {
	return Event{
		Time: e.Time, Kind: string(e.Kind), MigrationID: id, Phase: e.Phase, GateOpen: &e.GateOpen,
		Progress: e.Progress, Round: e.Round, Report: e.Report,
	}
}

// errorBody is the JSON of every answer that is not a success.
type errorBody struct {
	Error string `json:"error"`
}
