package trial

import (
	"time"

	"taskguide/migration"
)

// Unknown stands for a number that the VMM does not tell.
const Unknown = -1

// Result is what came of a trial.
type Result struct {
	Spec    Spec      `json:"spec"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"` // that the trial took
	// Error says why the trial is void, in a line; everything below may be incomplete then.
	Error string `json:"error,omitempty"`

	Noise   Noise            `json:"noise"`
	Request Request          `json:"request"`
	Report  migration.Report `json:"report"`
	// LinkBytes is what left the source's end of the link meanwhile, by the kernel's account; 0 without a Link.
	LinkBytes int64 `json:"link_bytes"`
	// GapMS is the longest gap that the guest saw around the move, GapBeforeMS the longest in the second before.
	GapMS       float64 `json:"gap_ms"`
	GapBeforeMS float64 `json:"gap_before_ms"`
	// Moved is what the guest says about where in its segments it was moved; nil if it does not tell.
	Moved   *Moved   `json:"moved"`
	Work    Work     `json:"work"`
	Latency *Latency `json:"latency"` // nil for programs without requests
	CPU     CPU      `json:"cpu"`
	// Marks are what happened in the course of the migration, in order.
	Marks []Mark `json:"marks"`
}

// Noise is what else the host was doing just before the trial.
type Noise struct {
	Load1 float64 `json:"load1"` // load average of the last minute
	// BusyCPUs is how many CPUs' worth of time others used just before the trial began, StolenCPUs how many the
	// hypervisor below kept.
	BusyCPUs   float64 `json:"busy_cpus"`
	StolenCPUs float64 `json:"stolen_cpus"`
}

// Request is the moment at which the migration was asked for.
type Request struct {
	Anchor string  `json:"anchor"` // tags or heartbeats: what told the point of the cycle
	Offset float64 `json:"offset"` // in cycles since the beginning of the last busy phase, as it came out
	// GateOpen tells whether the guest's task was inside a segment.
	GateOpen bool `json:"gate_open"`
}

// Moved is the guest's own word on where it was moved.
type Moved struct {
	Inside string `json:"inside"` // 0, 1, or enter, exit: right at that tag
	Phase  string `json:"phase"`  // busy or cool
}

// Work is how fast the guest worked, in writes (pages or entries, as the program has it) per second of its own time.
type Work struct {
	BeforePerS float64 `json:"before_per_s"`
	// DuringPerS is that of the whole heartbeats in which the migration fell, downtime included.
	DuringPerS float64 `json:"during_per_s"`
	AfterPerS  float64 `json:"after_per_s"`
	// LostMS is the time that it would have taken the guest to do what the migration kept it from, at the speed it had
	// before.
	LostMS float64 `json:"lost_ms"`
	// Brownout is the part of its speed that it lost while pre-copy ran, from 0 to 1, the downtime left out.
	Brownout float64 `json:"brownout"`
}

// Latency is that of requests to the guest, in microseconds: the worst second in which the move was felt, beside the
// worst of the seconds before.
type Latency struct {
	Before Percentiles `json:"before"`
	Around Percentiles `json:"around"`
}

// Percentiles of the latencies of one second, in microseconds.
type Percentiles struct {
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
	Max  float64 `json:"max_us"`
}

// CPU is the processor time, in seconds, that the processes used from the request to the end of the migration, that of
// the guest itself included.
type CPU struct {
	Source      float64 `json:"source_s"`
	Destination float64 `json:"destination_s"`
	// Guest is what the vCPUs' threads at the source used of that, their faults for the dirty log included, to 10 ms.
	Guest float64 `json:"guest_s"`
}

// Mark is one thing that happened.
type Mark struct {
	MS   float64 `json:"ms"`   // since the request
	Kind string  `json:"kind"` // phase, gate, round, progress, tag, busy, cool

	Phase migration.Phase `json:"phase,omitempty"`
	// Inside is set for a tag: whether the task is inside a segment after it, or for a gate: whether it is open.
	Inside *bool `json:"inside,omitempty"`
	// Round is the one that has completed, for a round.
	Round int `json:"round,omitempty"`
	// WireBytes is the sum of those sent, for progress and rounds.
	WireBytes int64 `json:"wire_bytes,omitempty"`
}
