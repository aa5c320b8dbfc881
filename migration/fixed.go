package migration

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"taskguide/migration/policy"
)

// DowntimeFixed is the estimate of those parts of a downtime that do not depend on the pages, in
// milliseconds. It has only what this migration has measured before the switchover, so it is rather
// too small: how long the destination takes to load the state is not known before it does.
type DowntimeFixed struct {
	MS float64 `json:"ms"` // the sum of the three below
	// RoundTripsMS are those of a switchover, each as long as the shortest greeting took.
	RoundTripsMS float64 `json:"round_trips_ms"`
	HarvestMS    float64 `json:"harvest_ms"` // the last collection of dirty pages between rounds
	// PauseMS is how long the vCPUs took to come to a stand in the last switchover that was taken
	// back, or 0 without one.
	PauseMS float64 `json:"pause_ms"`
	Source  string  `json:"source"` // where the estimate comes from, in words
	// LimitMS is the limit of the downtime by which the rule judges, or 0 if it has none.
	// SubtractedMS is how much less the pages must fit because of the estimate, at most half of it.
	LimitMS      float64 `json:"limit_ms"`
	SubtractedMS float64 `json:"subtracted_ms"`
}

// switchoverTrips is how many round trips a switchover takes: the flush, the state and the commit,
// each with its answer.
const switchoverTrips = 3

// ruleLimit is the limit by which the policy judges a downtime, or 0 if it has none. A program may
// make of the estimate what it likes.
func (p Params) ruleLimit(choice policy.Choice) time.Duration {
	if choice.Program() != "" || choice.Value(limit, nil) == "" {
		return 0
	}
	return p.promise()
}

// fixed returns the estimate for a policy, and enters into the report what it makes of the limit;
// s.mu is held. It warns once if the limit cannot be kept however few pages there are. A limit of 0
// means that no page may be left, so it is not about time.
func (s *Source) fixed() time.Duration {
	f := &s.report.DowntimeFixed
	f.MS = f.RoundTripsMS + f.HarvestMS + f.PauseMS
	estimate, limit := inTime(f.MS), inTime(f.LimitMS)
	f.SubtractedMS = ms(limit - policy.ForPages(limit, estimate))
	if limit > 0 && estimate > limit && !slices.Contains(s.report.Warnings, limitTooShort) {
		s.report.Warnings = append(s.report.Warnings, limitTooShort)
	}
	return estimate
}

// from says where the estimate comes from. That takes its time, so it is left to who reads the
// report: the estimate itself is made while a vCPU waits at its EXIT.
func (f DowntimeFixed) from() string {
	var from []string
	for _, p := range []struct {
		ms   float64
		from string
	}{
		{f.RoundTripsMS, fmt.Sprintf("%d round trips as long as a greeting", switchoverTrips)},
		{f.HarvestMS, "the last harvest of dirty pages"},
		{f.PauseMS, "the pause of a switchover that was taken back"},
	} {
		if p.ms > 0 {
			from = append(from, p.from)
		}
	}
	return strings.Join(from, ", ")
}

// limitTooShort is the warning that the estimate is above the limit.
const limitTooShort = "the parts of a downtime that do not depend on the pages are estimated to " +
	"take longer than its limit: see downtime_fixed"

// takeDirty is Stream.TakeDirty for use between rounds. It notes how long that takes, because a
// switchover has to do it once more.
func (s *Source) takeDirty() (remaining, dirtied int, err error) {
	watch := &stopwatch{last: time.Now()}
	remaining, dirtied, err = s.stream.TakeDirty()
	took := watch.lap()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.DowntimeFixed.HarvestMS = took
	return remaining, dirtied, err
}

// inTime is the inverse of ms. The longest times are beyond a Duration once they are rounded.
func inTime(ms float64) time.Duration {
	ns := math.Round(ms * float64(time.Millisecond))
	if ns >= math.MaxInt64 {
		return math.MaxInt64
	}
	return time.Duration(ns)
}
