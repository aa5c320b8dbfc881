package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"taskguide/bench/trial"
	"taskguide/guestkernel"
)

// Order says what to run and how.
type Order struct {
	Experiment Experiment
	Setting
	Seed     uint64
	Programs Programs
	Hosts    TwoHosts
	Progress Progress
	Budget   time.Duration // after which no trial is begun; 0 is the budget of Size
	// RepeatNoisy repeats trials during which other processes used too much of the host. Their new
	// results count.
	RepeatNoisy bool
}

func (o Order) budget() time.Duration {
	if o.Budget > 0 {
		return o.Budget
	}
	trials := len(o.Experiment.Plan(o.Setting, o.Seed)) // those of peers, too
	generous := time.Duration(trials) * generousTrial
	switch c := o.Experiment.Custom; {
	case c != nil && c.Limit > 0:
		return time.Duration(c.Limit)
	case c != nil:
		return generous
	case len(o.Factors.given()) > 0:
		return max(o.Experiment.budget(o.Size), generous)
	}
	return o.Experiment.budget(o.Size)
}

// generousTrial is the time for each trial of a run that the user has made up: its factors, or all
// of it.
const generousTrial = 30 * time.Second

func (e Experiment) budget(s Size) time.Duration {
	if s == Full && e.Budget > 0 {
		return e.Budget
	}
	return budgets[s]
}

// promise is the longest time that a run of that size takes.
func (e Experiment) promise(s Size) time.Duration {
	return (e.budget(s) + time.Minute).Truncate(time.Minute)
}

// budgets are the promised times, without the time for the last trial and the report.
var budgets = map[Size]time.Duration{Quick: 165 * time.Second, Full: 19 * time.Minute}

// These errors end a run early. It keeps its results.
var (
	ErrInterrupted = errors.New("interrupted")
	ErrTimeUp      = errors.New("time is up")
	// ErrFailing is returned when too many trials fail one after the other.
	ErrFailing = errors.New("trials fail one after the other")
)

// mostFailures is how many failures in a row end a run.
const mostFailures = 4

// runner runs trials. It is a *trial.Site, except in tests.
type runner interface {
	Run(context.Context, trial.Spec) trial.Result
}

// execute runs the trials of an order that have no result yet, in order, until all are done or the
// time is up. It adds each result to the store, and returns all results.
func execute(
	ctx context.Context,
	o Order,
	site runner,
	done []trial.Result,
	store *Store,
) (all []trial.Result, err error) {
	whole := o.Experiment.Plan(o.Setting, o.Seed)
	kept := latest(done)
	if o.RepeatNoisy {
		kept = filter(kept, func(r trial.Result) bool { return !r.Noise.Noisy() })
	}
	plan := remaining(whole, kept, done)
	all = done
	deadline := time.Now().Add(o.budget())
	o.Progress.Begin(len(plan), deadline)
	defer o.Progress.End()
	failures := 0
	for i, spec := range plan {
		if time.Now().After(deadline) {
			return all, fmt.Errorf(
				"%w with %d of %d trials run",
				ErrTimeUp,
				len(whole)-len(plan)+i,
				len(whole),
			)
		}
		r := site.Run(ctx, spec)
		if ctx.Err() != nil {
			return all, ErrInterrupted
		}
		if err := store.Add(r); err != nil {
			return all, err
		}
		all = append(all, r)
		o.Progress.Trial(r)
		if failures++; r.Error == "" {
			failures = 0
		}
		if failures == mostFailures {
			return all, fmt.Errorf("%w: %s: %s", ErrFailing, r.Spec.ID, r.Error)
		}
	}
	return all, nil
}

