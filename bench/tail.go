package bench

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"taskguide/bench/stats"
	"taskguide/bench/trial"
)

// tailFactor is by how much a simulated p99 may differ from a real one, either way.
const tailFactor = 1.5

// ErrNoTail is returned for a tail that is to be shown in a report without simulated moves.
var ErrNoTail = errors.New("only reports of policies show the simulator's tail")

// Tail says whether the simulator's tail agrees with that of many real moves.
type Tail struct {
	dir     string // and the revision that made it
	machine string // of its guests, as its flags are typed
	cells   []tailCell
	why     []string // why it cannot be trusted; nothing if it can
}

// tailCell is the p99 of the downtime, in ms, of a configuration of experiment moves.
type tailCell struct {
	name            string
	real, simulated float64
}

// TailFrom reads a run of experiment moves, whose guests were recorded, too.
func TailFrom(dir string) (*Tail, error) {
	run, results, err := Load(dir)
	if err != nil {
		return nil, err
	}
	if run.Experiment != moves().Name {
		return nil, fmt.Errorf("%s: a run of %s, not of %s", dir, run.Experiment, moves().Name)
	}
	results = latest(results)
	t := tailOf(run.setting(), results)
	t.machine = run.Factors.machineFlags()
	t.dir = fmt.Sprintf("%s (revision %s)", dir, run.Host.VMM) // readers compare it with theirs
	for _, b := range banners(run, results) {
		t.why = append(t.why, b.String())
	}
	return t, nil
}

// of is the tail in a report on guests of some machine. On another machine than its own it says
// nothing. t may be nil.
func (t *Tail) of(f Factors) *Tail {
	if t == nil || t.machine == f.machineFlags() {
		return t
	}
	other := *t
	other.why = append(slices.Clone(t.why), fmt.Sprintf("its guests are of another machine (%s) "+
		"than those of this report (%s)", machineText(t.machine), machineText(f.machineFlags())))
	return &other
}

// machineText is a guest's machine for people.
func machineText(flags string) string {
	return cmp.Or(strings.TrimSpace(flags), "the experiment's")
}

// tailOf compares the two tails, cell by cell.
func tailOf(at Setting, results []trial.Result) *Tail {
	t := &Tail{}
	simulated := standingsOf(results)
	groups := groupBy(results, movesLevels(at)...)
	if len(groups) < 2 {
		t.why = append(t.why, fmt.Sprintf("%d cells of real moves: two are needed", len(groups)))
	}
	for _, g := range groups {
		name := g.factors["policy"] + ", " + g.factors["guidance"]
		real, ok := stats.QuantileOf(gapsOf(g, func(m trial.Move) float64 {
			return m.DowntimeMS
		}), 0.99)
		if !ok {
			t.why = append(t.why, fmt.Sprintf("%s: %d real moves, and a p99 takes %d", name,
				real.N, stats.LeastForQuantile(0.99)))
			continue
		}
		s, ok := standingFor(simulated, g.factors)
		if !ok || s.DowntimeP99 == nil {
			t.why = append(t.why, fmt.Sprintf("%s: %d simulated moves, and a p99 takes %d", name,
				s.Moved, stats.LeastForQuantile(0.99)))
			continue
		}
		if s.Moved < s.Moves {
			t.why = append(t.why, fmt.Sprintf("%s: %d of %d simulated moves do not count: %s",
				name, s.Moves-s.Moved, s.Moves, s.Error))
		}
		c := tailCell{name, real.Value, s.DowntimeP99.Value}
		t.cells = append(t.cells, c)
		if !c.agrees() {
			t.why = append(t.why, fmt.Sprintf("%s: p99 of the downtime is %.1f ms, and simulated "+
				"%.1f ms", c.name, c.real, c.simulated))
		}
	}
	return t
}

// agrees tells whether the simulated p99 is within tailFactor of the real one, either way.
func (c tailCell) agrees() bool {
	return c.real > 0 && c.simulated <= tailFactor*c.real && c.real <= tailFactor*c.simulated
}

// trusted tells whether figures of the simulator's tail may be shown, and why or why not.
func (t *Tail) trusted() (bool, string) {
	switch {
	case t == nil:
		return false, "There are no columns p90 and p99: nobody named a run of experiment moves " +
			"to compare the simulator's tail with (vmm bench report DIR --tail-from MOVES)."
	case len(t.why) > 0:
		return false, fmt.Sprintf("There are no columns p90 and p99: the run of moves in %s does "+
			"not show that the simulator's tail can be trusted: %s.", t.dir,
			strings.Join(t.why, "; "))
	}
	var all []string
	for _, c := range t.cells {
		all = append(all, fmt.Sprintf("%s %.1f and %.1f ms", c.name, c.real, c.simulated))
	}
	return true, fmt.Sprintf("p90 and p99 are simulated. The p99 of the downtime of the real "+
		"moves in %s and of simulated ones agree within %.1f times: %s.", t.dir, tailFactor,
		strings.Join(all, "; "))
}

// standingFor finds a cell by the factors that it must have.
func standingFor(all []standing, factors map[string]string) (standing, bool) {
	for _, s := range all {
		same := true
		for k, v := range factors {
			same = same && s.Factors[k] == v
		}
		if same {
			return s, true
		}
	}
	return standing{}, false
}
