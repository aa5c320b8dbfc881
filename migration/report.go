package migration

import (
	"slices"
	"time"

	"taskguide/memory"
	"taskguide/migration/policy"
	"taskguide/transport"
)

// Status says whether a migration runs, or how it ended.
type Status string

const (
	StatusRunning   Status = "running" // only in reports so far
	StatusCompleted Status = "completed"
	StatusCancelled Status = "cancelled"
	StatusFailed    Status = "failed"
)

// Phase is what the engine is doing.
type Phase = policy.Phase

// The phases of a migration, as policies know them.
const (
	PhaseSetup     = policy.PhaseSetup
	PhaseWaiting   = policy.PhaseWaiting
	PhasePreCopy   = policy.PhasePreCopy
	PhaseSuspended = policy.PhaseSuspended
	PhaseHeld      = policy.PhaseHeld
	PhaseStopCopy  = policy.PhaseStopCopy
	PhaseHandover  = policy.PhaseHandover
	PhaseDone      = policy.PhaseDone
)

// Round is one pass over the pages that were dirty when it began.
type Round = policy.Round

// Shadow is what a policy would have done that was asked and not obeyed.
type Shadow = policy.Record

// Decision is a change of a Shadow's mind.
type Decision = policy.Decision

// Report is the outcome of a migration, or its state so far. Sizes are bytes,
// times are milliseconds; every field is always present.
type Report struct {
	Status      Status `json:"status"`
	Error       string `json:"error"`
	Phase       Phase  `json:"phase"`
	Destination string `json:"destination"`
	// Protocol is what both ends agreed on; its version is 0 before that.
	Protocol transport.Terms `json:"protocol"`
	Rule     Rule            `json:"rule"`   // its name alone
	Policy   string          `json:"policy"` // its name and the parameters that were given
	// PolicyError is why the policy's program was asked no more, and the default policy took its
	// place.
	PolicyError string `json:"policy_error"`
	// Shadows are what other policies would have done.
	Shadows  []Shadow `json:"shadows"`
	Guidance Guidance `json:"guidance"`
	TotalMS  float64  `json:"total_ms"`
	SetupMS  float64  `json:"setup_ms"`
	// DowntimeMS is how long the guest stood still for the switchover. If the guest stays, it is
	// that of the last attempt.
	DowntimeMS float64       `json:"downtime_ms"`
	Downtime   DowntimeParts `json:"downtime_parts"`
	// DowntimeFixed is what the rule was told before the switchover of the parts that do not depend
	// on the pages.
	DowntimeFixed DowntimeFixed `json:"downtime_fixed"`
	// Standstills are all stretches of time for which the migration had the guest stand still,
	// whether it moved or not. The latest 1000 are kept.
	Standstills []Standstill `json:"standstills"`
	// DrainMS is how long the devices took, while the guest ran, to finish what they had begun
	// before the last switchover. PresyncMS is how long disks were made durable before the guest
	// stood still. Most of that is beside the rounds.
	DrainMS   float64 `json:"drain_ms"`
	PresyncMS float64 `json:"presync_ms"`
	// DrainsTakenBack are the switchovers that were taken back before the guest was to stand still,
	// because its storage failed or took too long. The latest 1000 are kept.
	DrainsTakenBack []Drain `json:"drains_taken_back"`
	// WaitedMS is the time held back by a closed gate. SuspendedMS is the same with the page stream
	// stopped. DeferredMS is what counts against Params.MaxDefer: both, and the rounds since the
	// rule was first satisfied.
	WaitedMS    float64 `json:"waited_ms"`
	SuspendedMS float64 `json:"suspended_ms"`
	DeferredMS  float64 `json:"deferred_ms"`
	Suspensions int     `json:"suspensions"`
	// HeldBy are the tasks that were outside their segments while the migration waited for the
	// gate, those that were so longest first; the first 16.
	HeldBy []Holder `json:"held_by"`
	// Samples counts the samples of the dirty rate that the policy asked for before round 1.
	// SamplingMS is the time they took; ProtectMS is the part of it that protected all of RAM.
	Samples    int     `json:"samples"`
	SamplingMS float64 `json:"sampling_ms"`
	ProtectMS  float64 `json:"protect_ms"`
	// Retractions counts decisions to switch over that were taken back because the gate had closed.
	Retractions      int    `json:"retractions"`
	SwitchoverReason string `json:"switchover_reason"`
	Forced           bool   `json:"forced"`
	RAMBytes         int64  `json:"ram_bytes"`
	BytesWire        int64  `json:"bytes_wire"`
	// BytesPages is the RAM that the sent pages stand for, zero pages included.
	BytesPages    int64   `json:"bytes_pages"`
	PagesSent     int64   `json:"pages_sent"`
	PagesZero     int64   `json:"pages_zero"`
	PagesStopCopy int64   `json:"pages_stopcopy"`
	PagesNotSent  NotSent `json:"pages_not_sent"`
	// PagesDeclared are those that the guest declared to be not worth moving when it moved. The
	// destination may hold something else in them, and a verification leaves them out.
	PagesDeclared int64    `json:"pages_declared"`
	Verified      *bool    `json:"verified"`
	Warnings      []string `json:"warnings"`
	// Rounds are the first 100 rounds and the last 900; RoundsOmitted counts those in between. The
	// sums above count all rounds.
	Rounds        []Round `json:"rounds"`
	RoundsOmitted int     `json:"rounds_omitted"`
}

