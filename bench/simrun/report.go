package simrun

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"taskguide/bench/sim"
	"taskguide/control/text"
)

// Report is what people are shown of a comparison, at a terminal as on a page: its tables, and
// behind them what concerns all of them.
type Report struct {
	Title, Summary string
	Partial        string // says what is missing
	Tables         []Table
	Notes          []string
}

// Table is figures in rows.
type Table struct {
	Place   string // which cell it is, in short
	Caption string
	Head    []string
	Rows    [][]string
	Notes   []string // of some of the rows
}

// Report makes the tables: that of a map, or one for each cell.
func (c Comparison) Report() Report {
	if c.Map != nil {
		return c.mapReport()
	}
	all := Report{
		Title:   "Policies in simulated moves",
		Summary: "The guests of traces, moved in virtual time under each policy.",
		Partial: c.Partial(),
	}
	var reasons, notes []string
	for _, r := range c.Results {
		all.Tables = append(all.Tables, r.table())
		for _, row := range r.Rows {
			reasons = addNew(reasons, whyMarked(row))
		}
		for _, note := range r.notes() {
			notes = addNew(notes, note)
		}
	}
	if len(reasons) > 0 {
		all.Notes = []string{"* extrapolated: " + strings.Join(reasons, "; ") + "."}
	}
	all.Notes = append(all.Notes, notes...)
	return all
}

// whyMarked says why figures of a row have a mark. Regret has one where nothing else has.
func whyMarked(row sim.Row) string {
	if row.Judged == 0 {
		return row.Extrapolated
	}
	return cmp.Or(row.Extrapolated, sim.NoRealOracle)
}

// addNew adds a text to a list that does not have it.
func addNew(all []string, s string) []string {
	if s == "" || slices.Contains(all, s) {
		return all
	}
	return append(all, s)
}

// Write prints the report at a terminal.
func (c Comparison) Write(w io.Writer) error {
	r := c.Report()
	if r.Partial != "" {
		fmt.Fprintf(w, "%s\n\n", r.Partial)
	}
	for i, t := range r.Tables {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := t.write(w); err != nil {
			return err
		}
	}
	if len(r.Tables) > 1 {
		fmt.Fprintln(w)
	}
	for _, note := range r.Notes {
		text.Hanging(w, "", note)
	}
	return nil
}

// write prints a table below its caption, and its notes below it.
func (t Table) write(w io.Writer) error {
	text.Hanging(w, "", t.Caption)
	if err := text.Table(w, t.Head, t.Rows); err != nil {
		return err
	}
	for _, note := range t.Notes {
		text.Hanging(w, "", note)
	}
	return nil
}
