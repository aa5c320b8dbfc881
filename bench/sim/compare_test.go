package sim

import (
	"math"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/policy"
)

// TestSummarize counts, and takes order statistics.
func TestSummarize(t *testing.T) {
	e := entrant(t, "xen", policy.GuidanceOff)
	var all []Paired
	for i := 1; i <= 100; i++ {
		all = append(all, Paired{
			Move:   Move{DowntimeMS: float64(i), TotalMS: 1000, Laps: i % 2},
			Oracle: Move{DowntimeMS: 5, TotalMS: 990},
		})
	}
	all = append(all, Paired{Move: Move{Error: "no", Forced: true, DowntimeMS: 1e9}})
	all[7].Move.PolicyError, all[8].Move.PolicyError = "it died", "it hung"
	r := Summarize(e, all)
	require.Equal(t, Quantiles{50, 90, 99, 100}, r.DowntimeMS)
	require.Equal(t, Quantiles{45, 85, 94, 95}, r.RegretDowntimeMS)
	require.Equal(t, Quantiles{10, 10, 10, 10}, r.RegretTotalMS)
	require.Equal(t, []int{101, 100, 1, 50}, []int{r.Moves, r.Moved, r.Forced, r.Lapped})
	require.InDelta(t, 0.5, r.Tenfold, 0.001)
	require.Equal(t, 2, r.Lost)
	require.Equal(t, "it died", r.PolicyError)
	require.Equal(t, Quantiles{}, Summarize(e, nil).TotalMS)
	require.Equal(t, 100, r.Judged)
	r = Summarize(e, []Paired{{Move: Move{DowntimeMS: 5, TotalMS: 9}}})
	require.Zero(t, r.Tenfold, "no oracle was simulated")
	require.Zero(t, r.RegretDowntimeMS.P50)
	require.Zero(t, r.Judged)
}

// TestEntrants: every policy with every guidance, and the oracle once.
func TestEntrants(t *testing.T) {
	guidance := []policy.Guidance{policy.GuidanceOff, policy.GuidanceSwitchover}
	all, err := Entrants([]string{"xen", Oracle}, guidance, Order{AtExit: true})
	require.NoError(t, err)
	var names []string
	for _, e := range all {
		names = append(names, e.Name()+" "+e.GuidanceName()+" "+strconv.FormatBool(e.AtExit))
	}
	require.Equal(t, []string{"xen off false", "xen switchover true", "oracle off false"}, names)
	tr := generated(t, phased())
	p, err := slow(tr).Compare(t.Context().Err, tr, all[2:], time.Second)
	require.NoError(t, err)
	require.Equal(t, p[0].Oracle, p[0].Move, "it has no regret")
}

// TestSplitPolicies: a setting stays with its policy.
func TestSplitPolicies(t *testing.T) {
	require.Equal(t, []string{"xen", "downtime:limit=1s,polish=off", "oracle"},
		SplitPolicies("xen,downtime:limit=1s,polish=off,oracle"))
	require.Equal(t, []string{"a=b"}, SplitPolicies("a=b"))
}

// TestMoments are spread over the trace, and follow from the seed.
func TestMoments(t *testing.T) {
	tr := closedFor(t)
	all := Moments(tr, 8, 3)
	require.Equal(t, all, Moments(tr, 8, 3))
	require.NotEqual(t, all, Moments(tr, 8, 4))
	for i, at := range all {
		require.Equal(t, i, int(at*8/tr.Length))
	}
}

