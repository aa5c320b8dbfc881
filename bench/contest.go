package bench

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"taskguide/bench/stats"
	"taskguide/bench/trial"
)

// momentsOf is from how many moments of each recording every cell is moved. Ten blocks of a full
// run make enough of them for a p99.
func momentsOf(size Size) int {
	if size == Quick {
		return 4
	}
	return 40
}

// contestSpec records a guest, and has the moves of trials simulated that are of the same guest.
func contestSpec(id string, g trial.Guest, size Size, trials []trial.Spec) trial.Spec {
	c := trial.Contest{Moments: momentsOf(size)}
	for _, s := range trials {
		s.Params.Shadow = "" // it changes no move
		c.Cells = append(c.Cells, trial.Cell{
			Factors: maps.Clone(s.Factors), Params: s.Params, RTT: s.RTT,
		})
	}
	return trial.Spec{
		ID: id, Factors: map[string]string{"recording": "simulated"}, Guest: g,
		Record: recordingOf(g), Contest: &c,
	}
}

// contests has a trial for each guest, which is a program with a tracker.
func (f factorial) contests(size Size) []trial.Spec {
	type guest struct{ program, tracker string }
	var order []guest
	trials := map[guest][]trial.Spec{}
	for _, s := range f.specs() {
		g := guest{s.Factors["program"], s.Factors["tracker"]}
		if s.QEMU != nil {
			continue
		}
		if trials[g] == nil {
			order = append(order, g)
		}
		trials[g] = append(trials[g], s)
	}
	var all []trial.Spec
	for _, g := range order {
		id := g.program + "/recording"
		if g.tracker != "" {
			id += "/" + g.tracker
		}
		all = append(all, contestSpec(id, trials[g][0].Guest, size, trials[g]))
	}
	return all
}

// withoutContests leaves out trials that moved nothing.
func withoutContests(results []trial.Result) []trial.Result {
	return filter(results, func(r trial.Result) bool { return r.Spec.Contest == nil })
}

// standing is a cell of the contests of all blocks, in numbers. Times are in ms.
type standing struct {
	Factors map[string]string `json:"factors"`
	Moves   int               `json:"moves"` // simulated
	Moved   int               `json:"moved"` // led by the policy to the end
	// Error says why the first of the others does not count.
	Error string `json:"error,omitempty"`
	// Quantiles of what moved; p90 and p99 are null where the moves are too few.
	DowntimeP50 float64         `json:"downtime_ms_p50"`
	DowntimeP90 *stats.Quantile `json:"downtime_ms_p90"`
	DowntimeP99 *stats.Quantile `json:"downtime_ms_p99"`
	TotalP50    float64         `json:"total_ms_p50"`
	// Judged is how many of what moved have an oracle's move beside them. Regret is of these: a
	// move's time minus the oracle's.
	Judged            int     `json:"judged"`
	RegretDowntimeP50 float64 `json:"regret_downtime_ms_p50"`
	RegretTotalP50    float64 `json:"regret_total_ms_p50"`
	// Extrapolated says why no comparison with real moves covers the cell; empty if one does.
	Extrapolated string `json:"extrapolated,omitempty"`
}

// standingsOf sums up the contests of results, cell by cell, in their order.
func standingsOf(results []trial.Result) []standing {
	var order []string
	cells := map[string][]trial.Standing{}
	for _, r := range valid(results) {
		for _, s := range r.Contest {
			key := fmt.Sprint(s.Factors)
			if cells[key] == nil {
				order = append(order, key)
			}
			cells[key] = append(cells[key], s)
		}
	}
	slices.Sort(order)
	var all []standing
	for _, key := range order {
		all = append(all, standingOf(cells[key]))
	}
	return all
}

// standingOf sums up one cell.
func standingOf(blocks []trial.Standing) standing {
	s := standing{Factors: blocks[0].Factors}
	var down, total, moreDown, moreTotal []float64
	for _, b := range blocks {
		if b.Extrapolated != "" {
			s.Extrapolated = b.Extrapolated
		}
		for _, m := range b.Moves {
			s.Moves++
			if m.Error != "" {
				s.Error = cmp.Or(s.Error, m.Error)
				continue
			}
			down, total = append(down, m.DowntimeMS), append(total, m.TotalMS)
			if !m.Judged() {
				continue
			}
			s.Judged++
			moreDown = append(moreDown, m.DowntimeMS-m.OracleDowntimeMS)
			moreTotal = append(moreTotal, m.TotalMS-m.OracleTotalMS)
		}
	}
	s.Moved = len(down)
	s.DowntimeP50, s.TotalP50 = stats.Median(down), stats.Median(total)
	s.RegretDowntimeP50, s.RegretTotalP50 = stats.Median(moreDown), stats.Median(moreTotal)
	if q, ok := stats.QuantileOf(down, 0.9); ok {
		s.DowntimeP90 = &q
	}
	if q, ok := stats.QuantileOf(down, 0.99); ok {
		s.DowntimeP99 = &q
	}
	return s
}
