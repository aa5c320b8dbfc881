package bench

import (
	"fmt"
	"strings"
	"time"

	"taskguide/bench/figure"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/migration"
)

// program is one of the guest's workloads at a size. A quick run halves everything: the amount
// written, the phases (cycleOf) and the downtime limit (limitOf). So it is in the same regime and
// gives the same answer, with less certainty.
type program struct {
	name string
	full string // kernel command line
	fast string // the same for quick runs
}

var programs = []program{
	{"matmul", "workload=matmul ws=64M", "workload=matmul ws=32M"},
	{"sort", "workload=sort ws=48M", "workload=sort ws=24M"},
	{
		"kv",
		"workload=kv ws=64M hot=1M rate=10000",
		"workload=kv ws=32M hot=512K rate=10000",
	},
	{
		"phased",
		"workload=phased ws=64M hot=1M fill=random",
		"workload=phased ws=32M hot=512K fill=random",
	},
}

// linkRate is the link's rate, in bit/s, in experiments that do not vary it, unless the user gives
// another. It is common for a link, and slower than the programs write while they are busy. On a
// faster link, rounds would shrink even then, and guidance would gain nothing.
const linkRate = 1e9

// cycleOf returns the phases of programs at a size. A busy phase is longer than the patience of
// Xen's rules at linkRate with the RAM of guestOf. If it were shorter, it would end before they
// give up, and guidance would gain nothing.
func cycleOf(size Size) (busy, cool time.Duration) {
	if size == Quick {
		return 2 * time.Second, 500 * time.Millisecond
	}
	return 4 * time.Second, time.Second
}

// limitOf is the downtime limit at a size. With a full limit, what a quick run's programs write in
// a busy phase would fit it, and there would be nothing to gain.
func limitOf(size Size) time.Duration {
	if size == Quick {
		return migration.DefaultDowntimeLimit / 2
	}
	return migration.DefaultDowntimeLimit
}

// guestOf makes a guest that runs a program.
func guestOf(p program, size Size, tag trial.Tag) trial.Guest {
	g := trial.Guest{Program: p.full, Tag: tag, MemoryBytes: 96 << 20, CPUs: 1}
	if size == Quick {
		g.Program, g.MemoryBytes = p.fast, 64<<20
	}
	g.Busy, g.Cool = cycleOf(size)
	return g
}

// policy is a way to migrate that is compared with others.
type policy struct {
	name     string
	guidance migration.Guidance
	atExit   *bool // nil is the default
}

var (
	no         = false
	off        = policy{"off", migration.GuidanceOff, nil}
	start      = policy{"start", migration.GuidanceStart, nil}
	suspend    = policy{"suspend", migration.GuidanceSuspend, nil}
	switchover = policy{"switchover", migration.GuidanceSwitchover, nil}
	notAtExit  = policy{"switchover, no exit", migration.GuidanceSwitchover, &no}
)

func (p policy) params(rule migration.Rule, at Setting) migration.Params {
	return migration.Params{
		Rule: rule, DowntimeLimit: limitOf(at.Size), Guidance: p.guidance, SwitchAtExit: p.atExit,
		BitsPerSecond: at.rate(), MaxDefer: 20 * time.Second,
	}
}

func policyNames(policies []policy) []string {
	var names []string
	for _, p := range policies {
		names = append(names, p.name)
	}
	return names
}

// rules are those that are compared, the default last, because a table begins with what it is
// compared with.
var rules = []migration.Rule{migration.RuleXen, migration.RuleDowntime}

var ruleLevels = levels{"rule", words(rules)}

// words turns names of any kind into the levels of a factor.
func words[T ~string](names []T) []string {
	var all []string
	for _, n := range names {
		all = append(all, string(n))
	}
	return all
}

var taggingPolicies = []policy{off, start, switchover}

func tagging() Experiment {
	return Experiment{
		Name: "tagging", Title: "What task guidance gains",
		Summary: "matmul, sort, kv and phased, moved at points spread over their cycle, guided " +
			"and not, under both stop rules",
		Source: "the thesis' section 4.3, tagged programs against untagged ones, with the " +
			"indicators of its section 4.2",
		Blocks: taggingBlocks, Report: taggingReport,
		Factors: append([]string{ByPrograms}, byMachine...),
		Base:    against("policy", off.name),
	}
}

