package show

import (
	"fmt"
	"io"
	"strconv"
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

// sections writes the sections with their versions. Those of devices that a machine may have
// several of, as blk0 and blk1, are one entry.
func sections(all []state.Range) string {
	var words []string
	for len(all) > 0 {
		n, name := numbered(all), all[0].Name
		if n < 3 {
			n = 1
		} else {
			name += " to " + all[n-1].Name
		}
		word := name + " " + span(all[0].Oldest, all[0].Version)
		if all[0].Optional {
			word += " (optional)"
		}
		words = append(words, strings.ReplaceAll(word, " ", text.Glue))
		all = all[n:]
	}
	return strings.Join(words, ", ")
}

// numbered returns how many of the first sections differ in nothing but a number, which counts up.
func numbered(all []state.Range) int {
	kind := strings.TrimRight(all[0].Name, "0123456789")
	first, err := strconv.Atoi(all[0].Name[len(kind):])
	if err != nil {
		return 1
	}
	for i, s := range all {
		want := all[0]
		want.Name = kind + strconv.Itoa(first+i)
		if s != want {
			return i
		}
	}
	return len(all)
}
