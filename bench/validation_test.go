package bench

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/sim"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/migration"
	registry "taskguide/migration/policy"
)

// simulatedRun makes a run of experiment simulated up whose simulated times are real ones times
// those factors.
func simulatedRun(
	t *testing.T, size Size, downBy, totalBy float64, change ...func(*trial.Result),
) string {
	t.Helper()
	o := newOrder(simulated())
	o.Setting = Setting{Size: size}
	store, dir := newStore(t, o)
	for _, spec := range o.Experiment.Plan(o.Setting, o.Seed) {
		r := made(spec)
		r.Report.DowntimeMS, r.Report.TotalMS = 20+spec.Offset, 900
		if spec.Offset > 0.8 && spec.RTT == 0 {
			r.Report.DowntimeMS *= 10
		}
		r.Simulated = &trial.Simulated{
			Setting: sim.Setting{
				BitsPerSecond: spec.Params.BitsPerSecond, RTT: 50*time.Microsecond + spec.RTT,
				Compress: sim.Compress(spec.Params.Compress), Ack: 150 * time.Microsecond,
				Protection: sim.AtHarvest,
				Costs:      sim.Costs{Page: time.Microsecond, Pack: 2 * time.Microsecond},
			},
			Order: sim.Terms{
				Policy: string(spec.Params.Rule), Guidance: registry.Guidance(spec.Params.Guidance),
			},
			Move: sim.Move{
				DowntimeMS: r.Report.DowntimeMS * downBy, TotalMS: r.Report.TotalMS * totalBy,
			},
			Oracle: sim.Move{DowntimeMS: 3, TotalMS: 900},
			Pages:  16384,
			PackUS: [2]float64{2, 5}, LimitedBy: sim.LimitLink,
		}
		for _, f := range change {
			f(&r)
		}
		require.NoError(t, store.Add(r))
	}
	require.NoError(t, store.Close())
	return dir
}

// TestMovesThatProcessorsLimit count for no target, and an entry does not cover them.
func TestMovesThatProcessorsLimit(t *testing.T) {
	limited := func(r *trial.Result) {
		if r.Spec.Factors["program"] == compressible.name {
			r.Simulated.LimitedBy = sim.LimitProcessors
			r.Simulated.Move.DowntimeMS *= 20
		}
	}
	dir := simulatedRun(t, Full, 1, 1, limited)
	all, err := ValidationsOf(dir)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, 208-16, all[0].Pairs)
	require.Equal(t, []sim.Limit{sim.LimitLink}, all[0].LimitedBy)
	_, results, err := Load(dir)
	require.NoError(t, err)
	f := simulatedReport(Setting{Size: Full}, results)
	text := strings.Join(f.Headlines, "\n")
	parts := 0
	for _, row := range f.Lead.Rows {
		if strings.Contains(row[0], "RTT") && row[2] == "downtime" {
			n, err := strconv.Atoi(row[1])
			require.NoError(t, err)
			parts += n
		}
	}
	require.Equal(t, all[0].Pairs, parts, "only what counts has a target")
	require.Contains(t, text, "reached its target")
	require.Contains(t, text, "16 more pairs are of moves that processors limit")
}

// TestValidation: a run that reached its target is an entry that covers what was moved.
func TestValidation(t *testing.T) {
	all, err := ValidationsOf(simulatedRun(t, Full, 1.05, 0.95, func(r *trial.Result) {
		switch r.Spec.Params.Rule {
		case migration.RuleXen:
			r.Simulated.PackUS = [2]float64{0.5, 3}
		case migration.RuleDowntime:
			r.Simulated.PackUS = [2]float64{4, 9}
		}
		if r.Spec.Params.Compress == migration.CompressNone { // no page is packed
			r.Simulated.PackUS = [2]float64{0.1, 100}
		}
	}))
	require.NoError(t, err)
	require.Len(t, all, 1)
	v := all[0]
	require.Equal(t, 208, v.Pairs)
	require.Equal(t, [2]float64{0, 20.05}, v.RTTMS)
	require.InDelta(t, 0.15, v.AckMS, 1e-9)
	require.Equal(t, [2]int64{1e9, 1e9}, v.BitsPerSecond)
	require.Equal(t, [2]int{16384, 16384}, v.Pages)
	require.Equal(t, []sim.Compress{"auto", "none"}, v.Compress)
	require.Equal(t, [2]float64{10, 10}, v.IntervalMS)
	require.Equal(t, [2]float64{0.5, 9}, v.PackUS)
	require.Equal(t, []sim.Protection{sim.AtHarvest}, v.Protection)
	require.Equal(t, []sim.Limit{sim.LimitLink}, v.LimitedBy)
	require.Equal(t, sim.Costs{Page: time.Microsecond}, v.Costs)
	require.Equal(t, []sim.Terms{
		{Policy: "downtime", Guidance: "off"}, {Policy: "downtime", Guidance: "switchover"},
		{Policy: "xen", Guidance: "off"}, {Policy: "xen", Guidance: "switchover"},
	}, v.Orders)
	require.Equal(t, 36, v.Tenfold)
	require.Equal(t, 36, v.TenfoldSimulated)
	require.InDelta(t, 45, v.TotalErrorP50, 1e-9)
	require.Equal(t, "vmm bench run simulated --seed 5", v.Command)

	text, err := ValidationJSON(v)
	require.NoError(t, err)
	var back sim.Validation
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, v, back)
}

