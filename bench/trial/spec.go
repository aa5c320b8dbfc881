package trial

import (
	"fmt"
	"strings"
	"time"

	"taskguide/bench/peer/qemu"
	"taskguide/migration"
	"taskguide/migration/policy"
)

// Tag says which phases of its cycle the guest's program marks as segments.
type Tag string

// These are the ways to tag; package guestkernel explains them.
const (
	TagNone   Tag = "none"
	TagCool   Tag = "cool"   // as a programmer should: the phases that write little
	TagBusy   Tag = "busy"   // the wrong phases
	TagRandom Tag = "random" // segments that are unrelated to the phases
	TagFast   Tag = "fast"   // like cool, through the tag page
)

// Guest is the program that is moved, and its machine.
type Guest struct {
	// Program is the beginning of the kernel command line, as in "workload=kv ws=64M".
	Program string        `json:"program"`
	Busy    time.Duration `json:"busy_ns"`
	Cool    time.Duration `json:"cool_ns"`
	Tag     Tag           `json:"tag"`
	// Seed seeds what is random in the program: its data, and the segments of TagRandom.
	Seed int `json:"seed"`

	MemoryBytes int64 `json:"memory_bytes"`
	CPUs        int   `json:"cpus"`
	// Dots is how often the guest prints a dot for the outside clock; 0 for never.
	Dots time.Duration `json:"dots_ns,omitempty"`
	// Prefault gives the guest all its RAM before it runs, on both hosts.
	Prefault bool `json:"prefault"`
	// DiskBytes is the size of its disk, a raw file that both hosts open; 0 for none.
	DiskBytes int64 `json:"disk_bytes,omitempty"`
	// Tracker is the kind of dirty log at the source; empty for the one that suits the KVM.
	Tracker string `json:"tracker,omitempty"`
	// Kernel, Initrd and Disks are files of a guest that is not the embedded one, or has disks of
	// its own. Each trial gets copies of the disks.
	Kernel string   `json:"kernel,omitempty"`
	Initrd string   `json:"initrd,omitempty"`
	Disks  []string `json:"disks,omitempty"`
	// Ready is what a guest without heartbeats prints once it may be moved. Whether it works, and
	// how long it stands still by its own clock, is not known then.
	Ready string `json:"ready,omitempty"`
	// Card gives it a network card, on a network that sends each frame back.
	Card bool `json:"card,omitempty"`
}

// Cmdline is the guest's kernel command line.
func (g Guest) Cmdline() string {
	line := g.Program
	if g.Busy > 0 || g.Cool > 0 {
		line += fmt.Sprintf(" busy=%dus cool=%dus", g.Busy.Microseconds(), g.Cool.Microseconds())
	}
	if g.Tag != "" {
		line += " tag=" + string(g.Tag)
	}
	if g.Dots > 0 {
		line += fmt.Sprintf(" dots=%dus", g.Dots.Microseconds())
	}
	if g.Seed > 0 && g.Ready == "" {
		line += fmt.Sprintf(" seed=%d", g.Seed)
	}
	return line
}

// Cycle is how long a busy and a cool phase last together.
func (g Guest) Cycle() time.Duration { return g.Busy + g.Cool }

// Spec is the order for one trial.
type Spec struct {
	// ID names the trial within its experiment.
	ID string `json:"id"`
	// Factors are the values of what the experiment varies, by name, to group results.
	Factors map[string]string `json:"factors"`
	Guest   Guest             `json:"guest"`
	// Offset is the point of the cycle at which the migration is requested: 0 is the beginning of
	// the busy phase, 1 the end of the cool one.
	Offset float64 `json:"offset"`
	// Params are the migration's parameters. The trial fills in the destination.
	Params migration.Params `json:"params"`
	// RTT is the round trip that a relay adds to the way to the destination; 0 is none, and no
	// relay. The relay does not limit the bandwidth.
	RTT time.Duration `json:"rtt_ns,omitempty"`
	// QEMU, unless nil, makes this a trial of QEMU. It uses only the bandwidth and the downtime
	// limit of Params.
	QEMU *qemu.Migration `json:"qemu,omitempty"`
	// Before makes this a trial of the site's other vmm, usually an earlier build.
	Before bool `json:"before,omitempty"`
	// Baseline, unless empty, replaces the migration by a baseline.
	Baseline      Baseline `json:"baseline,omitempty"`
	BaselineBytes int64    `json:"baseline_bytes,omitempty"`
	// Moves makes this a trial of so many moves of one guest, back and forth, each at a random
	// moment by the guest's seed. Offset counts for nothing then.
	Moves int `json:"moves,omitempty"`
	// Record, unless nil, has the guest recorded before the request, and the move simulated. The
	// guest's tags must tell its phases.
	Record *Recording `json:"record,omitempty"`
	// Contest, unless nil, makes this a trial that moves nothing: the guest is recorded as Record
	// says, and the moves of the contest are simulated.
	Contest *Contest `json:"contest,omitempty"`
	// BeatsBefore and BeatsAfter are how many seconds the guest is watched before the request and
	// after the move. 0 counts as 1.
	BeatsBefore int `json:"beats_before,omitempty"`
	BeatsAfter  int `json:"beats_after,omitempty"`
}

// LocalOnly says what of a trial needs to be at one host, or "".
func (s Spec) LocalOnly() string {
	switch {
	case s.QEMU != nil:
		return "a move of QEMU"
	case s.Baseline != "":
		return "a baseline of this host"
	case s.RTT > 0:
		return "a relay, which is beside both ends"
	case s.Moves > 0:
		return "moves back and forth"
	case s.Before:
		return "another build of vmm"
	case s.Guest.DiskBytes > 0, len(s.Guest.Disks) > 0:
		return "a disk, for which the hosts have no common store"
	case s.Guest.Card:
		return "a network between the two ends"
	case strings.HasPrefix(string(s.Params.Rule), policy.Exec+":"):
		return "a policy's program"
	}
	return ""
}
