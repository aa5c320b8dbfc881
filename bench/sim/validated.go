package sim

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"taskguide/migration/policy"
)

// Validation is a comparison of simulated with real moves, and what it covers. Errors are absolute,
// in ms, over pairs of moves with the same workload and moment of request.
type Validation struct {
	Revision string `json:"revision"`
	Date     string `json:"date"`
	Command  string `json:"command"`
	Pairs    int    `json:"pairs"`

	// A move is covered if it is within all of these.
	BitsPerSecond [2]int64     `json:"bits_per_second"`
	RTTMS         [2]float64   `json:"rtt_ms"`
	AckMS         float64      `json:"ack_ms"` // the longest time until bytes are acknowledged
	Pages         [2]int       `json:"pages"`
	IntervalMS    [2]float64   `json:"interval_ms"` // of the traces
	Compress      []Compress   `json:"compress"`
	PackUS        [2]float64   `json:"pack_us"` // to compress a page, where pages are compressed
	Protection    []Protection `json:"protection"`
	LimitedBy     []Limit      `json:"limited_by"`
	Costs         Costs        `json:"costs"` // without Pack
	Orders        []Terms      `json:"orders"`

	DowntimeErrorP50 float64 `json:"downtime_error_p50_ms"`
	DowntimeErrorP90 float64 `json:"downtime_error_p90_ms"`
	TotalErrorP50    float64 `json:"total_error_p50_ms"`
	TotalErrorP90    float64 `json:"total_error_p90_ms"`

	// Tenfold is how many of the real moves had more than ten times the oracle's downtime, and
	// TenfoldSimulated how many of the simulated ones.
	Tenfold          int `json:"tenfold"`
	TenfoldSimulated int `json:"tenfold_simulated"`
}

//go:embed validated.json
var validatedJSON []byte

// Validations are the comparisons that reached their target, as vmm bench report --format
// validation has printed them: an absolute error whose median is at most the larger of 10 % and
// 1 ms, and shares of tenfold moves that agree.
var Validations = readValidations(validatedJSON)

func readValidations(text []byte) []Validation {
	var all []Validation
	if err := json.Unmarshal(text, &all); err != nil {
		panic(fmt.Sprintf("validated.json: %v", err))
	}
	return all
}

// CoveredBy are the comparisons that cover a simulation.
func CoveredBy(all []Validation, s Setting, t *Trace, e Entrant) []Validation {
	var some []Validation
	for _, v := range all {
		if v.leavesOut(s, t, e) == "" {
			some = append(some, v)
		}
	}
	return some
}

// Extrapolated says why no comparison with real moves covers a simulation, or nothing if one does.
func Extrapolated(all []Validation, s Setting, t *Trace, e Entrant) string {
	why := "the simulator was not compared with real moves yet"
	for _, v := range all {
		if why = v.leavesOut(s, t, e); why == "" {
			return ""
		}
	}
	return why
}

// NoRealOracle is why the oracle's figures, and differences from them, are always extrapolated.
const NoRealOracle = "no real move knows what the oracle does"

func (v Validation) leavesOut(s Setting, t *Trace, e Entrant) string {
	switch {
	case e.Knows:
		return NoRealOracle
	case t.Pages != t.Recorded:
		return "no real guest has grown as the trace has"
	case t.Unfinished || t.Lost > 0:
		return "no trace with a part missing was compared"
	case !inside(v.IntervalMS, milliseconds(t.Interval)):
		return "no trace with intervals of this length was compared"
	case t.late():
		return "no trace with intervals as late was compared"
	case !inside(v.Pages, t.Pages):
		return "no real move of a guest of this size was compared"
	case !inside(v.BitsPerSecond, s.BitsPerSecond):
		return "no real move at this bandwidth was compared"
	case !inside(v.RTTMS, milliseconds(s.RTT)):
		return "no real move at this round trip was compared"
	case milliseconds(s.ack()) > v.AckMS:
		return "no real move over a link that acknowledges as late was compared"
	case !slices.Contains(v.Compress, s.Compress),
		s.Compress != CompressNone && !v.packs(s, t):
		return "no real move with this compression was compared"
	case !slices.Contains(v.LimitedBy, s.LimitedBy(t)):
		return "no real move that is limited by " + string(s.LimitedBy(t)) + " was compared"
	case !slices.Contains(v.Protection, s.Protection):
		return "no real move with this dirty log was compared"
	case t.cpus > 1:
		return "no real move of a guest with several vCPUs was compared"
	case e.Guidance != policy.GuidanceOff && t.Tasks() > 1:
		return "no real guided move of a guest with several tasks was compared"
	case countingCosts(v.Costs, s, t) != countingCosts(s.Costs, s, t):
		return "no real move on a host with these costs was compared"
	}
	return v.leavesOutOrder(e.Terms())
}

