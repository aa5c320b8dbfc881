package bench

import (
	"context"
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
	Experiment    Experiment
	Size          Size
	Seed          uint64
	BitsPerSecond int64  // of a link between network namespaces; 0 is the loopback
	Binary        string // the vmm program
	Progress      Progress
	Budget        time.Duration // after which no trial is begun; 0 is that of Size
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
	plan := remaining(o.Experiment.Plan(o.Size, o.Seed), done)
	all = done
	deadline := time.Now().Add(o.budget())
	o.Progress.Begin(len(plan), deadline)
	defer o.Progress.End()
	failures := 0
	for _, spec := range plan {
		if time.Now().After(deadline) {
			o.Progress.Say(fmt.Sprintf("time is up with %d of %d trials: --resume runs the others", len(all), len(done)+len(plan)))
			return all, nil
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
	for _, r := range done {
		if r.Error == "" {
			has[r.Spec.ID] = true
		}
	}
	var left []trial.Spec
	for _, s := range plan {
		if !has[s.ID] {
			left = append(left, s)
		}
	}
	return left
}

// newBed makes what trials need, and a function that takes it away again.
func newBed(o Order) (*trial.Bed, func(), error) {
	dir, err := os.MkdirTemp("", "vmm-bench-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a folder for the bench: %w", err)
	}
	bed := &trial.Bed{Binary: o.Binary, Kernel: filepath.Join(dir, "guest.elf")}
	cleanUp := func() {
		if bed.Link != nil {
			bed.Link.Close()
		}
		_ = os.RemoveAll(dir) // in the system's folder for such things
	}
	if err := os.WriteFile(bed.Kernel, guestkernel.ELF, 0o600); err != nil {
		cleanUp()
		return nil, nil, fmt.Errorf("write the guest for QEMU: %w", err)
	}
	if o.BitsPerSecond > 0 {
		if bed.Link, err = trial.NewLink(o.BitsPerSecond); err != nil {
			cleanUp()
			return nil, nil, err
		}
	}
	return bed, cleanUp, nil
}
