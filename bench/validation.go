package bench

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"taskguide/bench/sim"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
)

// leastPairs is the fewest pairs that validate the simulator, and leastOfStratum the fewest of each
// part. Fewer agree with nearly anything: the interval of none of 12 reaches up to 26 %.
const (
	leastPairs     = 60
	leastOfStratum = 12
)

// These are errors of a comparison that validates nothing, and of one that validates moves with one
// encoding of pages, and no others.
var (
	ErrNotValidated    = errors.New("it validates nothing")
	ErrPartlyValidated = errors.New("it validates some of its moves only")
)

// deviation is how far simulated times are from real ones.
type deviation struct {
	pairs    int
	real     float64 // median
	sim      float64
	p50, p90 float64 // of the absolute error
}

// target is the largest median error: the larger of a tenth and 1 ms.
func (d deviation) target() float64 { return max(d.real/10, 1) }

func (d deviation) reached() bool { return d.pairs > 0 && d.p50 <= d.target() }

func deviationOf(results []trial.Result, real, simulated metric) deviation {
	var a, b, errors []float64
	for _, r := range results {
		x, ok := real.of(r)
		y, okToo := simulated.of(r)
		if ok && okToo {
			a, b, errors = append(a, x), append(b, y), append(errors, math.Abs(x-y))
		}
	}
	d := deviation{pairs: len(errors), real: stats.Median(a), sim: stats.Median(b)}
	if d.pairs > 0 {
		slices.Sort(errors)
		d.p50 = errors[(d.pairs*50+99)/100-1]
		d.p90 = errors[(d.pairs*90+99)/100-1]
	}
	return d
}

// comparison is how simulated moves compare with real ones.
type comparison struct {
	name        string
	down, whole deviation
	stayed      int // simulated moves that never ended, though the real ones did
	// real and simulated are the shares of moves with more than ten times the oracle's downtime.
	real, simulated stats.Share
	// onlyReal and onlySimulated count the pairs in which only that move had so much.
	onlyReal, onlySimulated int
	part                    bool // of a run
}

// comparisonOf compares the trials whose move was simulated, and moved there, too.
func comparisonOf(name string, results []trial.Result) comparison {
	c := comparison{
		name: name, down: deviationOf(results, downtime, simulatedDowntime),
		whole: deviationOf(results, total, simulatedTotal),
	}
	real, simulated, of := 0, 0, 0
	for _, r := range valid(results) {
		switch {
		case r.Simulated == nil:
			continue
		case !r.Simulated.Move.Moved():
			c.stayed++
			continue
		}
		of++
		most := 10 * r.Simulated.Oracle.DowntimeMS
		isReal, isSimulated := r.Report.DowntimeMS > most, r.Simulated.Move.DowntimeMS > most
		if isReal {
			real++
		}
		if isSimulated {
			simulated++
		}
		switch {
		case isReal && !isSimulated:
			c.onlyReal++
		case isSimulated && !isReal:
			c.onlySimulated++
		}
	}
	c.real, c.simulated = stats.ShareOf(real, of), stats.ShareOf(simulated, of)
	return c
}

// misses says in what the simulator is off by more than its target.
func (c comparison) misses() []string {
	var all []string
	if c.stayed > 0 {
		all = append(all, fmt.Sprintf("%s: %d simulated moves never ended, and the real ones did",
			c.name, c.stayed))
	}
	for _, part := range []struct {
		name string
		d    deviation
	}{{"downtime", c.down}, {"total time", c.whole}} {
		if !part.d.reached() {
			all = append(all, fmt.Sprintf("%s: median error of the %s %.1f ms, target %.1f ms",
				c.name, part.name, part.d.p50, part.d.target()))
		}
	}
	if !c.sharesAgree() {
		all = append(all, fmt.Sprintf("%s: moves with more than ten times the oracle's downtime: "+
			"%s real, %s simulated", c.name, shareText(c.real), shareText(c.simulated)))
	}
	return all
}

// surprise is the probability below which pairs that differ do not so by chance.
const surprise = 0.05

// sharesAgree tells whether as many real moves as simulated ones had more than ten times the
// oracle's downtime. In a part of a run the pairs decide, by a sign test: the parts are small, and
// of a single real move in 18 the interval begins above 0, so a simulator that is right would often
// miss it.
func (c comparison) sharesAgree() bool {
	if c.part {
		return stats.SignTest(c.onlyReal, c.onlySimulated) >= surprise
	}
	return c.real.Agrees(c.simulated)
}

var encodings = levels{"compress", CompressNames()}

// strata are comparisons of parts of the results, which must reach the target, too: otherwise a
// long round trip could hide behind many short ones, and moves without guidance behind guided ones,
// which are easier to foretell.
func strata(results []trial.Result) []comparison {
	all := append(roundTripStrata(results), orderStrata(results)...)
	for i := range all {
		all[i].part = true
	}
	return all
}