// countingCosts are costs without those that make no difference to a simulation: that of packing,
// which has bounds of its own, those of packing where no page is packed, and processors for which
// no full frame waits.
func countingCosts(c Costs, s Setting, t *Trace) Costs {
	c.Pack = s.Costs.Pack
	if s.Costs = c; !s.contends(t) {
		c.Processors, c.Receive = 0, 0
	}
	if c.Pack = 0; s.Compress == CompressNone {
		c.Stage = 0
	}
	return c
}

// PackUS is what compressing a page takes, at least and at most, at any moment of a trace.
func (s Setting) PackUS(t *Trace) [2]float64 {
	l := newLink(s, t)
	first := microseconds(s.Costs.Pack)
	bounds := [2]float64{first, first}
	for _, is := range t.contents {
		us := microseconds(l.packTime(is))
		bounds[0], bounds[1] = min(bounds[0], us), max(bounds[1], us)
	}
	return bounds
}

// packs tells whether packing takes as long as it did in the comparison, at all moments.
func (v Validation) packs(s Setting, t *Trace) bool {
	bounds := s.PackUS(t)
	return inside(v.PackUS, bounds[0]) && inside(v.PackUS, bounds[1])
}

// lateBy is how many times as long as ordered intervals may be on average. A single one counts as
// late from there on, too.
const lateBy = 1.5

// late tells whether the intervals took much longer than they were ordered to, because the host was
// busy or harvests took long. Then the trace says less of when pages were written than its order.
func (t *Trace) late() bool {
	ordered := t.Interval.Seconds() * float64(len(t.intervals))
	return t.Length.Seconds() > lateBy*ordered
}

func (v Validation) leavesOutOrder(t Terms) string {
	ordered := func(same func(Terms) bool) bool { return slices.ContainsFunc(v.Orders, same) }
	switch {
	case ordered(func(o Terms) bool { return o == t }):
		return ""
	case !ordered(func(o Terms) bool { return o.Policy == t.Policy }):
		return "no real move of this policy was compared"
	case !ordered(func(o Terms) bool { return o.Policy == t.Policy && o.Guidance == t.Guidance }):
		return "no real move of this policy with this guidance was compared"
	case !ordered(func(o Terms) bool { return o.Policy == t.Policy && o.Limit == t.Limit }):
		return "no real move with this downtime limit was compared"
	}
	return "no real move that was guided in this way was compared"
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func inside[T int | int64 | float64](bounds [2]T, v T) bool {
	return bounds[0] <= v && v <= bounds[1]
}

// String says the comparison in words.
func (v Validation) String() string {
	return fmt.Sprintf("%d pairs, revision %s, %s; absolute error of the downtime p50 %.1f ms, "+
		"p90 %.1f ms, of the total time %.0f and %.0f ms; more than ten times the oracle's "+
		"downtime: %d of %d real moves, %d simulated.", v.Pairs, v.Revision, v.Date,
		v.DowntimeErrorP50, v.DowntimeErrorP90, v.TotalErrorP50, v.TotalErrorP90, v.Tenfold,
		v.Pairs, v.TenfoldSimulated)
}