func taggingBlocks(at Setting) [][]trial.Spec {
	var all []trial.Spec
	for _, prog := range at.programs() {
		for _, rule := range rules {
			for _, p := range taggingPolicies {
				if p.name == start.name && at.Size == Quick {
					continue // the policy that matters least, to save time
				}
				all = append(all, trial.Spec{
					ID: fmt.Sprintf("%s/%s/%s", prog.name, rule, p.name),
					Factors: map[string]string{
						"program": prog.name, "rule": string(rule), "policy": p.name,
					},
					Guest:  guestOf(prog, at.Size, trial.TagCool),
					Params: p.params(rule, at),
					// A request that had to wait is answered in the second after the move.
					BeatsAfter: beatsFor(prog, at.Size),
				})
			}
		}
	}
	return repeat(at.times(2, 6), all)
}

func beatsFor(p program, size Size) int {
	if p.name == "kv" && size == Full {
		return 2
	}
	return 1
}

func taggingReport(at Setting, results []trial.Result) Findings {
	groups := groupBy(results, at.programLevels(), ruleLevels,
		levels{"policy", policyNames(taggingPolicies)})
	f := Findings{Headlines: headlines(at, results), Lead: leadTable(groups)}
	f.Sections = []Section{
		{
			Title: "The gain: how long the guest stands still",
			Text: []string{
				"Each point is one migration of a fresh guest. The box reaches from the first to " +
					"the third quartile, the bar is the median. All guests are tagged; “off” " +
					"ignores the tags, and so is what an untagged guest would get.",
				"The downtime is the engine's own measurement. The guest's own gap, in the " +
					"table, is what the program inside saw, noise of the host included.",
			},
			Figures: figuresByRule(groups, "downtime", downtime),
			Tables: []Table{
				gainTable(groups),
				tableOf("Downtime and what it consists of; medians with 95 % intervals",
					groups, []string{"program", "rule", "policy"}, downtime, stopCopy, gap,
					gapBefore),
			},
		},
		{
			Title: "When it was asked for",
			Text: []string{
				"The same migrations by the point of the program's cycle at which they " +
					"were asked for. The shaded part is the busy phase. Without guidance the " +
					"outcome depends on luck; guidance is to make it the same everywhere.",
			},
			Figures: offsetFigures(at, groups),
		},
		{
			Title: "The price: time and pages",
			Text: []string{
				"Guidance waits for a good moment, so a migration can take longer and send more. " +
					"“Held back” is the time in which the migration could have gone on " +
					"and did not, because the guest was outside its segments.",
			},
			Figures: figuresByRule(groups, "total", total),
			Tables: []Table{
				tableOf("Cost; medians with 95 % intervals", groups,
					[]string{"program", "rule", "policy"}, total, waited, pages, wire, rounds),
				priceTable(groups),
			},
		},
		serviceSection(groups),
		timelineSection(prefer(prefer(results, "program", "kv"), "rule", string(migration.RuleXen)),
			[]string{off.name, switchover.name}),
	}
	return f
}

// headlines says what guidance gains and costs over all programs, in one sentence for each rule.
func headlines(at Setting, results []trial.Result) []string {
	groups := groupBy(results, ruleLevels, levels{"policy", policyNames(taggingPolicies)})
	var lines []string
	eachAgainstOff(groups, func(g, base group) {
		if !g.is("policy", switchover.name) {
			return
		}
		g, base, ok := matchedOverAll(g, base, at.programLevels().values)
		if !ok {
			return
		}
		mean := func(g group, m metric) string { return m.write(stats.Mean(g.values(m))) }
		most := func(g group, m metric) string { return m.write(stats.Max(g.values(m))) }
		lines = append(lines,
			fmt.Sprintf("Rule %s, all programs: guided migrations stop the guest for %s in the "+
				"mean, unguided ones for %s, %s; at the worst %s against %s.",
				g.factors["rule"], mean(g, downtime), mean(base, downtime),
				meanRatio(g, base, downtime), most(g, downtime), most(base, downtime)),
			fmt.Sprintf("Rule %s, all programs: for that they take %s in the mean against "+
				"%s, %s, and are held back for %s of it; at the worst %s against %s.",
				g.factors["rule"], mean(g, total), mean(base, total), meanRatio(g, base, total),
				mean(g, waited), most(g, total), most(base, total)))
	})
	return lines
}

