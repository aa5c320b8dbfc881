package bench

import (
	"fmt"
	"math"
	"slices"
	"time"

	"taskguide/bench/figure"
	"taskguide/bench/sim"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/control/units"
	"taskguide/migration"
)

// simulationOf returns a number of a trial's simulation.
func simulationOf(f func(trial.Simulated) float64) func(trial.Result) (float64, bool) {
	return func(r trial.Result) (float64, bool) {
		if r.Simulated == nil || !r.Simulated.Move.Moved() {
			return 0, false
		}
		return f(*r.Simulated), true
	}
}

// These are what the simulator says of a move.
var (
	simulatedDowntime = metric{
		"simulated downtime", "simulated_downtime_ms", units.Milliseconds,
		simulationOf(func(s trial.Simulated) float64 { return s.Move.DowntimeMS }),
	}
	simulatedTotal = metric{
		"simulated total time", "simulated_total_ms", units.Milliseconds,
		simulationOf(func(s trial.Simulated) float64 { return s.Move.TotalMS }),
	}
	oracleDowntime = metric{
		"the oracle's downtime", "oracle_downtime_ms", units.Milliseconds,
		simulationOf(func(s trial.Simulated) float64 { return s.Oracle.DowntimeMS }),
	}
	oracleTotal = metric{
		"the oracle's total time", "oracle_total_ms", units.Milliseconds,
		simulationOf(func(s trial.Simulated) float64 { return s.Oracle.TotalMS }),
	}
)

// recordedInterval is that of the traces. Shorter ones show more, and slow the guest down more.
const recordedInterval = 10 * time.Millisecond

func simulated() Experiment {
	return Experiment{
		Name: "simulated", Title: "The simulator beside real moves",
		Summary: "moves that were simulated from a trace recorded just before: how far off it is",
		Source:  "docs/simulator.md",
		Blocks:  simulatedBlocks, Report: simulatedReport, Budget: 40 * time.Minute,
		Factors: []string{ByPrograms}, Base: against("guidance", string(migration.GuidanceOff)),
		LoopbackOnly: true,
	}
}

var (
	simulatedRules    = levels{"rule", words(rules)}
	simulatedGuidance = levels{"guidance", policyNames([]policy{off, switchover})}
)

// compressible is a program whose pages compress, for trials with compression.
var compressible = program{
	"pattern", "workload=phased ws=64M hot=1M fill=pattern",
	"workload=phased ws=32M hot=512K fill=pattern",
}

func simulatedBlocks(at Setting) [][]trial.Spec {
	var all []trial.Spec
	add := func(p program, compress migration.Compress) {
		for _, rule := range rules {
			for _, guided := range []policy{off, switchover} {
				g := guestOf(p, at.Size, trial.TagCool)
				params := guided.params(rule, at)
				params.Compress, params.Channels = compress, 1
				all = append(all, trial.Spec{
					ID: fmt.Sprintf("%s/%s/%s", p.name, rule, guided.name),
					Factors: map[string]string{
						"program": p.name, "rule": string(rule), "guidance": guided.name,
						"compress": string(compress),
					},
					Guest: g, Params: params,
					Record: &trial.Recording{
						Interval: recordedInterval,
						// Whole cycles, wherever it begins, and if a phase is late.
						Length: 3 * g.Cycle(),
					},
				})
			}
		}
	}
	for _, p := range at.programs() {
		add(p, migration.CompressNone)
	}
	add(compressible, migration.CompressZstd)
	return repeat(at.times(1, 4), all)
}

// deviation is how far simulated times are from real ones.
type deviation struct {
	pairs    int
	real     float64 // median
	sim      float64
	p50, p90 float64 // of the absolute error
}

// target is the largest median error: the larger of a tenth and 1 ms.
func (d deviation) target() float64 { return max(d.real/10, 1) }

func (d deviation) reached() bool { return d.pairs > 0 && d.p50 <= d.target() }

func deviationOf(results []trial.Result, real, simulated metric) deviation {
	var a, b, errors []float64
	for _, r := range results {
		x, ok := real.of(r)
		y, okToo := simulated.of(r)
		if ok && okToo {
			a, b, errors = append(a, x), append(b, y), append(errors, math.Abs(x-y))
		}
	}
	d := deviation{pairs: len(errors), real: stats.Median(a), sim: stats.Median(b)}
	if d.pairs > 0 {
		slices.Sort(errors)
		d.p50 = errors[(d.pairs*50+99)/100-1]
		d.p90 = errors[(d.pairs*90+99)/100-1]
	}
	return d
}

