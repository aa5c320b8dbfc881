package bench

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/trial"
	"taskguide/guestkernel/heartbeat"
)

// TestFeltTable: histograms of trials add up, per second, and a span that nobody watched is a dash.
func TestFeltTable(t *testing.T) {
	felt := func(before, around float64, stalls heartbeat.Stalls) *trial.Felt {
		return &trial.Felt{
			Before: trial.FeltSpan{Seconds: before, Stalls: heartbeat.Stalls{1: 4}},
			Around: trial.FeltSpan{Seconds: around, Stalls: stalls},
		}
	}
	none := Findings{Headlines: []string{"as before"}}
	void := trial.Result{Error: "void", Felt: felt(1, 1, nil)}
	require.Equal(t, none, withFelt(none, []trial.Result{{}, void}))
	f := withFelt(none, []trial.Result{
		{Felt: felt(2, 1, heartbeat.Stalls{1024: 1}), Heard: felt(1, 1, nil)},
		{Felt: felt(2, 3, heartbeat.Stalls{1024: 1, 65536: 4})}, {},
	})
	require.Len(t, f.Sections, 1)
	require.Len(t, f.Sections[0].Tables, 2)
	table := f.Sections[0].Tables[0]
	require.Contains(t, table.Caption, "2 trials")
	require.Equal(t, [][]string{
		{"1 us", "2", "0", "–"}, {"1.0 ms", "0", "0.5", "–"}, {"65.5 ms", "0", "1", "–"},
	}, table.Rows)
}

// TestFeltColumns: each figure comes from its clock and its span, and is left out where it is not
// known.
func TestFeltColumns(t *testing.T) {
	r := trial.Result{
		Felt: &trial.Felt{
			Before: trial.FeltSpan{Seconds: 1, Stalls: heartbeat.Stalls{1024: 1}},
			Around: trial.FeltSpan{Seconds: 2, Stalls: heartbeat.Stalls{512: 9, 8192: 2, 65536: 4}},
		},
		Slow: &trial.Slow{BrownoutMS: 3000, RecoverMS: 1000},
	}
	got := map[string]float64{}
	for _, m := range feltMetrics() {
		if v, ok := m.of(r); ok {
			got[m.key] = v
		}
	}
	require.Equal(t, map[string]float64{
		"stalls_1ms_per_s": 3, "stalls_1ms_per_s_before": 1,
		"stalls_8ms_per_s": 3, "stalls_8ms_per_s_before": 0,
		"stalls_65ms_per_s": 2, "stalls_65ms_per_s_before": 0,
		"brownout_ms": 3000,
	}, got, "not recovered: nobody knows when")
	r = trial.Result{Heard: r.Felt, Slow: &trial.Slow{RecoverMS: 1000, Recovered: true}}
	got = map[string]float64{}
	for _, m := range feltMetrics() {
		if v, ok := m.of(r); ok {
			got[m.key] = v
		}
	}
	require.Equal(t, 2.0, got["heard_65ms_per_s"])
	require.Equal(t, 1000.0, got["recover_ms"])
	require.NotContains(t, got, "stalls_1ms_per_s")
}
