package bench

import (
	"fmt"
	"time"

	"taskguide/bench/figure"
	"taskguide/bench/trial"
	"taskguide/migration"
)

var sweepPolicies = []policy{off, switchover}

// sweepBase is the configuration that is varied in one respect at a time.
type sweepBase struct {
	workingSetMiB, memoryMiB int64
	hotKiB                   int64
	bitsPerSecond            int64
	busy, cool               time.Duration
}

// shortCycle is a cycle in which no switchover fits into a segment.
const shortCycle = 100 * time.Millisecond

// sweepAxis is a parameter that is varied.
type sweepAxis struct {
	name   string
	values []string
	set    func(b *sweepBase, i int)
}

func sweepAxes(at Setting) []sweepAxis {
	axes := []sweepAxis{
		{
			"working set", []string{"16 MiB", "32 MiB", "64 MiB", "128 MiB"},
			func(b *sweepBase, i int) { b.workingSetMiB = 16 << i },
		},
		{
			"written while cool", []string{"0", "1 MiB", "8 MiB", "32 MiB"},
			func(b *sweepBase, i int) { b.hotKiB = []int64{0, 1 << 10, 8 << 10, 32 << 10}[i] },
		},
		{"share of time busy", []string{"2 %", "5 %", "10 %", "20 %"}, func(b *sweepBase, i int) {
			share := []time.Duration{2, 5, 10, 20}[i]
			b.busy, b.cool = share*time.Millisecond/5, (100-share)*time.Millisecond/5
		}},
		{
			"bandwidth", []string{"0.5 Gbit/s", "1 Gbit/s", "2.5 Gbit/s", "5 Gbit/s"},
			func(b *sweepBase, i int) { b.bitsPerSecond = []int64{5e8, 1e9, 25e8, 5e9}[i] },
		},
		{"RAM", []string{"192 MiB", "384 MiB", "768 MiB", "1.5 GiB"}, func(b *sweepBase, i int) {
			b.memoryMiB = 192 << i
		}},
	}
	if at.Size == Quick { // only the ends
		for i := range axes {
			a := &axes[i]
			set := a.set
			a.values = []string{a.values[0], a.values[2]}
			a.set = func(b *sweepBase, i int) { set(b, 2*i) }
		}
	}
	return axes
}

func sweep() Experiment {
	return Experiment{
		Name: "sweep", Title: "What the gain depends on",
		Summary: "working set, rate of writing, bandwidth and RAM, varied one at a time",
		Source:  "the parameters that the thesis' section 4.2 names",
		Blocks:  sweepBlocks, Report: sweepReport, LoopbackOnly: true,
		Base: against("policy", off.name),
	}
}

func sweepBlocks(at Setting) [][]trial.Spec {
	var all []trial.Spec
	for _, axis := range sweepAxes(at) {
		for i, value := range axis.values {
			b := sweepBase{
				workingSetMiB: 32, memoryMiB: 192, hotKiB: 1 << 10, bitsPerSecond: linkRate,
				busy: 3 * time.Second, cool: time.Second,
			}
			axis.set(&b, i)
			for _, p := range sweepPolicies {
				if b.busy+b.cool < shortCycle && p.name != off.name {
					continue // there are no tags to guide by
				}
				all = append(all, b.spec(axis.name, value, p))
			}
		}
	}
	return repeat(at.times(1, 6), all)
}

func (b sweepBase) spec(axis, value string, p policy) trial.Spec {
	// The downtime rule would wait for ever if the rest never fits its limit.
	params := p.params(migration.RuleXen, Setting{})
	params.BitsPerSecond, params.MaxDefer = b.bitsPerSecond, 5*time.Second
	// If a guest's cycle is shorter than a switchover, it has nothing to tag.
	tag := trial.TagCool
	if b.busy+b.cool < shortCycle {
		tag = trial.TagNone
	}
	return trial.Spec{
		ID:      fmt.Sprintf("%s/%s/%s", axis, value, p.name),
		Factors: map[string]string{"axis": axis, "value": value, "policy": p.name},
		Guest: trial.Guest{
			Program: fmt.Sprintf("workload=phased ws=%dM hot=%dK fill=random", b.workingSetMiB,
				b.hotKiB),
			Busy: b.busy, Cool: b.cool, Tag: tag, MemoryBytes: b.memoryMiB << 20, CPUs: 1,
		},
		Params: params,
	}
}

func sweepReport(at Setting, results []trial.Result) Findings {
	var f Findings
	for _, axis := range sweepAxes(at) {
		groups := groupBy(results, levels{"axis", []string{axis.name}},
			levels{"value", axis.values}, levels{"policy", policyNames(sweepPolicies)})
		if len(groups) == 0 {
			continue
		}
		var down, time []figure.Sample
		for _, g := range groups {
			s := figure.Sample{
				Group: g.factors["value"], Label: g.factors["policy"], Colour: g.factors["policy"],
			}
			s.Values = g.values(downtime)
			down = append(down, s)
			s.Values = g.values(total)
			time = append(time, s)
		}
		name := fileName(axis.name)
		f.Sections = append(f.Sections, Section{
			Title: "By " + axis.name,
			Figures: []NamedFigure{
				{
					"downtime-" + name, "Downtime by " + axis.name + ".",
					figure.Strip("Downtime by "+axis.name, "downtime in ms", down),
				},
				{
					"total-" + name, "Total time by " + axis.name + ".",
					figure.Strip("Total time by "+axis.name, "total time in ms", time),
				},
			},
			Tables: []Table{tableOf("Medians with 95 % intervals", groups,
				[]string{"value", "policy"}, downtime, stopCopy, gap, total, pages, rounds)},
		})
		f.Headlines = append(f.Headlines, sweepHeadline(axis, groups)...)
	}
	if len(f.Sections) > 0 {
		f.Sections[0].Text = []string{
			"Where nothing else is said, the program rewrites 32 MiB of a RAM of 192 MiB " +
				"for 3 s, then 1 MiB for 1 s, and is moved at 1 Gbit/s under rule xen; after 5 s " +
				"held back it is forced. The share of time that it is busy is varied within " +
				"cycles of 20 ms, which no guidance can use: that varies the mere rate of writing.",
		}
	}
	return f
}

// sweepHeadline says what guidance gains at both ends of an axis.
func sweepHeadline(axis sweepAxis, groups []group) []string {
	var parts []string
	for _, v := range []string{axis.values[0], axis.values[len(axis.values)-1]} {
		guided, ok := find(groups, map[string]string{"value": v, "policy": switchover.name})
		base, okBase := find(groups, map[string]string{"value": v, "policy": off.name})
		if ok && okBase {
			parts = append(parts, fmt.Sprintf("%s at %s", meanRatio(guided, base, downtime), v))
		}
	}
	if len(parts) < 2 {
		return nil
	}
	return []string{fmt.Sprintf("By %s, the mean guided downtime is %s and %s of the unguided one.",
		axis.name, parts[0], parts[1])}
}
