package bench

import (
	"fmt"

	"taskguide/bench/figure"
	"taskguide/bench/trial"
	"taskguide/migration"
)

// tagLevels are how programs tag in experiment validity; untagged is a migration that takes no notice.
var tagLevels = levels{"tags", []string{"untagged", string(trial.TagCool), string(trial.TagBusy), string(trial.TagRandom)}}

func validity() Experiment {
	return Experiment{
		Name: "validity", Title: "Is it the tags?",
		Summary: "the same programs with true tags, inverted ones, random ones, and none",
		Source:  "the thesis' section 4.3, with tags that are wrong on purpose",
		Blocks:  validityBlocks, Report: validityReport,
	}
}

func validityBlocks(size Size) [][]trial.Spec {
	var all []trial.Spec
	for _, prog := range programs {
		for _, tags := range tagLevels.values {
			tag, p := trial.Tag(tags), switchover
			if tags == "untagged" {
				tag, p = trial.TagCool, off
			}
			all = append(all, trial.Spec{
				ID:      fmt.Sprintf("%s/%s", prog.name, tags),
				Factors: map[string]string{"program": prog.name, "tags": tags},
				Guest:   guestOf(prog, size, tag),
				Params:  p.params(migration.RuleDowntime),
			})
		}
	}
	return repeat(map[Size]int{Quick: 3, Full: 10}[size], all)
}

func validityReport(_ Size, results []trial.Result) Findings {
	groups := groupBy(results, programLevels(), tagLevels)
	f := Findings{}
	ratios := Table{Caption: "Downtime against that of the untagged program: below 1 is a gain", Head: []string{"program", "tags", "median", "worst", "pages in stop-and-copy"}}
	var samples []figure.Sample
	for _, g := range groups {
		samples = append(samples, figure.Sample{Group: g.factors["program"], Label: describeTags(g.factors["tags"]), Colour: g.factors["tags"], Values: g.values(downtime)})
		base, ok := find(groups, map[string]string{"program": g.factors["program"], "tags": "untagged"})
		if !ok || g.is("tags", "untagged") {
			continue
		}
		r := ratio(g.values(downtime), base.values(downtime))
		f.Headlines = append(f.Headlines, fmt.Sprintf("%s with %s: downtime %s of what it is untagged.", g.factors["program"], describeTags(g.factors["tags"]), r))
		ratios.Rows = append(ratios.Rows, []string{g.factors["program"], g.factors["tags"], r, worstRatio(g, base, downtime), ratio(g.values(stopCopy), base.values(stopCopy))})
	}
	f.Sections = []Section{{
		Title: "True tags against wrong ones",
		Text: []string{
			"If guidance works because of what the tags say, then inverted tags, which mark the busy phases, must make it worse, and random ones, which say nothing, must not help. " +
				"If any tags helped, the gain would come from something else, such as the mere waiting.",
		},
		Figures: []NamedFigure{{"tags-downtime", "Downtime by program and kind of tags, rule downtime, every trial a point.", figure.Strip("Downtime by kind of tags", "downtime in ms", samples)}},
		Tables:  []Table{ratios, tableOf("Medians with 95 % bootstrap intervals", groups, []string{"program", "tags"}, downtime, stopCopy, gap, total, waited)},
	}}
	return f
}

func describeTags(tags string) string {
	return map[string]string{"untagged": "untagged", "cool": "true tags", "busy": "inverted tags", "random": "random tags"}[tags]
}
