package bench

import (
	"fmt"
	"slices"

	"taskguide/bench/trial"
)

// judged leaves out what guests say of QEMU's moves by a clock that stood still in the downtime. If
// it did in most of them, no guest's word counts: the others just stood still for less time than
// something else kept them waiting, and would be a choice of the shortest downtimes.
func judged(results []trial.Result) []trial.Result {
	stood, moves := clocksStood(results)
	results = slices.Clone(results)
	for i := range results {
		r := &results[i]
		if r.ClockStood() || r.Spec.QEMU != nil && 2*stood > moves {
			r.ForgetClock()
		}
	}
	return results
}

// clocksStood counts QEMU's moves in whose downtime the guest's clock stood still, and all of them.
func clocksStood(results []trial.Result) (stood, moves int) {
	for _, r := range valid(results) {
		if r.Spec.QEMU == nil {
			continue
		}
		moves++
		if r.ClockStood() {
			stood++
		}
	}
	return stood, moves
}

// gapText says what the guest's own gap is worth beside QEMU.
func gapText(results []trial.Result) string {
	stood, moves := clocksStood(results)
	if stood == 0 {
		return "The guest's own gap is the same measure for both."
	}
	return fmt.Sprintf("The guest's own gap is by the guest's clock. In %d of %d moves of QEMU "+
		"that clock stood still in the downtime, so the gap is not known and left out.", stood,
		moves)
}

// standstillText compares for how long two groups of guests stood still, where one of them or both
// are QEMU's: by their own gaps, or by the silence of their consoles where the gaps of QEMU's
// guests are not known.
func standstillText(a, b group) string {
	if len(a.values(gap)) > 0 && len(b.values(gap)) > 0 {
		return "the guest's own gap is " + ratio(a, b, gap)
	}
	return "the guest's own gap is not known, because its clock stood still in QEMU's downtime; " +
		"the silence of its console at the switch is " + ratio(a, b, silenceSwitch)
}
