package bench

import (
	"fmt"
	"slices"
	"strings"

	"taskguide/bench/sim"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
)

// leastOfCell is how many real moves a cell should have.
const leastOfCell = 10

// regret is a section on what each policy cost beyond the oracle, simulated, beside the real moves
// of the same cell. It is missing where no guest was recorded.
func (f factorial) regret(at Setting, groups []group, results []trial.Result) []Section {
	simulated := standingsOf(results)
	if len(simulated) == 0 {
		return nil
	}
	tail, whyTail := at.Tail.trusted()
	return []Section{{
		Title: "Regret against the oracle",
		Text: append([]string{
			"In each block every program was recorded, and the moves of each cell were simulated " +
				"from random moments of the recording. Regret is a simulated move's downtime, " +
				"and its total time, minus that of the oracle's move from the same moment. It " +
				"is negative where the oracle waits for a better moment, or where guidance " +
				"ends a round early. " + sharedProcessors,
			validityText(simulated), cellText(groups), whyTail,
		}, f.uncounted(simulated)...),
		Tables: []Table{f.realTable(groups), f.regretTable(groups, simulated, tail)},
	}}
}

// validityText says which figures no comparison with real moves covers.
func validityText(all []standing) string {
	var reasons []string
	for _, s := range all {
		if s.Extrapolated != "" && !slices.Contains(reasons, s.Extrapolated) {
			reasons = append(reasons, s.Extrapolated)
		}
	}
	if len(reasons) == 0 {
		var covered []string
		for _, v := range sim.Validations {
			covered = append(covered, v.String())
		}
		return "Compared with real moves, apart from regret, because none does what the oracle " +
			"does: " + strings.Join(covered, " ")
	}
	return "Simulated figures with * are extrapolated: " + strings.Join(reasons, "; ") + "."
}

// uncounted says, cell by cell, which simulated moves have no figures, and which no regret.
func (f factorial) uncounted(all []standing) []string {
	var text []string
	for _, s := range all {
		name := s.Factors["program"] + ", " + f.label(s.Factors)
		if s.Moved < s.Moves {
			text = append(text, fmt.Sprintf("%s: %d of %d simulated moves do not count, the first "+
				"because: %s.", name, s.Moves-s.Moved, s.Moves, s.Error))
		}
		if s.Judged < s.Moved {
			text = append(text, fmt.Sprintf("%s: regret leaves out %d of %d moves, beside which "+
				"the oracle has none.", name, s.Moved-s.Judged, s.Moved))
		}
	}
	return text
}

// cellText says how many real moves the cells have.
func cellText(groups []group) string {
	if len(groups) == 0 {
		return "No real move has a result."
	}
	least, most := len(groups[0].results), 0
	for _, g := range groups {
		least, most = min(least, len(g.results)), max(most, len(g.results))
	}
	text := fmt.Sprintf("Each cell has %d real moves.", least)
	if most > least {
		text = fmt.Sprintf("Each cell has %d to %d real moves.", least, most)
	}
	if least < leastOfCell {
		text += fmt.Sprintf(" Fewer than %d are not to be quoted.", leastOfCell)
	}
	return text
}

// realTable has p50 and maximum of the real moves of each cell.
func (f factorial) realTable(groups []group) Table {
	t := Table{
		Caption: "Real moves of each cell",
		Head: []string{
			"program", "cell", "n", "downtime p50", "downtime max", "total p50", "total max",
		},
	}
	for _, g := range groups {
		down, whole := g.values(downtime), g.values(total)
		t.Rows = append(t.Rows, []string{
			g.factors["program"], f.label(g.factors), fmt.Sprint(len(g.results)),
			downtime.write(stats.Median(down)), downtime.write(stats.Max(down)),
			total.write(stats.Median(whole)), total.write(stats.Max(whole)),
		})
	}
	return t
}

// regretTable has the medians of the simulated moves of each cell, and their tail if it may be
// shown.
func (f factorial) regretTable(groups []group, all []standing, tail bool) Table {
	t := Table{
		Caption: "Simulated moves of each cell, medians in ms unless the column says another " +
			"quantile",
		Head: []string{
			"program", "cell", "n", "downtime", "regret", "total", "regret total",
		},
	}
	if tail {
		t.Head = append(t.Head, "downtime p90", "downtime p99")
	}
	for _, g := range groups {
		s, ok := standingFor(all, g.factors)
		if !ok {
			continue
		}
		t.Rows = append(t.Rows, append([]string{g.factors["program"], f.label(g.factors)},
			s.cells(tail)...))
	}
	return t
}

// cells are a row's figures. A cell without a move has none.
func (s standing) cells(tail bool) []string {
	star := ""
	if s.Extrapolated != "" {
		star = " *"
	}
	figure := func(of int, ms float64, star string) string {
		if of == 0 {
			return "–"
		}
		return fmt.Sprintf("%.1f%s", ms, star)
	}
	const always = " *" // no real move does what the oracle does
	n := fmt.Sprint(s.Moved)
	if s.Moved < s.Moves {
		n = fmt.Sprintf("%d of %d", s.Moved, s.Moves)
	}
	row := []string{
		n, figure(s.Moved, s.DowntimeP50, star), figure(s.Judged, s.RegretDowntimeP50, always),
		figure(s.Moved, s.TotalP50, star), figure(s.Judged, s.RegretTotalP50, always),
	}
	if !tail {
		return row
	}
	for _, q := range []*stats.Quantile{s.DowntimeP90, s.DowntimeP99} {
		if q == nil {
			row = append(row, "–")
			continue
		}
		row = append(row, fmt.Sprintf("%.1f [%.1f, %.1f]%s", q.Value, q.CI.Low, q.CI.High, star))
	}
	return row
}
