package migration

import (
	"fmt"
	"time"

	"taskguide/memory"
)

// The classic limits of Xen's toolstack (xc_domain_save, "iterative precopy").
const (
	xenDirtyPages = 50
	xenMaxRounds  = 29
	xenMaxFactor  = 3
)

// sample is what a rule judges by.
type sample struct {
	Remaining int     // pages that are dirty now
	Rounds    int     // complete
	Sent      int64   // pages sent so far, zero pages included
	RAM       int     // pages
	BytesPerS float64 // page content that the stream takes, 0 if not known yet
}

// verdict is a rule's judgement.
type verdict struct {
	// Reason is why pre-copy should end now; empty: it should go on.
	Reason string
	// GaveUp: pre-copy ends because it went on for too long, not because little is
	// left. It stays so in later rounds, however much is dirty.
	GaveUp bool
}

// rule decides when pre-copy has converged.
type rule interface {
	judge(s sample) verdict
}

func newRule(p Params) rule {
	if p.Rule == RuleXen {
		return xenRule{maxRounds: p.MaxRounds}
	}
	return downtimeRule{limit: p.DowntimeLimit, maxRounds: p.MaxRounds}
}

// downtimeRule: the remaining pages fit the limit at the measured bandwidth.
type downtimeRule struct {
	limit     time.Duration
	maxRounds int // 0: no limit
}

func (r downtimeRule) judge(s sample) verdict {
	expected, known := s.downtime()
	switch {
	case s.Remaining == 0:
		return verdict{Reason: "no dirty page left"}
	case known && expected <= r.limit:
		return verdict{Reason: fmt.Sprintf("%d dirty pages fit the downtime limit of %v", s.Remaining, r.limit)}
	case r.maxRounds > 0 && s.Rounds >= r.maxRounds:
		return verdict{Reason: fmt.Sprintf("%d rounds", r.maxRounds), GaveUp: true}
	}
	return verdict{}
}

// downtime is how long the remaining pages take at the measured bandwidth.
func (s sample) downtime() (d time.Duration, known bool) {
	if s.BytesPerS <= 0 {
		return 0, false
	}
	seconds := float64(s.Remaining) * memory.PageSize / s.BytesPerS
	return time.Duration(seconds * float64(time.Second)), true
}

// xenRule: few dirty pages, many rounds, or much sent.
type xenRule struct {
	maxRounds int
}

func (r xenRule) judge(s sample) verdict {
	switch {
	case s.Remaining < xenDirtyPages:
		return verdict{Reason: fmt.Sprintf("fewer than %d dirty pages", xenDirtyPages)}
	case s.Rounds >= r.maxRounds:
		return verdict{Reason: fmt.Sprintf("%d rounds", r.maxRounds), GaveUp: true}
	case s.Sent > xenMaxFactor*int64(s.RAM):
		return verdict{Reason: fmt.Sprintf("%dx RAM sent", xenMaxFactor), GaveUp: true}
	}
	return verdict{}
}

// drain remembers, for a guided migration, how few pages rounds leave in the segment
// that is open. A rule that gave up is content with any number of dirty pages, also
// with all that a busy phase left behind just before the gate opened; so with the
// gate open, rounds go on for as long as each leaves clearly less than it began
// with.
type drain struct {
	floor int // fewest pages left by a round with the gate open, -1: none yet
}

// roundDone tells the drain what a round left, wholly with the gate open.
func (d *drain) roundDone(remaining int) {
	if d.floor < 0 || remaining < d.floor {
		d.floor = remaining
	}
}

// near tells whether remaining is about as few as it gets in this segment.
func (d *drain) near(remaining int) bool {
	return remaining < xenDirtyPages || d.floor >= 0 && remaining <= 2*d.floor
}

func (d *drain) reset() { d.floor = -1 }

// shrinks tells whether a round that began with dirty pages left clearly fewer, so
// that another may pay.
func shrinks(dirty, remaining int) bool {
	return remaining >= xenDirtyPages && 4*remaining <= 3*dirty
}
