package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"taskguide/migration/policy"
)

// Entrant is a policy with its guidance in a comparison.
type Entrant struct {
	Order
	// Knows makes it the oracle, which takes only the traits from its policy.
	Knows bool
}

// Name is the entrant's policy in words.
func (e Entrant) Name() string {
	if e.Knows {
		return Oracle
	}
	return e.Policy.String()
}

// GuidanceName is its guidance in words.
func (e Entrant) GuidanceName() string {
	if e.Knows {
		return string(policy.GuidanceOff)
	}
	return string(e.Guidance)
}

// Paired is a simulated move, and the oracle's on the same trace from the same moment.
type Paired struct {
	Move   Move `json:"move"`
	Oracle Move `json:"oracle"`
}

// judged tells whether the oracle moved the guest, too, so that there is something to compare with.
func (p Paired) judged() bool {
	return p.Move.Moved() && p.Oracle.Moved() && p.Oracle.DowntimeMS > 0
}

// Moments returns n moments of a trace, one at random in each of n equal parts of it.
func Moments(t *Trace, n int, seed uint64) []time.Duration {
	rnd := rand.New(rand.NewPCG(seed, 1))
	all := make([]time.Duration, n)
	for i := range all {
		part := (float64(i) + rnd.Float64()) / float64(n)
		all[i] = time.Duration(part * float64(t.Length))
	}
	return all
}

// RunAll simulates a move of each entrant that is requested at the same moment, and no oracle.
func (s Setting) RunAll(
	cancelled Cancelled, t *Trace, all []Entrant, at time.Duration,
) ([]Paired, error) {
	var out []Paired
	for _, e := range all {
		m, err := s.Run(cancelled, t, e.Order, at)
		if err != nil {
			return nil, err
		}
		out = append(out, Paired{Move: m})
	}
	return out, nil
}

// Compare simulates a move of each entrant that is requested at the same moment. The oracle that an
// entrant is compared with has its traits and its time to defer.
func (s Setting) Compare(
	cancelled Cancelled, t *Trace, all []Entrant, at time.Duration,
) ([]Paired, error) {
	type key struct {
		traits policy.Traits
		defers time.Duration
	}
	known := make(map[key]Move)
	var out []Paired
	for _, e := range all {
		k := key{e.Policy.Traits(), e.MaxDefer}
		k.traits.Polish = false // it does not matter to one that knows
		oracle, ok := known[k]
		if !ok {
			var err error
			if oracle, err = s.Best(cancelled, t, e.Order, at); err != nil {
				return nil, err
			}
			known[k] = oracle
		}
		m := oracle
		if !e.Knows {
			var err error
			if m, err = s.Run(cancelled, t, e.Order, at); err != nil {
				return nil, err
			}
		}
		out = append(out, Paired{m, oracle})
	}
	return out, nil
}

// Quantiles describe a sample of times in ms.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Row sums up the moves of an entrant. Quantiles are over the moves that moved.
type Row struct {
	Policy   string `json:"policy"`
	Guidance string `json:"guidance"`
	Moves    int    `json:"moves"`
	Moved    int    `json:"moved"`
	Forced   int    `json:"forced"`
	// Lapped is how many moves outlasted the trace.
	Lapped int `json:"lapped"`
	// Lost is in how many moves the policy's program failed and the default policy took its place,
	// and PolicyError why it did so first.
	Lost        int       `json:"lost"`
	PolicyError string    `json:"policy_error,omitempty"`
	DowntimeMS  Quantiles `json:"downtime_ms"`
	TotalMS     Quantiles `json:"total_ms"`
	// Judged is how many of the moves have an oracle's beside them; what follows is of these.
	// Regret is downtime and total time minus the oracle's, move by move.
	Judged           int       `json:"judged"`
	RegretDowntimeMS Quantiles `json:"regret_downtime_ms"`
	RegretTotalMS    Quantiles `json:"regret_total_ms"`
	// Tenfold is the share of moves whose downtime is more than ten times the oracle's.
	Tenfold float64 `json:"tenfold"`
	// Extrapolated says why the figures are not covered by a comparison with real moves; empty if
	// they are.
	Extrapolated string `json:"extrapolated,omitempty"`
}

