package bench

import (
	"fmt"
	"time"

	"taskguide/bench/figure"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/migration"
)

var interruptPolicies = []policy{off, start, suspend, switchover, notAtExit}

// interruptSetting describes the experiment at a size.
type interruptSetting struct {
	workingSet int64 // of each vCPU
	cpus       int
	busy       time.Duration
	lengths    []float64     // of segments, in multiples of need
	maxDefer   time.Duration // some of the policies would wait for ever
	rate       int64         // of the link, in bit/s
}

func interruptAt(at Setting) interruptSetting {
	cpus := max(1, at.Factors.CPUs)
	if at.Size == Quick {
		return interruptSetting{
			32 << 20, cpus, 500 * time.Millisecond, []float64{0.5, 2}, 5 * time.Second, at.rate(),
		}
	}
	return interruptSetting{
		64 << 20, cpus, time.Second, []float64{0.25, 0.5, 1, 2, 4}, 8 * time.Second, at.rate(),
	}
}

// written is how much all vCPUs rewrite. Each runs a task with a working set of its own.
func (s interruptSetting) written() int64 { return s.workingSet * int64(s.cpus) }

// need is how long the working sets take on the link. A migration within a segment takes at least
// that.
func (s interruptSetting) need() time.Duration {
	return time.Duration(float64(s.written()) * 8 / float64(s.rate) * float64(time.Second)).Round(
		time.Millisecond,
	)
}

// program is the guest's kernel command line. The guest would spread the phases of several tasks
// over the cycle, and then all of them are in a segment for less time than a segment lasts.
func (s interruptSetting) program() string {
	line := fmt.Sprintf("workload=phased ws=%dM hot=64K fill=random", s.workingSet>>20)
	if s.cpus > 1 {
		line += " step=in"
	}
	return line
}

// writtenText says what the guest rewrites.
func (s interruptSetting) writtenText() string {
	if s.cpus == 1 {
		return fmt.Sprintf("%d MiB", s.workingSet>>20)
	}
	return fmt.Sprintf("%d MiB, %d MiB on each of %d vCPUs at the same time,", s.written()>>20,
		s.workingSet>>20, s.cpus)
}

func lengthName(l float64) string { return fmt.Sprintf("%g×", l) }

func (s interruptSetting) levels() levels {
	l := levels{factor: "segment"}
	for _, v := range s.lengths {
		l.values = append(l.values, lengthName(v))
	}
	return l
}

func interrupt() Experiment {
	return Experiment{
		Name: "interrupt", Title: "When the program leaves its segment while it is moved",
		Summary: "segments from a quarter to four times of what a migration needs, under every " +
			"kind of guidance",
		Source: "the thesis' section 4.4, interrupted migrations",
		Blocks: interruptBlocks, Report: interruptReport, Base: against("policy", off.name),
		Factors: byMachine,
	}
}

func interruptBlocks(at Setting) [][]trial.Spec {
	s := interruptAt(at)
	var all []trial.Spec
	for _, l := range s.lengths {
		for _, p := range interruptPolicies {
			params := p.params(migration.RuleXen, at)
			params.MaxDefer = s.maxDefer
			all = append(all, trial.Spec{
				ID:      fmt.Sprintf("%s/%s", lengthName(l), p.name),
				Factors: map[string]string{"segment": lengthName(l), "policy": p.name},
				Guest: trial.Guest{
					Program: s.program(), Tag: trial.TagCool,
					Busy: s.busy, Cool: time.Duration(l * float64(s.need())),
					MemoryBytes: s.workingSet + 32<<20, CPUs: 1,
				},
				Params: params,
			})
		}
	}
	return repeat(at.times(3, 6), all)
}

