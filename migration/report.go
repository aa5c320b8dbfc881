package migration

import "time"

// Status is how a migration stands or ended.
type Status string

const (
	StatusRunning   Status = "running" // only in reports so far
	StatusCompleted Status = "completed"
	StatusCancelled Status = "cancelled"
	StatusFailed    Status = "failed"
)

// Phase is what the engine is doing; rounds carry the one they belong to.
type Phase string

const (
	PhaseSetup     Phase = "setup"
	PhaseWaiting   Phase = "waiting"   // for the gate, before the first page
	PhasePreCopy   Phase = "pre-copy"  // rounds, the guest running
	PhaseSuspended Phase = "suspended" // the gate closed, no page is sent
	PhaseHeld      Phase = "held"      // converged, stop-and-copy waits for the gate
	PhaseStopCopy  Phase = "stop-and-copy"
	PhaseHandover  Phase = "handover"
	PhaseDone      Phase = "done"
)

// Report is the outcome of a migration, or its state so far. Sizes are bytes,
// times are milliseconds; every field is always present.
type Report struct {
	Status           Status        `json:"status"`
	Error            string        `json:"error"`
	Phase            Phase         `json:"phase"`
	Destination      string        `json:"destination"`
	Rule             Rule          `json:"rule"`
	Guidance         Guidance      `json:"guidance"`
	TotalMS          float64       `json:"total_ms"`
	SetupMS          float64       `json:"setup_ms"`
	DowntimeMS       float64       `json:"downtime_ms"`
	Downtime         DowntimeParts `json:"downtime_parts"`
	WaitedMS         float64       `json:"waited_ms"`
	SuspendedMS      float64       `json:"suspended_ms"`
	Suspensions      int           `json:"suspensions"`
	Retractions      int           `json:"retractions"` // decisions to switch over taken back, for the gate had closed
	SwitchoverReason string        `json:"switchover_reason"`
	Forced           bool          `json:"forced"`
	RAMBytes         int64         `json:"ram_bytes"`
	BytesWire        int64         `json:"bytes_wire"`
	BytesPages       int64         `json:"bytes_pages"` // RAM the sent pages stand for, zero pages included
	PagesSent        int64         `json:"pages_sent"`
	PagesZero        int64         `json:"pages_zero"`
	PagesStopCopy    int64         `json:"pages_stopcopy"`
	Verified         *bool         `json:"verified"`
	Warnings         []string      `json:"warnings"`
	Rounds           []Round       `json:"rounds"`
}

// DowntimeParts splits Report.DowntimeMS, in milliseconds, in the order in which
// the parts happen.
type DowntimeParts struct {
	PauseMS   float64 `json:"pause_ms"`   // vCPUs asked to stop until they stand still
	HarvestMS float64 `json:"harvest_ms"` // last dirty pages collected
	PagesMS   float64 `json:"pages_ms"`   // last pages sent
	SaveMS    float64 `json:"save_ms"`    // device and vCPU state saved
	LoadMS    float64 `json:"load_ms"`    // state sent, applied, and (if asked) verified, until "prepared"
	RunMS     float64 `json:"run_ms"`     // commit sent until the destination reports "running"
}

// Round is one pass over the pages that were dirty when it began.
type Round struct {
	N            int     `json:"n"` // from 1
	Phase        Phase   `json:"phase"`
	DirtyPages   int64   `json:"dirty_pages"` // to send at the beginning of the round
	SentPages    int64   `json:"sent_pages"`  // with content
	ZeroPages    int64   `json:"zero_pages"`  // sent as a bit
	SkippedPages int64   `json:"skipped_pages"`
	DeltaPages   int64   `json:"delta_pages"` // of those sent, as a difference
	BytesWire    int64   `json:"bytes_wire"`
	MS           float64 `json:"ms"`
	// DirtyPagesPerS is the rate at which the guest dirtied pages during the round.
	DirtyPagesPerS float64 `json:"dirty_pages_per_s"`
	BytesPerS      float64 `json:"bytes_per_s"`
	GateOpen       bool    `json:"gate_open"` // at the beginning of the round
}

// EventKind tells what an Event reports.
type EventKind string

const (
	EventPhase    EventKind = "phase"    // Report.Phase changed
	EventProgress EventKind = "progress" // several times a second
	EventRound    EventKind = "round"    // Round is complete
	EventGate     EventKind = "gate"     // the gate opened or closed
	EventDone     EventKind = "done"     // Report is final
)

// Event is one thing that happened during a migration.
type Event struct {
	Time     time.Time `json:"time"`
	Kind     EventKind `json:"kind"`
	Phase    Phase     `json:"phase"`
	GateOpen bool      `json:"gate_open"`
	Progress *Progress `json:"progress,omitempty"`
	Round    *Round    `json:"round,omitempty"`
	Report   *Report   `json:"report,omitempty"`
}

// Progress is a moment inside a round.
type Progress struct {
	Round       int     `json:"round"`
	RoundPages  int64   `json:"round_pages"` // to send in this round
	DonePages   int64   `json:"done_pages"`  // of them
	BytesWire   int64   `json:"bytes_wire"`  // in total so far
	BytesPerS   float64 `json:"bytes_per_s"`
	WaitedMS    float64 `json:"waited_ms"`
	SuspendedMS float64 `json:"suspended_ms"`
}

// Observer is told of events, one at a time. It may run on a vCPU's thread: it
// must not block, and must not call back into the Source.
type Observer func(Event)
