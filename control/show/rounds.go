package show

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"taskguide/control/units"
	"taskguide/migration"
)

// roundFormat has the widths of the columns, in the order of Header.
const roundFormat = "%5s  %11s  %11s  %11s  %9s  %9s  %8s  %12s  %9s  %-6s"

// Header is the first line of the table of rounds.
func Header() string {
	return strings.TrimRight(fmt.Sprintf(roundFormat,
		"round", "dirty pages", "sent", "zero", "skipped", "wire", "time", "rate", "dirtied/s", "gate"), " ")
}

// Row is a round's line of the table.
func Row(r migration.Round) string {
	n := strconv.Itoa(r.N)
	if r.Phase == migration.PhaseStopCopy {
		n = "stop"
	}
	return strings.TrimRight(fmt.Sprintf(roundFormat,
		n, Count(r.DirtyPages), Count(r.SentPages), Count(r.ZeroPages), Count(r.SkippedPages),
		units.Bytes(r.BytesWire), units.Milliseconds(r.MS), units.BitRate(r.BytesPerS),
		Count(int64(r.DirtyPagesPerS)), gate(r.GateOpen)), " ")
}

func gate(open bool) string {
	if open {
		return "open"
	}
	return "closed"
}

// Count writes a number with its thousands apart: 131,072.
func Count(n int64) string {
	s := strconv.FormatInt(n, 10)
	digits := strings.TrimPrefix(s, "-")
	var b strings.Builder
	b.WriteString(s[:len(s)-len(digits)])
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// Outcome writes a completed migration's figures.
func Outcome(w io.Writer, r migration.Report) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-11s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(w, "%s: the guest runs at %s\n", r.Status, r.Destination)
	line("rounds", "%d; switched over: %s", len(r.Rounds), r.SwitchoverReason)
	line("pages", "%s with content, %s zero, %s in stop-and-copy", Count(r.PagesSent), Count(r.PagesZero), Count(r.PagesStopCopy))
	line("bytes", "%s on the wire for %s of pages; RAM %s", units.Bytes(r.BytesWire), units.Bytes(r.BytesPages), units.Bytes(r.RAMBytes))
	line("total time", "%s, of it setup %s", units.Milliseconds(r.TotalMS), units.Milliseconds(r.SetupMS))
	d := r.Downtime
	line("downtime", "%s: pause %s, harvest %s, pages %s, save %s, load %s, run %s",
		units.Milliseconds(r.DowntimeMS), units.Milliseconds(d.PauseMS), units.Milliseconds(d.HarvestMS),
		units.Milliseconds(d.PagesMS), units.Milliseconds(d.SaveMS), units.Milliseconds(d.LoadMS), units.Milliseconds(d.RunMS))
	line("guidance", "%s", guidance(r))
	line("verified", "%s", Verified(r.Verified))
	for _, warning := range r.Warnings {
		line("warning", "%s", warning)
	}
}

func guidance(r migration.Report) string {
	if r.Guidance == migration.GuidanceNone {
		return "none: no task of the guest is registered"
	}
	s := string(r.Guidance)
	if r.WaitedMS > 0 {
		s += ", waited " + units.Milliseconds(r.WaitedMS)
	}
	if r.Suspensions > 0 {
		s += fmt.Sprintf(", suspended %d times for %s", r.Suspensions, units.Milliseconds(r.SuspendedMS))
	}
	if r.Forced {
		s += ", forced at the end"
	}
	return s
}

// Verified puts Report.Verified into words.
func Verified(v *bool) string {
	switch {
	case v == nil:
		return "not asked for (--verify)"
	case *v:
		return "yes: all of RAM and the machine's state are equal on both sides"
	default:
		return "NO: source and destination differ"
	}
}
