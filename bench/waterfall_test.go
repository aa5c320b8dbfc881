package bench

import (
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
// long it worked. Each configuration has a row with the medians of its own trials. What a trial
// does not tell is left out.
func TestWaterfall(t *testing.T) {
	load, run := 0.5, 0.5
	parts := migration.DowntimeParts{
		ExitMS: 1, PauseMS: 1, QuiesceMS: 1, HarvestMS: 1, PagesMS: 10, SaveMS: 11, SettleMS: 1,
		VerifyMS: 1, LoadMS: 2, RunMS: 1, UnexplainedMS: 0.5,
	}
	silent := trial.Result{
		Spec:   specOf("off"),
		Report: migration.Report{DowntimeMS: 19.5, Downtime: parts},
	}
	parts.LoadThereMS, parts.RunThereMS, parts.WayMS = &load, &run, 2
	tells := trial.Result{
		Spec:   specOf("off"),
		Report: migration.Report{DowntimeMS: 19.5, Downtime: parts},
	}
	require.InDelta(t, silent.Report.DowntimeMS, partsOf(t, silent), 1e-9)
	require.InDelta(t, tells.Report.DowntimeMS, partsOf(t, tells), 1e-9)
	guided := trial.Result{
		Spec: specOf("switchover"),
		Report: migration.Report{DowntimeMS: 4, Downtime: migration.DowntimeParts{
			PauseMS: 1, PagesMS: 2, UnexplainedMS: 1,
		}},
	}
	cut := trial.Result{Spec: specOf("off"), Report: migration.Report{DowntimeMS: 1000}}
	peer := trial.Result{Spec: specOf("QEMU"), Report: migration.Report{DowntimeMS: 7}}
	_, ok := unexplained.of(peer)
	require.False(t, ok, "another VMM tells no parts")

	one := Findings{Sections: []Section{{Title: "before"}}}
	require.Equal(t, one,
		withWaterfall(one, configurations([]trial.Result{peer, {Error: "void"}})))
	f := withWaterfall(one, configurations([]trial.Result{silent, guided, tells, peer, cut}))
	require.Len(t, f.Sections, 2)
	tables := f.Sections[1].Tables
	require.Len(t, tables, 2)
	require.Equal(t, []string{
		"configuration", "n", "downtime", "exit", "pause", "quiesce", "harvest", "pages",
	}, tables[0].Head)
	require.Equal(t, [][]string{
		{"kv/off", "2", "19.50", "1.00", "1.00", "1.00", "1.00", "10.00"},
		{"kv/switchover", "1", "4.00", "0.00", "1.00", "0.00", "0.00", "2.00"},
	}, tables[0].Rows)
	require.Equal(t, []string{
		"configuration", "n", "settle", "verify", "load", "run", "way", "unexplained",
	}, tables[1].Head)
	require.Equal(t, [][]string{
		{"kv/off", "2", "1.00", "1.00", "1.25", "0.75", "1.00", "0.50"},
		{"kv/switchover", "1", "0.00", "0.00", "0.00", "0.00", "0.00", "1.00"},
	}, tables[1].Rows)
	require.Contains(t, f.Sections[1].Text[1], "exit: a vCPU held at its EXIT; pause: ")
	require.Contains(t, f.Sections[1].Text[1], "; unexplained: what no part explains.")
}
