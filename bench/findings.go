package bench

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"taskguide/bench/figure"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/control/units"
)

// Findings are the conclusions from results, ready to be shown.
type Findings struct {
	Headlines []string  // one sentence each
	Lead      Table     // the headlines in numbers, if they are too many for sentences
	Sections  []Section // in reading order
}

// Section is paragraphs, then figures, then tables.
type Section struct {
	Title   string
	Text    []string
	Figures []NamedFigure
	Tables  []Table
}

// NamedFigure is a figure, the name of its files, and what it shows.
type NamedFigure struct {
	Name, Caption string
	figure.Figure
}

// colours are the same for all figures.
func (f Findings) colours() figure.Colours {
	var all []figure.Figure
	for _, s := range f.Sections {
		for _, named := range s.Figures {
			all = append(all, named.Figure)
		}
	}
	return figure.ColoursOf(all...)
}

// nameApart gives each figure a name that no other has: names of guests may differ only in letters
// that a file's name does not get.
func (f Findings) nameApart() {
	taken := map[string]bool{}
	for _, s := range f.Sections {
		for i, named := range s.Figures {
			free := named.Name
			for n := 2; taken[free]; n++ {
				free = fmt.Sprintf("%s-%d", named.Name, n)
			}
			taken[free] = true
			s.Figures[i].Name = free
		}
	}
}

// Table is text in rows.
type Table struct {
	Caption string     `json:"caption"`
	Head    []string   `json:"head"`
	Rows    [][]string `json:"rows"`
}

// metric is a number of a trial.
type metric struct {
	name  string // in a table's head
	key   string // in CSV and JSON, with its unit
	write func(float64) string
	of    func(trial.Result) (float64, bool)
}

func always(f func(trial.Result) float64) func(trial.Result) (float64, bool) {
	return func(r trial.Result) (float64, bool) { return f(r), true }
}

// ofMoves is always, but for baselines, which move no guest.
func ofMoves(f func(trial.Result) float64) func(trial.Result) (float64, bool) {
	return func(r trial.Result) (float64, bool) { return f(r), r.Spec.Baseline == "" }
}

// known leaves out values that a VMM does not report.
func known(f func(trial.Result) int64) func(trial.Result) (float64, bool) {
	return func(r trial.Result) (float64, bool) { v := f(r); return float64(v), v != trial.Unknown }
}

func latencyOf(f func(trial.Latency) float64) func(trial.Result) (float64, bool) {
	return func(r trial.Result) (float64, bool) {
		if r.Latency == nil {
			return 0, false
		}
		return f(*r.Latency) / 1000, true
	}
}

