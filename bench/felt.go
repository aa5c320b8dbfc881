package bench

import (
	"fmt"
	"strconv"
	"time"

	"taskguide/bench/trial"
	"taskguide/control/units"
)

// feltBy tells of a trial's pauses by one of the two clocks.
type feltBy func(trial.Result) *trial.Felt

func byGuest(r trial.Result) *trial.Felt   { return r.Felt }
func byOutside(r trial.Result) *trial.Felt { return r.Heard }

// feltClocks are both clocks, in the order in which they are shown.
var feltClocks = []struct {
	name    string // in summary.json
	caption string
	by      feltBy
}{
	{"guest", "Pauses between two steps of the guest, by its own clock", byGuest},
	{"outside", "Pauses between two dots of the guest, by a clock outside", byOutside},
}

// feltLengths are the pauses from which columns count. Histograms count by powers of two, so these
// are only near powers of ten.
var feltLengths = []time.Duration{
	1024 * time.Microsecond, 8192 * time.Microsecond, 65536 * time.Microsecond,
}

// wholeMS writes the length of a pause as the names of columns have it.
func wholeMS(length time.Duration) string {
	return strconv.FormatInt(length.Milliseconds(), 10)
}

// pausesOf are the metrics of pauses of at least some length, around the migration and before.
func pausesOf(name, key string, by feltBy) (all []metric) {
	for _, least := range feltLengths {
		ms := wholeMS(least)
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

// felt adds up the pauses of a configuration by a clock, and counts the trials that tell them.
func (g group) felt(by feltBy) (sum trial.Felt, n int) {
	for _, r := range g.results {
		if f := by(r); f != nil {
			n++
			sum.Before.Add(f.Before)
			sum.Around.Add(f.Around)
			sum.After.Add(f.After)
		}
	}
	return sum, n
}

// withFelt adds a section with the pauses of each configuration, if any trial tells them.
func withFelt(f Findings, groups []group) Findings {
	var tables []Table
	for _, clock := range feltClocks {
		if t := feltTable(clock.caption, clock.by, groups); len(t.Rows) > 0 {
			tables = append(tables, t)
		}
	}
	if len(tables) == 0 {
		return f
	}
	f.Sections = append(f.Sections, Section{
		Title: "What the guest felt",
		Text: []string{
			"How many pauses of at least 1.024, 8.192 and 65.536 ms there were in a second of " +
				"the migration with its pre-copy, and in the last column before the request. The " +
				"longest is known to a factor of two: the table has the least that it can have " +
				"been. summary.json has pauses of all lengths, by powers of two.",
			"The guest's clock may stand still in QEMU's downtime, so trials of QEMU count only " +
				"by the clock outside.",
		},
		Tables: tables,
	})
	return f
}

// feltTable has a row for each configuration that tells its pauses by a clock. A row fits a
// terminal, so only the shortest length has a column before the request.
func feltTable(caption string, by feltBy, groups []group) Table {
	t := Table{
		Caption: caption + ", per second, in n trials of each configuration.",
		Head:    []string{"configuration", "n"},
	}
	for _, least := range feltLengths {
		t.Head = append(t.Head, wholeMS(least)+" ms")
	}
	t.Head = append(t.Head, "longest", wholeMS(feltLengths[0])+" ms before")
	for _, g := range groups {
		sum, n := g.felt(by)
		if n == 0 {
			continue
		}
		row := []string{g.name(), strconv.Itoa(n)}
		for _, least := range feltLengths {
			row = append(row, perSecond(sum.Around, least))
		}
		row = append(row, longestPause(sum.Around), perSecond(sum.Before, feltLengths[0]))
		t.Rows = append(t.Rows, row)
	}
	return t
}

// perSecond writes how many pauses of at least that length there were in a second.
func perSecond(s trial.FeltSpan, least time.Duration) string {
	if s.Seconds <= 0 {
		return "–"
	}
	return fmt.Sprintf("%.3g", s.PerSecond(least))
}

// longestPause writes the least that the longest pause can have been.
func longestPause(s trial.FeltSpan) string {
	buckets := s.Stalls.Buckets()
	if len(buckets) == 0 {
		return "–"
	}
	return units.Milliseconds(float64(buckets[len(buckets)-1]) / 1000)
}

// feltSummary is the pauses of a configuration by a clock, of all of its trials together.
type feltSummary struct {
	Factors map[string]string `json:"factors"`
	Clock   string            `json:"clock"` // guest or outside
	Trials  int               `json:"trials"`
	trial.Felt
}

// summarizeFelt has an entry for each configuration and each clock that tells its pauses.
func summarizeFelt(groups []group) (all []feltSummary) {
	for _, g := range groups {
		for _, clock := range feltClocks {
			if sum, n := g.felt(clock.by); n > 0 {
				all = append(all, feltSummary{g.factors, clock.name, n, sum})
			}
		}
	}
	return all
}
