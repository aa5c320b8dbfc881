package simrun

import (
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"taskguide/bench/sim"
	"taskguide/control/text"
	"taskguide/control/units"
	"taskguide/memory"
	"taskguide/migration/policy"
)

// mark stands behind figures that no comparison with real moves covers.
const mark = " *"

// table is a cell's rows, and what concerns some of them.
func (r Result) table() Table {
	t := Table{
		Place: r.place(), Caption: r.subject(),
		Head: []string{
			"policy", "guidance", "downtime", "max", "total", "regret", "regret total",
		},
	}
	if r.Cut {
		t.Notes = append(t.Notes,
			"The trace was cut off: it has no end, so some of it is missing.")
	}
	if r.Lost > 0 {
		t.Notes = append(t.Notes, fmt.Sprintf("The trace lost %d events, because who takes them "+
			"was too slow: tags may be missing.", r.Lost))
	}
	for _, row := range r.Rows {
		t.Rows = append(t.Rows, r.tableRow(row))
		if row.Moved < row.Moves {
			t.Notes = append(t.Notes, fmt.Sprintf("%s, %s: %d of %d moved; the figures are of "+
				"these.", row.Policy, row.Guidance, row.Moved, row.Moves))
		}
		if row.Lapped > 0 {
			t.Notes = append(t.Notes, fmt.Sprintf("%s, %s: %d of %d moves outlasted the trace, "+
				"which then began again.", row.Policy, row.Guidance, row.Lapped, row.Moves))
		}
	}
	return t
}

func (r Result) tableRow(row sim.Row) []string {
	star := ""
	if row.Extrapolated != "" {
		star = mark
	}
	figure := func(v float64, of int, star string) string {
		if of == 0 {
			return "-"
		}
		return short(v) + star
	}
	return []string{
		row.Policy, row.Guidance, figure(row.DowntimeMS.P50, row.Moved, star),
		figure(row.DowntimeMS.Max, row.Moved, star), figure(row.TotalMS.P50, row.Moved, star),
		// No real move does what the oracle does.
		figure(row.RegretDowntimeMS.P50, row.Judged, mark),
		figure(row.RegretTotalMS.P50, row.Judged, mark),
	}
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

// place says which cell it is.
func (r Result) place() string {
	bandwidth := "no limit"
	if r.Setting.BitsPerSecond > 0 {
		bandwidth = units.BitRate(float64(r.Setting.BitsPerSecond) / 8)
	}
	return fmt.Sprintf("%s: %s, %s, RTT %v", r.Trace, r.memory(), bandwidth, r.Setting.RTT)
}

// subject says what was simulated.
func (r Result) subject() string {
	moves := 0
	if len(r.Rows) > 0 {
		moves = r.Rows[0].Moves
	}
	return fmt.Sprintf("%s, compress %s, %s each, seed %d; ms, p50 unless it says max", r.place(),
		r.Setting.Compress, text.Plural(moves, "move"), r.Seed)
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
	all := []string{
		notModelled(r.Not),
		"Regret is a move's figure minus the oracle's, which knows the trace.",
	}
	if r.Tasks == 0 {
		all = append(all, "The trace has no tags, so nothing is guided.")
	}
	for _, row := range r.Rows {
		if row.Lost > 0 {
			all = append(all, fmt.Sprintf("%s failed in %d of %d moves, and %s took its place: %s.",
				row.Policy, row.Lost, row.Moves, policy.Default, row.PolicyError))
		}
	}
	return append(all, r.compared()...)
}

func notModelled(what []string) string { return "Not modelled: " + strings.Join(what, "; ") + "." }

// compared says how the comparisons went that cover some of the figures.
func (r Result) compared() []string {
	var all []string
	for _, v := range r.Validated {
		all = append(all, "Compared with real moves: "+v)
	}
	return all
}

// cellColumns say which cell it was, at the beginning of the rows of all tables.
var cellColumns = []string{
	"trace", "memory_bytes", "bits_per_second", "rtt_ms", "limit_ms", "policy", "guidance",
	"extrapolated",
}

func (r Result) cell(row sim.Row) []string {
	return []string{
		r.Trace, n(int64(r.Pages) * memory.PageSize), n(r.Setting.BitsPerSecond),
		f(ms(r.Setting.RTT)), f(r.LimitMS), row.Policy, row.Guidance,
		strconv.FormatBool(row.Extrapolated != ""),
	}
}

// known is a figure, or nothing if there is none.
func known(v float64, is bool) string {
	if !is {
		return ""
	}
	return f(v)
}

func f(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
func n(v int64) string   { return strconv.FormatInt(v, 10) }

// moveColumns are further ones of MovesName.
var moveColumns = []string{
	"at_ms", "gate_open", "switch_open", "downtime_ms", "total_ms", "oracle_downtime_ms",
	"oracle_total_ms", "forced", "waited_ms", "suspended_ms", "rounds", "pages_sent",
	"pages_skipped", "pages_stopcopy", "bytes_wire", "laps", "error", "reason", "policy_error",
}

func (c Comparison) writeMoves(to io.Writer) error {
	w := csv.NewWriter(to)
	_ = w.Write(append(slices.Clone(cellColumns), moveColumns...)) // Flush has the error
	for _, r := range c.Results {
		for _, m := range r.Moves {
			_ = w.Write(append(r.cell(r.Rows[m.Row]), moveCells(m)...))
		}
	}
	w.Flush()
	return w.Error()
}

func moveCells(m EntrantMove) []string {
	b := strconv.FormatBool
	return []string{
		f(m.Move.AtMS), b(m.Move.GateOpen), b(m.Move.SwitchOpen), f(m.Move.DowntimeMS),
		f(m.Move.TotalMS), known(m.Oracle.DowntimeMS, m.Oracle.DowntimeMS > 0),
		known(m.Oracle.TotalMS, m.Oracle.DowntimeMS > 0), b(m.Move.Forced),
		f(m.Move.WaitedMS), f(m.Move.SuspendedMS), n(int64(m.Move.Rounds)), n(m.Move.PagesSent),
		n(m.Move.PagesSkipped), n(m.Move.PagesStopCopy), n(m.Move.BytesWire),
		n(int64(m.Move.Laps)), m.Move.Error, m.Move.Reason, m.Move.PolicyError,
	}
}

// rowColumns are further ones of RowsName.
var rowColumns = []string{
	"moves", "moved", "forced", "lapped", "downtime_p50_ms", "downtime_p99_ms", "downtime_max_ms",
	"total_p50_ms", "total_p99_ms", "regret_downtime_p50_ms", "regret_total_p50_ms", "tenfold",
}

func (c Comparison) writeRows(to io.Writer) error {
	w := csv.NewWriter(to)
	_ = w.Write(append(slices.Clone(cellColumns), rowColumns...))
	for _, r := range c.Results {
		for _, row := range r.Rows {
			_ = w.Write(append(r.cell(row), n(int64(row.Moves)), n(int64(row.Moved)),
				n(int64(row.Forced)), n(int64(row.Lapped)), f(row.DowntimeMS.P50),
				f(row.DowntimeMS.P99), f(row.DowntimeMS.Max), f(row.TotalMS.P50),
				f(row.TotalMS.P99), known(row.RegretDowntimeMS.P50, row.Judged > 0),
				known(row.RegretTotalMS.P50, row.Judged > 0), known(row.Tenfold, row.Judged > 0)))
		}
	}
	w.Flush()
	return w.Error()
}
