package bench

import (
	"cmp"
	"errors"
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

// shadows are those policies of a comparison that are asked in the others' moves. Programs take CPU
// time from what is measured, so they are left out unless the user wants them. Then they come
// first: a move has room for migration.MaxShadows, and policies without a program can be had
// without a flag.
func (f Factors) shadows(policies []string) []string {
	var programs, others []string
	for _, p := range policies {
		c, err := registry.Parse(p)
		switch {
		case err != nil, c.Name() == blindShadow:
		case c.Program() == "":
			others = append(others, p)
		case f.ShadowPrograms:
			programs = append(programs, p)
		}
	}
	return slices.Concat(programs, others)
}

// shadowsOf are the shadows of a move, to be asked on the same rounds as the policy that leads it.
func shadowsOf(shadows []string, leads string) string {
	var all []string
	for _, p := range shadows {
		if p != leads && len(all) < migration.MaxShadows {
			all = append(all, p)
		}
	}
	return strings.Join(all, ",")
}

// isProgram tells whether a policy is a program.
func isProgram(text string) bool {
	c, err := registry.Parse(text)
	return err == nil && c.Program() != ""
}

// errNoShadowPrograms is of a comparison in which no program can be another policy's shadow.
var errNoShadowPrograms = errors.New("no effect: name a program, and another policy whose moves " +
	"it is to shadow, with --" + ByPolicies)

// checkShadowPrograms refuses to let programs shadow where none would, and programs that an order
// cannot name as shadows.
func (f Factors) checkShadowPrograms() error {
	if !f.ShadowPrograms {
		return nil
	}
	var programs []string
	for _, p := range f.Policies {
		if isProgram(p) {
			programs = append(programs, p)
		}
	}
	switch {
	case len(programs) == 0, len(f.Policies) < 2:
		return errNoShadowPrograms
	case len(programs) > migration.MaxShadows:
		return fmt.Errorf("%d programs: a move has at most %d shadows", len(programs),
			migration.MaxShadows)
	}
	for _, p := range programs {
		if strings.Contains(p, ",") {
			return fmt.Errorf("%q: commas separate shadows: use a path without one", p)
		}
	}
	return nil
}

// shadowed is what a shadow said over the trials of a cell.
type shadowed struct {
	policy  string
	trials  int
	never   int       // trials in which it would not have switched over by the end
	earlier []float64 // of the others: by how much earlier than the move did, in ms
	// unheard counts trials besides, in which its program failed, or gave no answer, before it
	// would have switched over: what it would have done is not known. why is of the first.
	unheard int
	why     string
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
	i := slices.IndexFunc(s.Decisions, func(d migration.Decision) bool {
		return d.Action == registry.Switchover.String()
	})
	switch {
	case i >= 0:
		began := r.TotalMS - r.DowntimeMS
		x.earlier = append(x.earlier, began-s.Decisions[i].AtMS)
	case s.Error != "", s.Asked == 0:
		x.unheard++
		x.why = cmp.Or(x.why, s.Error, "it gave no answer in time")
		return
	default:
		x.never++
	}
	x.trials++
}

// unheardText says of each shadow how many moves do not count for it.
func unheardText(pooled []group) []string {
	var results []trial.Result
	for _, g := range pooled {
		results = append(results, g.results...)
	}
	var lines []string
	for _, x := range shadowedBy(results) {
		if x.unheard > 0 {
			lines = append(lines, fmt.Sprintf("%s failed as a shadow in %d of %d moves, which do "+
				"not count for it: %s.", x.policy, x.unheard, x.unheard+x.trials, x.why))
		}
	}
	return lines
}

// programsText says whether programs were asked, too.
func (f factorial) programsText() string {
	if !slices.ContainsFunc(f.shadows, isProgram) {
		return "“cycle” learns nothing as a shadow and is left out, and so are programs."
	}
	return "“cycle” learns nothing as a shadow and is left out. Programs were asked, too: each " +
		"took CPU time in the moves of the others, as it did in its own."
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
		Text: append([]string{
			"In each trial the other policies were asked, too, as shadows, and not obeyed. They " +
				"saw the very same rounds, so no chance is between them. A shadow is not guided: " +
				"it says when its rule is content or gives up. " + f.programsText(),
		}, unheardText(pooled)...),
		Tables: []Table{t},
	}}
}
