package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/shard"
	"taskguide/bench/sim"
	"taskguide/bench/simrun"
)

// simulatedPages prints a simulation in each of its formats, each a whole page.
func simulatedPages(t *testing.T, c simrun.Comparison) map[Format]string {
	t.Helper()
	pages := map[Format]string{}
	for _, format := range SimulationFormats {
		var b strings.Builder
		require.NoError(t, WriteSimulation(&b, c, format))
		pages[format] = b.String()
		require.NotContains(t, b.String(), "After ", "no experiment of others")
		require.NotContains(t, b.String(), "Reproduce with", "nobody kept the command")
	}
	requireMarkdown(t, pages[Markdown])
	requireLaTeX(t, pages[LaTeX])
	return pages
}

// requireSaid fails unless a page has all of these, in each format.
func requireSaid(t *testing.T, pages map[Format]string, all ...string) {
	t.Helper()
	for _, said := range all {
		require.Contains(t, pages[Markdown], said)
		require.Contains(t, pages[LaTeX], latex(said))
	}
}

// simulatedSweep is a comparison with two cells. Real moves cover one policy in the first of them.
func simulatedSweep() simrun.Comparison {
	covered := sim.Row{
		Policy: "xen", Guidance: "off", Moves: 4, Moved: 4, Judged: 4,
		DowntimeMS:       sim.Quantiles{P50: 12.5, Max: 480},
		TotalMS:          sim.Quantiles{P50: 2345},
		RegretDowntimeMS: sim.Quantiles{P50: 3.5}, RegretTotalMS: sim.Quantiles{P50: -150},
	}
	guided := sim.Row{
		Policy: "exec:/my_rule", Guidance: "switchover", Moves: 4, Moved: 3, Lapped: 2, Lost: 1,
		PolicyError: "it ended", DowntimeMS: sim.Quantiles{P50: 2, Max: 9},
		TotalMS:      sim.Quantiles{P50: 150e3},
		Extrapolated: "no real move of this policy was compared",
	}
	near := simrun.Result{
		Trace: "web_1", Pages: 1024, Recorded: 1024, Tasks: 1, Seed: 7,
		Setting: sim.Setting{
			BitsPerSecond: 1e9, RTT: 100 * time.Microsecond, Compress: sim.CompressNone,
		},
		Not: sim.Costs{}.NotModelled(), Rows: []sim.Row{covered, guided},
		Validated: []string{"7 pairs, revision abc."},
	}
	grown := near
	grown.Pages, grown.Growth, grown.Validated = 4096, sim.Repeated, nil
	grown.Cut, grown.Lost = true, 5
	covered.Extrapolated = "no real guest has grown as the trace has"
	grown.Rows = []sim.Row{covered}
	return simrun.Comparison{
		VMM: "v1_2", Moments: 4, Seed: 7, Results: []simrun.Result{near, grown},
	}
}

// TestSimulationTables: a page has a table for each cell, with the mark behind each figure that has
// one.
func TestSimulationTables(t *testing.T) {
	pages := simulatedPages(t, simulatedSweep())
	require.True(t, strings.HasPrefix(pages[Markdown], "# Policies in simulated moves\n"))
	for _, row := range []string{
		"| policy | guidance | downtime | max | total | regret | regret total |\n|---|---|",
		"| xen | off | 12.5 | 480 | 2345 | 3.5 * | -150 * |\n",
		"| exec:/my_rule | switchover | 2.0 * | 9.0 * | 150s * | - | - |\n",
		"| xen | off | 12.5 * | 480 * | 2345 * | 3.5 * | -150 * |\n",
	} {
		require.Contains(t, pages[Markdown], row)
	}
	for _, row := range []string{
		`{}policy & guidance & downtime & max & total & regret & regret total \\` + "\n",
		`{}xen & off & 12.5 & 480 & 2345 & 3.5 * & -150 * \\` + "\n",
		`{}exec:/my\_rule & switchover & 2.0 * & 9.0 * & 150s * & - & - \\` + "\n",
		`{}xen & off & 12.5 * & 480 * & 2345 * & 3.5 * & -150 * \\` + "\n",
	} {
		require.Contains(t, pages[LaTeX], row)
	}
	require.Equal(t, 2, strings.Count(pages[Markdown], "|---|"+strings.Repeat("---|", 6)))
	require.Equal(t, 2, strings.Count(pages[LaTeX], `\begin{table}`))
}

