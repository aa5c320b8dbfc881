package bench

import (
	"fmt"
	"strconv"
	"time"

	"taskguide/bench/trial"
	"taskguide/control/units"
	"taskguide/guestkernel/heartbeat"
)

// feltBy tells of a trial's pauses by one of the two clocks.
type feltBy func(trial.Result) *trial.Felt

func byGuest(r trial.Result) *trial.Felt   { return r.Felt }
func byOutside(r trial.Result) *trial.Felt { return r.Heard }

// pausesOf are the metrics of pauses of at least some length, around the migration and before.
func pausesOf(name, key string, by feltBy) (all []metric) {
	for _, least := range []time.Duration{
		1024 * time.Microsecond, 8192 * time.Microsecond, 65536 * time.Microsecond,
	} {
		ms := strconv.FormatInt(least.Milliseconds(), 10)
		add := func(title, suffix string, of func(*trial.Felt) trial.FeltSpan) {
			all = append(all, metric{
				name:  fmt.Sprintf("%s of %s ms in a second%s", name, ms, title),
				key:   key + "_" + ms + "ms_per_s" + suffix,
				write: count,
				of: func(r trial.Result) (float64, bool) {
					f := by(r)
					if f == nil || of(f).Seconds <= 0 {
						return 0, false
					}
					return of(f).PerSecond(least), true
				},
			})
		}
		add("", "", func(f *trial.Felt) trial.FeltSpan { return f.Around })
		add(" before", "_before", func(f *trial.Felt) trial.FeltSpan { return f.Before })
	}
	return all
}

// slowMetrics are how long the guest was slow.
var slowMetrics = []metric{
	{
		"time under 90 % of the speed before", "brownout_ms", units.Milliseconds,
		func(r trial.Result) (float64, bool) {
			if r.Slow == nil {
				return 0, false
			}
			return r.Slow.BrownoutMS, true
		},
	},
	{
		"time to recover", "recover_ms", units.Milliseconds,
		func(r trial.Result) (float64, bool) {
			if r.Slow == nil || !r.Slow.Recovered {
				return 0, false
			}
			return r.Slow.RecoverMS, true
		},
	},
}

// feltMetrics are what the guest felt, in columns of results.
func feltMetrics() []metric {
	all := pausesOf("pauses", "stalls", byGuest)
	all = append(all, pausesOf("pauses heard", "heard", byOutside)...)
	return append(all, slowMetrics...)
}

// withFelt adds a section with histograms of the pauses, if any trial has them.
func withFelt(f Findings, results []trial.Result) Findings {
	var tables []Table
	for _, clock := range []struct {
		by      feltBy
		caption string
	}{
		{byGuest, "Pauses between two steps of the guest, by its own clock"},
		{byOutside, "Pauses between two dots of the guest, by a clock outside"},
	} {
		if t, any := feltTable(clock.caption, clock.by, valid(results)); any {
			tables = append(tables, t)
		}
	}
	if len(tables) == 0 {
		return f
	}
	f.Sections = append(f.Sections, Section{
		Title: "What the guest felt",
		Text: []string{
			"How many pauses of each length there were in a second: before the request, in the " +
				"seconds of the migration with its pre-copy, and after. A pause counts in one " +
				"row. The guest's clock may stand still in QEMU's downtime, so trials of QEMU " +
				"count only by the clock outside.",
		},
		Tables: tables,
	})
	return f
}

// feltTable adds up the histograms of all trials.
func feltTable(caption string, by feltBy, results []trial.Result) (t Table, any bool) {
	var sum trial.Felt
	n := 0
	for _, r := range results {
		if f := by(r); f != nil {
			n++
			sum.Before.Add(f.Before)
			sum.Around.Add(f.Around)
			sum.After.Add(f.After)
		}
	}
	if n == 0 {
		return t, false
	}
	spans := []trial.FeltSpan{sum.Before, sum.Around, sum.After}
	t = Table{
		Caption: fmt.Sprintf("%s, per second, in %d trials.", caption, n),
		Head:    []string{"at least", "before", "around the migration", "after"},
	}
	whole := heartbeat.Stalls{}
	for _, s := range spans {
		whole.Add(s.Stalls)
	}
	for _, bucket := range whole.Buckets() {
		row := []string{units.Milliseconds(float64(bucket) / 1000)}
		for _, s := range spans {
			row = append(row, perSecond(s, bucket))
		}
		t.Rows = append(t.Rows, row)
	}
	return t, true
}

func perSecond(s trial.FeltSpan, bucket int64) string {
	if s.Seconds <= 0 {
		return "–"
	}
	return fmt.Sprintf("%.3g", float64(s.Stalls[bucket])/s.Seconds)
}
