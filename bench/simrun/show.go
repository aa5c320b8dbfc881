package simrun

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"taskguide/control/text"
	"taskguide/control/units"
	"taskguide/memory"
)

// mark stands behind figures that no comparison with real moves covers.
const mark = " *"

// Write prints a result for people.
func (r Result) Write(w io.Writer) error {
	text.Hanging(w, "", r.subject())
	head := []string{"policy", "guidance", "downtime", "max", "total", "regret", "regret total"}
	var rows [][]string
	marked := map[string]bool{}
	var reasons []string
	notes := r.notes()
	for _, row := range r.Rows {
		star := ""
		if row.Extrapolated != "" {
			star = mark
			if !marked[row.Extrapolated] {
				marked[row.Extrapolated] = true
				reasons = append(reasons, row.Extrapolated)
			}
		}
		cells := []string{row.Policy, row.Guidance}
		for _, v := range []float64{
			row.DowntimeMS.P50, row.DowntimeMS.Max, row.TotalMS.P50, row.RegretDowntimeMS.P50,
			row.RegretTotalMS.P50,
		} {
			cell := "-"
			if row.Moved > 0 {
				cell = short(v) + star
			}
			cells = append(cells, cell)
		}
		rows = append(rows, cells)
		if row.Moved < row.Moves {
			notes = append(notes, fmt.Sprintf("%s, %s: %d of %d moved; the figures are of these.",
				row.Policy, row.Guidance, row.Moved, row.Moves))
		}
		if row.Lapped > 0 {
			notes = append(notes, fmt.Sprintf("%s, %s: %d of %d moves outlasted the trace, which "+
				"then began again.", row.Policy, row.Guidance, row.Lapped, row.Moves))
		}
	}
	if err := text.Table(w, head, rows); err != nil {
		return err
	}
	if len(reasons) > 0 {
		notes = append([]string{"* extrapolated: " + strings.Join(reasons, "; ") + "."}, notes...)
	}
	for _, note := range notes {
		text.Hanging(w, "", note)
	}
	return nil
}

// short writes a time so that a table of several fits a terminal. Regret may be negative.
func short(ms float64) string {
	if ms < 0 {
		return "-" + short(-ms)
	}
	digits := 1
	if ms >= 100 {
		digits = 0
	}
	if ms >= 100e3 {
		return strconv.FormatFloat(ms/1000, 'f', 0, 64) + "s"
	}
	return strconv.FormatFloat(ms, 'f', digits, 64)
}

// subject says what was simulated.
func (r Result) subject() string {
	bandwidth := "no limit"
	if r.Setting.BitsPerSecond > 0 {
		bandwidth = units.BitRate(float64(r.Setting.BitsPerSecond) / 8)
	}
	moves := 0
	if len(r.Rows) > 0 {
		moves = r.Rows[0].Moves
	}
	return fmt.Sprintf("%s: %s, %s, RTT %v, compress %s, %s each, seed %d; ms, p50 unless it "+
		"says max", r.Trace, r.memory(), bandwidth, r.Setting.RTT, r.Setting.Compress,
		text.Plural(moves, "move"), r.Seed)
}

func (r Result) memory() string {
	size := units.Bytes(int64(r.Pages) * memory.PageSize)
	if r.Pages == r.Recorded {
		return size
	}
	return fmt.Sprintf("%s (recorded: %s; the rest %s)", size,
		units.Bytes(int64(r.Recorded)*memory.PageSize), r.Growth)
}

// notes say what the figures leave out, and what covers them.
func (r Result) notes() []string {
	all := []string{"Not modelled: " + strings.Join(r.Not, "; ") + "."}
	all = append(all, "Regret is a move's figure minus the oracle's, which knows the trace.")
	if r.Tasks == 0 {
		all = append(all, "The trace has no tags, so nothing is guided.")
	}
	for _, v := range r.Validated {
		all = append(all, "Compared with real moves: "+v)
	}
	return all
}

// MovesName and SummaryName are the files of a comparison.
const (
	MovesName   = "moves.csv"
	SummaryName = "summary.json"
)

// Save writes the results into a folder, which must be new or empty.
func Save(folder string, results []Result) error {
	if err := os.Mkdir(folder, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	inside, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	if len(inside) > 0 {
		return fmt.Errorf("%s is not empty: name another folder", folder)
	}
	summary, err := json.MarshalIndent(results, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, SummaryName), append(summary, '\n'), 0o666)
	}
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(folder, MovesName))
	if err != nil {
		return err
	}
	return errors.Join(writeMoves(f, results), f.Close())
}

// columns are those of MovesName.
var columns = []string{
	"trace", "policy", "guidance", "at_ms", "gate_open", "switch_open", "downtime_ms", "total_ms",
	"oracle_downtime_ms", "oracle_total_ms", "forced", "waited_ms", "suspended_ms", "rounds",
	"pages_sent", "pages_skipped", "pages_stopcopy", "bytes_wire", "laps", "error", "reason",
}

func writeMoves(to io.Writer, results []Result) error {
	w := csv.NewWriter(to)
	_ = w.Write(columns) // Flush has the error
	for _, r := range results {
		for _, m := range r.Moves {
			_ = w.Write(cells(r.Trace, m))
		}
	}
	w.Flush()
	return w.Error()
}

func cells(trace string, m EntrantMove) []string {
	f := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	b := strconv.FormatBool
	return []string{
		trace, m.Policy, m.Guidance, f(m.Move.AtMS), b(m.Move.GateOpen), b(m.Move.SwitchOpen),
		f(m.Move.DowntimeMS), f(m.Move.TotalMS), f(m.Oracle.DowntimeMS), f(m.Oracle.TotalMS),
		b(m.Move.Forced), f(m.Move.WaitedMS), f(m.Move.SuspendedMS), n(int64(m.Move.Rounds)),
		n(m.Move.PagesSent), n(m.Move.PagesSkipped), n(m.Move.PagesStopCopy), n(m.Move.BytesWire),
		n(int64(m.Move.Laps)), m.Move.Error, m.Move.Reason,
	}
}