// TestExtrapolated: only what real moves were compared with is not extrapolated.
func TestExtrapolated(t *testing.T) {
	tr := generated(t, phased())
	s, e := slow(tr), entrant(t, "xen", policy.GuidanceOff)
	require.Contains(t, Extrapolated(nil, s, tr, e), "not compared with real moves yet")
	all := []Validation{covering(s, tr, e.Order, entrant(t, "downtime", "switchover").Order)}
	require.Empty(t, Extrapolated(all, s, tr, e))
	require.Equal(t, all, CoveredBy(all, s, tr, e))
	guided := entrant(t, "downtime", "switchover")
	require.Empty(t, Extrapolated(all, s, tr, guided))
	grown, err := tr.Grow(40000, Untouched)
	require.NoError(t, err)
	require.Contains(t, Extrapolated(all, s, grown, e), "grown")
	for what, change := range map[string]func(*Setting){
		"bandwidth":    func(s *Setting) { s.BitsPerSecond = 0 },
		"round trip":   func(s *Setting) { s.RTT = time.Second },
		"acknowledges": func(s *Setting) { s.RTT = 20 * time.Millisecond },
		"compression":  func(s *Setting) { s.Compress = CompressZstd },
		"dirty log":    func(s *Setting) { s.Protection = OnDemand },
		"costs":        func(s *Setting) { s.Costs.Handover *= 2 },
	} {
		s := s
		change(&s)
		require.Contains(t, Extrapolated(all, s, tr, e), what)
		require.Empty(t, CoveredBy(all, s, tr, e))
	}
	for what, change := range map[string]func(*Entrant){
		"of this policy was": func(e *Entrant) { *e = entrant(t, "qemu", "switchover") },
		"parameters":         func(e *Entrant) { *e = entrant(t, "downtime:polish=off", "off") },
		"with this guidance": func(e *Entrant) { *e = entrant(t, "downtime", "start") },
		"unguided":           func(e *Entrant) { *e = entrant(t, "downtime", "off") },
		"downtime limit":     func(e *Entrant) { e.Limit = time.Second },
		"at exit":            func(e *Entrant) { e.AtExit = false },
		"quorum":             func(e *Entrant) { e.Gate = Any },
		"time to defer":      func(e *Entrant) { e.MaxDefer++ },
		"on timeout":         func(e *Entrant) { e.OnTimeout = policy.TimeoutCancel },
		"oracle":             func(e *Entrant) { e.Knows = true },
	} {
		e := guided
		change(&e)
		require.NotEmpty(t, Extrapolated(all, s, tr, e), what)
	}
	for what, change := range map[string]func(*Trace){
		"size":     func(t *Trace) { t.Pages, t.Recorded = 9, 9 },
		"interval": func(t *Trace) { t.Interval *= 2 },
		"missing":  func(t *Trace) { t.Unfinished = true },
		"part":     func(t *Trace) { t.Lost = 1 },
		"as late":  func(t *Trace) { t.Length = t.Length * 8 / 5 },
	} {
		other := *tr
		change(&other)
		require.Contains(t, Extrapolated(all, s, &other, e), what)
	}
	other := *tr
	other.Length = other.Length * 7 / 5
	require.Empty(t, Extrapolated(all, s, &other, e), "a few late intervals, as any host has")
	unguided := e
	unguided.MaxDefer, unguided.Gate = time.Hour, Any
	require.Empty(t, Extrapolated(all, s, tr, unguided), "what guidance has no say in")
	packed := all[0]
	packed.Compress, packed.PackUS = []Compress{CompressZstd}, [2]float64{1, 2}
	for pack, want := range map[time.Duration]bool{500: false, 1500: true, 2500: false} {
		s := s
		s.Compress, s.Costs.Pack = CompressZstd, pack*time.Nanosecond
		require.Equal(t, want, Extrapolated([]Validation{packed}, s, tr, e) == "", pack)
	}
	changes := *tr // later pages take longer than any that was compared
	changes.contents = []content{{0.25, time.Microsecond}, {0.1, 9 * time.Microsecond}}
	zstd := s
	zstd.Compress, zstd.Costs.Pack = CompressZstd, 1500*time.Nanosecond
	require.Empty(t, Extrapolated([]Validation{packed}, zstd, tr, e))
	require.Contains(t, Extrapolated([]Validation{packed}, zstd, &changes, e), "compression")
	changes.contents[1].pack = 100 // or less long
	require.Contains(t, Extrapolated([]Validation{packed}, zstd, &changes, e), "compression")
	byLink := all[0]
	byLink.LimitedBy = []Limit{LimitLink}
	require.Empty(t, Extrapolated([]Validation{byLink}, s, tr, e))
	busy := s
	busy.Costs.Page = mostOfPage
	byLink.Costs.Page = mostOfPage
	require.Contains(t, Extrapolated([]Validation{byLink}, busy, tr, e), "limited by processors")
	relayed := s
	relayed.RTT, relayed.Ack = 20*time.Millisecond, time.Millisecond
	require.Empty(t, Extrapolated(all, relayed, tr, e), "over a relay, as in the comparison")
	require.NotPanics(t, func() { readValidations(validatedJSON) })
}

