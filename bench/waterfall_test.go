package bench

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/trial"
	"taskguide/migration"
)

// partsOf sums up a trial's row of the waterfall.
func partsOf(t *testing.T, r trial.Result) (sum float64) {
	for _, m := range waterfall {
		v, ok := m.of(r)
		require.True(t, ok, m.key)
		require.GreaterOrEqual(t, v, 0.0, m.key)
		sum += v
	}
	return sum
}

// TestWaterfall: a trial's parts add up to its downtime, whether or not the destination says how
// long it worked, and so do the shares of the table. What a trial does not tell is left out.
func TestWaterfall(t *testing.T) {
	load, run := 0.5, 0.25
	parts := migration.DowntimeParts{
		ExitMS: 1, PauseMS: 1, QuiesceMS: 1, HarvestMS: 1, PagesMS: 10, SaveMS: 11, SettleMS: 1,
		VerifyMS: 1, LoadMS: 2, RunMS: 1, UnexplainedMS: 0.5,
	}
	silent := trial.Result{Report: migration.Report{DowntimeMS: 19.5, Downtime: parts}}
	parts.LoadThereMS, parts.RunThereMS, parts.WayMS, parts.UnexplainedMS = &load, &run, 2, 0.75
	tells := trial.Result{Report: migration.Report{DowntimeMS: 19.5, Downtime: parts}}
	require.InDelta(t, silent.Report.DowntimeMS, partsOf(t, silent), 1e-9)
	require.InDelta(t, tells.Report.DowntimeMS, partsOf(t, tells), 1e-9)
	peer := trial.Result{Report: migration.Report{DowntimeMS: 7}}
	_, ok := unexplained.of(peer)
	require.False(t, ok, "another VMM tells no parts")

	one := Findings{Sections: []Section{{Title: "before"}}}
	require.Equal(t, one, withWaterfall(one, []trial.Result{peer, {Error: "void"}}))
	f := withWaterfall(one, []trial.Result{silent, tells, peer})
	require.Len(t, f.Sections, 2)
	rows := f.Sections[1].Tables[0].Rows
	require.Len(t, rows, len(waterfall))
	sum := 0
	for _, row := range rows {
		share, err := strconv.Atoi(strings.TrimSuffix(row[4], " %"))
		require.NoError(t, err)
		sum += share
	}
	require.InDelta(t, 100, sum, 4, "each is rounded")
	require.Contains(t, f.Sections[1].Tables[0].Caption, "2 downtimes")
}