func interruptReport(at Setting, results []trial.Result) Findings {
	s := interruptAt(at)
	groups := groupBy(results, s.levels(), levels{"policy", policyNames(interruptPolicies)})
	setting := fmt.Sprintf("The program rewrites %s in busy phases of %v, under rule xen at "+
		"%s. Sending its memory once takes %v: that is the unit of the segments' lengths here. "+
		"No policy may hold a migration back for more than %v in all, after which it is forced.",
		s.writtenText(), s.busy, at.rateName(), s.need(), s.maxDefer)
	f := Findings{Headlines: interruptHeadlines(groups)}
	f.Sections = []Section{
		{
			Title: "Downtime",
			Text: append([]string{
				setting,
				"With start, the migration begins in a segment, but if that ends too early, the " +
					"rest is luck. “No exit” does without the decision at the segment's very " +
					"end.",
			}, whereStopped(groups)...),
			Figures: []NamedFigure{{
				"interrupt-downtime", "Downtime by length of the segments and policy.",
				figure.Strip("Downtime", "downtime in ms", samplesOf(groups, downtime)),
			}},
			Tables: []Table{tableOf("Medians with 95 % intervals", groups,
				[]string{"segment", "policy"}, downtime, stopCopy, gap)},
		},
		{
			Title: "What it takes",
			Text: []string{
				"Suspending saves the pages that would be dirty again at once, and pays with " +
					"time: the link rests while the program is busy. Deferring only the " +
					"switchover sends all the time, and more.",
			},
			Figures: []NamedFigure{{
				"interrupt-total", "Total time by length of the segments and policy.",
				figure.Strip("Total time", "total time in ms", samplesOf(groups, total)),
			}},
			Tables: []Table{tableOf("Medians with 95 % intervals", groups,
				[]string{"segment", "policy"}, total, waited, suspended, stops, forced, pages,
				rounds)},
		},
		timelineSection(prefer(results, "segment", lengthName(0.5)),
			[]string{off.name, suspend.name, switchover.name}),
	}
	return f
}

func samplesOf(groups []group, m metric) []figure.Sample {
	var samples []figure.Sample
	for _, g := range groups {
		samples = append(samples, figure.Sample{
			Group: g.factors["segment"], Label: g.factors["policy"], Colour: g.factors["policy"],
			Values: g.values(m),
		})
	}
	return samples
}

// whereStopped says for each policy how many guests were stopped outside of a segment, and how many
// migrations waited for the longest permitted time.
func whereStopped(groups []group) []string {
	var lines []string
	for _, p := range interruptPolicies {
		n, told, outside, late := 0, 0, 0, 0
		for _, g := range groups {
			if !g.is("policy", p.name) {
				continue
			}
			for _, r := range g.results {
				n++
				if r.Report.Forced {
					late++
				}
				if r.Moved != nil {
					if told++; r.Moved.Inside == "0" {
						outside++
					}
				}
			}
		}
		if n > 0 {
			lines = append(lines, fmt.Sprintf("%s: of %d migrations %d were forced; "+
				"of %d guests that tell, %d were stopped outside of a segment.",
				capital(p.name), n, late, told, outside))
		}
	}
	return lines
}

// interruptHeadlines compares suspending with deferring only the switchover, at each length.
func interruptHeadlines(groups []group) []string {
	var lines []string
	for _, g := range groups {
		if !g.is("policy", suspend.name) {
			continue
		}
		l := g.factors["segment"]
		only, ok := find(groups, map[string]string{"segment": l, "policy": switchover.name})
		if ok {
			g, only = matched(g, only)
		}
		if len(g.results) == 0 || !ok {
			continue
		}
		line := fmt.Sprintf("Segments of %s: suspending sends %s of the pages that "+
			"deferring only the switchover sends, and takes %s of the time",
			l, ratio(g, only, pages), ratio(g, only, total))
		if base, ok := find(groups, map[string]string{"segment": l, "policy": off.name}); ok {
			_, base = matched(g, base)
			line += fmt.Sprintf("; median downtime %s and %s, against %s unguided",
				downtime.write(stats.Median(g.values(downtime))),
				downtime.write(stats.Median(only.values(downtime))),
				downtime.write(stats.Median(base.values(downtime))))
		}
		lines = append(lines, line+".")
	}
	return lines
}