// These are the indicators: first those of the thesis, then our own.
var (
	downtime = metric{
		"downtime", "downtime_ms", units.Milliseconds,
		ofMoves(func(r trial.Result) float64 { return r.Report.DowntimeMS }),
	}
	stopCopy = metric{
		"pages in stop-and-copy", "pages_stopcopy", count,
		known(func(r trial.Result) int64 { return r.Report.PagesStopCopy }),
	}
	total = metric{
		"total time", "total_ms", units.Milliseconds,
		always(func(r trial.Result) float64 { return r.Report.TotalMS }),
	}
	pages = metric{"pages sent", "pages_sent", count, ofMoves(func(r trial.Result) float64 {
		return float64(r.Report.PagesSent)
	})}
	wire = metric{
		"bytes on the wire", "bytes_wire", func(v float64) string { return units.Bytes(int64(v)) },
		known(wireBytes),
	}
	rounds = metric{"rounds", "rounds", count, ofMoves(roundCount)}
	gap    = metric{
		"the guest's own gap", "gap_ms", units.Milliseconds,
		func(r trial.Result) (float64, bool) { return r.GapMS, tellsGap(r) },
	}
	gapBefore = metric{
		"gap before", "gap_before_ms", units.Milliseconds,
		func(r trial.Result) (float64, bool) { return r.GapBeforeMS, tellsGap(r) },
	}
	deferred = metric{"deferred", "deferred_ms", units.Milliseconds,
		ofMoves(func(r trial.Result) float64 { return r.Report.DeferredMS })}
	waited = metric{
		"held back", "waited_ms", units.Milliseconds,
		ofMoves(func(r trial.Result) float64 { return r.Report.WaitedMS }),
	}
	suspended = metric{
		"suspended", "suspended_ms", units.Milliseconds,
		ofMoves(func(r trial.Result) float64 { return r.Report.SuspendedMS }),
	}
	stops = metric{"suspensions", "suspensions", count, ofMoves(func(r trial.Result) float64 {
		return float64(r.Report.Suspensions)
	})}
	forced = metric{"forced", "forced", percent, ofMoves(func(r trial.Result) float64 {
		if r.Report.Forced {
			return 1
		}
		return 0
	})}
	p99 = metric{
		"p99 latency", "p99_ms", units.Milliseconds,
		latencyOf(func(l trial.Latency) float64 { return l.Around.P99 }),
	}
	p999 = metric{
		"p99.9 latency", "p999_ms", units.Milliseconds,
		latencyOf(func(l trial.Latency) float64 { return l.Around.P999 }),
	}
	worst = metric{
		"longest latency", "latency_max_ms", units.Milliseconds,
		latencyOf(func(l trial.Latency) float64 { return l.Around.Max }),
	}
	p999Calm = metric{
		"p99.9 before", "p999_before_ms", units.Milliseconds,
		latencyOf(func(l trial.Latency) float64 { return l.Before.P999 }),
	}
	worstCalm = metric{
		"longest before", "latency_max_before_ms", units.Milliseconds,
		latencyOf(func(l trial.Latency) float64 { return l.Before.Max }),
	}
	cpuTime = metric{"CPU", "cpu_s", seconds, always(func(r trial.Result) float64 {
		return r.CPU.Source + r.CPU.Destination
	})}
	cpuEngine = metric{
		"CPU without the guest's", "cpu_engine_s", seconds,
		func(r trial.Result) (float64, bool) {
			return r.CPU.Source + r.CPU.Destination - r.CPU.Guest, r.CPU.Guest != trial.Unknown
		},
	}
	brownout = metric{"brownout", "brownout", percent, func(r trial.Result) (float64, bool) {
		return r.Work.Brownout, r.Work.BeforePerS > 0 && r.Work.Brownout != trial.Unknown &&
			r.Report.TotalMS >= leastForBrownout
	}}
	speed = metric{"speed before", "writes_per_s", count, func(r trial.Result) (float64, bool) {
		return r.Work.BeforePerS, r.Work.BeforePerS > 0
	}}
)

// leastForBrownout is the shortest migration, in ms, for which heartbeats once a second can show a
// slowdown.
const leastForBrownout = 500

// tellsGap tells whether a guest moved and says how long it stood still. Older results of baselines
// have a gap of 0.
func tellsGap(r trial.Result) bool { return r.GapMS != trial.Unknown && r.Spec.Baseline == "" }

// wireBytes is counted at the link if there is one, because that is the same measure for all VMMs.
// Otherwise it is the VMM's own account.
func wireBytes(r trial.Result) int64 {
	if r.LinkBytes > 0 {
		return r.LinkBytes
	}
	return r.Report.BytesWire
}

// allMetrics are the metrics in CSV files and summaries.
var allMetrics = append([]metric{
	downtime, stopCopy, total, pages, wire, rounds, gap, gapBefore, waited, suspended, deferred,
	stops, forced, p99, p999, worst, p999Calm, worstCalm, cpuTime, cpuEngine, brownout, speed,
	wireRate, resent, silenceRounds, silenceSwitch, silenceAfter, silenceBefore, exits,
	diskRate, diskP50, diskP99, stopCopyWire, notSent,
	simulatedDowntime, simulatedTotal, oracleDowntime, oracleTotal,
}, append(feltMetrics(), waterfall...)...)

