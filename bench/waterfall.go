package bench

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

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

// untilPages is how many of the parts come first, until the pages are there. They have a table of
// their own, because one with all parts is wider than a terminal.
const untilPages = 5

// withWaterfall adds a section with the parts of the downtimes of each configuration, if any trial
// tells them.
func withWaterfall(f Findings, groups []group) Findings {
	groups = tellingParts(groups)
	if len(groups) == 0 {
		return f
	}
	f.Sections = append(f.Sections, Section{
		Title: "Where the downtime went",
		Text: []string{
			"Both ends measure what they do, each by its own clock. A message's way is what its " +
				"sender waited and its receiver did not work, up to the time of a greeting. " +
				"Whatever is left is unexplained. Medians do not add up; the means in " +
				"summary.json do.",
			partsText(),
		},
		Tables: []Table{
			partsTable("Downtimes of this engine and their parts in their order, until the "+
				"pages are there: medians in ms of n trials.", groups,
				append([]metric{downtime}, waterfall[:untilPages]...)...),
			partsTable("The parts from then on, and what no part explains: medians in ms of n "+
				"trials.", groups, waterfall[untilPages:]...),
		},
	})
	return f
}

// tellingParts leaves out trials that do not tell the parts of their downtime, and configurations
// without any other.
func tellingParts(groups []group) []group {
	var telling []group
	for _, g := range groups {
		g.results = filter(g.results, func(r trial.Result) bool {
			_, tells := unexplained.of(r)
			return tells
		})
		if len(g.results) > 0 {
			telling = append(telling, g)
		}
	}
	return telling
}

// partName is what a table calls a part: its column's name in trials.csv, without what all have.
func partName(m metric) string {
	return strings.TrimSuffix(strings.TrimPrefix(m.key, "part_"), "_ms")
}

// partsText says what the names of the parts mean.
func partsText() string {
	var all []string
	for _, m := range waterfall {
		all = append(all, partName(m)+": "+m.name)
	}
	return strings.Join(all, "; ") + "."
}

// partsTable has a row for each configuration. Its figures have no unit, which makes it narrow.
func partsTable(caption string, groups []group, metrics ...metric) Table {
	t := Table{Caption: caption, Head: []string{"configuration", "n"}}
	for _, m := range metrics {
		t.Head = append(t.Head, partName(m))
	}
	for _, g := range groups {
		row := []string{g.name(), strconv.Itoa(len(g.results))}
		for _, m := range metrics {
			row = append(row, fmt.Sprintf("%.2f", stats.Median(g.values(m))))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}
