package bench

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/sim"
	"taskguide/bench/trial"
	"taskguide/migration"
)

// comparison is a trial with these real and simulated downtimes, and that of the oracle.
func comparison(real, simulated, oracle float64) trial.Result {
	return trial.Result{
		Spec: trial.Spec{Factors: map[string]string{
			"program": "phased", "rule": "xen", "guidance": "off", "compress": "none",
		}},
		Report: migration.Report{DowntimeMS: real, TotalMS: 1000},
		Simulated: &trial.Simulated{
			Move:   sim.Move{DowntimeMS: simulated, TotalMS: 1200},
			Oracle: sim.Move{DowntimeMS: oracle, TotalMS: 900},
		},
	}
}

// TestDeviation: the error is absolute, pair by pair, and its target is a tenth or 1 ms.
func TestDeviation(t *testing.T) {
	results := []trial.Result{
		comparison(5, 6, 4), comparison(5, 3, 4), comparison(100, 100.5, 4), {Error: "void"},
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
	stays := comparison(500, 0, 4)
	stays.Simulated.Move.Error = "never"
	real, simulated, of := tenfold([]trial.Result{
		comparison(41, 39, 4), comparison(50, 60, 4), comparison(5, 41, 4), stays, {},
	})
	require.Equal(t, []int{2, 2, 3}, []int{real, simulated, of})
}

// TestSimulatedReport says how far off the simulator is, and whether that will do.
func TestSimulatedReport(t *testing.T) {
	at := Setting{Size: Quick}
	f := simulatedReport(at, []trial.Result{comparison(5, 6, 4), comparison(50, 60, 4)})
	text := strings.Join(f.Headlines, "\n")
	require.Contains(t, text, "Simulated downtime, 2 pairs")
	require.Contains(t, text, "within its target")
	require.Contains(t, text, "more than its target of 100 ms")
	require.Contains(t, text, "1 of 2 real moves, and 1 simulated")
	require.Contains(t, strings.Join(f.Sections[0].Text, " "), sim.SlowdownNote)
	require.Equal(t, "phased, xen, off", f.Sections[0].Tables[0].Rows[0][0])
	require.Empty(t, simulatedReport(at, nil).Headlines)
}

// TestSimulatedBlocks: guests are recorded for whole cycles, wherever the recording begins.
func TestSimulatedBlocks(t *testing.T) {
	for _, spec := range simulated().Plan(Setting{Size: Full}, 1) {
		require.Greater(t, spec.Record.Length, 2*spec.Guest.Cycle())
		require.Equal(t, trial.TagCool, spec.Guest.Tag, "its tags tell the phases")
		require.NotEqual(t, migration.CompressAuto, spec.Params.Compress)
	}
}