// NotSent counts pages whose content was not sent, by reason, in all rounds.
type NotSent struct {
	// Hole: no memory is behind the page, because the guest never touched it, or gave it back. It
	// is zero at both ends, and counts in Report.PagesZero, too.
	Hole int64 `json:"hole"`
	// Declared: the guest declares the page to be not worth moving. It counts once, for as long as
	// it stays declared.
	Declared int64 `json:"declared"`
}

const (
	firstRounds = 100  // that a report keeps
	keptRounds  = 1000 // together with the last ones
)

// addRound enters a round and adds its figures to the sums. It keeps a bounded number of rounds,
// because a migration held back by its gate may have any number, and each report is a copy.
func (r *Report) addRound(round Round) {
	if len(r.Rounds) == keptRounds {
		r.Rounds = slices.Delete(r.Rounds, firstRounds, firstRounds+1)
		r.RoundsOmitted++
	}
	r.Rounds = append(r.Rounds, round)
	r.PagesSent += round.SentPages
	r.PagesZero += round.ZeroPages
	r.PagesNotSent.Hole += round.HolePages
	r.PagesNotSent.Declared += round.DeclaredPages
	r.BytesPages = (r.PagesSent + r.PagesZero) * memory.PageSize
}

// RoundCount is how many rounds there were, including those that Rounds leaves out.
func (r *Report) RoundCount() int { return len(r.Rounds) + r.RoundsOmitted }

// Standstill is a stretch of time for which a migration had the guest stand still. A guest that its
// user had paused has none.
type Standstill struct {
	AtMS  float64 `json:"at_ms"` // since the migration began
	MS    float64 `json:"ms"`    // from the first vCPU's stop until it ran again
	Why   string  `json:"why"`   // why it began, as in Report.SwitchoverReason
	Ended string  `json:"ended"` // what ended it
}

// Drain is a try to have the devices finish what they have begun, while the guest runs.
type Drain struct {
	AtMS  float64 `json:"at_ms"` // since the migration began
	MS    float64 `json:"ms"`
	Why   string  `json:"why"`   // why it began, as in Report.SwitchoverReason
	Ended string  `json:"ended"` // what ended it
}

// NoticeKind tells what a Notice reports.
type NoticeKind string

const (
	NoticePhase    NoticeKind = "phase"    // Report.Phase changed
	NoticeProgress NoticeKind = "progress" // several times a second
	NoticeRound    NoticeKind = "round"    // Round is complete
	NoticeGate     NoticeKind = "gate"     // the gate opened or closed
	// NoticeStandstill says that a switchover was taken back and the migration goes on. Its
	// Standstill says how long the guest stood still.
	NoticeStandstill NoticeKind = "standstill"
	NoticeDone       NoticeKind = "done" // Report is final
)

// Notice is one thing that happened during a migration.
type Notice struct {
	Time       time.Time   `json:"time"`
	Kind       NoticeKind  `json:"kind"`
	Phase      Phase       `json:"phase"`
	GateOpen   bool        `json:"gate_open"`
	Progress   *Progress   `json:"progress,omitempty"`
	Round      *Round      `json:"round,omitempty"`
	Standstill *Standstill `json:"standstill,omitempty"`
	Report     *Report     `json:"report,omitempty"`
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
	DeferredMS  float64 `json:"deferred_ms"`
}

// Observer is told what happens, one notice at a time. It may run on a vCPU's thread: it
// must not block, and must not call back into the Source.
type Observer func(Notice)
