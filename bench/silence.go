package bench

import (
	"fmt"
	"time"

	"taskguide/bench/figure"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/control/units"
)

// dotInterval is how often guests print a dot when silences are measured.
const dotInterval = time.Millisecond

// silenceOf returns one of the silences of a guest that prints dots.
func silenceOf(f func(trial.Silences) float64) func(trial.Result) (float64, bool) {
	return func(r trial.Result) (float64, bool) {
		if r.Silences == nil {
			return 0, false
		}
		return f(*r.Silences), true
	}
}

// These are the silences, by a clock outside of the guest.
var (
	silenceRounds = metric{
		"silence in the rounds", "silence_rounds_ms", units.Milliseconds,
		silenceOf(func(s trial.Silences) float64 { return s.RoundsMS }),
	}
	silenceSwitch = metric{
		"at the switch", "silence_switch_ms", units.Milliseconds,
		silenceOf(func(s trial.Silences) float64 { return s.SwitchMS }),
	}
	// exits is the time of the exits by which the guest prints, by its own clock. It excludes the
	// output's way.
	exits = metric{
		"the guest's wait for an exit", "exit_ms", units.Milliseconds,
		func(r trial.Result) (float64, bool) { return r.ExitMS, r.Silences != nil && r.ExitMS > 0 },
	}
	silenceAfter = metric{
		"in the second after", "silence_after_ms", units.Milliseconds,
		silenceOf(func(s trial.Silences) float64 { return s.AfterMS }),
	}
	silenceBefore = metric{
		"in the second before", "silence_before_ms", units.Milliseconds,
		silenceOf(func(s trial.Silences) float64 { return s.BeforeMS }),
	}
)

// silenceText explains the silences.
const silenceText = "The silences are those of the guest's console, which prints a dot every " +
	"millisecond, as read outside: the longest before the guest leaves the source, and that " +
	"between its last dot there and its first at the destination. " +
	"They hold what a client sees, the way out of the VMM included."

// silenceScenarios are guests that print dots while they are moved.
func silenceScenarios(size Size) []scenario {
	big, filled := int64(2<<30), "1G"
	if size == Quick {
		big, filled = 768<<20, "384M"
	}
	guest := func(program string, busy, cool time.Duration, bytes int64) trial.Guest {
		return trial.Guest{
			Program: program, Busy: busy, Cool: cool, MemoryBytes: bytes, Prefault: true,
			Dots: dotInterval,
		}
	}
	ways := []way{wayPlain, wayBefore, wayMultifd}
	show := []metric{silenceRounds, silenceSwitch, exits, total}
	make := func(name, about string, g trial.Guest) scenario {
		return scenario{
			name: name, about: about + ", a dot every ms: the longest silence heard outside",
			guest: g, ways: ways, show: show,
			targets: []target{{silenceRounds, wayPlain.name, []string{wayMultifd.name}, 1}},
		}
	}
	return []scenario{
		make("silence, busy", "64 MiB of 512 MiB rewritten all the time",
			guest("workload=phased ws=64M fill=random", time.Second, 0, 512<<20)),
		make("silence, full", filled+" of incompressible pages in "+units.Bytes(big),
			guest("workload=phased ws="+filled+" hot=64K fill=random", 0, time.Second, big)),
		make("silence, idle", units.Bytes(big)+" idle but for 1 MiB that is rewritten",
			guest("workload=phased ws=1M fill=random", time.Second, 0, big)),
	}
}

// primary is a figure that compares a version of vmm with the one before.
type primary struct {
	scenario string
	m        metric
	atMost   float64 // the upper bound of the ratio
}

// primaries are fixed before a run; docs/results/primary-figures.md explains the choice. Totals,
// and figures derived from them, may be a fifth worse, because the new order of CPUs costs that on
// purpose.
var primaries = []primary{
	{"full", total, 1.2},
	{"idle", total, 1.2},
	{"busy", total, 1.2},
	{"busy", gap, 1.05},
	{"slow link", total, 1.2},
	{"full", cpuEngine, 1.05},
	{"delta", resent, 1.05},
	{"silence, busy", silenceRounds, 1.05},
	{"silence, full", silenceRounds, 1.05},
	{"silence, idle", silenceRounds, 1.05},
}

