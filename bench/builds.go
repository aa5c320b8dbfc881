package bench

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// place is where trials ran: a host with its programs, and the destination if that is another one.
type place struct{ host, destination Environment }

func (r Resumption) place() place {
	at := place{host: r.Host}
	if r.Hosts != nil {
		at.destination = r.Hosts.Destination.Environment
	}
	return at
}

// builds are the places of a run: where it began, and where it was resumed.
func builds(begun Resumption, resumed []Resumption) []place {
	all := []place{begun.place()}
	for _, r := range resumed {
		if r.Hosts == nil { // an older build, which knew no other destination
			r.Hosts = begun.Hosts
		}
		all = append(all, r.place())
	}
	return all
}

// sameBuilds tells whether all of a run was measured with the programs of another. A destination
// has those of its source.
func sameBuilds(first Environment, run Run) bool {
	return !slices.ContainsFunc(builds(run.begun(), run.Resumed), func(at place) bool {
		h := at.host
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
	found := changes("", run.begun(), run.Resumed)
	for _, p := range run.Parts {
		found = append(found, changes(fmt.Sprintf("part %v ", p.Shard), p.begun(), p.Resumed)...)
	}
	text := strings.Join(found, "; ") +
		": the figures are not of one build and the same files on one host"
	return Banner{"MIXED", text}, len(found) > 0
}

// changes says of each resumption what it had that its run did not begin with.
func changes(part string, begun Resumption, resumed []Resumption) []string {
	var all []string
	at := builds(begun, resumed)
	for i, r := range resumed {
		now := at[i+1]
		found := differences(at[0].host, now.host)
		for _, file := range begun.Inputs.changed(r.Inputs) {
			found = append(found, "with a changed "+file)
		}
		if there := differences(at[0].destination, now.destination); len(there) > 0 {
			found = append(found, "at the destination "+strings.Join(there, ", "))
		}
		text := part + "resumed " + strings.Join(found, ", ")
		if len(found) > 0 && !slices.Contains(all, text) {
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
