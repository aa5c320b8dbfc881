package bench

import (
	"fmt"

	"taskguide/bench/figure"
	"taskguide/bench/trial"
	"taskguide/migration"
)

// tagLevels are how programs tag in experiment validity.
var tagLevels = levels{"tags", []string{string(trial.TagNone), string(trial.TagCool), string(trial.TagBusy), string(trial.TagRandom)}}

func validity() Experiment {
	return Experiment{
		Name: "validity", Title: "Is it the tags?",
		Summary: "the same programs with true tags, inverted ones, random ones, and none",
		Source:  "the thesis' section 4.3, with tags that are wrong on purpose",
		Blocks:  validityBlocks, Report: validityReport,
	}
}

func validityBlocks(at Setting) [][]trial.Spec {
	var all []trial.Spec
	for _, prog := range programs {
		for _, tags := range tagLevels.values {
			all = append(all, trial.Spec{
				ID:      fmt.Sprintf("%s/%s", prog.name, tags),
				Factors: map[string]string{"program": prog.name, "tags": tags},
				Guest:   guestOf(prog, at.Size, trial.Tag(tags)),
				Params:  switchover.params(migration.RuleXen, at),
			})
		}
	}
	return repeat(map[Size]int{Quick: 2, Full: 8}[at.Size], all)
}

func validityReport(_ Setting, results []trial.Result) Findings {
	groups := groupBy(results, programLevels(), tagLevels)
	f := Findings{}
	ratios := Table{
		Caption: "Downtime against that of the untagged program: below 1 is a gain",
		Head:    []string{"program", "tags", "mean", "median", "worst", "pages in stop-and-copy, mean", "no shorter than untagged, in the same block"},
	}
	var samples []figure.Sample
	for _, g := range groups {
		samples = append(samples, figure.Sample{
			Group: g.factors["program"], Label: describeTags(g.factors["tags"]), Colour: g.factors["tags"], Values: g.values(downtime),
		})
	}
	compared := append(pooled(results), groups...)
	for _, g := range compared {
		tags := describeTags(g.factors["tags"])
		base, ok := find(compared, map[string]string{"program": g.factors["program"], "tags": string(trial.TagNone)})
		if !ok || g.is("tags", string(trial.TagNone)) {
			continue
		}
		f.Headlines = append(f.Headlines, fmt.Sprintf("%s with %s: mean downtime %s of what it is untagged.", g.factors["program"], tags, meanRatio(g, base, downtime)))
		longer, of := longerInBlock(g, base, downtime)
		ratios.Rows = append(ratios.Rows, []string{
			g.factors["program"], tags, meanRatio(g, base, downtime), ratio(g.values(downtime), base.values(downtime)), worstRatio(g, base, downtime),
			meanRatio(g, base, stopCopy), fmt.Sprintf("%d of %d", longer, of),
		})
	}
	f.Sections = []Section{{
		Title: "True tags against wrong ones",
		Text: []string{
			"The same program, the same order (rule xen, guidance switchover), the same points of the cycle, by the tags where they tell the phases and else by the clock: only the tags differ. If guidance works because of what they say, then inverted tags, which mark the busy phases, " +
				"must make it worse than none, and random ones, which say nothing, must not make it better. If any tags helped, the gain would come from something else, such as the mere waiting.",
			"These downtimes are either of a few milliseconds or of hundreds, by luck, so that medians jump between the two; means show how often each happens.",
		},
		Figures: []NamedFigure{{"tags-downtime", "Downtime by program and kind of tags, every trial a point.", figure.Strip("Downtime by kind of tags, rule xen", "downtime in ms", samples)}},
		Tables:  []Table{ratios, tableOf("Medians with 95 % bootstrap intervals", groups, []string{"program", "tags"}, downtime, stopCopy, gap, total, waited, forced)},
	}}
	return f
}

// allPrograms is what the programs together are called.
const allPrograms = "all programs"

// pooled is the trials of all programs together, which have as many each.
func pooled(results []trial.Result) []group {
	groups := groupBy(results, tagLevels)
	for _, g := range groups {
		g.factors["program"] = allPrograms
	}
	return groups
}

// longerInBlock counts in how many blocks, which have one moment and one set of data for all, a trial of g has no less of
// the metric than that of base.
func longerInBlock(g, base group, m metric) (n, of int) {
	key := func(r trial.Result) string { return fmt.Sprint(r.Spec.Factors["program"], r.Spec.Offset) }
	other := map[string]trial.Result{}
	for _, r := range base.results {
		other[key(r)] = r
	}
	for _, r := range g.results {
		b, ok := other[key(r)]
		x, okX := m.of(r)
		y, okY := m.of(b)
		if !ok || !okX || !okY {
			continue
		}
		if of++; x >= y {
			n++
		}
	}
	return n, of
}

func describeTags(tags string) string {
	return map[string]string{"none": "untagged", "cool": "true tags", "busy": "inverted tags", "random": "random tags"}[tags]
}
