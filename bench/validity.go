package bench

import (
	"fmt"

	"taskguide/bench/figure"
	"taskguide/bench/trial"
	"taskguide/migration"
)

// tagLevels are how programs tag in experiment validity.
var tagLevels = levels{
	"tags",
	[]string{
		string(trial.TagNone),
		string(trial.TagCool),
		string(trial.TagBusy),
		string(trial.TagRandom),
	},
}

func validity() Experiment {
	return Experiment{
		Name: "validity", Title: "Is it the tags?",
		Summary: "the same programs with true tags, inverted ones, random ones, and none",
		Source:  "the thesis' section 4.3, with tags that are wrong on purpose",
		Blocks:  validityBlocks, Report: validityReport,
		Factors: append([]string{ByPrograms}, byMachine...),
		Base:    against("tags", string(trial.TagNone)),
	}
}

func validityBlocks(at Setting) [][]trial.Spec {
	var all []trial.Spec
	for _, prog := range at.programs() {
		for _, tags := range tagLevels.values {
			all = append(all, trial.Spec{
				ID:      fmt.Sprintf("%s/%s", prog.name, tags),
				Factors: map[string]string{"program": prog.name, "tags": tags},
				Guest:   guestOf(prog, at.Size, trial.Tag(tags)),
				Params:  switchover.params(migration.RuleXen, at),
			})
		}
	}
	return repeat(at.times(2, 8), all)
}

func validityReport(at Setting, results []trial.Result) Findings {
	groups := groupBy(results, at.programLevels(), tagLevels)
	var samples []figure.Sample
	for _, g := range groups {
		samples = append(samples, figure.Sample{
			Group: g.factors["program"], Label: describeTags(g.factors["tags"]),
			Colour: g.factors["tags"], Values: g.values(downtime),
		})
	}
	ratios, headlines := againstUntagged(at, append(pooled(results), groups...))
	return Findings{Headlines: headlines, Sections: []Section{{
		Title: "True tags against wrong ones",
		Text: []string{
			"The same program, the same order (rule xen, guidance switchover), the same " +
				"points of the cycle, by the tags where they tell the phases and else by the " +
				"clock: only the tags differ. If guidance works because of what they say, then " +
				"inverted tags, which mark the busy phases, must make it worse than none, and " +
				"random ones, which say nothing, must not make it better. If any tags helped, " +
				"the gain would come from something else, perhaps from the mere waiting.",
			"Where downtimes are either small or large, by luck, medians jump between the two; " +
				"means show how often each happens.",
		},
		Figures: []NamedFigure{{
			"tags-downtime",
			"Downtime by program and kind of tags, every trial a point.",
			figure.Strip("Downtime by kind of tags, rule xen", "downtime in ms", samples),
		}},
		Tables: []Table{ratios, tableOf("Medians with 95 % intervals", groups,
			[]string{"program", "tags"}, downtime, stopCopy, gap, total, waited, forced)},
	}}}
}

// againstUntagged compares each group with that of the same program without tags.
func againstUntagged(at Setting, groups []group) (ratios Table, headlines []string) {
	ratios = Table{
		Caption: "Downtime against that of the untagged program: below 1 is a gain",
		Head: []string{
			"program", "tags", "mean", "median", "worst", "pages in stop-and-copy, mean",
			"no shorter than untagged, in the same block",
		},
	}
	for _, g := range groups {
		g, base, ok := withUntagged(at, g, groups)
		if !ok {
			continue
		}
		program, tags := g.factors["program"], describeTags(g.factors["tags"])
		headlines = append(headlines, fmt.Sprintf(
			"%s with %s: mean downtime %s of what it is untagged.",
			program, tags, meanRatio(g, base, downtime),
		))
		longer, of := longerInBlock(g, base, downtime)
		ratios.Rows = append(ratios.Rows, []string{
			program, tags,
			meanRatio(g, base, downtime), ratio(g, base, downtime), worstRatio(g, base, downtime),
			meanRatio(g, base, stopCopy), fmt.Sprintf("%d of %d", longer, of),
		})
	}
	return ratios, headlines
}

// withUntagged returns a group of tagged trials and the group of the same program without tags,
// limited to the points of the cycle that both have. It returns false if there is nothing to
// compare.
func withUntagged(at Setting, g group, groups []group) (tagged, base group, ok bool) {
	none := string(trial.TagNone)
	base, ok = find(groups, map[string]string{"program": g.factors["program"], "tags": none})
	if !ok || g.is("tags", none) {
		return g, base, false
	}
	if g.is("program", allPrograms) {
		return matchedOverAll(g, base, at.programLevels().values)
	}
	tagged, base = matched(g, base)
	return tagged, base, len(tagged.results) > 0
}

// allPrograms is the name of all programs together.
const allPrograms = "all programs"

// pooled is the trials of all programs together. Only blocks with all of them may be compared
// (matchedOverAll).
func pooled(results []trial.Result) []group {
	groups := groupBy(results, tagLevels)
	for _, g := range groups {
		g.factors["program"] = allPrograms
	}
	return groups
}

// longerInBlock counts the blocks in which a trial of g has at least as much of the metric as that
// of base. A block has one moment and one set of data for all.
func longerInBlock(g, base group, m metric) (n, of int) {
	p := pairs(g, base, m)
	for _, v := range p {
		if v.A >= v.B {
			n++
		}
	}
	return n, len(p)
}

func describeTags(tags string) string {
	return map[string]string{
		"none": "untagged", "cool": "true tags", "busy": "inverted tags", "random": "random tags",
	}[tags]
}
