package simrun

import (
	"bytes"
	"encoding/csv"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/sim"
)

// TestCellOfFew: a cell whose guided policy moved fewer guests than another one has no gain, and
// says how many. All policies that compete for the best one must be covered by a comparison, or
// nobody knows that it is the best.
func TestCellOfFew(t *testing.T) {
	times := sim.Quantiles{P50: 2, P90: 3, P99: 4, Max: 4}
	guided := sim.Row{
		Policy: "downtime", Guidance: "switchover", Moves: 4, Moved: 1, DowntimeMS: times,
		TotalMS: times,
	}
	best := guided
	best.Policy, best.Guidance, best.Moved = "xen", "off", 4
	worse := best
	worse.Policy, worse.DowntimeMS.P50, worse.DowntimeMS.P99 = "qemu", 400, 400
	r := Result{Point: &Point{}, Rows: []sim.Row{guided, best, worse}}
	c := Map{}.cell(r)
	require.Empty(t, c.Best)
	require.Equal(t, "1 of 4", pictures[0].cell(c).Below)

	r.Rows[0].Moved = 4
	c = Map{}.cell(r)
	require.Equal(t, "xen", c.Best)
	require.InDelta(t, 1, c.GainP50, 1e-9)
	require.Empty(t, c.Extrapolated)
	r.Rows[2].Extrapolated = "never compared"
	c = Map{}.cell(r)
	require.Equal(t, "xen", c.Best)
	require.Equal(t, "never compared", c.Extrapolated)
	note := MapSummary{Cells: []MapCell{c}}.tailNote()
	require.Contains(t, note, "A p99 of 4 moves is the largest")
	c.Moves = leastForTail
	require.Empty(t, MapSummary{Cells: []MapCell{c}}.tailNote())

	r.Rows[0].Moved, r.Rows[1].Moved, r.Rows[2].Moved = 0, 0, 0
	require.Equal(t, "stays", pictures[0].cell(Map{}.cell(r)).Text)
}

// TestSweepOfFew: a cell without moves is missing, and one where some moves did not end says how
// many did.
func TestSweepOfFew(t *testing.T) {
	cell := func(moved, moves int) (string, string) {
		c := downtimeCell(Result{Rows: []sim.Row{{Moved: moved, Moves: moves}}}, 0)
		return c.Text, c.Below
	}
	text, _ := cell(0, 0)
	require.Equal(t, "missing", text)
	text, _ = cell(0, 6)
	require.Equal(t, "stays", text)
	_, below := cell(2, 6)
	require.Equal(t, "2 of 6", below)
	_, below = cell(6, 6)
	require.Equal(t, "0.0 s", below)
}

// TestPicturesHaveMarks: figures that no comparison covers have one, and others have none.
func TestPicturesHaveMarks(t *testing.T) {
	times := sim.Quantiles{P50: 2}
	row := sim.Row{Moved: 4, Moves: 4, DowntimeMS: times}
	require.Equal(t, "2.0", downtimeCell(Result{Rows: []sim.Row{row}}, 0).Text)
	row.Extrapolated = "never compared"
	require.Equal(t, "2.0 *", downtimeCell(Result{Rows: []sim.Row{row}}, 0).Text)
	row.Moved = 3
	require.Equal(t, "2.0 *", downtimeCell(Result{Rows: []sim.Row{row}}, 0).Text)
	c := Comparison{Results: []Result{{Rows: []sim.Row{row}}}}
	svg, err := c.sweep().SVG(nil)
	require.NoError(t, err)
	require.Contains(t, string(svg), markMeans)

	cell := MapCell{Moves: 4, Moved: 4, Best: "xen", GainP50: 3, GainP99: 3, TotalMS: 3000}
	for _, p := range pictures {
		cell.Extrapolated = ""
		require.Equal(t, p.text(cell), p.cell(cell).Text)
		cell.Extrapolated = "never compared"
		require.Equal(t, p.text(cell)+mark, p.cell(cell).Text)
		require.Contains(t, MapSummary{}.heat(p).Title, markMeans)
	}
}

// TestNoOracle: where none was simulated, tables have no figure of it, and no regret of 0.
func TestNoOracle(t *testing.T) {
	row := sim.Row{Policy: "xen", Moves: 1, Moved: 1, Tenfold: 1}
	move := EntrantMove{Paired: sim.Paired{Move: sim.Move{TotalMS: 9}}}
	c := Comparison{Results: []Result{{Rows: []sim.Row{row}, Moves: []EntrantMove{move}}}}
	var rows, moves bytes.Buffer
	require.NoError(t, c.writeRows(&rows))
	require.NoError(t, c.writeMoves(&moves))
	for file, columns := range map[*bytes.Buffer][]string{
		&rows:  {"regret_downtime_p50_ms", "regret_total_p50_ms", "tenfold"},
		&moves: {"oracle_downtime_ms", "oracle_total_ms"},
	} {
		all, err := csv.NewReader(file).ReadAll()
		require.NoError(t, err)
		for _, name := range columns {
			require.Empty(t, all[1][slices.Index(all[0], name)], name)
		}
	}
	require.Equal(t, "-", Result{}.tableRow(row)[5])
}
