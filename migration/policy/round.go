package policy

// Phase is what the engine is doing; rounds carry the one they belong to.
type Phase string

// The phases of a migration.
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

// Round is one pass over the pages that were dirty when it began.
type Round struct {
	N            int   `json:"n"` // from 1
	Phase        Phase `json:"phase"`
	DirtyPages   int64 `json:"dirty_pages"` // to send at the beginning of the round
	SentPages    int64 `json:"sent_pages"`  // with content
	ZeroPages    int64 `json:"zero_pages"`  // sent as a bit
	SkippedPages int64 `json:"skipped_pages"`
	DeltaPages   int64 `json:"delta_pages"` // of those sent, as a difference
	HolePages    int64 `json:"hole_pages"`  // of ZeroPages: no memory is behind them
	// DeclaredPages are none of DirtyPages: the guest declares them to be not worth moving. A round
	// has those that were written since the last one, or declared since.
	DeclaredPages int64 `json:"declared_pages"`

	BytesWire int64   `json:"bytes_wire"`
	MS        float64 `json:"ms"`
	// DirtyPagesPerS is the rate at which the guest dirtied pages during the round.
	DirtyPagesPerS float64 `json:"dirty_pages_per_s"`
	BytesPerS      float64 `json:"bytes_per_s"`
	GateOpen       bool    `json:"gate_open"` // at the beginning of the round
}