func roundTripStrata(results []trial.Result) []comparison {
	var all []comparison
	for _, g := range groupBy(results, encodings, rttLevels(results)) {
		name := "compress " + g.factors["compress"] + ", RTT " + g.factors["rtt"]
		all = append(all, comparisonOf(name, g.results))
	}
	return all
}

func orderStrata(results []trial.Result) []comparison {
	var all []comparison
	for _, g := range groupBy(results, encodings, simulatedRules, simulatedGuidance) {
		name := "compress " + g.factors["compress"] + ", " + g.factors["rule"] + ", " +
			g.factors["guidance"]
		all = append(all, comparisonOf(name, g.results))
	}
	return all
}

// roundTripsOf are those of relays, in order, 0 among them.
func roundTripsOf(results []trial.Result) []time.Duration {
	var all []time.Duration
	for _, r := range valid(results) {
		if !slices.Contains(all, r.Spec.RTT) {
			all = append(all, r.Spec.RTT)
		}
	}
	slices.Sort(all)
	return all
}

func rttLevels(results []trial.Result) levels {
	return levels{"rtt", rttTexts(roundTripsOf(results))}
}

// repeatable are the results that the target is for: without moves that processors limit. Two real
// moves of these, of the same guest and moment, differ by more than the target, so that none could
// foretell both.
func repeatable(results []trial.Result) []trial.Result {
	some, _ := byLimit(results)
	return some
}

// byLimit splits results into those that are repeatable, and moves that processors limit.
func byLimit(results []trial.Result) (repeatable, others []trial.Result) {
	for _, r := range results {
		if r.Simulated != nil && r.Simulated.LimitedBy == sim.LimitProcessors {
			others = append(others, r)
		} else {
			repeatable = append(repeatable, r)
		}
	}
	return repeatable, others
}

// missesOf says why results do not validate the simulator. It returns nothing if they do.
func missesOf(results []trial.Result) []string {
	results = repeatable(results)
	all := comparisonOf("all", results)
	if all.down.pairs < leastPairs {
		return []string{fmt.Sprintf("%d pairs: at least %d are needed", all.down.pairs, leastPairs)}
	}
	var misses []string
	for what, parts := range map[string][]comparison{
		"round trip": roundTripStrata(results), "order": orderStrata(results),
	} {
		rest := all.down.pairs
		for _, c := range parts {
			rest -= c.down.pairs
		}
		if rest != 0 { // of an older run, whose trials do not say it
			misses = append(misses, fmt.Sprintf("%d pairs: their compression and %s are not known",
				rest, what))
		}
	}
	slices.Sort(misses)
	if costs := costsOf(results); len(costs) > 1 {
		misses = append(misses, fmt.Sprintf("the simulator had %d different costs, as on hosts "+
			"with different processors", len(costs)))
	}
	for _, r := range valid(results) {
		if s := r.Simulated; s != nil && s.Order.Policy == "" {
			misses = append(misses, "a run of an older build, whose trials do not say their order")
			break
		}
	}
	for _, c := range append([]comparison{all}, strata(results)...) {
		misses = append(misses, c.misses()...)
		if c.down.pairs < leastOfStratum {
			misses = append(misses, fmt.Sprintf("%s: %d pairs, at least %d are needed", c.name,
				c.down.pairs, leastOfStratum))
		}
	}
	return misses
}

// verdictOf says whether the results validate the simulator.
func verdictOf(results []trial.Result) string {
	misses := missesOf(results)
	if len(misses) == 0 {
		return "The simulator reached its target in this run."
	}
	text := "The simulator is not validated by this run: " + strings.Join(misses, "; ") + "."
	for _, g := range validEncodings(results) {
		text += " It reached its target with compress " + g.factors["compress"] + " alone."
	}
	return text
}

// validEncodings are the results of those encodings of pages that reach the target by themselves. A
// simulated move has one encoding, so another one's misses say nothing of it.
func validEncodings(results []trial.Result) []group {
	all := groupBy(results, encodings)
	return slices.DeleteFunc(all, func(g group) bool { return len(missesOf(g.results)) > 0 })
}

func shareText(s stats.Share) string {
	return fmt.Sprintf("%d of %d (%.1f %% [%.1f, %.1f])", s.Hits, s.N, 100*s.Value(), 100*s.CI.Low,
		100*s.CI.High)
}

func agreeText(c comparison) string {
	if c.sharesAgree() {
		return "agree"
	}
	return "do not agree"
}

// comparisonTable has a row for each comparison and time.
func comparisonTable(all []comparison) Table {
	t := Table{
		Caption: "Absolute error of simulated moves in ms, and its target",
		Head:    []string{"moves", "pairs", "of", "error p50", "p90", "target", "reached"},
	}
	for _, c := range all {
		for _, part := range []struct {
			name string
			d    deviation
		}{{"downtime", c.down}, {"total time", c.whole}} {
			reached := "no"
			if part.d.reached() {
				reached = "yes"
			}
			t.Rows = append(t.Rows, []string{
				c.name, fmt.Sprint(part.d.pairs), part.name, fmt.Sprintf("%.1f", part.d.p50),
				fmt.Sprintf("%.1f", part.d.p90), fmt.Sprintf("%.1f", part.d.target()), reached,
			})
		}
	}
	return t
}

