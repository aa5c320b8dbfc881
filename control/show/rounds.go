package show

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"taskguide/control/text"
	"taskguide/control/units"
	"taskguide/migration"
)

// roundFormat has the widths of the columns, in the order of Header. Together they are at most
// text.Columns wide.
const roundFormat = "%5s %7s %7s %7s %7s %8s %7s %9s %7s %-6s"

// Header is the first line of the table of rounds. Its counts are of pages.
func Header() string {
	return strings.TrimRight(fmt.Sprintf(roundFormat, "round", "dirty", "sent", "zero", "skipped",
		"wire", "time", "rate/s", "dirty/s", "gate"), " ")
}

// Row is a round's line of the table.
func Row(r migration.Round) string {
	n := strconv.Itoa(r.N)
	if r.Phase == migration.PhaseStopCopy {
		n = "stop"
	}
	return strings.TrimRight(fmt.Sprintf(roundFormat,
		n, short(r.DirtyPages), short(r.SentPages), short(r.ZeroPages), short(r.SkippedPages),
		units.Bytes(r.BytesWire), units.Milliseconds(r.MS),
		strings.TrimSuffix(units.BitRate(r.BytesPerS), "/s"),
		short(int64(r.DirtyPagesPerS)), gate(r.GateOpen)), " ")
}

func gate(open bool) string {
	if open {
		return "open"
	}
	return "closed"
}

// short is Count in at most seven columns: from a million on, three digits and a unit.
func short(n int64) string {
	switch {
	case n < 1e6:
		return Count(n)
	case n < 999.5e6:
		return fmt.Sprintf("%.*fM", digitsAfter(float64(n)/1e6), float64(n)/1e6)
	}
	return fmt.Sprintf("%.*fG", digitsAfter(float64(n)/1e9), float64(n)/1e9)
}

