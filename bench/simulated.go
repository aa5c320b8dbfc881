package bench

import (
	"fmt"
	"slices"
	"time"

	"taskguide/bench/figure"
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

// sharedProcessors is what slows a simulated guest down.
const sharedProcessors = "Where a guest and both ends of its move are on one host, they share " +
	"its processors in the simulation, too; nothing else slows a simulated guest down."

func simulated() Experiment {
	return Experiment{
		Name: "simulated", Title: "The simulator beside real moves",
		Summary: "moves that were simulated from a trace recorded just before: how far off it is",
		Source:  "docs/simulator.md",
		Blocks:  simulatedBlocks, Report: simulatedReport, Budget: 105 * time.Minute,
		// No ByCPUs: a move's moment is found in a recording by the phases of a single task.
		Factors: []string{ByPrograms, ByRTT, ByCompress, ByKernel, ByMemory},
		Base:    against("guidance", string(migration.GuidanceOff)), LoopbackOnly: true,
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

// simulatedWay is a program that is moved with some round trips.
type simulatedWay struct {
	program  program
	compress migration.Compress
	rtts     []time.Duration
	rules    []migration.Rule
}

// simulatedWays pairs the programs with the loopback, for each encoding of pages. Longer round
// trips, where nobody names others, are for one program of each, which the link limits: a round
// trip adds the same to all.
func simulatedWays(at Setting) []simulatedWay {
	near, far := []time.Duration{0}, []time.Duration{2 * time.Millisecond, 20 * time.Millisecond}
	farRules := rules
	if at.Size == Quick {
		far, farRules = far[1:], rules[:1]
	}
	if len(at.Factors.RTTs) > 0 {
		near, far = at.Factors.RTTs, nil
	}
	var all []simulatedWay
	for _, c := range simulatedEncodings(at) {
		chosen := simulatedPrograms(at, c)
		for _, p := range chosen {
			all = append(all, simulatedWay{p, c, near, rules})
		}
		all = append(all, simulatedWay{farProgram(chosen, c), c, far, farRules})
	}
	return all
}

// simulatedEncodings are those that were named, or none and the default of a migration.
func simulatedEncodings(at Setting) []migration.Compress {
	if len(at.Factors.Encoding) == 0 {
		return []migration.Compress{migration.CompressNone, migration.CompressAuto}
	}
	var all []migration.Compress
	for _, name := range at.Factors.Encoding {
		all = append(all, migration.Compress(name))
	}
	return all
}

// farProgram is the one that is moved over longer round trips. With compression that is kv, if it
// is there: the link limits it, and its pages compress.
func farProgram(chosen []program, c migration.Compress) program {
	for _, p := range chosen {
		if c != migration.CompressNone && p.name == "kv" {
			return p
		}
	}
	return chosen[len(chosen)-1]
}

// simulatedPrograms are those that are moved with an encoding. Without compression, a program whose
// pages compress is like any other.
func simulatedPrograms(at Setting, c migration.Compress) []program {
	chosen := at.programs()
	named := len(at.Factors.Programs) > 0
	switch few := at.Size == Quick && !named; {
	case c == migration.CompressNone && few:
		return chosen[len(chosen)-1:]
	case c == migration.CompressNone:
		return chosen
	case few, c == migration.CompressZstd && !named:
		return []program{compressible}
	case named:
		return chosen
	}
	return append(slices.Clone(chosen), compressible)
}

func simulatedBlocks(at Setting) [][]trial.Spec {
	var all []trial.Spec
	for _, w := range simulatedWays(at) {
		for _, trip := range w.rtts {
			for _, rule := range w.rules {
				for _, guided := range []policy{off, switchover} {
					all = append(all, atRTT(simulatedSpec(at, w, rule, guided), trip))
				}
			}
		}
	}
	return repeat(at.times(1, 4), all)
}

func simulatedSpec(at Setting, w simulatedWay, rule migration.Rule, guided policy) trial.Spec {
	g := guestOf(w.program, at.Size, trial.TagCool)
	params := guided.params(rule, at)
	params.Compress, params.Channels = w.compress, 1
	params.MaxDefer = 0 // the default, which vmm bench sim has, too
	return trial.Spec{
		ID: fmt.Sprintf("%s/%s/%s/%s", w.program.name, w.compress, rule, guided.name),
		Factors: map[string]string{
			"program": w.program.name, "rule": string(rule), "guidance": guided.name,
			"compress": string(w.compress),
		},
		Guest: g, Params: params, Record: recordingOf(g),
	}
}

// recordingOf is of whole cycles, wherever it begins, and if a phase is late.
func recordingOf(g trial.Guest) *trial.Recording {
	return &trial.Recording{Interval: recordedInterval, Length: 3 * g.Cycle()}
}

func simulatedReport(at Setting, results []trial.Result) Findings {
	f := Findings{}
	counted, others := byLimit(results)
	all, rest := comparisonOf("all", counted), comparisonOf("others", others).down
	if all.down.pairs+rest.pairs == 0 {
		return f
	}
	for _, part := range []struct {
		name string
		d    deviation
	}{{"downtime", all.down}, {"total time", all.whole}} {
		verdict := "within its target"
		if !part.d.reached() {
			verdict = "more than its target"
		}
		f.Headlines = append(f.Headlines, fmt.Sprintf(
			"Simulated %s, %d pairs: absolute error p50 %s, p90 %s, %s of %s.", part.name,
			part.d.pairs, units.Milliseconds(part.d.p50), units.Milliseconds(part.d.p90), verdict,
			units.Milliseconds(part.d.target())))
	}
	f.Headlines = append(f.Headlines, fmt.Sprintf("More than ten times the oracle's downtime: "+
		"%s of the real moves, %s simulated, which %s.", shareText(all.real),
		shareText(all.simulated), agreeText(all)), verdictOf(results))
	if rest.pairs > 0 {
		f.Headlines = append(f.Headlines, fmt.Sprintf("%d more pairs are of moves that processors "+
			"limit, which the target is not for: absolute error of the downtime p50 %s, p90 %s.",
			rest.pairs, units.Milliseconds(rest.p50), units.Milliseconds(rest.p90)))
	}
	f.Lead = comparisonTable(append([]comparison{all}, strata(counted)...))
	groups := groupBy(results, levels{"program", append(at.programLevels().values,
		compressible.name)}, encodings, simulatedRules, simulatedGuidance, rttLevels(results))
	f.Sections = []Section{{
		Title: "Simulated and real",
		Text: []string{
			"Each guest was recorded for three cycles, and then moved. The simulator had the " +
				"recording, the order, the round trip, and for how long the guest had been in " +
				"its phase when the move was requested; everything else is its own. " +
				sharedProcessors,
			"Two real moves of the same guest and moment differ by more than the target where " +
				"processors limit them, and not the link, so those moves do not count for it. " +
				"The error of a pair is the absolute difference. Its median should be at most a " +
				"tenth of the real median, or 1 ms. The share of moves with more than ten times " +
				"the oracle's downtime should lie, simulated, in the interval of the real share " +
				"(95 %, Clopper and Pearson).",
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
	if way := wayText(roundTripsOf(results)); way != "" {
		f.Sections[0].Text = append(f.Sections[0].Text, way)
	}
	return f
}

func bothSamples(groups []group) []figure.Sample {
	var samples []figure.Sample
	for _, g := range groups {
		name := g.factors["compress"] + ", " + g.factors["rule"] + ", " + g.factors["guidance"]
		if trip := g.factors["rtt"]; trip != "0" {
			name += ", RTT " + trip
		}
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
		c := comparisonOf(nameOf(g), g.results)
		t.Rows = append(t.Rows, []string{
			c.name, fmt.Sprint(c.real.N), fmt.Sprint(c.real.Hits), fmt.Sprint(c.simulated.Hits),
		})
	}
	return t
}

func nameOf(g group) string {
	name := g.factors["program"] + ", " + g.factors["compress"] + ", " + g.factors["rule"] + ", " +
		g.factors["guidance"]
	if trip := g.factors["rtt"]; trip != "0" {
		name += ", RTT " + trip
	}
	return name
}
