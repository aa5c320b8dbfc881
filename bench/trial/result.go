package trial

import (
	"time"

	"taskguide/migration"
)

// Unknown stands for a number that the VMM does not report.
const Unknown = -1

// Result is the outcome of a trial.
type Result struct {
	Spec    Spec      `json:"spec"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"` // that the trial took
	// Error says in one line why the trial is void. Everything below may be incomplete then.
	Error string `json:"error,omitempty"`

	Noise Noise `json:"noise"`
	// Clocks compares those of the hosts, just before the trial; nil for one host. The guest's own
	// gap of the move is too long by what the destination's clock is ahead, because the engine sets
	// the guest's clocks by the hosts'.
	Clocks  *Clocks          `json:"clocks,omitempty"`
	Request Request          `json:"request"`
	Report  migration.Report `json:"report"`
	// LinkBytes is how many bytes left the source's end of the link meanwhile, by the kernel's
	// account, or 0 without a Link.
	LinkBytes int64 `json:"link_bytes"`
	// GapMS is the longest gap that the guest saw around the move, and GapBeforeMS the longest in
	// the second before. Both are Unknown if nothing was moved, the guest has no heartbeats, or its
	// clock stood still in the downtime.
	GapMS       float64 `json:"gap_ms"`
	GapBeforeMS float64 `json:"gap_before_ms"`
	// ExitMS is the longest wait of the guest for the exits by which it prints a line, around the
	// move and by its own clock. ExitBeforeMS is that of the second before.
	ExitMS       float64 `json:"exit_ms,omitempty"`
	ExitBeforeMS float64 `json:"exit_before_ms,omitempty"`
	// Silences are those of the guest's consoles, by an outside clock. nil unless the guest prints
	// dots.
	Silences *Silences `json:"silences,omitempty"`
	// Felt are the guest's pauses by its own heartbeats, and Heard those between its dots by an
	// outside clock. nil where there are none, or the guest's clock is no judge.
	Felt  *Felt `json:"felt,omitempty"`
	Heard *Felt `json:"heard,omitempty"`
	// Moves are all moves of a trial of many.
	Moves []Move `json:"moves,omitempty"`
	// Slow is nil for programs that do not do the same all the time.
	Slow *Slow `json:"slow,omitempty"`
	// Moved is what the guest says about where in its segments it was moved, or nil if it does not
	// say.
	Moved   *Moved   `json:"moved"`
	Work    Work     `json:"work"`
	Latency *Latency `json:"latency"` // nil for programs without requests
	Disk    *Disk    `json:"disk,omitempty"`
	CPU     CPU      `json:"cpu"`
	// Simulated is the same move as the simulator has it, if the guest was recorded.
	Simulated *Simulated `json:"simulated,omitempty"`
	// Contest has the cells of the spec's contest, in its order.
	Contest []Standing `json:"contest,omitempty"`
	// Marks are the events during the migration, in order.
	Marks []Mark `json:"marks"`
}

// Silences are the longest times without a word from the guest, see [heartbeat.Silences].
type Silences struct {
	BeforeMS float64 `json:"before_ms"` // in the second before the request
	RoundsMS float64 `json:"rounds_ms"` // while the rounds went on
	SwitchMS float64 `json:"switch_ms"` // from the source's last word to the destination's first
	AfterMS  float64 `json:"after_ms"`  // in the second after that
}

// Noise is what other processes did, in CPUs' worth of time, just before the trial and while it
// ran.
type Noise struct {
	Load1 float64 `json:"load1"` // load average of the last minute, before the trial
	// BusyCPUs is what others used just before the trial began. StolenCPUs is what the hypervisor
	// below kept.
	BusyCPUs   float64 `json:"busy_cpus"`
	StolenCPUs float64 `json:"stolen_cpus"`
	// During is the same while the trial ran. It is nil in results of versions that did not measure
	// it.
	During *NoiseDuring `json:"during,omitempty"`
}

