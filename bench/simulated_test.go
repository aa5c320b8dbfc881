package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/sim"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/migration"
)

// pairOf is a trial with these real and simulated downtimes, and that of the oracle.
func pairOf(real, simulated, oracle float64) trial.Result {
	return trial.Result{
		Spec: trial.Spec{Factors: map[string]string{
			"program": "phased", "rule": "xen", "guidance": "off", "compress": "none", "rtt": "0",
		}, Record: &trial.Recording{Interval: recordedInterval}},
		Report: migration.Report{DowntimeMS: real, TotalMS: 1000},
		Simulated: &trial.Simulated{
			Order:  sim.Terms{Policy: "xen", Guidance: "off"},
			Move:   sim.Move{DowntimeMS: simulated, TotalMS: 1200},
			Oracle: sim.Move{DowntimeMS: oracle, TotalMS: 900},
		},
	}
}

// TestDeviation: the error is absolute, pair by pair, and its target is a tenth or 1 ms.
func TestDeviation(t *testing.T) {
	results := []trial.Result{
		pairOf(5, 6, 4), pairOf(5, 3, 4), pairOf(100, 100.5, 4), {Error: "void"},
	}
	d := deviationOf(results, downtime, simulatedDowntime)
	require.Equal(t, deviation{pairs: 3, real: 5, sim: 6, p50: 1, p90: 2}, d)
	require.InDelta(t, 1, d.target(), 1e-9)
	require.True(t, d.reached())
	d = deviationOf(results, total, simulatedTotal)
	require.InDelta(t, 100, d.target(), 1e-9)
	require.False(t, d.reached())
	require.False(t, deviationOf(nil, total, simulatedTotal).reached(), "nothing was compared")
}

// TestTenfold counts the moves at bad moments, real and simulated; one that the simulator did not
// move is left out.
func TestTenfold(t *testing.T) {
	stays := pairOf(500, 0, 4)
	stays.Simulated.Move.Error = "never"
	c := comparisonOf("all", []trial.Result{
		pairOf(41, 39, 4), pairOf(50, 60, 4), pairOf(5, 41, 4), stays, {},
	})
	require.Equal(t, stats.ShareOf(2, 3), c.real)
	require.Equal(t, stats.ShareOf(2, 3), c.simulated)
	require.Equal(t, 1, c.stayed)
	require.Contains(t, c.misses()[0], "1 simulated moves never ended")
}

// TestSimulatedReport says how far off the simulator is, and whether that will do.
func TestSimulatedReport(t *testing.T) {
	at := Setting{Size: Quick}
	slow := pairOf(50, 60, 4)
	slow.Spec.RTT, slow.Spec.Factors["rtt"] = 20*time.Millisecond, "20ms"
	f := simulatedReport(at, []trial.Result{pairOf(5, 6, 4), slow})
	text := strings.Join(f.Headlines, "\n")
	require.Contains(t, text, "Simulated downtime, 2 pairs")
	require.Contains(t, text, "within its target")
	require.Contains(t, text, "more than its target of 100 ms")
	require.Contains(t, text, "1 of 2 (50.0 % [1.3, 98.7]) of the real moves")
	require.Contains(t, text, "not validated by this run: 2 pairs: at least 60 are needed")
	require.Contains(t, strings.Join(f.Sections[0].Text, " "), sharedProcessors)
	require.Contains(t, strings.Join(f.Sections[0].Text, " "), "a round trip of 20ms")
	require.Equal(t, "phased, none, xen, off", f.Sections[0].Tables[0].Rows[0][0])
	require.Equal(t, "phased, none, xen, off, RTT 20ms", f.Sections[0].Tables[0].Rows[1][0])
	require.Len(t, f.Lead.Rows, 2*4, "all, each round trip, and each order")
	require.Empty(t, simulatedReport(at, nil).Headlines)
}

// TestSimulatedBlocks: guests are recorded for whole cycles, wherever the recording begins.
func TestSimulatedBlocks(t *testing.T) {
	for _, spec := range simulated().Plan(Setting{Size: Full}, 1) {
		require.Greater(t, spec.Record.Length, 2*spec.Guest.Cycle())
		require.Equal(t, trial.TagCool, spec.Guest.Tag, "its tags tell the phases")
	}
}

// TestSimulatedRoundTrips: the loopback, and longer ones with and without compression, or those
// that were named.
func TestSimulatedRoundTrips(t *testing.T) {
	seen := func(at Setting) map[string]int {
		n := map[string]int{}
		for _, s := range simulated().Plan(at, 1) {
			require.Equal(t, rttText(s.RTT), s.Factors["rtt"])
			n[s.Factors["compress"]+" "+s.Factors["rtt"]]++
		}
		return n
	}
	require.Equal(t, map[string]int{
		"none 0": 64, "none 2ms": 16, "none 20ms": 16,
		"auto 0": 80, "auto 2ms": 16, "auto 20ms": 16,
	}, seen(Setting{Size: Full}))
	require.Equal(t, map[string]int{
		"none 0": 4, "none 20ms": 2, "auto 0": 4, "auto 20ms": 2,
	}, seen(Setting{Size: Quick}))
	at := given(Factors{
		RTTs: []time.Duration{5 * time.Millisecond}, Programs: []string{"kv"}, Repetitions: 1,
	})
	require.Equal(t, map[string]int{"none 5ms": 4, "auto 5ms": 4}, seen(at), "kv alone")
	at = given(Factors{Encoding: []string{"zstd"}, Repetitions: 1})
	require.Equal(t, map[string]int{"zstd 0": 4, "zstd 2ms": 4, "zstd 20ms": 4}, seen(at))
}
