package bench

import (
	"cmp"
	"fmt"

	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/control/units"
	"taskguide/migration"
)

// A waterfall is the parts of a downtime that follow one another, and what they do not explain.
// Only this engine tells them; see migration.DowntimeParts.

// partOf is a metric of one part.
func partOf(name, key string, of func(migration.DowntimeParts) float64) metric {
	return metric{
		name: name, key: key, write: units.Milliseconds,
		of: func(r trial.Result) (float64, bool) {
			d := r.Report.Downtime
			if d.Explained() == 0 {
				return 0, false
			}
			return of(d), true
		},
	}
}

// workedOf is how long the destination worked of a wait, or the whole wait if it does not say.
func workedOf(lap float64, there *float64) float64 { return *cmp.Or(there, &lap) }

var unexplained = partOf("what no part explains", "unexplained_ms",
	func(d migration.DowntimeParts) float64 { return d.UnexplainedMS })

// waterfall has all parts in their order. Their sum is the downtime.
var waterfall = []metric{
	partOf("a vCPU held at its EXIT", "part_exit_ms",
		func(d migration.DowntimeParts) float64 { return d.ExitMS }),
	partOf("vCPUs come to a stand", "part_pause_ms",
		func(d migration.DowntimeParts) float64 { return d.PauseMS }),
	partOf("devices come to rest", "part_quiesce_ms",
		func(d migration.DowntimeParts) float64 { return d.QuiesceMS }),
	partOf("dirty pages collected", "part_harvest_ms",
		func(d migration.DowntimeParts) float64 { return d.HarvestMS }),
	partOf("pages sent, until they are there", "part_pages_ms",
		func(d migration.DowntimeParts) float64 { return d.PagesMS }),
	partOf("then the state saved, disks durable", "part_settle_ms",
		func(d migration.DowntimeParts) float64 { return d.SettleMS }),
	partOf("RAM compared", "part_verify_ms",
		func(d migration.DowntimeParts) float64 { return d.VerifyMS }),
	partOf("state loaded there", "part_load_ms",
		func(d migration.DowntimeParts) float64 { return workedOf(d.LoadMS, d.LoadThereMS) }),
	partOf("vCPUs begin to run there", "part_run_ms",
		func(d migration.DowntimeParts) float64 { return workedOf(d.RunMS, d.RunThereMS) }),
	partOf("messages under way", "part_way_ms",
		func(d migration.DowntimeParts) float64 { return d.WayMS }),
	unexplained,
}

// withWaterfall adds a section with the parts of all downtimes, if any trial tells them.
func withWaterfall(f Findings, results []trial.Result) Findings {
	all := group{results: valid(results)}
	whole := stats.Mean(all.values(partOf("", "", migration.DowntimeParts.Explained))) +
		stats.Mean(all.values(unexplained))
	n := len(all.values(unexplained))
	if n == 0 || whole == 0 {
		return f
	}
	t := Table{
		Caption: fmt.Sprintf("The parts of %d downtimes of this engine, in their order.", n),
		Head:    []string{"part", "median", "mean", "worst", "share of the mean downtime"},
	}
	for _, m := range waterfall {
		s := stats.Summarize(all.values(m))
		mean := stats.Mean(all.values(m))
		t.Rows = append(t.Rows, []string{
			m.name, m.write(s.Median), m.write(mean), m.write(s.Max), percent(mean / whole),
		})
	}
	f.Sections = append(f.Sections, Section{
		Title: "Where the downtime went",
		Text: []string{
			"Both ends measure what they do, each by its own clock. A message's way is what its " +
				"sender waited and its receiver did not work, up to the time of a greeting. " +
				"Whatever is left is the last row.",
		},
		Tables: []Table{t},
	})
	return f
}
