package bench

import (
	"fmt"
	"time"

	"taskguide/bench/figure"
	"taskguide/bench/trial"
	"taskguide/control/units"
	"taskguide/migration"
)

// stopCopyWire is what the last round sends, with what the migration itself says.
var stopCopyWire = metric{
	"bytes in stop-and-copy", "bytes_stopcopy",
	func(v float64) string { return units.Bytes(int64(v)) },
	func(r trial.Result) (float64, bool) {
		n := len(r.Report.Rounds)
		if n == 0 || r.Report.Rounds[n-1].Phase != migration.PhaseStopCopy {
			return 0, false
		}
		return float64(r.Report.Rounds[n-1].BytesWire), true
	},
}

var notSent = metric{"declared, not sent", "pages_declared", count,
	ofMoves(func(r trial.Result) float64 { return float64(r.Report.PagesNotSent.Declared) })}

// declaredLevels says whether the guest declares its garbage. The first is what it is compared
// with.
var declaredLevels = levels{"garbage", []string{"sent", "declared"}}

func declared() Experiment {
	return Experiment{
		Name: "declared", Title: "What it gains to declare memory that is not worth moving",
		Summary: "a heap that is four fifths garbage, with the garbage declared and not",
		Source:  "JAVMM (EuroSys 2015), which leaves out the garbage of Java's heap",
		Blocks:  declaredBlocks, Report: declaredReport, Budget: 30 * time.Minute,
		Base: against(declaredLevels.factor, "sent"),
	}
}

func declaredBlocks(at Setting) [][]trial.Spec {
	heap, memory := "1G", int64(1152<<20)
	if at.Size == Quick {
		heap, memory = "192M", 256<<20
	}
	var all []trial.Spec
	for i, name := range declaredLevels.values {
		all = append(all, trial.Spec{
			ID:      "heap/" + name,
			Factors: map[string]string{declaredLevels.factor: name},
			Guest: trial.Guest{
				Program: fmt.Sprintf("workload=heap ws=%s live=20 fill=random declare=%d", heap, i),
				Busy:    time.Second, Tag: trial.TagNone, MemoryBytes: memory, CPUs: 1,
			},
			Params: migration.Params{
				Rule: migration.RuleXen, Guidance: migration.GuidanceOff, BitsPerSecond: at.rate(),
				Compress: migration.CompressNone,
			},
		})
	}
	return repeat(at.times(2, 10), all)
}

// declaredLimits are the greatest ratios of medians that declaring is to reach.
var declaredLimits = []struct {
	m      metric
	atMost float64
}{{stopCopyWire, 0.25}, {stopCopy, 0.10}}

func declaredReport(at Setting, results []trial.Result) Findings {
	groups := groupBy(results, declaredLevels)
	var f Findings
	limits := Table{
		Caption: "With garbage declared against the same without: ratio of medians over matched " +
			"trials, with its 95 % bootstrap interval, and the greatest that it may be",
		Head: []string{"figure", "sent", "declared", "ratio", "at most"},
	}
	sent, foundSent := find(groups, map[string]string{declaredLevels.factor: "sent"})
	left, foundLeft := find(groups, map[string]string{declaredLevels.factor: "declared"})
	if foundSent && foundLeft {
		for _, l := range declaredLimits {
			r := ratio(left, sent, l.m)
			limits.Rows = append(limits.Rows, []string{
				l.m.name, sent.median(l.m), left.median(l.m), r, fmt.Sprintf("%.2f", l.atMost),
			})
			f.Headlines = append(f.Headlines, fmt.Sprintf("Declared garbage leaves %s of the %s.",
				r, l.m.name))
		}
	}
	f.Lead = limits
	f.Sections = []Section{{
		Title: "A heap that is mostly garbage",
		Text: []string{
			"The guest allocates blocks of its heap all the time, at random places, and drops " +
				"them soon; a fifth of the heap lives on. It verifies each block when it drops " +
				"it. Both guests do the same, and only one declares what it has dropped. The " +
				"rule is Xen's, at " + at.rateName() + ".",
		},
		Figures: []NamedFigure{{
			"declared-downtime", "Downtime with the garbage sent and declared.",
			figure.Strip("Downtime", "ms", declaredSamples(groups)),
		}},
		Tables: []Table{tableOf("Medians with 95 % intervals", groups,
			[]string{declaredLevels.factor}, stopCopy, stopCopyWire, pages, wire, notSent, downtime,
			total, rounds)},
	}}
	return f
}

func declaredSamples(groups []group) []figure.Sample {
	var samples []figure.Sample
	for _, g := range groups {
		garbage := g.factors[declaredLevels.factor]
		samples = append(samples, figure.Sample{
			Label: garbage, Colour: garbage, Values: g.values(downtime),
		})
	}
	return samples
}