// ValidationsOf returns the entries for bench/sim/validated.json that the run in dir makes: one if
// all of it reached the target, or else one for each encoding that did, with ErrPartlyValidated.
// Its other error is ErrNotValidated; both say all that is in the way.
func ValidationsOf(dir string) ([]sim.Validation, error) {
	run, results, err := Load(dir)
	if err != nil {
		return nil, err
	}
	results = latest(results)
	if run.Experiment != simulated().Name {
		return nil, fmt.Errorf("%s: %w: it is a run of %s, not of %s", dir,
			ErrNotValidated, run.Experiment, simulated().Name)
	}
	var why []string
	for _, b := range banners(run, results) {
		why = append(why, b.String())
	}
	var entries []sim.Validation
	misses, failed := missesOf(results), ErrNotValidated
	switch {
	case len(why) > 0:
	case len(misses) == 0:
		return []sim.Validation{validationOf(run, results)}, nil
	default:
		for _, g := range validEncodings(results) {
			entries, failed = append(entries, validationOf(run, g.results)), ErrPartlyValidated
		}
	}
	return entries, fmt.Errorf("%s: %w: %s", dir, failed,
		strings.Join(append(why, misses...), "; "))
}

// validationOf is what a comparison covers, and its errors.
func validationOf(run Run, results []trial.Result) sim.Validation {
	results = repeatable(results)
	all := comparisonOf("all", results)
	v := sim.Validation{
		Revision: run.Host.VMM, Date: run.Started.UTC().Format(time.DateOnly),
		Command: commandOf(run), Pairs: all.down.pairs,
		DowntimeErrorP50: all.down.p50, DowntimeErrorP90: all.down.p90,
		TotalErrorP50: all.whole.p50, TotalErrorP90: all.whole.p90,
		Tenfold: all.real.Hits, TenfoldSimulated: all.simulated.Hits,
	}
	first := true
	for _, r := range results {
		s := r.Simulated
		if s == nil || !s.Move.Moved() {
			continue
		}
		// Trips without what a loopback takes itself are covered, and with what a relay takes.
		least, most := milliseconds(r.Spec.RTT), milliseconds(s.Setting.RTT)
		interval := milliseconds(r.Spec.Record.Interval)
		if first {
			v.BitsPerSecond = [2]int64{s.Setting.BitsPerSecond, s.Setting.BitsPerSecond}
			v.RTTMS, v.Pages, first = [2]float64{least, most}, [2]int{s.Pages, s.Pages}, false
			v.IntervalMS = [2]float64{interval, interval}
		}
		v.BitsPerSecond = widen(v.BitsPerSecond, s.Setting.BitsPerSecond)
		v.RTTMS, v.Pages = widen(widen(v.RTTMS, least), most), widen(v.Pages, s.Pages)
		v.AckMS = max(v.AckMS, milliseconds(cmp.Or(s.Setting.Ack, s.Setting.RTT)))
		v.Compress = with(v.Compress, s.Setting.Compress)
		v.Protection = with(v.Protection, s.Setting.Protection)
		v.LimitedBy = with(v.LimitedBy, s.LimitedBy)
		v.IntervalMS = widen(v.IntervalMS, interval)
		if s.Setting.Compress != sim.CompressNone {
			if v.PackUS == [2]float64{} {
				v.PackUS = s.PackUS
			}
			v.PackUS = widen(widen(v.PackUS, s.PackUS[0]), s.PackUS[1])
		}
		if !slices.Contains(v.Orders, s.Order) {
			v.Orders = append(v.Orders, s.Order)
		}
	}
	for c := range costsOf(results) {
		v.Costs = c // the only ones, or the results would have missed
	}
	slices.SortFunc(v.Orders, func(a, b sim.Terms) int {
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
	return v
}

// costsOf are those of all simulated moves, without Pack, which has bounds of its own.
func costsOf(results []trial.Result) map[sim.Costs]bool {
	all := map[sim.Costs]bool{}
	for _, r := range results {
		if s := r.Simulated; s != nil && s.Move.Moved() {
			c := s.Setting.Costs
			c.Pack = 0
			all[c] = true
		}
	}
	return all
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func widen[T cmp.Ordered](bounds [2]T, v T) [2]T {
	return [2]T{min(bounds[0], v), max(bounds[1], v)}
}

// with adds a value to a list in order that does not have it.
func with[T cmp.Ordered](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	list = append(list, v)
	slices.Sort(list)
	return list
}

// ValidationJSON writes an entry as it stands in bench/sim/validated.json.
func ValidationJSON(v sim.Validation) ([]byte, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	return append(text, '\n'), err
}
