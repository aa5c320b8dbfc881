package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"taskguide/bench/trial"
	"taskguide/guestkernel"
)

// Order is what to run and how.
type Order struct {
	Experiment Experiment
	Setting
	Seed     uint64
	Binary   string // the vmm program
	Progress Progress
	Budget   time.Duration // after which no trial is begun; 0 is that of Size
}

func (o Order) budget() time.Duration {
	if o.Budget > 0 {
		return o.Budget
	}
	return budgets[o.Size]
}

// budgets are the promised times, less what the trial under way and the report may take.
var budgets = map[Size]time.Duration{Quick: 165 * time.Second, Full: 19 * time.Minute}

// Errors that end a run early; what it has is kept.
var (
	ErrInterrupted = errors.New("interrupted")
	ErrTimeUp      = errors.New("time is up")
	// ErrFailing says that it makes no sense to go on.
	ErrFailing = errors.New("trials fail one after the other")
)

// mostFailures in a row end a run.
const mostFailures = 4

// runner runs trials; it is a *trial.Bed but in tests.
type runner interface {
	Run(context.Context, trial.Spec) trial.Result
}

// execute runs the trials of an order that are not done yet, in order, until all are done or the time is up, and adds
// each result to the store. It returns all results that there are then.
func execute(ctx context.Context, o Order, bed runner, done []trial.Result, store *Store) (all []trial.Result, err error) {
	whole := o.Experiment.Plan(o.Setting, o.Seed)
	plan := remaining(whole, done)
	all = done
	deadline := time.Now().Add(o.budget())
	o.Progress.Begin(len(plan), deadline)
	defer o.Progress.End()
	failures := 0
	for i, spec := range plan {
		if time.Now().After(deadline) {
			return all, fmt.Errorf("%w with %d of %d trials run", ErrTimeUp, len(whole)-len(plan)+i, len(whole))
		}
		r := bed.Run(ctx, spec)
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

// remaining leaves out the trials that have a result. One that failed is tried once more.
func remaining(plan []trial.Spec, done []trial.Result) []trial.Spec {
	has := map[string]bool{}
	for _, r := range valid(done) {
		has[r.Spec.ID] = true
	}
	var left []trial.Spec
	for _, s := range plan {
		if !has[s.ID] {
			left = append(left, s)
		}
	}
	return left
}

// ErrOtherPlan says that results are of a version of this program that ran its trials otherwise, so that neither more
// trials nor this version's words would fit them.
var ErrOtherPlan = errors.New("its trials are not those that this version of vmm would run")

// samePlan checks that results are of the trials planned now.
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
		panic(err) // a spec is made of what has JSON
	}
	return string(b)
}

// bed is where the trials of a run take place.
type bed struct {
	trial.Bed
	dir string
}

// Close takes away what newBed made.
func (b *bed) Close() {
	if b.Link != nil {
		b.Link.Close()
	}
	_ = os.RemoveAll(b.dir) // in the system's folder for such things
}

// newBed makes what trials need. An experiment that would rather have a link gets one if one can be built, which the
// order says then; a run that is resumed has the link that it had.
func newBed(o *Order, resumed bool) (*bed, error) {
	dir, err := os.MkdirTemp("", "vmm-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the bench: %w", err)
	}
	b := &bed{trial.Bed{Binary: o.Binary, Kernel: filepath.Join(dir, "guest.elf")}, dir}
	if err := os.WriteFile(b.Kernel, guestkernel.ELF, 0o600); err != nil {
		b.Close()
		return nil, fmt.Errorf("write the guest for QEMU: %w", err)
	}
	if o.BitsPerSecond != 0 {
		if b.Link, err = trial.NewLink(o.BitsPerSecond); err != nil {
			b.Close()
			return nil, err
		}
	} else if o.Experiment.SharedLink && !resumed {
		link, err := trial.NewLink(linkRate)
		if err != nil {
			o.Progress.Say(fmt.Sprintf("going on without a shared link: %v", err))
			return b, nil
		}
		b.Link, o.BitsPerSecond = link, linkRate
	}
	return b, nil
}
