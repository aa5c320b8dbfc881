package bench

import (
	"fmt"
	"io"
	"strings"
	"time"

	"taskguide/bench/peer/qemu"
	"taskguide/control/text"
)

// Announcement says what a run of an experiment would do on this host.
type Announcement struct {
	Name    string   `json:"name"`
	Summary string   `json:"summary"`
	Full    RunSize  `json:"full"`
	Quick   RunSize  `json:"quick"`
	Notes   []string `json:"notes"` // what it needs, and what is left out without that
}

// RunSize says how much a run would do.
type RunSize struct {
	Trials  int     `json:"trials"`
	Seconds float64 `json:"at_most_s"` // the run ends after that, even if trials are left
}

// Limit is the longest time that the run takes.
func (r RunSize) Limit() time.Duration { return time.Duration(r.Seconds * float64(time.Second)) }

// Write prints it for people.
func (a Announcement) Write(w io.Writer) {
	const column = 11 // where the text begins
	line := func(name, words string) { text.Hanging(w, fmt.Sprintf("%-*s", column, name), words) }
	line(a.Name, fmt.Sprintf("%s, under %v; %d with --quick, under %v",
		text.Plural(a.Full.Trials, "trial"), a.Full.Limit(), a.Quick.Trials, a.Quick.Limit()))
	line("", a.Summary)
	for _, n := range a.Notes {
		text.Hanging(w, strings.Repeat(" ", column)+"- ", n)
	}
}

// Announcements returns those of all experiments.
func Announcements() []Announcement {
	var all []Announcement
	here := Here(Full, Programs{})
	for _, e := range Experiments() {
		full, quick := here, here
		quick.Size = Quick
		full.Before, quick.Before = e.NeedsBefore, e.NeedsBefore
		all = append(all, e.announce(full, quick))
	}
	return all
}

func (e Experiment) announce(full, quick Setting) Announcement {
	size := func(at Setting) RunSize {
		return RunSize{len(e.Plan(at, 0)), e.promise(at.Size).Seconds()}
	}
	a := Announcement{
		Name:    e.Name,
		Summary: e.Summary,
		Full:    size(full),
		Quick:   size(quick),
		Notes:   []string{},
	}
	if e.NeedsBefore {
		a.Notes = append(a.Notes, "needs --before, another build of vmm")
	}
	if e.SharedLink {
		a.Notes = append(
			a.Notes,
			"as root it builds a link between network namespaces; else each VMM limits itself",
		)
	}
	with := full
	with.QEMU, with.Ways = "some", qemu.AllWays
	switch more := len(e.Plan(with, 0)) - len(e.Plan(full, 0)); {
	case full.QEMU == "" && more > 0:
		a.Notes = append(a.Notes, fmt.Sprintf(
			"without QEMU, which is not installed (%s): %s fewer",
			qemu.Binary, text.Plural(more, "trial")))
	case full.QEMU != "" && e.usesQEMU(full):
		a.Notes = append(a.Notes, "beside QEMU "+full.QEMU)
	}
	return a
}

func (e Experiment) usesQEMU(at Setting) bool {
	for _, s := range e.Plan(at, 0) {
		if s.QEMU != nil {
			return true
		}
	}
	return false
}
