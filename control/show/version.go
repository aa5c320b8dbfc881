package show

import (
	"fmt"
	"io"
	"strings"

	"taskguide/control/text"
	"taskguide/control/version"
	"taskguide/vmm/state"
)

// Version writes what a build is and what it understands.
func Version(w io.Writer, v version.Info) {
	line := func(name, format string, args ...any) {
		text.Hanging(w, fmt.Sprintf("%-14s ", name), fmt.Sprintf(format, args...))
	}
	line("version", "%s", v.Version)
	line("revision", "%s", revision(v))
	line("go", "%s, %s", v.Go, v.Platform)
	line("protocol", "%s; features: %s", span(v.Protocol.Lowest, v.Protocol.Highest),
		numbers(v.Protocol.Features))
	line("configuration", "%d", v.Machine.Configuration)
	line("state", "%d; sections: %s", v.Machine.State, sections(v.Machine.Sections))
}

// numbers writes a list of them.
func numbers(list []int) string {
	if len(list) == 0 {
		return "none"
	}
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = fmt.Sprint(n)
	}
	return strings.Join(words, ", ")
}

func revision(v version.Info) string {
	if v.Revision == "" {
		return "unknown"
	}
	s := v.Revision
	if v.CommitTime != "" {
		s += " of " + v.CommitTime
	}
	if v.Modified {
		s += ", modified"
	}
	return s
}

// span writes a range of versions.
func span[T ~uint16 | ~uint32](oldest, newest T) string {
	if oldest == newest {
		return fmt.Sprint(newest)
	}
	return fmt.Sprintf("%d to %d", oldest, newest)
}

// sections writes the sections with their versions.
func sections(all []state.Range) string {
	words := make([]string, len(all))
	for i, s := range all {
		words[i] = s.Name + " " + span(s.Oldest, s.Version)
		if s.Optional {
			words[i] += " (optional)"
		}
		words[i] = strings.ReplaceAll(words[i], " ", text.Glue)
	}
	return strings.Join(words, ", ")
}