// remaining returns the trials without a result that is kept. It includes failed ones, which get
// another try.
//
// Those with the fewest tries come first: otherwise trials that fail each time would end each
// resumption before the others had their turn. Everything else keeps the plan's random order, so
// blocks that were not run yet are run whole. A trial that is tried again has lost the time of its
// block wherever it stands, because that was before the run ended.
func remaining(plan []trial.Spec, kept, done []trial.Result) []trial.Spec {
	has, tries := map[string]bool{}, map[string]int{}
	for _, r := range valid(kept) {
		has[r.Spec.ID] = true
	}
	for _, r := range done {
		tries[r.Spec.ID]++
	}
	var left []trial.Spec
	for _, s := range plan {
		if !has[s.ID] {
			left = append(left, s)
		}
	}
	slices.SortStableFunc(left, func(a, b trial.Spec) int {
		return cmp.Compare(tries[a.ID], tries[b.ID])
	})
	return left
}

// ErrOtherPlan is returned for results of a version of this program that ran its trials
// differently. Neither more trials nor this version's words would fit them.
var ErrOtherPlan = errors.New("its trials are not those that this version of vmm would run")

// samePlan checks that results belong to the planned trials.
func samePlan(plan []trial.Spec, done []trial.Result) error {
	planned := map[string]string{}
	for _, s := range plan {
		planned[s.ID] = fingerprint(s)
	}
	for _, r := range done {
		if planned[r.Spec.ID] != fingerprint(r.Spec) {
			return fmt.Errorf("%w: %s differs", ErrOtherPlan, r.Spec.ID)
		}
	}
	return nil
}

// fingerprint is the same for specs that mean the same.
func fingerprint(s trial.Spec) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a spec has only fields that JSON can express
	}
	return string(b)
}

// site is where a run's trials take place.
type site struct {
	trial.Site
	dir         string
	connections *connections // nil for this host alone
}

// Close removes what newSite made.
func (s *site) Close() {
	if s.Link != nil {
		s.Link.Close()
	}
	if s.connections != nil {
		s.connections.Close()
	}
	_ = os.RemoveAll(s.dir) // in the system's folder for temporary files
}

// environment describes the host, that of the source if there are two.
func (s *site) environment(p Programs) (Environment, error) {
	if s.connections != nil {
		return s.connections.facts.Source.Environment, nil
	}
	return ThisHost(p)
}

// hosts describes both hosts, if there are two.
func (s *site) hosts() *RunHosts {
	if s.connections == nil {
		return nil
	}
	return &s.connections.facts
}

// newSite makes what trials need. It makes a link if the experiment prefers one and one can be
// built, and records that in the order. A resumed run gets the link that it had.
func newSite(ctx context.Context, o *Order, resumed bool) (*site, error) {
	dir, err := os.MkdirTemp("", "vmm-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the bench: %w", err)
	}
	s := &site{Site: trial.Site{
		Binary: o.Programs.VMM, Before: o.Programs.Before, QEMU: o.Programs.QEMU,
		Kernel: filepath.Join(dir, "guest.elf"),
	}, dir: dir}
	if o.Hosts.Set() {
		if s.connections, err = o.Hosts.connect(ctx, o.Programs.VMM, dir); err != nil {
			s.Close()
			return nil, err
		}
		s.Hosts = &s.connections.Hosts
		o.Progress.Say(clocksText(s.connections.facts, nil))
		return s, nil
	}
	if err := os.WriteFile(s.Kernel, guestkernel.ELF, 0o600); err != nil {
		s.Close()
		return nil, fmt.Errorf("write the guest for QEMU: %w", err)
	}
	if o.BitsPerSecond != 0 {
		if s.Link, err = trial.NewLink(o.BitsPerSecond); err != nil {
			s.Close()
			return nil, err
		}
	} else if o.Experiment.SharedLink && !resumed {
		link, err := trial.NewLink(linkRate)
		if err != nil {
			o.Progress.Say(fmt.Sprintf("going on without a shared link: %v", err))
			return s, nil
		}
		s.Link, o.BitsPerSecond = link, linkRate
	}
	return s, nil
}