// leadTable shows the same for each program: the gain beside the cost.
func leadTable(groups []group) Table {
	t := Table{
		Caption: "Guidance switchover against off, by program and rule: values unguided → " +
			"guided (and their ratio with its 95 % bootstrap interval)",
		Head: []string{
			"program", "rule", "median downtime", "mean downtime", "worst downtime",
			"mean total time", "worst total time",
		},
	}
	eachAgainstOff(groups, func(g, base group) {
		if g, base = matched(g, base); !g.is("policy", switchover.name) || len(g.results) == 0 {
			return
		}
		row := []string{g.factors["program"], g.factors["rule"]}
		for _, c := range []struct {
			m  metric
			by func([]float64) float64
		}{{downtime, stats.Median}, {downtime, stats.Mean}, {downtime, stats.Max},
			{total, stats.Mean}, {total, stats.Max}} {
			guided, unguided := g.values(c.m), base.values(c.m)
			row = append(row, fmt.Sprintf("%s → %s (%s)",
				c.m.write(c.by(unguided)), c.m.write(c.by(guided)), ratioBy(c.by, g, base, c.m)))
		}
		t.Rows = append(t.Rows, row)
	})
	return t
}

func gainTable(groups []group) Table {
	t := Table{
		Caption: "Guided against unguided: ratios below 1 are a gain",
		Head: []string{
			"program", "rule", "policy", "median downtime", "mean downtime", "worst downtime",
			"pages in stop-and-copy", "the guest's own gap",
		},
	}
	eachAgainstOff(groups, func(g, base group) {
		t.Rows = append(t.Rows, []string{
			g.factors["program"], g.factors["rule"], g.factors["policy"],
			ratio(g, base, downtime), meanRatio(g, base, downtime), worstRatio(g, base, downtime),
			ratio(g, base, stopCopy), ratio(g, base, gap),
		})
	})
	return t
}

func priceTable(groups []group) Table {
	t := Table{
		Caption: "What it costs, guided against unguided: ratios above 1 are a loss",
		Head: []string{
			"program", "rule", "policy", "total time", "worst total time", "pages sent",
		},
	}
	eachAgainstOff(groups, func(g, base group) {
		t.Rows = append(t.Rows, []string{
			g.factors["program"], g.factors["rule"], g.factors["policy"],
			ratio(g, base, total), worstRatio(g, base, total), ratio(g, base, pages),
		})
	})
	return t
}

// eachAgainstOff pairs every group with the group that differs from it only in not being guided.
func eachAgainstOff(groups []group, f func(g, base group)) {
	for _, g := range groups {
		if g.is("policy", off.name) {
			continue
		}
		same := map[string]string{}
		for k, v := range g.factors {
			same[k] = v
		}
		same["policy"] = off.name
		if base, ok := find(groups, same); ok {
			f(g, base)
		}
	}
}

func meanRatio(a, b group, m metric) string  { return ratioBy(stats.Mean, a, b, m) }
func worstRatio(a, b group, m metric) string { return ratioBy(stats.Max, a, b, m) }

// figuresByRule shows the distributions of a metric, one figure per rule.
func figuresByRule(groups []group, name string, m metric) []NamedFigure {
	var figures []NamedFigure
	for _, rule := range ruleLevels.values {
		var samples []figure.Sample
		for _, g := range groups {
			if g.is("rule", rule) {
				samples = append(samples, figure.Sample{
					Group: g.factors["program"], Label: g.factors["policy"],
					Colour: g.factors["policy"], Values: g.values(m),
				})
			}
		}
		if len(samples) == 0 {
			continue
		}
		figures = append(figures, NamedFigure{
			name + "-" + rule, capital(m.name) + " by program and policy under rule " + rule +
				", every trial a point.",
			figure.Strip(capital(m.name)+" under rule "+rule, m.name+" in ms", samples),
		})
	}
	return figures
}