// TestProcessorsExtrapolate: processors for which nobody waits make no other figures. Where
// somebody does, their number counts, and a comparison with one vCPU says nothing of several.
func TestProcessorsExtrapolate(t *testing.T) {
	tr := generated(t, phased())
	s, e := slow(tr), entrant(t, "xen", policy.GuidanceOff)
	s.BitsPerSecond, s.Costs.Processors = 1e9, 2
	all := []Validation{covering(s, tr, e.Order)}
	covered := func(processors, cpus int, change func(*Costs)) bool {
		s, tr := s, *tr
		tr.cpus = cpus
		s.Costs.Processors = processors
		change(&s.Costs)
		return Extrapolated(all, s, &tr, e) == ""
	}
	none := func(*Costs) {}
	for _, c := range []struct {
		processors, cpus int
		covered          bool
	}{{0, 1, true}, {2, 1, true}, {64, 1, true}, {1, 1, false}, {0, 8, false}, {2, 8, false}} {
		require.Equal(t, c.covered, covered(c.processors, c.cpus, none), "%+v", c)
	}
	costs := map[string]func(*Costs){
		"stage":   func(c *Costs) { c.Stage *= 2 },
		"receive": func(c *Costs) { c.Receive *= 2 },
	}
	for what, change := range costs {
		require.True(t, covered(2, 1, change), "%s is nothing to pages as they go", what)
	}
	// A page that takes a processor longer than the link has the guest wait, with two of them.
	s.Costs.Page = 40 * time.Microsecond
	all = []Validation{covering(s, tr, e.Order)}
	require.True(t, covered(2, 1, none))
	require.False(t, covered(2, 2, none), "two vCPUs leave less")
	require.False(t, covered(0, 1, none))
	require.False(t, covered(2, 1, costs["receive"]))
}

// TestTasksExtrapolate: guided moves of guests with one task say nothing of several tasks, which
// the gate condenses.
func TestTasksExtrapolate(t *testing.T) {
	one := generated(t, phased())
	two := *one
	two.tags = append(slices.Clone(one.tags), tag{task: math.MaxUint32})
	off := entrant(t, "xen", policy.GuidanceOff)
	guided := entrant(t, "xen", policy.GuidanceSwitchover)
	s := slow(one)
	all := []Validation{covering(s, one, off.Order, guided.Order)}
	require.Empty(t, Extrapolated(all, s, one, guided))
	require.Contains(t, Extrapolated(all, s, &two, guided), "several tasks")
	require.Empty(t, Extrapolated(all, s, &two, off))
}

// TestCostsAreBounded: costs that no host has are refused, before virtual time overflows.
func TestCostsAreBounded(t *testing.T) {
	tr := generated(t, phased())
	for what, change := range map[string]func(*Costs){
		"below 0": func(c *Costs) { c.Handover = -1 },
		"step":    func(c *Costs) { c.Setup = mostOfStep + 1 },
		"page":    func(c *Costs) { c.Page = mostOfPage + 1 },
		"pack":    func(c *Costs) { c.Pack = math.MaxInt64 },
		"stage":   func(c *Costs) { c.Stage = mostOfPage + 1 },
		"receive": func(c *Costs) { c.Receive = -1 },
		"many":    func(c *Costs) { c.Processors = mostProcessors + 1 },
		"no":      func(c *Costs) { c.Processors = -1 },
	} {
		s := slow(tr)
		change(&s.Costs)
		_, err := s.Run(t.Context().Err, tr, entrant(t, "xen", "off").Order, 0)
		require.ErrorContains(t, err, "use 0 to", what)
	}
}

// covering is a comparison of moves in that setting with those orders.
func covering(s Setting, t *Trace, orders ...Order) Validation {
	v := Validation{
		BitsPerSecond: [2]int64{s.BitsPerSecond, s.BitsPerSecond}, RTTMS: [2]float64{0, 30},
		AckMS: 1, Pages: [2]int{t.Pages, t.Pages},
		IntervalMS: [2]float64{milliseconds(t.Interval), milliseconds(t.Interval)},
		Compress:   []Compress{s.Compress}, Protection: []Protection{s.Protection}, Costs: s.Costs,
		LimitedBy: []Limit{LimitLink, LimitProcessors},
	}
	v.Costs.Pack = 0
	for _, o := range orders {
		v.Orders = append(v.Orders, o.Terms())
	}
	return v
}