// TestNotValidated: every reason is named, and no other run is taken for a comparison.
func TestNotValidated(t *testing.T) {
	refused := func(dir, want string) {
		t.Helper()
		all, err := ValidationsOf(dir)
		require.Empty(t, all)
		require.ErrorIs(t, err, ErrNotValidated)
		require.ErrorContains(t, err, want)
	}
	refused(simulatedRun(t, Full, 1.2, 1), "all: median error of the downtime 4")
	refused(simulatedRun(t, Full, 1, 0.8), "RTT 20ms: median error of the total time 180.0 ms")
	refused(simulatedRun(t, Full, 2, 1), "real, 208 of 208 (100.0 % [98.2, 100.0]) simulated")
	refused(simulatedRun(t, Quick, 1, 1), "QUICK: ")
	refused(simulatedRun(t, Quick, 1, 1), "12 pairs: at least 60")

	o := newOrder(tagging())
	store, dir := newStore(t, o)
	require.NoError(t, store.Close())
	refused(dir, "a run of tagging")
	_, err := ValidationsOf(t.TempDir())
	require.ErrorIs(t, err, ErrNoRun)
}

// TestEncodingByItself: where compressed moves are off, those without compression are validated
// alone, if they are enough.
func TestEncodingByItself(t *testing.T) {
	off := func(r *trial.Result) {
		if r.Spec.Params.Compress == migration.CompressAuto {
			r.Simulated.Move.TotalMS = 500
		}
	}
	all, err := ValidationsOf(simulatedRun(t, Full, 1, 1, off))
	require.ErrorIs(t, err, ErrPartlyValidated)
	require.ErrorContains(t, err, "auto, RTT 20ms: median error of the total time 400.0 ms")
	require.Len(t, all, 1)
	require.Equal(t, []sim.Compress{"none"}, all[0].Compress)
	require.Equal(t, 96, all[0].Pairs)
	require.Equal(t, [2]float64{0, 20.05}, all[0].RTTMS)

	_, results, err := Load(simulatedRun(t, Full, 1, 1, off))
	require.NoError(t, err)
	require.Contains(t, verdictOf(results), "It reached its target with compress none alone.")
	require.NotContains(t, verdictOf(results), "auto alone")

	off = func(r *trial.Result) {
		if r.Spec.Params.Compress == migration.CompressNone { // no page is packed
			r.Simulated.Move.TotalMS = 500
		}
	}
	all, err = ValidationsOf(simulatedRun(t, Full, 1, 1, off))
	require.ErrorIs(t, err, ErrPartlyValidated)
	require.Len(t, all, 1)
	require.Equal(t, []sim.Compress{"auto"}, all[0].Compress)
	require.Equal(t, 112, all[0].Pairs)
	require.Equal(t, [2]float64{2, 5}, all[0].PackUS)
}

// TestOrderMustReachIt: guided moves, which are easier to foretell, do not hide that all moves of a
// rule without guidance are off.
func TestOrderMustReachIt(t *testing.T) {
	off := func(r *trial.Result) {
		if r.Spec.Params.Rule == migration.RuleXen && r.Spec.Params.Guidance == "off" {
			r.Simulated.Move.DowntimeMS *= 1.5
			r.Simulated.Oracle.DowntimeMS = 100 // no move has ten times that
		}
	}
	all, err := ValidationsOf(simulatedRun(t, Full, 1, 1, off))
	require.ErrorIs(t, err, ErrNotValidated)
	require.ErrorContains(t, err, "compress none, xen, off: median error of the downtime")
	require.NotContains(t, err.Error(), "all: ")
	require.NotContains(t, err.Error(), "RTT 20ms")
	require.Empty(t, all)
}

// TestMovesThatNeverEnd: the worst error is not one that is left out.
func TestMovesThatNeverEnd(t *testing.T) {
	stays := 5
	off := func(r *trial.Result) {
		if stays--; stays >= 0 {
			r.Simulated.Move.Error = "never converges"
		}
	}
	_, err := ValidationsOf(simulatedRun(t, Full, 1, 1, off))
	require.ErrorIs(t, err, ErrNotValidated)
	require.ErrorContains(t, err, "all: 5 simulated moves never ended")
}

// TestRunOfAnOlderBuild, whose trials do not say their order, covers and so validates nothing.
func TestRunOfAnOlderBuild(t *testing.T) {
	var all []trial.Result
	for range leastPairs {
		r := pairOf(50, 51, 10)
		r.Simulated.Move.TotalMS, r.Simulated.Order = 1000, sim.Terms{}
		all = append(all, r)
	}
	require.Equal(t, []string{
		"a run of an older build, whose trials do not say their order",
	}, missesOf(all))
}

