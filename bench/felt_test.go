package bench

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/trial"
	"taskguide/guestkernel/heartbeat"
	"taskguide/migration"
)

// specOf is a trial of program kv with that guidance.
func specOf(guidance string) trial.Spec {
	return trial.Spec{
		ID: "kv/" + guidance + "@00", Factors: map[string]string{"guidance": guidance},
	}
}

// feltIn are four pauses before, and some in the seconds of a migration.
func feltIn(before, around float64, stalls heartbeat.Stalls) *trial.Felt {
	return &trial.Felt{
		Before: trial.FeltSpan{Seconds: before, Stalls: heartbeat.Stalls{1024: 4}},
		Around: trial.FeltSpan{Seconds: around, Stalls: stalls},
	}
}

// feltByGuidance are trials of two configurations.
func feltByGuidance() []trial.Result {
	unguided, guided := specOf("off"), specOf("switchover")
	return []trial.Result{
		{Spec: guided, Felt: feltIn(2, 4, heartbeat.Stalls{2048: 1})},
		{
			Spec: unguided, Felt: feltIn(2, 1, heartbeat.Stalls{1024: 1}),
			Heard: feltIn(1, 0, nil),
		},
		{Spec: unguided, Felt: feltIn(2, 3, heartbeat.Stalls{512: 9, 1024: 1, 65536: 4})},
		{Spec: guided},
		{Spec: guided, Error: "void", Felt: feltIn(1, 1, heartbeat.Stalls{65536: 9})},
	}
}

// TestFeltTable: the trials of a configuration add up, per second, and those of another one do not
// count. A span that nobody watched is a dash, and a trial that tells nothing is no trial.
func TestFeltTable(t *testing.T) {
	none := Findings{Headlines: []string{"as before"}}
	void := trial.Result{Error: "void", Felt: feltIn(1, 1, nil)}
	require.Equal(t, none, withFelt(none, configurations([]trial.Result{{}, void})))
	f := withFelt(none, configurations(feltByGuidance()))
	require.Len(t, f.Sections, 1)
	require.Len(t, f.Sections[0].Tables, 2)
	table := f.Sections[0].Tables[0]
	require.Equal(t, []string{
		"configuration", "n", "1 ms", "8 ms", "65 ms", "longest", "1 ms before",
	}, table.Head)
	require.Equal(t, [][]string{
		{"kv/off", "2", "1.5", "1", "1", "65.5 ms", "2"},
		{"kv/switchover", "1", "0.25", "0", "0", "2.0 ms", "2"},
	}, table.Rows)
	require.Equal(t, [][]string{{"kv/off", "1", "–", "–", "–", "–", "4"}},
		f.Sections[0].Tables[1].Rows)
}

// TestFeltSummary: summary.json has the whole histogram of each configuration, by each clock.
func TestFeltSummary(t *testing.T) {
	s := summaryOf(validity(), Run{}, feltByGuidance(), Findings{})
	none := trial.FeltSpan{Stalls: heartbeat.Stalls{}}
	before := func(seconds float64, n uint64) trial.FeltSpan {
		return trial.FeltSpan{Seconds: seconds, Stalls: heartbeat.Stalls{1024: n}}
	}
	unguided := map[string]string{"guidance": "off"}
	require.Equal(t, []feltSummary{
		{unguided, "guest", 2, trial.Felt{
			Before: before(4, 8), After: none,
			Around: trial.FeltSpan{
				Seconds: 4, Stalls: heartbeat.Stalls{512: 9, 1024: 2, 65536: 4},
			},
		}},
		{unguided, "outside", 1, trial.Felt{Before: before(1, 4), Around: none, After: none}},
		{map[string]string{"guidance": "switchover"}, "guest", 1, trial.Felt{
			Before: before(2, 4), After: none,
			Around: trial.FeltSpan{Seconds: 4, Stalls: heartbeat.Stalls{2048: 1}},
		}},
	}, s.Felt)
	b, err := json.Marshal(s.Felt[0])
	require.NoError(t, err)
	require.JSONEq(t, `{
		"factors": {"guidance": "off"}, "clock": "guest", "trials": 2,
		"before": {"seconds": 4, "stalls": {"1024": 8}},
		"around": {"seconds": 4, "stalls": {"512": 9, "1024": 2, "65536": 4}},
		"after": {"seconds": 0, "stalls": {}}
	}`, string(b))
}

// telling makes results of an experiment whose guests tell their pauses, and whose engine the parts
// of its downtimes.
func telling(e Experiment, size Size) []trial.Result {
	results := resultsOf(e, at(size))
	for i := range results {
		r := &results[i]
		r.Felt = feltIn(2, 3, heartbeat.Stalls{1024: 1, 65536: 1})
		r.Report.Downtime = migration.DowntimeParts{PauseMS: 1, PagesMS: 10, UnexplainedMS: 0.5}
	}
	return results
}

// TestConfigurationsInPlanOrder: rows stand as the plan's blocks have their configurations, each
// with a name of its own, however the trials were shuffled.
func TestConfigurationsInPlanOrder(t *testing.T) {
	for _, e := range Experiments() {
		blocks := e.Blocks(at(Quick))
		var want, got []string
		for _, s := range slices.Concat(blocks...) {
			name := group{results: []trial.Result{{Spec: s}}}.name()
			if s.Contest == nil && !slices.Contains(want, name) {
				want = append(want, name)
			}
		}
		for _, g := range inPlanOrder(blocks, configurations(resultsOf(e, at(Quick)))) {
			got = append(got, g.name())
		}
		require.Equal(t, want, got, e.Name)
		require.NotContains(t, strings.Join(got, " "), "@")
	}
}

// TestRowsOfConfigurationsFit: a terminal has room for the rows of the experiment that has the most
// configurations, as tables and not as paragraphs.
func TestRowsOfConfigurationsFit(t *testing.T) {
	e := policies()
	groups := inPlanOrder(e.Blocks(at(Full)), configurations(telling(e, Full)))
	f := withWaterfall(withFelt(Findings{}, groups), groups)
	tables := slices.Concat(f.Sections[0].Tables, f.Sections[1].Tables)
	require.Len(t, tables, 3)
	for _, table := range tables {
		require.Len(t, table.Rows, len(groups))
		require.Equal(t, "matmul/downtime/off", table.Rows[0][0])
		require.Equal(t, "matmul/downtime/switchover", table.Rows[1][0])
		var b strings.Builder
		require.NoError(t, table.print(&b))
		requireColumns(t, b.String())
		require.NotContains(t, b.String(), "configuration: ")
	}
}

// TestReportHasRowsOfConfigurations: the page and summary.json of a run tell them apart.
func TestReportHasRowsOfConfigurations(t *testing.T) {
	store, dir := newStore(t, newOrder(validity()))
	for _, r := range telling(validity(), Quick) {
		require.NoError(t, store.Add(r))
	}
	require.NoError(t, store.Close())
	_, err := WriteReport(dir)
	require.NoError(t, err)
	page := readFile(t, dir, reportFile)
	for _, tags := range tagLevels.values {
		require.Equal(t, 3, strings.Count(page, "<td>kv/"+tags+"</td><td>2</td>"), tags)
	}
	var s summary
	require.NoError(t, json.Unmarshal([]byte(readFile(t, dir, summaryFile)), &s))
	require.Len(t, s.Felt, len(s.Groups))
	require.Equal(t, 6.0, s.Felt[0].Around.Seconds)
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