// digitsAfter is how many digits after the point give a number below 1000 three digits.
func digitsAfter(v float64) int {
	switch {
	case v < 9.995:
		return 2
	case v < 99.95:
		return 1
	}
	return 0
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
		text.Hanging(w, fmt.Sprintf("  %-11s ", name), fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(w, "%s: the guest runs at %s\n", r.Status, r.Destination)
	line("rounds", "%d; switched over: %s", r.RoundCount(), r.SwitchoverReason)
	line("pages", "%s with content, %s zero, %s in stop-and-copy",
		Count(r.PagesSent), Count(r.PagesZero), Count(r.PagesStopCopy))
	if n := r.PagesNotSent; n.Declared > 0 {
		line("not sent", "%s declared by the guest to be not worth moving, %s holes of RAM",
			Count(n.Declared), Count(n.Hole))
	}
	line("bytes", "%s on the wire for %s of pages; RAM %s",
		units.Bytes(r.BytesWire), units.Bytes(r.BytesPages), units.Bytes(r.RAMBytes))
	line("total time", "%s, of it setup %s", units.Milliseconds(r.TotalMS),
		units.Milliseconds(r.SetupMS))
	line("downtime", "%s: %s", units.Milliseconds(r.DowntimeMS), parts(r.Downtime))
	if f := r.DowntimeFixed; f.SubtractedMS >= 1 {
		line("limit", "%s, of it %s not for pages: %s", units.Milliseconds(f.LimitMS),
			units.Milliseconds(f.SubtractedMS), f.Source)
	}
	if r.DrainMS+r.PresyncMS >= 1 {
		line("disks", "before it drained in %s, and made durable in %s",
			units.Milliseconds(r.DrainMS), units.Milliseconds(r.PresyncMS))
	}
	if n := len(r.DrainsTakenBack); n > 0 {
		line("storage", "%s before the guest stood still, the last was %s",
			text.Plural(n, "switchover"), r.DrainsTakenBack[n-1].Ended)
	}
	if n := len(r.Standstills); n > 1 {
		line("taken back", "%s", takenBack(r.Standstills[:n-1]))
	}
	line("guidance", "%s", guidance(r))
	line("verified", "%s", Verified(r.Verified, r.PagesDeclared))
	for _, s := range r.Shadows {
		line("shadow", "%s", shadow(s))
	}
	for _, warning := range r.Warnings {
		line("warning", "%s", warning)
	}
}

// shadow says when a shadow would first have ended pre-copy.
func shadow(s migration.Shadow) string {
	for _, d := range s.Decisions {
		switch verb := d.Action; verb {
		case "switchover", "abort":
			if d.GaveUp {
				verb = "given up"
			}
			return fmt.Sprintf("%s: %s after %s, round %d, with %s pages left: %s", s.Policy, verb,
				units.Milliseconds(d.AtMS), d.Round, Count(int64(d.Remaining)), d.Reason)
		}
	}
	if s.Error != "" {
		return fmt.Sprintf("%s: %s", s.Policy, s.Error)
	}
	if s.Asked == 0 {
		return fmt.Sprintf("%s: has not answered", s.Policy)
	}
	return fmt.Sprintf("%s: would still go on", s.Policy)
}

// parts lists the parts of a downtime that follow one another, in order, and those that pass beside
// the pages in brackets. It leaves out those that not every switchover has if they are absent.
func parts(d migration.DowntimeParts) string {
	beside := "save " + units.Milliseconds(d.SaveMS)
	if d.SyncMS > 0 {
		beside += ", sync " + units.Milliseconds(d.SyncMS)
	}
	var out []string
	add := func(name string, ms float64) {
		out = append(out, name+" "+units.Milliseconds(ms))
	}
	optional := func(name string, ms float64) {
		if ms > 0 {
			add(name, ms)
		}
	}
	// If the destination says how long it worked, that and the way stand for the whole wait.
	wait := func(name string, ms float64, there *float64) {
		if there == nil {
			add(name, ms)
		} else {
			add(name+" there", *there)
		}
	}
	optional("exit", d.ExitMS)
	add("pause", d.PauseMS)
	optional("quiesce", d.QuiesceMS)
	add("harvest", d.HarvestMS)
	out = append(out, fmt.Sprintf("pages %s (beside: %s)", units.Milliseconds(d.PagesMS), beside))
	optional("settle", d.SettleMS)
	optional("verify", d.VerifyMS)
	wait("load", d.LoadMS, d.LoadThereMS)
	wait("run", d.RunMS, d.RunThereMS)
	optional("way", d.WayMS)
	add("unexplained", d.UnexplainedMS)
	return strings.Join(out, ", ")
}

// takenBack sums up the switchovers that were taken back.
func takenBack(s []migration.Standstill) string {
	longest := s[0].MS
	for _, st := range s {
		longest = max(longest, st.MS)
	}
	return fmt.Sprintf("%s; the guest stood still for at most %s",
		text.Plural(len(s), "switchover"), units.Milliseconds(longest))
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
		s += fmt.Sprintf(", suspended %s for %s", text.Plural(r.Suspensions, "time"),
			units.Milliseconds(r.SuspendedMS))
	}
	if more := r.DeferredMS - r.WaitedMS - r.SuspendedMS; more >= 1 {
		s += fmt.Sprintf(", deferred by %s in all", units.Milliseconds(r.DeferredMS))
	}
	if r.Forced {
		s += ", forced at the end"
	}
	return s
}

// Verified puts Report.Verified into words, with Report.PagesDeclared.
func Verified(v *bool, declared int64) string {
	switch {
	case v == nil:
		return "not asked for (--verify)"
	case *v && declared > 0:
		return fmt.Sprintf("yes: all of RAM but the %s that the guest declared, and the machine's "+
			"state, are equal on both sides", text.Plural(int(declared), "page"))
	case *v:
		return "yes: all of RAM and the machine's state are equal on both sides"
	default:
		return "NO: source and destination differ"
	}
}
