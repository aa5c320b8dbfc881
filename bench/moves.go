package bench

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"taskguide/bench/figure"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/control/units"
	"taskguide/migration"
	registry "taskguide/migration/policy"
)

// movesOfAGuest is how often a guest is moved before a fresh one takes its place.
const movesOfAGuest = 50

// movesFile has a line for each move.
const movesFile = "moves.csv"

// moves asks for the tail of the guest's gap. The trials of other experiments are too few for that.
func moves() Experiment {
	return Experiment{
		Name: "moves", Title: "The gap of many moves",
		Summary: "p50, p99 and the longest gap of 500 moves at random moments, guided and not",
		Source:  "what an operator promises is a tail, not a median",
		Blocks:  movesBlocks, Report: movesReport,
		Factors:      append([]string{ByPolicies, ByGuidance}, byMachine...),
		LoopbackOnly: true,
		Budget:       64 * time.Minute,
	}
}

// movesLevels are the policies and the guidance of a setting.
func movesLevels(at Setting) []levels {
	p, g := at.Factors.Policies, at.Factors.Guidance
	if len(p) == 0 {
		p = []string{registry.Default}
	}
	if len(g) == 0 {
		g = words([]migration.Guidance{migration.GuidanceOff, migration.GuidanceSwitchover})
	}
	return []levels{{"policy", p}, {"guidance", g}}
}

// movesGuest writes faster than the link sends while it is busy. Its cycle is short, so that guided
// moves do not wait for long and an hour is enough. Its working set is small, because it must be
// sent within a calm phase: else an unguided round never ends with few pages left, and a guided
// move ends with what the busy phase has left. Several tasks keep step for the same reason:
// out of step, they would never all be cool, and each guided move would wait until it is forced.
func movesGuest(at Setting) trial.Guest {
	g := guestOf(programs[len(programs)-1], Quick, trial.TagCool)
	g.Busy, g.Cool = time.Second, 500*time.Millisecond
	if at.Size == Quick {
		g.Busy /= 2
	}
	if at.Factors.CPUs > 1 {
		g.Program += " step=in"
	}
	return g
}

func movesBlocks(at Setting) [][]trial.Spec {
	each, l := movesOfAGuest, movesLevels(at)
	if at.Size == Quick {
		each = 6
	}
	var all []trial.Spec
	for _, p := range l[0].values {
		for _, g := range l[1].values {
			all = append(all, trial.Spec{
				ID:      fmt.Sprintf("%s/%s", p, g),
				Factors: map[string]string{"policy": p, "guidance": g},
				Guest:   movesGuest(at),
				Moves:   each,
				Params: migration.Params{
					Rule: migration.Rule(p), Guidance: migration.Guidance(g),
					// MaxDefer is the default, as in moves that the simulator was compared with.
					DowntimeLimit: limitOf(at.Size), BitsPerSecond: linkRate,
				},
			})
		}
	}
	recorded := contestSpec("recording", movesGuest(at), at.Size, all)
	return repeat(at.times(1, 10), append(all, recorded))
}

// gapsOf are the guest's gaps in all moves of a group.
func gapsOf(g group, of func(trial.Move) float64) (all []float64) {
	for _, r := range g.results {
		for _, m := range r.Moves {
			all = append(all, of(m))
		}
	}
	return all
}

func gapOfMove(m trial.Move) float64 { return m.GapMS }

// quantileText writes a quantile with its interval, or what it would take to have one.
func quantileText(values []float64, q float64) string {
	v, ok := stats.QuantileOf(values, q)
	if !ok {
		return fmt.Sprintf("none (n=%d, needs %d)", len(values), stats.LeastForQuantile(q))
	}
	return fmt.Sprintf("%s [%s, %s]", units.Milliseconds(v.Value),
		units.Milliseconds(v.CI.Low), units.Milliseconds(v.CI.High))
}