// offsetFigures shows the pages of the stop-and-copy over the cycle, in one figure for each
// program.
func offsetFigures(at Setting, groups []group) []NamedFigure {
	var figures []NamedFigure
	busy, cool := cycleOf(at.Size)
	shaded := []figure.Span{{From: 0, To: float64(busy) / float64(busy+cool), Label: "busy"}}
	for _, prog := range at.programLevels().values {
		var clouds []figure.Cloud
		for _, g := range groups {
			if !g.is("program", prog) {
				continue
			}
			c := figure.Cloud{
				Label: g.factors["policy"] + ", " + g.factors["rule"], Colour: g.factors["policy"],
				Hollow: g.is("rule", string(migration.RuleDowntime)),
			}
			for _, r := range g.results {
				c.Points = append(c.Points,
					figure.Point{X: r.Spec.Offset, Y: float64(r.Report.PagesStopCopy)})
			}
			clouds = append(clouds, c)
		}
		if len(clouds) == 0 {
			continue
		}
		figures = append(figures, NamedFigure{
			"offset-" + prog,
			fmt.Sprintf("Pages that %s had to wait for in the stop-and-copy, by the point of its "+
				"cycle at which the migration was asked for.", prog),
			figure.Scatter(prog+": pages in stop-and-copy",
				"point of the cycle at which the migration was asked for (cycles)", "pages (4 KiB)",
				shaded, clouds),
		})
	}
	return figures
}

// serviceSection is about programs that serve requests.
func serviceSection(groups []group) Section {
	var serving []group
	for _, g := range groups {
		if len(g.values(p999)) > 0 {
			serving = append(serving, g)
		}
	}
	s := Section{
		Title: "What users of the service notice",
		Text: []string{
			"kv answers requests that arrive on a schedule, and a request that arrives while the " +
				"guest stands still waits. The percentiles are those of the worst second around " +
				"the move, beside the worst second before it: what a request had to wait for " +
				"anyway.",
		},
	}
	if len(serving) == 0 {
		s.Text = []string{"No program of this run serves requests."}
		return s
	}
	s.Figures = []NamedFigure{{
		"latency",
		"Longest latency of a request in the worst second around the move, every trial a point; " +
			"the time before is what it would have been anyway.",
		figure.Strip("Longest latency of kv's requests around the move", "latency in ms",
			latencySamples(serving)),
	}}
	s.Tables = []Table{
		tableOf("Latency of kv's requests; medians over the trials, with 95 % intervals",
			serving, []string{"program", "rule", "policy"}, p999Calm, worstCalm, p99, p999, worst),
	}
	return s
}

func latencySamples(groups []group) []figure.Sample {
	var samples []figure.Sample
	for _, g := range groups {
		name := "rule " + g.factors["rule"]
		if g.is("policy", off.name) {
			samples = append(samples,
				figure.Sample{Group: name, Label: "before any move", Values: g.values(worstCalm)})
		}
		samples = append(samples, figure.Sample{
			Group: name, Label: g.factors["policy"], Colour: g.factors["policy"],
			Values: g.values(worst),
		})
	}
	return samples
}

// timelineSection shows one migration of each policy: the one whose downtime is nearest to the
// median of all.
func timelineSection(results []trial.Result, policies []string) Section {
	s := Section{
		Title: "One migration, step by step",
		Text: []string{
			"Of each policy the migration whose downtime is nearest to the median of those that " +
				"its caption counts. How many pages became dirty in a second is the engine's " +
				"measurement, one a round, and is not known between rounds; what was sent is " +
				"known after each round and ten times a second.",
		},
	}
	for _, p := range policies {
		of := filter(valid(results),
			func(r trial.Result) bool { return r.Spec.Factors["policy"] == p && len(r.Marks) > 0 })
		if len(of) == 0 {
			continue
		}
		r, median := nearestToMedian(of)
		s.Figures = append(s.Figures, NamedFigure{
			"timeline-" + fileName(p),
			fmt.Sprintf("%s: downtime %s, where the median of %d is %s; total time %s.", r.Spec.ID,
				downtime.write(r.Report.DowntimeMS), len(of), downtime.write(median),
				total.write(r.Report.TotalMS)),
			figure.Timeline("Policy "+p+": "+r.Spec.ID, r),
		})
	}
	return s
}

// prefer keeps only the results whose factor has that value, if there are any.
func prefer(results []trial.Result, factor, value string) []trial.Result {
	if of := filter(valid(results), func(r trial.Result) bool {
		return r.Spec.Factors[factor] == value
	}); len(of) > 0 {
		return of
	}
	return results
}

// nearestToMedian returns the trial whose downtime is nearest to the median, and the median.
func nearestToMedian(results []trial.Result) (trial.Result, float64) {
	var v []float64
	for _, r := range results {
		v = append(v, r.Report.DowntimeMS)
	}
	median, best := stats.Median(v), results[0]
	for _, r := range results {
		if abs(r.Report.DowntimeMS-median) < abs(best.Report.DowntimeMS-median) {
			best = r
		}
	}
	return best, median
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func abs(v float64) float64 { return max(v, -v) }