// beforeScenarios are the scenarios of the primary figures. Both versions move each guest, and QEMU
// does if silences are measured.
func beforeScenarios(size Size) []scenario {
	wanted := map[string]bool{}
	for _, p := range primaries {
		wanted[p.scenario] = true
	}
	var all []scenario
	for _, s := range speedScenarios(size) {
		if !wanted[s.name] {
			continue
		}
		switch {
		case s.name == "delta":
			// Two channels are the default of links without a limit.
			delta := wayDelta
			delta.params.Channels = 2
			delta.name = wayPlain.name
			deltaBefore := delta
			deltaBefore.name, deltaBefore.before = wayBefore.name, true
			s.ways = []way{delta, deltaBefore}
		case s.guest.Dots == 0:
			s.ways = []way{wayPlain, wayBefore}
		}
		s.targets = nil
		all = append(all, s)
	}
	return all
}

// beforeBudget is enough for all 15 pairs. It is more than other experiments may take, because its
// results are quoted.
const beforeBudget = 45 * time.Minute

// before compares two versions of vmm.
func before() Experiment {
	return Experiment{
		Name: "before", Title: "This vmm beside an earlier one",
		Summary: "the primary figures of two builds of vmm, in pairs; needs --before",
		Source:  "what a change may cost, and what it is to bring",
		Blocks: func(at Setting) [][]trial.Spec {
			return repeat(at.times(1, 15), specsOf(at, beforeScenarios(at.Size)))
		},
		Report: beforeReport, LoopbackOnly: true, Budget: beforeBudget, NeedsBefore: true,
	}
}

func beforeReport(at Setting, results []trial.Result) Findings {
	var f Findings
	list := Table{
		Caption: "Primary figures, in pairs (" + at.peerNames() + ")",
		Head:    []string{"figure", "pairs", "ratio to before", "upper bound", "at most"},
	}
	for _, p := range primaries {
		in := pairsOf(results, p.scenario, p.m, wayPlain.name, wayBefore.name)
		name := p.scenario + ": " + p.m.name
		row := []string{name, fmt.Sprint(len(in)), "–", "–", times(p.atMost)}
		if r, ok := stats.RatioOf(stats.Median, in); ok && r.CI != nil {
			row[2], row[3] = times(r.Value), times(r.CI.High)
		}
		list.Rows = append(list.Rows, row)
	}
	f.Lead = list
	for _, s := range beforeScenarios(at.Size) {
		groups := s.groups(results)
		if len(groups) == 0 {
			continue
		}
		if s.guest.Dots > 0 {
			f.Headlines = append(f.Headlines, silenceHeadline(at, results, s))
		}
		var samples []figure.Sample
		m := s.show[0]
		for _, g := range groups {
			w := g.factors["way"]
			samples = append(samples, figure.Sample{Label: w, Colour: w, Values: g.values(m)})
		}
		f.Sections = append(f.Sections, Section{
			Title: capital(s.name),
			Figures: []NamedFigure{{
				"before-" + fileName(s.name), capital(m.name) + ": " + s.about + ".",
				figure.Strip(s.name+": "+m.name, m.name+" in ms", samples),
			}},
			Tables: []Table{s.table(at, groups)},
		})
	}
	return f
}

// silenceHeadline compares the silence in the rounds with QEMU's, in pairs.
func silenceHeadline(at Setting, results []trial.Result, s scenario) string {
	in := pairsOf(results, s.name, silenceRounds, wayPlain.name, wayMultifd.name)
	r, ok := stats.RatioOf(stats.Median, in)
	if !ok || r.CI == nil {
		return fmt.Sprintf("%s: %d pairs with %s are too few for a ratio.",
			s.name, len(in), at.peerNames())
	}
	return fmt.Sprintf("%s: the longest silence in the rounds is %s [%s, %s] of that of %s, "+
		"multifd, in %d pairs.", s.name, times(r.Value), times(r.CI.Low), times(r.CI.High),
		at.peerNames(), len(in))
}

// pairsOf returns the results of two ways through a scenario, block by block.
func pairsOf(results []trial.Result, scenario string, m metric, a, b string) []stats.Pair {
	groups := groupBy(
		results, levels{"scenario", []string{scenario}}, levels{"way", []string{a, b}},
	)
	ours, ok := find(groups, map[string]string{"way": a})
	theirs, okTheirs := find(groups, map[string]string{"way": b})
	if !ok || !okTheirs {
		return nil
	}
	return pairs(ours, theirs, m)
}
