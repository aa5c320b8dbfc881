package show

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"

	"taskguide/control"
	"taskguide/control/text"
	"taskguide/control/units"
	"taskguide/tagging"
)

// Tags writes the tasks of a guest and the state of the gate.
func Tags(w io.Writer, t tagging.Info) error {
	fmt.Fprintf(w, "gate: %s under all, %s under any; epoch %d\n", gate(t.GateAll), gate(t.GateAny),
		t.Epoch)
	if t.GuestErrors.Total > 0 {
		g := t.GuestErrors
		text.Hanging(w, "guest errors: ", fmt.Sprintf("%s (access %d, task %d, full %d, page %d)",
			Count(int64(g.Total)), g.Access, g.Task, g.Full, g.Page))
	}
	if t.LapsedPages > 0 {
		fmt.Fprintf(w, "tag pages given up because their daemon was gone: %s\n",
			Count(int64(t.LapsedPages)))
	}
	if t.DeclaredRanges > 0 {
		fmt.Fprintf(w, "memory that is not worth moving: %s in %s\n",
			units.Bytes(int64(min(t.DeclaredBytes, math.MaxInt64))),
			text.Plural(t.DeclaredRanges, "range"))
	}
	if len(t.Tasks) == 0 {
		fmt.Fprintln(w, "no task is registered: nothing guides a migration")
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	heading, named := "TASK\tSEGMENT\tDEPTH\tSEGMENTS\tINSIDE\tOUTSIDE\tTAGS", named(t.Tasks)
	if named {
		heading += "\tNAME"
	}
	fmt.Fprintln(table, heading)
	for _, task := range t.Tasks {
		kind := "port"
		if task.Fast {
			kind = "fast"
		}
		fmt.Fprintf(table, "%d\t%s\t%d\t%s\t%s\t%s\t%s", task.ID, side(task.Inside), task.Depth,
			Count(int64(task.Segments)), units.Milliseconds(task.InsideMS),
			units.Milliseconds(task.OutsideMS), kind)
		if named {
			fmt.Fprintf(table, "\t%.*s", nameColumns, task.Name)
		}
		fmt.Fprintln(table)
	}
	return table.Flush()
}

// nameColumns is how much of a name there is room for; --json has all of it.
const nameColumns = 16

// named tells whether a task has a name.
func named(tasks []tagging.TaskInfo) bool {
	return slices.ContainsFunc(tasks, func(t tagging.TaskInfo) bool { return t.Name != "" })
}

func side(inside bool) string {
	if inside {
		return "inside"
	}
	return "outside"
}

// Transition writes a line for an event of a stream with tags. It leaves out events that do not
// matter beside tags.
func Transition(w io.Writer, e control.Event) {
	at := e.Time.Format("15:04:05.000000")
	switch e.Kind {
	case control.EventTag:
		if e.Tag.Dropped > 0 {
			fmt.Fprintf(w, "%s  %d transitions were too fast to follow\n", at, e.Tag.Dropped)
		}
		fmt.Fprintf(w, "%s  task %d %-10s depth %d  gate: all %s, any %s\n", at, e.Tag.Task,
			e.Tag.Event, e.Tag.Depth,
			gate(e.Tag.GateAll), gate(e.Tag.GateAny))
	case control.EventLagged:
		fmt.Fprintf(w, "%s  %d events were too fast to follow\n", at, e.Dropped)
	case control.EventState:
		fmt.Fprintf(w, "%s  VM %s\n", at, e.State)
	case "phase":
		fmt.Fprintf(w, "%s  migration: %s\n", at, e.Phase)
	}
}
