package bench

import (
	"fmt"
	"slices"
	"strings"

	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/migration"
	registry "taskguide/migration/policy"
)

// blindShadow is the policy that learns nothing as a shadow: it asks for samples of its own, which
// only a policy that leads gets.
const blindShadow = "cycle"

// shadowsOf are the other policies of a comparison, to be asked on the same rounds. Programs are
// left out, because they would take CPU time from what is measured.
func shadowsOf(policies []string, leads string) string {
	var all []string
	for _, p := range policies {
		c, err := registry.Parse(p)
		if err != nil || p == leads || c.Program() != "" || c.Name() == blindShadow ||
			len(all) == migration.MaxShadows {
			continue
		}
		all = append(all, p)
	}
	return strings.Join(all, ",")
}

// shadowed is what a shadow said over the trials of a cell.
type shadowed struct {
	policy  string
	trials  int
	never   int       // trials in which it would not have switched over by the end
	earlier []float64 // of the others: by how much earlier than the move did, in ms
}

// shadowedBy sums up the shadows of a cell, in the order of the first report.
func shadowedBy(results []trial.Result) []shadowed {
	var all []shadowed
	for _, r := range results {
		for _, s := range r.Report.Shadows {
			i := slices.IndexFunc(all, func(x shadowed) bool { return x.policy == s.Policy })
			if i < 0 {
				i = len(all)
				all = append(all, shadowed{policy: s.Policy})
			}
			all[i].add(r.Report, s)
		}
	}
	return all
}

// add counts a trial. Its switchover began a downtime before its end.
func (x *shadowed) add(r migration.Report, s migration.Shadow) {
	x.trials++
	began := r.TotalMS - r.DowntimeMS
	for _, d := range s.Decisions {
		if d.Action == registry.Switchover.String() {
			x.earlier = append(x.earlier, began-d.AtMS)
			return
		}
	}
	x.never++
}

// shadowSection says what the other policies would have done on the rounds of each cell. It is
// missing where no trial had shadows.
func (f factorial) shadowSection(pooled []group) []Section {
	t := Table{
		Caption: "Other policies on the rounds of each cell, over all programs: by how much " +
			"earlier each would have begun its switchover (less than 0 is later)",
		Head: []string{
			"cell", "shadow", "n", "no switchover", "earlier, median", "least", "most",
		},
	}
	for _, g := range pooled {
		for _, x := range shadowedBy(g.results) {
			row := []string{
				f.label(g.factors), x.policy, fmt.Sprint(x.trials), fmt.Sprint(x.never), "–", "–",
				"–",
			}
			if len(x.earlier) > 0 {
				for i, v := range []float64{
					stats.Median(x.earlier), slices.Min(x.earlier), slices.Max(x.earlier),
				} {
					row[4+i] = fmt.Sprintf("%.1f ms", v)
				}
			}
			t.Rows = append(t.Rows, row)
		}
	}
	if len(t.Rows) == 0 {
		return nil
	}
	return []Section{{
		Title: "What the others would have done",
		Text: []string{
			"In each trial the other policies were asked, too, as shadows, and not obeyed. They " +
				"saw the very same rounds, so no chance is between them. A shadow is not guided: " +
				"it says when its rule is content or gives up. “cycle” learns nothing as a " +
				"shadow and is left out, and so are programs.",
		},
		Tables: []Table{t},
	}}
}