// TestFewOfAStratum: parts of a few pairs agree with nearly anything.
func TestFewOfAStratum(t *testing.T) {
	var all []trial.Result
	for i := range leastPairs + leastOfStratum - 1 {
		r := pairOf(50, 51, 10)
		r.Simulated.Move.TotalMS = 1000
		if i >= leastPairs {
			r.Spec.Factors["guidance"] = "switchover"
		}
		all = append(all, r)
	}
	require.Equal(t, []string{
		"compress none, xen, switchover: 11 pairs, at least 12 are needed",
	}, missesOf(all))
}

// TestPairsOfSeveralHosts: parts of hosts with different processors were not simulated alike, so
// they vouch for neither of them.
func TestPairsOfSeveralHosts(t *testing.T) {
	var all []trial.Result
	for i := range 2 * leastPairs {
		r := pairOf(50, 51, 10)
		r.Simulated.Move.TotalMS = 1000
		r.Simulated.Setting.Costs.Processors = 2 + 62*(i%2)
		all = append(all, r)
	}
	require.Equal(t, []string{
		"the simulator had 2 different costs, as on hosts with different processors",
	}, missesOf(all))
}

// TestStratumMustReachIt: many good pairs do not hide a round trip at which all are off.
func TestStratumMustReachIt(t *testing.T) {
	var all []trial.Result
	for range 60 {
		near := pairOf(50, 51, 10)
		near.Simulated.Move.TotalMS = 1000
		all = append(all, near)
	}
	require.Empty(t, missesOf(all))
	for range 20 {
		far := pairOf(50, 70, 10)
		far.Spec.RTT, far.Spec.Factors["rtt"] = 20*time.Millisecond, "20ms"
		far.Simulated.Move.TotalMS = 1000
		all = append(all, far)
	}
	require.Equal(t, []string{
		"compress none, RTT 20ms: median error of the downtime 20.0 ms, target 5.0 ms",
	}, missesOf(all))
}

// TestPairsOfNoStratum: pairs of an older run, which say no round trip, do not validate by leaving
// the strata empty.
func TestPairsOfNoStratum(t *testing.T) {
	var all []trial.Result
	for range leastPairs {
		old := pairOf(50, 51, 10)
		old.Simulated.Move.TotalMS = 1000
		delete(old.Spec.Factors, "rtt")
		all = append(all, old)
	}
	require.Equal(t, []string{
		"60 pairs: their compression and round trip are not known",
	}, missesOf(all))
}

// TestValidationCovers all that was moved, in whatever order.
func TestValidationCovers(t *testing.T) {
	var all []trial.Result
	for _, pages := range []int{300, 100, 200} {
		r := pairOf(50, 51, 10)
		r.Simulated.Pages, r.Simulated.Setting.BitsPerSecond = pages, int64(pages)
		r.Spec.RTT = time.Duration(pages) * time.Millisecond
		r.Simulated.Setting.RTT = r.Spec.RTT
		all = append(all, r)
	}
	v := validationOf(Run{}, all)
	require.Equal(t, [2]int{100, 300}, v.Pages)
	require.Equal(t, [2]int64{100, 300}, v.BitsPerSecond)
	require.Equal(t, [2]float64{100, 300}, v.RTTMS)
	require.InDelta(t, 300, v.AckMS, 1e-9, "a link acknowledges after its round trip")
}

// TestTenfoldIsOneSided: it is the interval of the real share in which the simulated one must lie.
func TestTenfoldIsOneSided(t *testing.T) {
	c := comparison{
		down: deviation{pairs: 1}, whole: deviation{pairs: 1}, real: stats.ShareOf(2, 100),
		simulated: stats.ShareOf(0, 100),
	}
	require.True(t, c.simulated.Agrees(c.real), "the other way round it would agree")
	require.Len(t, c.misses(), 1)
	c.simulated = stats.ShareOf(1, 100)
	require.Empty(t, c.misses())
}

// TestTenfoldOfParts: in a part of a run the pairs that differ decide, and a single one is chance.
// In a whole run and an encoding the interval of the real share decides.
func TestTenfoldOfParts(t *testing.T) {
	for _, test := range []struct {
		real, simulated int // pairs of which only that move had more than ten times
		agrees          bool
	}{
		{1, 0, true}, {5, 0, true}, {6, 0, false}, {0, 6, false}, {7, 6, true},
	} {
		var all []trial.Result
		for i := range 80 {
			r := pairOf(50, 50, 10)
			r.Simulated.Move.TotalMS = r.Report.TotalMS
			if i < test.real {
				r.Report.DowntimeMS = 101
			} else if i < test.real+test.simulated {
				r.Simulated.Move.DowntimeMS = 101
			}
			all = append(all, r)
		}
		c := comparisonOf("some", all)
		require.Equal(t, test.real, c.onlyReal)
		require.Equal(t, test.simulated, c.onlySimulated)
		c.part = true
		require.Equal(t, test.agrees, c.sharesAgree(), "%+v", test)
		require.Equal(t, test.agrees, len(c.misses()) == 0, "%+v", test)
		c.part = false
		require.Equal(t, c.real.Agrees(c.simulated), c.sharesAgree(), "%+v", test)
	}
}