// NoiseDuring is what others did while a trial ran, in CPUs' worth of time. Others are all
// processes except the bench and those that it started. Time in interrupts belongs to nobody and is
// left out.
type NoiseDuring struct {
	OthersCPUs float64 `json:"others_cpus"` // from the trial's beginning to its end
	// OthersPeakCPUs is the most in any stretch of a second.
	OthersPeakCPUs float64 `json:"others_peak_cpus"`
	StolenCPUs     float64 `json:"stolen_cpus"`
	StolenPeakCPUs float64 `json:"stolen_peak_cpus"`
}

// A host is quiet enough as long as others take no more than this, in CPUs, over the whole trial
// and in its worst second.
const (
	quietCPUs     = 0.25
	quietPeakCPUs = 0.5
)

// Noisy tells whether others took so much of the host that the trial should be repeated.
func (n Noise) Noisy() bool {
	if n.BusyCPUs > quietPeakCPUs || n.StolenCPUs > quietPeakCPUs {
		return true
	}
	d := n.During
	return d != nil && (d.OthersCPUs > quietCPUs || d.StolenCPUs > quietCPUs ||
		d.OthersPeakCPUs > quietPeakCPUs || d.StolenPeakCPUs > quietPeakCPUs)
}

// Request is the moment at which the migration was requested.
type Request struct {
	Anchor string `json:"anchor"` // tags or heartbeats: what told the point of the cycle
	// in cycles since the last busy phase began; the point that was actually hit
	Offset float64 `json:"offset"`
	// GateOpen tells whether the guest's task was inside a segment.
	GateOpen bool `json:"gate_open"`
	// PhaseMS is how long it had been inside, or outside, by the tags.
	PhaseMS float64 `json:"phase_ms"`
}

// Moved is what the guest itself says about where it was moved.
type Moved struct {
	Inside string `json:"inside"` // 0, 1, or enter, exit: right at that tag
	Phase  string `json:"phase"`  // busy or cool
}

// Work is how fast the guest worked, in writes (pages or entries, depending on the program) per
// second of its own time.
type Work struct {
	BeforePerS float64 `json:"before_per_s"`
	// DuringPerS is the speed in the whole heartbeats around the migration, downtime included.
	DuringPerS float64 `json:"during_per_s"`
	AfterPerS  float64 `json:"after_per_s"`
	// LostMS is how long the guest would take, at its speed before, to do the work that it missed
	// during the migration.
	LostMS float64 `json:"lost_ms"`
	// Brownout is the part of its speed that it lost during pre-copy, from 0 to 1, without the
	// downtime.
	Brownout float64 `json:"brownout"`
}

// Latency is the latency of requests to the guest, in microseconds: the worst second in which the
// move was felt, and the worst of the seconds before.
type Latency struct {
	Before Percentiles `json:"before"`
	Around Percentiles `json:"around"`
}

// Disk is the speed of the guest's disk or network card before the request, the median of its
// heartbeats. It is nil for programs without one.
type Disk struct {
	BytesPerS float64 `json:"bytes_per_s"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
}

// Percentiles of the latencies of one second, in microseconds.
type Percentiles struct {
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
	Max  float64 `json:"max_us"`
}

// CPU is the processor time, in seconds, that the processes used from the request to the end of the
// migration. It includes the guest's own.
type CPU struct {
	Source      float64 `json:"source_s"`
	Destination float64 `json:"destination_s"`
	// Guest is the part of the vCPUs' threads at the source, including their faults for the dirty
	// log. Its resolution is 10 ms.
	Guest float64 `json:"guest_s"`
}

// Mark is one thing that happened.
type Mark struct {
	MS   float64 `json:"ms"`   // since the request
	Kind string  `json:"kind"` // phase, gate, round, progress, tag, busy, cool

	Phase migration.Phase `json:"phase,omitempty"`
	// Inside is set for a tag, and says whether the task is inside a segment after it. For a gate
	// it says whether the gate is open.
	Inside *bool `json:"inside,omitempty"`
	// Round is the number of a completed round.
	Round int `json:"round,omitempty"`
	// WireBytes is the total of bytes sent, for progress and rounds.
	WireBytes int64 `json:"wire_bytes,omitempty"`
}