func movesReport(at Setting, results []trial.Result) Findings {
	groups := groupBy(results, movesLevels(at)...)
	var f Findings
	table := Table{
		Caption: "The guest's own gap in each move. Intervals of p50 and p99 are at 95 %, by " +
			"order statistics.",
		Head: []string{"policy", "guidance", "moves", "p50", "p99", "longest", "p50 before"},
	}
	var samples []figure.Sample
	for _, g := range groups {
		gaps := gapsOf(g, gapOfMove)
		before := gapsOf(g, func(m trial.Move) float64 { return m.GapBeforeMS })
		name := g.factors["policy"] + ", " + guidanceWords(g.factors["guidance"])
		f.Headlines = append(f.Headlines, fmt.Sprintf(
			"%s: the guest's gap in %d moves: p50 %s, p99 %s, longest %s.", name, len(gaps),
			quantileText(gaps, 0.5), quantileText(gaps, 0.99), longestText(gaps)))
		table.Rows = append(table.Rows, []string{
			g.factors["policy"], g.factors["guidance"], fmt.Sprint(len(gaps)),
			quantileText(gaps, 0.5), quantileText(gaps, 0.99), longestText(gaps),
			quantileText(before, 0.5),
		})
		samples = append(samples, figure.Sample{
			Label: name, Colour: g.factors["guidance"], Values: gaps,
		})
	}
	if len(groups) == 0 {
		return f
	}
	f.Sections = []Section{{
		Title: "The tail of the gap",
		Text: []string{
			fmt.Sprintf("A guest is moved back and forth %d times, each time at a random moment "+
				"of its cycle; then a fresh one takes its place. Its gap is the longest pause "+
				"between two of its steps in the seconds of the move, by its own clock. "+
				"Intervals take the moves as independent of each other.", at.movesEach()),
			fmt.Sprintf("A p99 takes %d moves: of fewer, even the longest gap lies below the "+
				"true p99 too often, so there is no figure.", stats.LeastForQuantile(0.99)),
		},
		Figures: []NamedFigure{{
			"moves-gap", "The guest's gap, a point for each move.",
			figure.Strip("The guest's gap", "gap in ms", samples),
		}},
		Tables: []Table{table},
	}}
	return f
}

// movesEach is how often each guest is moved.
func (at Setting) movesEach() int { return movesBlocks(at)[0][0].Moves }

func guidanceWords(guidance string) string {
	if guidance == string(migration.GuidanceOff) {
		return "unguided"
	}
	return "guided (" + guidance + ")"
}

func longestText(values []float64) string {
	if len(values) == 0 {
		return "–"
	}
	return units.Milliseconds(stats.Max(values))
}

// movesSummary is a configuration of many moves in numbers.
type movesSummary struct {
	Factors map[string]string `json:"factors"`
	Moves   int               `json:"moves"`
	// P50 and P99 are null if there are too few moves.
	P50     *stats.Quantile `json:"gap_ms_p50"`
	P99     *stats.Quantile `json:"gap_ms_p99"`
	Longest float64         `json:"gap_ms_max"`
}

// summarizeMoves returns the configurations that have many moves.
func summarizeMoves(results []trial.Result) (all []movesSummary) {
	for _, g := range configurations(results) {
		gaps := gapsOf(g, gapOfMove)
		if len(gaps) == 0 {
			continue
		}
		s := movesSummary{Factors: g.factors, Moves: len(gaps), Longest: stats.Max(gaps)}
		if q, ok := stats.QuantileOf(gaps, 0.5); ok {
			s.P50 = &q
		}
		if q, ok := stats.QuantileOf(gaps, 0.99); ok {
			s.P99 = &q
		}
		all = append(all, s)
	}
	return all
}

// writeMoves writes a line for each move of trials of many, if there is one.
func writeMoves(dir string, results []trial.Result) error {
	results = withoutContests(results)
	factors := factorNames(results)
	head := append([]string{"id", "move"}, factors...)
	rows := [][]string{append(head, "waited_ms", "gap_ms", "gap_before_ms", "downtime_ms",
		"total_ms", "pages_stopcopy", "unexplained_ms", "forced", "switchover_reason")}
	for _, r := range valid(results) {
		for i, m := range r.Moves {
			row := []string{r.Spec.ID, fmt.Sprint(i + 1)}
			for _, f := range factors {
				row = append(row, r.Spec.Factors[f])
			}
			rows = append(rows, append(row, decimal(m.WaitedMS), decimal(m.GapMS),
				decimal(m.GapBeforeMS), decimal(m.DowntimeMS), decimal(m.TotalMS),
				fmt.Sprint(m.Pages), decimal(m.UnexplainedMS), fmt.Sprint(m.Forced), m.Reason))
		}
	}
	if len(rows) == 1 {
		return nil
	}
	var b strings.Builder
	w := csv.NewWriter(&b)
	_ = w.WriteAll(rows) // to memory
	return os.WriteFile(filepath.Join(dir, movesFile), []byte(b.String()), 0o644)
}
