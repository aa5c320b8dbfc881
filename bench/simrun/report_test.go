package simrun

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/sim"
)

// TestMarkOfRegret: its mark is explained, also where comparisons with real moves cover all else.
func TestMarkOfRegret(t *testing.T) {
	report := func(judged int) Report {
		row := sim.Row{Policy: "xen", Guidance: "off", Moves: 1, Moved: 1, Judged: judged}
		return Comparison{Results: []Result{{Rows: []sim.Row{row}}}}.Report()
	}
	r := report(1)
	require.Equal(t, []string{"xen", "off", "0.0", "0.0", "0.0", "0.0 *", "0.0 *"},
		r.Tables[0].Rows[0])
	require.Equal(t, "* extrapolated: "+sim.NoRealOracle+".", r.Notes[0])
	r = report(0)
	require.Equal(t, []string{"xen", "off", "0.0", "0.0", "0.0", "-", "-"}, r.Tables[0].Rows[0])
	require.NotContains(t, strings.Join(r.Notes, "\n"), "extrapolated")
}

// TestTerminalHasTheReport: a terminal shows all of the report, in its order, and the notes of a
// table below it.
func TestTerminalHasTheReport(t *testing.T) {
	row := sim.Row{
		Policy: "xen", Guidance: "off", Moves: 4, Moved: 3, Lapped: 1, Judged: 1,
		Extrapolated: "never compared",
	}
	c := Comparison{Results: []Result{
		{Trace: "one", Seed: 1, Not: sim.Costs{}.NotModelled(), Rows: []sim.Row{row}, Cut: true},
		{Trace: "two", Seed: 1, Not: sim.Costs{}.NotModelled(), Rows: []sim.Row{row, row}},
	}}
	var out strings.Builder
	require.NoError(t, c.Write(&out))
	rest := strings.Join(strings.Fields(out.String()), " ")
	r := c.Report()
	require.Len(t, r.Tables, 2)
	require.NotEmpty(t, r.Notes)
	next := func(said string) {
		t.Helper()
		require.Contains(t, rest, said)
		_, rest, _ = strings.Cut(rest, said)
	}
	for _, table := range r.Tables {
		require.NotEmpty(t, table.Notes)
		next(table.Caption)
		next(strings.Join(table.Head, " "))
		for _, cells := range table.Rows {
			next(strings.Join(cells, " "))
		}
		for _, note := range table.Notes {
			next(note)
		}
	}
	for _, note := range r.Notes {
		next(note)
	}
	require.Empty(t, rest)
}

// TestEndedNote: a map says in which cells guided moves did not end, and how many did.
func TestEndedNote(t *testing.T) {
	s := MapSummary{Cells: []MapCell{
		{Point: Point{BusyMS: 500, Ratio: 4}, LimitMS: 30, Moves: 4, Moved: 4},
		{Point: Point{BusyMS: 500, Ratio: 8}, LimitMS: 30}, // of a part that is missing
	}}
	require.Empty(t, s.endedNote())
	s.Cells[0].Moved = 0
	s.Cells = append(s.Cells, MapCell{
		Point: Point{BusyMS: 2000, Ratio: 0.5}, LimitMS: 100, Moves: 4, Moved: 3,
	})
	require.Contains(t, s.endedNote(), "So many ended: 0 of 4 at busy 500ms, rate 4, limit 30 ms; "+
		"3 of 4 at busy 2s, rate 0.5, limit 100 ms.")
}

// TestExtrapolatedNote: a map says how much of it is extrapolated, and why.
func TestExtrapolatedNote(t *testing.T) {
	why := MapCell{Extrapolated: "never compared"}
	for want, cells := range map[string][]MapCell{
		"": {{}, {}},
		"1 of 2 cells are extrapolated: never compared.": {why, {}},
		"All of it is extrapolated: never compared.":     {why, why},
	} {
		require.Equal(t, want, MapSummary{Cells: cells}.extrapolatedNote())
	}
	require.Empty(t, MapSummary{}.extrapolatedNote())
}