// TestSimulationNotes: a page has all that must be known of its figures, a mark's meaning too.
func TestSimulationNotes(t *testing.T) {
	pages := simulatedPages(t, simulatedSweep())
	requireSaid(t, pages,
		"vmm: v1_2", "moments of request: 4", "seed: 7",
		"web_1: 4.00 MiB, 1.00 Gbit/s, RTT 100µs, compress none, 4 moves each, seed 7; ms, p50 "+
			"unless it says max",
		"web_1: 16.0 MiB (recorded: 4.00 MiB; the rest repeated), 1.00 Gbit/s, RTT 100µs, compress",
		"exec:/my_rule, switchover: 3 of 4 moved; the figures are of these.",
		"exec:/my_rule, switchover: 2 of 4 moves outlasted the trace, which then began again.",
		"exec:/my_rule failed in 1 of 4 moves, and downtime took its place: it ended.",
		"The trace was cut off: it has no end, so some of it is missing.",
		"The trace lost 5 events, because who takes them was too slow: tags may be missing.",
		sim.Costs{}.ProcessorsNote(),
		"Not modelled: that a migration slows the guest down; disks, devices that drain slowly, "+
			"delta, lost packets.",
		"Regret is a move's figure minus the oracle's, which knows the trace.",
		"Compared with real moves: 7 pairs, revision abc.",
	)
	const meaning = "* extrapolated: " + sim.NoRealOracle + "; no real move of this policy was " +
		"compared; no real guest has grown as the trace has."
	require.Contains(t, pages[Markdown], "\n\n\\"+meaning+"\n\n", "a paragraph, and no item")
	require.Contains(t, pages[LaTeX], "\n"+meaning+"\n\n")
	require.NotContains(t, pages[Markdown], "PARTIAL")
}

// TestSimulationOfAPart warns on top of the page.
func TestSimulationOfAPart(t *testing.T) {
	c := simulatedSweep()
	c.Shard = shard.Shard{Index: 1, Of: 3}
	pages := simulatedPages(t, c)
	require.Contains(t, pages[Markdown],
		"\n\n> **PARTIAL** of 3 parts, these are missing: 2, 3.\n\n")
	require.Contains(t, pages[LaTeX],
		"\n\\textbf{PARTIAL} of 3 parts, these are missing: 2, 3.\n\n")
}

// simulatedMap has two cells. In the second the guided policy moved the guest less often.
func simulatedMap() simrun.Comparison {
	best := sim.Row{
		Policy: "xen", Guidance: "off", Moves: 4, Moved: 4,
		DowntimeMS: sim.Quantiles{P50: 20, P99: 80}, TotalMS: sim.Quantiles{P50: 500},
	}
	guided := sim.Row{
		Policy: "downtime", Guidance: "switchover", Moves: 4, Moved: 4,
		DowntimeMS: sim.Quantiles{P50: 10, P99: 20}, TotalMS: sim.Quantiles{P50: 2000},
	}
	setting := sim.Setting{BitsPerSecond: 250e6}
	calm := simrun.Result{
		Point: &simrun.Point{BusyMS: 500, Ratio: 0.5}, LimitMS: 50, Setting: setting,
		Not:  setting.Costs.NotModelled(),
		Rows: []sim.Row{best, guided}, Validated: []string{"7 pairs, revision abc."},
	}
	busy := calm
	busy.Point, busy.Validated = &simrun.Point{BusyMS: 3000, Ratio: 0.5}, nil
	guided.Moved, guided.Extrapolated = 1, "no real move of a guest of this size was compared"
	busy.Rows = []sim.Row{best, guided}
	return simrun.Comparison{
		VMM: "v1", Moments: 4, Seed: 7,
		Orders: []string{"xen, guidance off", "downtime, guidance switchover"},
		Map: &simrun.Map{
			BusyMS: []float64{500, 3000}, Ratios: []float64{0.5}, LimitsMS: []float64{50},
			Guided: 1,
		},
		Results: []simrun.Result{calm, busy},
	}
}

// TestMapTable: a map's page has a row for each cell, and says what covers how much of it.
func TestMapTable(t *testing.T) {
	pages := simulatedPages(t, simulatedMap())
	require.True(t, strings.HasPrefix(pages[Markdown], "# Where guidance pays\n"))
	for _, row := range []string{
		"| busy | rate | limit | best | gain p50 | gain p99 | total |\n|---|---|",
		"| 500ms | 0.5 | 50 ms | xen | 2 | 4 | 1.5 s |\n",
		"| 3s | 0.5 | 50 ms | - | - | - | - |\n",
	} {
		require.Contains(t, pages[Markdown], row)
	}
	for _, row := range []string{
		`{}busy & rate & limit & best & gain p50 & gain p99 & total \\` + "\n",
		`{}500ms & 0.5 & 50 ms & xen & 2 & 4 & 1.5 s \\` + "\n",
		`{}3s & 0.5 & 50 ms & - & - & - & - \\` + "\n",
	} {
		require.Contains(t, pages[LaTeX], row)
	}
	requireSaid(t, pages,
		"Guided: downtime, guidance switchover, at 250 Mbit/s. Best is the best policy without "+
			"tags. A gain of 2 is a downtime half as long as the best one's.",
		"A p99 of 4 moves is the largest.",
		"Not all guided moves ended.", "So many ended: 1 of 4 at busy 3s, rate 0.5, limit 50 ms.",
		"1 of 2 cells are extrapolated: no real move of a guest of this size was compared.",
		sim.Costs{}.ProcessorsNote(), "Not modelled: that a migration slows the guest down; disks,",
		"Compared with real moves: 7 pairs, revision abc.",
	)
}
