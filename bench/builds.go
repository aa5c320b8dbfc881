package bench

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// builds are the hosts of a run, each with its programs: where it began, and where it was resumed.
func builds(begun Environment, resumed []Resumption) []Environment {
	all := []Environment{begun}
	for _, r := range resumed {
		all = append(all, r.Host)
	}
	return all
}

// sameBuilds tells whether all of a run was measured with the programs of another.
func sameBuilds(first Environment, run Run) bool {
	return !slices.ContainsFunc(builds(run.Host, run.Resumed), func(h Environment) bool {
		return h.VMM != first.VMM || h.QEMU != first.QEMU || h.Before != first.Before
	})
}

// versions are those of a host's programs, for people.
func versions(h Environment) string {
	text := fmt.Sprintf("vmm %s, %s, QEMU %s", h.VMM, h.Go, cmp.Or(h.QEMU, "not installed"))
	if h.Before != "" {
		text += ", --before vmm " + h.Before
	}
	return text
}

// mixedBanner warns of a run that went on with other programs, or elsewhere, than it began.
func mixedBanner(run Run) (Banner, bool) {
	found := changes("", run.Host, run.Resumed)
	for _, p := range run.Parts {
		found = append(found, changes(fmt.Sprintf("part %v ", p.Shard), p.Host, p.Resumed)...)
	}
	text := strings.Join(found, "; ") + ": the figures are not of one build on one host"
	return Banner{"MIXED", text}, len(found) > 0
}

// changes says of each resumption what it had that its run did not begin with.
func changes(part string, begun Environment, resumed []Resumption) []string {
	var all []string
	for _, r := range resumed {
		if r.Host == begun {
			continue
		}
		text := part + "resumed " + strings.Join(differences(begun, r.Host), ", ")
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

// differences says with what, and where, a run went on that began otherwise.
func differences(begun, now Environment) []string {
	var all []string
	for _, p := range []struct{ name, was, is string }{
		{"vmm", begun.VMM, now.VMM}, {"QEMU", begun.QEMU, now.QEMU},
		{"--before", begun.Before, now.Before},
		{"Go", strings.TrimPrefix(begun.Go, "go"), strings.TrimPrefix(now.Go, "go")},
	} {
		switch {
		case p.is == p.was:
		case p.is == "":
			all = append(all, "without "+p.name)
		default:
			all = append(all, "with "+p.name+" "+p.is)
		}
	}
	if now.machine() != begun.machine() {
		all = append(all, fmt.Sprintf("on another host or kernel (%s, Linux %s)", now.CPU,
			now.Kernel))
	}
	return all
}

// machine is a host without its programs.
func (e Environment) machine() Environment {
	e.VMM, e.Go, e.QEMU, e.Before = "", "", "", ""
	return e
}