// Summarize sums up the moves of an entrant.
func Summarize(e Entrant, all []Paired) Row {
	return Row{Policy: e.Name(), Guidance: e.GuidanceName()}.Of(all)
}

// Of returns the row of the same entrant with these moves.
func (r Row) Of(all []Paired) Row {
	r = Row{
		Policy: r.Policy, Guidance: r.Guidance, Extrapolated: r.Extrapolated, Moves: len(all),
	}
	var down, total, moreDown, moreTotal []float64
	tenfold := 0
	for _, p := range all {
		if p.Move.Laps > 0 {
			r.Lapped++
		}
		if p.Move.Forced {
			r.Forced++
		}
		if p.Move.PolicyError != "" {
			r.Lost++
			r.PolicyError = cmp.Or(r.PolicyError, p.Move.PolicyError)
		}
		if !p.Move.Moved() {
			continue
		}
		r.Moved++
		down = append(down, p.Move.DowntimeMS)
		total = append(total, p.Move.TotalMS)
		if !p.judged() {
			continue
		}
		r.Judged++
		moreDown = append(moreDown, p.Move.DowntimeMS-p.Oracle.DowntimeMS)
		moreTotal = append(moreTotal, p.Move.TotalMS-p.Oracle.TotalMS)
		if p.Move.DowntimeMS > 10*p.Oracle.DowntimeMS {
			tenfold++
		}
	}
	r.DowntimeMS, r.TotalMS = quantiles(down), quantiles(total)
	r.RegretDowntimeMS, r.RegretTotalMS = quantiles(moreDown), quantiles(moreTotal)
	if r.Judged > 0 {
		r.Tenfold = float64(tenfold) / float64(r.Judged)
	}
	return r
}

// quantiles takes order statistics: the smallest value that at least so large a share of the sample
// does not exceed.
func quantiles(values []float64) Quantiles {
	if len(values) == 0 {
		return Quantiles{}
	}
	s := slices.Clone(values)
	slices.SortFunc(s, func(a, b float64) int { return cmp.Compare(a, b) })
	at := func(percent int) float64 { return s[(len(s)*percent+99)/100-1] }
	return Quantiles{at(50), at(90), at(99), s[len(s)-1]}
}

// Entrants makes every combination of policies and guidance. The oracle, by its name, comes once,
// because guidance is nothing to it.
func Entrants(policies []string, guidance []policy.Guidance, from Order) ([]Entrant, error) {
	var all []Entrant
	for _, name := range policies {
		e := Entrant{Order: from, Knows: name == Oracle}
		if e.Knows {
			name = policy.Default
		}
		var err error
		if e.Policy, err = policy.Parse(name); err != nil {
			return nil, fmt.Errorf("policy %w", err)
		}
		if e.Knows {
			e.Guidance, e.AtExit = policy.GuidanceOff, false
			all = append(all, e)
			continue
		}
		for _, g := range guidance {
			e.Guidance, e.AtExit = g, from.AtExit && g == policy.GuidanceSwitchover
			all = append(all, e)
		}
	}
	return all, nil
}

// SplitPolicies splits a list of policies with commas between them. A setting behind a comma
// belongs to the policy before it.
func SplitPolicies(list string) []string {
	var all []string
	for part := range strings.SplitSeq(list, ",") {
		equals, colon := strings.Index(part, "="), strings.Index(part, ":")
		if setting := equals >= 0 && (colon < 0 || equals < colon); setting && len(all) > 0 {
			all[len(all)-1] += "," + part
			continue
		}
		all = append(all, part)
	}
	return all
}
