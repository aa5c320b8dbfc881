package sim

import (
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
	r := Summarize(e, all)
	require.Equal(t, Quantiles{50, 90, 99, 100}, r.DowntimeMS)
	require.Equal(t, Quantiles{45, 85, 94, 95}, r.RegretDowntimeMS)
	require.Equal(t, Quantiles{10, 10, 10, 10}, r.RegretTotalMS)
	require.Equal(t, []int{101, 100, 1, 50}, []int{r.Moves, r.Moved, r.Forced, r.Lapped})
	require.InDelta(t, 0.5, r.Tenfold, 0.001)
	require.Equal(t, Quantiles{}, Summarize(e, nil).TotalMS)
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
	v := Validation{
		BitsPerSecond: [2]int64{100e6, 1e9}, RTTMS: [2]float64{0, 30}, AckMS: 1,
		Pages:    [2]int{1000, 50000},
		Compress: []Compress{CompressNone}, Policies: []string{"xen"}, Guidance: []string{"off"},
	}
	all := []Validation{v}
	require.Empty(t, Extrapolated(all, s, tr, e))
	grown, err := tr.Grow(40000, Untouched)
	require.NoError(t, err)
	require.Contains(t, Extrapolated(all, s, grown, e), "grown")
	require.Contains(t, Extrapolated(all, s, tr, entrant(t, "qemu", "off")), "policy")
	require.Contains(t, Extrapolated(all, s, tr, entrant(t, "xen", "start")), "guidance")
	for what, change := range map[string]func(*Setting){
		"bandwidth":    func(s *Setting) { s.BitsPerSecond = 0 },
		"round trip":   func(s *Setting) { s.RTT = time.Second },
		"acknowledges": func(s *Setting) { s.RTT = 20 * time.Millisecond },
		"compression":  func(s *Setting) { s.Compress = CompressZstd },
	} {
		s := s
		change(&s)
		require.Contains(t, Extrapolated(all, s, tr, e), what)
	}
	relayed := s
	relayed.RTT, relayed.Ack = 20*time.Millisecond, time.Millisecond
	require.Empty(t, Extrapolated(all, relayed, tr, e), "over a relay, as in the comparison")
	require.NotPanics(t, func() { readValidations(validatedJSON) })
}