// tenfold is how many moves have more than ten times the oracle's downtime: real and simulated.
func tenfold(results []trial.Result) (real, simulated, of int) {
	for _, r := range results {
		if r.Simulated == nil || !r.Simulated.Move.Moved() {
			continue
		}
		of++
		if most := 10 * r.Simulated.Oracle.DowntimeMS; r.Report.DowntimeMS > most {
			real++
		}
		if r.Simulated.Move.DowntimeMS > 10*r.Simulated.Oracle.DowntimeMS {
			simulated++
		}
	}
	return real, simulated, of
}

func simulatedReport(at Setting, results []trial.Result) Findings {
	down := deviationOf(results, downtime, simulatedDowntime)
	whole := deviationOf(results, total, simulatedTotal)
	f := Findings{}
	for _, part := range []struct {
		name string
		d    deviation
	}{{"downtime", down}, {"total time", whole}} {
		if part.d.pairs == 0 {
			continue
		}
		verdict := "within its target"
		if !part.d.reached() {
			verdict = "more than its target"
		}
		f.Headlines = append(f.Headlines, fmt.Sprintf(
			"Simulated %s, %d pairs: absolute error p50 %s, p90 %s, %s of %s.", part.name,
			part.d.pairs, units.Milliseconds(part.d.p50), units.Milliseconds(part.d.p90), verdict,
			units.Milliseconds(part.d.target())))
	}
	if real, simulated, of := tenfold(results); of > 0 {
		f.Headlines = append(f.Headlines, fmt.Sprintf(
			"More than ten times the oracle's downtime: %d of %d real moves, and %d simulated.",
			real, of, simulated))
	}
	groups := groupBy(results, levels{"program", append(at.programLevels().values,
		compressible.name)}, simulatedRules, simulatedGuidance)
	f.Sections = []Section{{
		Title: "Simulated and real",
		Text: []string{
			"Each guest was recorded for three cycles, and then moved. The simulator had the " +
				"recording, the order, and the point of the cycle at which the move was " +
				"requested; everything else is its own. " + sim.SlowdownNote,
			"The error of a pair is the absolute difference. Its median should be at most a " +
				"tenth of the real median, or 1 ms.",
		},
		Figures: []NamedFigure{{
			"simulated-downtime", "Downtime, real and simulated, every move a point.",
			figure.Strip("Downtime, real and simulated", "downtime in ms", bothSamples(groups)),
		}},
		Tables: []Table{
			deviationTable("Downtime in ms", groups, downtime, simulatedDowntime),
			deviationTable("Total time in ms", groups, total, simulatedTotal),
			tenfoldTable(groups),
		},
	}}
	return f
}

func bothSamples(groups []group) []figure.Sample {
	var samples []figure.Sample
	for _, g := range groups {
		name := g.factors["rule"] + ", " + g.factors["guidance"]
		samples = append(samples,
			figure.Sample{
				Group: g.factors["program"], Label: name, Colour: g.factors["guidance"],
				Values: g.values(downtime),
			},
			figure.Sample{
				Group: g.factors["program"], Label: name + ", simulated",
				Colour: g.factors["guidance"], Values: g.values(simulatedDowntime),
			})
	}
	return samples
}

func deviationTable(caption string, groups []group, real, simulated metric) Table {
	t := Table{
		Caption: caption + ": medians, and the absolute error of the simulation",
		Head: []string{
			"moves", "pairs", "real", "simulated", "error p50", "error p90", "reached",
		},
	}
	for _, g := range groups {
		d := deviationOf(g.results, real, simulated)
		reached := "no"
		if d.reached() {
			reached = "yes"
		}
		t.Rows = append(t.Rows, []string{
			nameOf(g), fmt.Sprint(d.pairs), fmt.Sprintf("%.1f", d.real),
			fmt.Sprintf("%.1f", d.sim), fmt.Sprintf("%.1f", d.p50), fmt.Sprintf("%.1f", d.p90),
			reached,
		})
	}
	return t
}

func tenfoldTable(groups []group) Table {
	t := Table{
		Caption: "Moves with more than ten times the oracle's downtime",
		Head:    []string{"moves", "pairs", "real", "simulated"},
	}
	for _, g := range groups {
		real, simulated, of := tenfold(g.results)
		t.Rows = append(t.Rows, []string{
			nameOf(g), fmt.Sprint(of), fmt.Sprint(real), fmt.Sprint(simulated),
		})
	}
	return t
}

func nameOf(g group) string {
	return g.factors["program"] + ", " + g.factors["rule"] + ", " + g.factors["guidance"]
}
