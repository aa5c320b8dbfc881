package version

import (
	"cmp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"taskguide/transport"
	"taskguide/vmm/state"
)

// release is the version of a build outside a repository. The linker sets it.
var release string

// Info describes a build and what it understands. JSON always has every field.
type Info struct {
	// Version is a tag, as in v0.1.0, or Go's pseudo-version of a commit between two tags. It is
	// "devel" if the sources were in no repository.
	Version string `json:"version"`
	// Revision is the commit of the sources, or empty if that is not known.
	Revision string `json:"revision"`
	// Modified: the sources differed from that commit.
	Modified bool `json:"modified"`
	// CommitTime is when the commit was made, in RFC 3339, or empty if that is not known.
	CommitTime string `json:"commit_time"`
	Go         string `json:"go"`
	Platform   string `json:"platform"`
	// Protocol is what the build speaks on the connection of a migration.
	Protocol Protocol `json:"protocol"`
	Machine  Machine  `json:"machine"`
}

// Protocol has the versions of the migration protocol, and its optional parts by their bit numbers
// in the greeting.
type Protocol struct {
	Lowest   uint32 `json:"lowest_version"`
	Highest  uint32 `json:"highest_version"`
	Features []int  `json:"features"`
}

// Machine has the versions of what a build reads and writes of a machine that moves between hosts.
type Machine struct {
	Configuration int `json:"configuration_version"`
	State         int `json:"state_version"`
	// Sections are the sections of the state that are read, in order.
	Sections []state.Range `json:"sections"`
}

// Here describes this program, which reads and writes machines as m says.
func Here(m Machine) Info {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = &debug.BuildInfo{}
	}
	info := of(build, release)
	info.Machine = m
	if m.Sections == nil {
		info.Machine.Sections = []state.Range{}
	}
	return info
}

// of reads what a build's own record says. release, if there is one, replaces its version.
func of(build *debug.BuildInfo, release string) Info {
	p := transport.Spoken()
	info := Info{
		Version:  cmp.Or(release, build.Main.Version),
		Go:       runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Protocol: Protocol{p.Lowest, p.Highest, p.Features.Bits()},
	}
	if info.Version == "" || info.Version == "(devel)" {
		info.Version = "devel"
	}
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			info.Revision = s.Value
		case "vcs.modified":
			info.Modified = s.Value == "true"
		case "vcs.time":
			// Print only a valid time, whatever the repository says.
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				info.CommitTime = t.UTC().Format(time.RFC3339)
			}
		}
	}
	return info
}

// Short is the version and, if that does not name it, the commit.
func (i Info) Short() string {
	if i.Revision == "" || strings.Contains(i.Version, i.Revision[:min(12, len(i.Revision))]) {
		return i.Version
	}
	s := i.Version + " (" + i.Revision[:min(12, len(i.Revision))]
	if i.Modified {
		s += ", modified"
	}
	return s + ")"
}