func count(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	if v != float64(int64(v)) && v < 100 {
		s = fmt.Sprintf("%.1f", v)
	}
	for i := len(s) - 3; i > 0 && !strings.Contains(s, "."); i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

func seconds(v float64) string { return fmt.Sprintf("%.2f s", v) }
func percent(v float64) string { return fmt.Sprintf("%.0f %%", 100*v) }

// group is the trials of one configuration.
type group struct {
	factors map[string]string
	results []trial.Result
}

// is tells whether a factor has that value.
func (g group) is(factor, value string) bool { return g.factors[factor] == value }

// name is the configuration's: what the IDs of its trials have before the number of the block.
func (g group) name() string {
	id := g.results[0].Spec.ID
	if i := strings.LastIndex(id, "@"); i >= 0 {
		return id[:i]
	}
	return id
}

func (g group) values(m metric) []float64 {
	var v []float64
	for _, r := range g.results {
		if x, ok := m.of(r); ok {
			v = append(v, x)
		}
	}
	return v
}

// median writes a metric's median and its interval.
func (g group) median(m metric) string {
	v := g.values(m)
	if len(v) == 0 {
		return "–"
	}
	if m.key == forced.key {
		return m.write(stats.Mean(v)) // the median of yes and no says little
	}
	s := stats.Summarize(v)
	if s.CI == nil || s.CI.Low == s.CI.High {
		return m.write(s.Median)
	}
	return fmt.Sprintf("%s [%s, %s]", m.write(s.Median), m.write(s.CI.Low), m.write(s.CI.High))
}

// levels are a factor's values, in the order in which they are shown.
type levels struct {
	factor string
	values []string
}

// groupBy sorts results, without void ones, by the values of factors.
func groupBy(results []trial.Result, by ...levels) []group {
	groups := []group{{factors: map[string]string{}, results: valid(results)}}
	for _, l := range by {
		var finer []group
		for _, g := range groups {
			for _, v := range l.values {
				factors := map[string]string{l.factor: v}
				for k, v := range g.factors {
					factors[k] = v
				}
				finer = append(finer, group{factors, filter(g.results, func(r trial.Result) bool {
					return r.Spec.Factors[l.factor] == v
				})})
			}
		}
		groups = finer
	}
	return slices.DeleteFunc(groups, func(g group) bool { return len(g.results) == 0 })
}

func filter(results []trial.Result, keep func(trial.Result) bool) []trial.Result {
	var kept []trial.Result
	for _, r := range results {
		if keep(r) {
			kept = append(kept, r)
		}
	}
	return kept
}

func valid(results []trial.Result) []trial.Result {
	return filter(results, func(r trial.Result) bool { return r.Error == "" })
}

// tableOf has a row for each group and a column for each factor and metric. It shows medians with
// intervals.
func tableOf(caption string, groups []group, factors []string, metrics ...metric) Table {
	t := Table{Caption: caption, Head: append([]string{}, factors...)}
	t.Head = append(t.Head, "n")
	for _, m := range metrics {
		t.Head = append(t.Head, m.name)
	}
	for _, g := range groups {
		var row []string
		for _, f := range factors {
			row = append(row, g.factors[f])
		}
		row = append(row, fmt.Sprint(len(g.results)))
		for _, m := range metrics {
			row = append(row, g.median(m))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// circumstances name what a trial shares with those that it is compared with: its block, which has
// one moment of request and one set of data, and its stratum, which is every factor except the
// compared ones.
type circumstances struct{ stratum, block string }

func (g group) circumstances(r trial.Result, compared map[string]bool) circumstances {
	var rest []string
	for _, f := range slices.Sorted(maps.Keys(r.Spec.Factors)) {
		if !compared[f] {
			rest = append(rest, f+"="+r.Spec.Factors[f])
		}
	}
	return circumstances{strings.Join(rest, " "), blockOf(r)}
}

func blockOf(r trial.Result) string {
	return fmt.Sprintf("%g/%d", r.Spec.Offset, r.Spec.Guest.Seed)
}

// compared are the factors in which the trials of two groups differ by design.
func compared(a, b group) map[string]bool {
	differ := map[string]bool{}
	for f, v := range a.factors {
		if b.factors[f] != v {
			differ[f] = true
		}
	}
	return differ
}

// matched returns the trials of two groups that have a counterpart in the other group, side by
// side. Only these may be compared, because all other differences between two trials are chance.
func matched(a, b group) (group, group) {
	differ := compared(a, b)
	other := map[circumstances]trial.Result{}
	for _, r := range b.results {
		other[b.circumstances(r, differ)] = r
	}
	ours, theirs := group{factors: a.factors}, group{factors: b.factors}
	for _, r := range a.results {
		if o, ok := other[a.circumstances(r, differ)]; ok {
			ours.results, theirs.results = append(ours.results, r), append(theirs.results, o)
		}
	}
	return ours, theirs
}

// matchedOverAll is matched for groups with trials of several programs. It keeps only blocks in
// which both sides have every program, so that no headline compares one program with another. It
// returns false if no block is left.
func matchedOverAll(a, b group, programs []string) (group, group, bool) {
	a, b = matched(a, b)
	tried := map[string]map[string]bool{}
	for _, r := range a.results {
		if tried[blockOf(r)] == nil {
			tried[blockOf(r)] = map[string]bool{}
		}
		tried[blockOf(r)][r.Spec.Factors["program"]] = true
	}
	whole := func(r trial.Result) bool { return len(tried[blockOf(r)]) == len(programs) }
	a.results, b.results = filter(a.results, whole), filter(b.results, whole)
	return a, b, len(a.results) > 0
}

// pairs are the values of a metric in the trials of two groups that belong together.
func pairs(a, b group, m metric) []stats.Pair {
	differ := compared(a, b)
	a, b = matched(a, b)
	var p []stats.Pair
	for i, r := range a.results {
		x, okX := m.of(r)
		y, okY := m.of(b.results[i])
		if okX && okY {
			p = append(p, stats.Pair{A: x, B: y, Stratum: a.circumstances(r, differ).stratum})
		}
	}
	return p
}

// ratio writes the ratio of two medians with its interval, or a dash.
func ratio(a, b group, m metric) string { return ratioBy(stats.Median, a, b, m) }

// ratioBy writes the ratio of a statistic over matched trials of two groups, with its interval, or
// with the number of trials if they are too few for one.
func ratioBy(statistic func([]float64) float64, a, b group, m metric) string {
	p := pairs(a, b, m)
	r, ok := stats.RatioOf(statistic, p)
	switch {
	case !ok:
		return "–"
	case r.CI == nil:
		return fmt.Sprintf("%s (n=%d)", times(r.Value), len(p))
	}
	return fmt.Sprintf("%s [%s, %s]", times(r.Value), times(r.CI.Low), times(r.CI.High))
}

func times(v float64) string {
	switch {
	case v > 1e6:
		return "∞"
	case v >= 100:
		return fmt.Sprintf("%.0f×", v)
	case v >= 10:
		return fmt.Sprintf("%.1f×", v)
	case v >= 0.1 || v == 0:
		return fmt.Sprintf("%.2f×", v)
	default:
		return fmt.Sprintf("%.2g×", v)
	}
}

// find returns the group whose factors have these values.
func find(groups []group, factors map[string]string) (group, bool) {
	for _, g := range groups {
		same := true
		for f, v := range factors {
			same = same && g.is(f, v)
		}
		if same {
			return g, true
		}
	}
	return group{}, false
}

// ofPeer tells whether a group is of QEMU's moves.
func (g group) ofPeer() bool { return len(g.results) > 0 && g.results[0].Spec.QEMU != nil }

// counterpartOf returns the group that differs from g only in having that level of a factor. It
// returns false for that level itself. Nothing guides QEMU, so if one of both policies is QEMU's,
// they may differ in guidance, too.
func counterpartOf(g group, groups []group, factor, level string) (group, bool) {
	if _, has := g.factors[factor]; !has || g.is(factor, level) {
		return group{}, false
	}
	same := maps.Clone(g.factors)
	same[factor] = level
	if base, ok := find(groups, same); ok || factor != "policy" {
		return base, ok
	}
	for _, guidance := range GuidanceNames() {
		same["guidance"] = guidance
		if base, ok := find(groups, same); ok && (g.ofPeer() || base.ofPeer()) {
			return base, true
		}
	}
	return group{}, false
}

// roundCount includes the rounds that a report leaves out.
func roundCount(r trial.Result) float64 { return float64(r.Report.RoundCount()) }
