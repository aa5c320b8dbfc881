package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"taskguide/bench/trial"
	"taskguide/integration/qemu"
)

// Session is an order carried out in a folder.
type Session struct {
	Dir    string
	Order  Order
	Resume bool // go on with what is in Dir; its size, seed and link hold
}

// Run runs the trials and writes the report, also of what is there if the run ends early, and returns the path of the
// report, empty if there is none.
func (s Session) Run(ctx context.Context) (page string, err error) {
	store, bed, done, err := s.open()
	if err != nil {
		return "", err
	}
	defer bed.Close()
	all, errRun := execute(ctx, s.Order, bed, done, store)
	if err := errors.Join(errRun, store.Close()); err != nil && len(all) == 0 {
		return "", err
	}
	page, errReport := WriteReport(s.Dir)
	return page, errors.Join(errRun, errReport)
}

// open makes the bed for the trials first, so that what cannot be run leaves no folder behind.
func (s *Session) open() (*Store, *bed, []trial.Result, error) {
	if s.Resume {
		run, done, err := Load(s.Dir)
		if err != nil {
			return nil, nil, nil, err
		}
		if run.Experiment != s.Order.Experiment.Name {
			return nil, nil, nil, fmt.Errorf("%s holds results of %s, not of %s: choose another --out", s.Dir, run.Experiment, s.Order.Experiment.Name)
		}
		s.Order.Setting, s.Order.Seed = run.setting(), run.Seed
		if err := samePlan(s.Order.Experiment.Plan(s.Order.Setting, s.Order.Seed), done); err != nil {
			return nil, nil, nil, fmt.Errorf("%s: %w: it was vmm %s that ran them", s.Dir, err, run.Host.VMM)
		}
		if s.Order.QEMU && qemuVersion() == "" {
			return nil, nil, nil, fmt.Errorf("%s compares with QEMU, which is not installed here (%s)", s.Dir, qemu.Binary)
		}
	}
	bed, err := newBed(&s.Order, s.Resume)
	if err != nil {
		return nil, nil, nil, err
	}
	store, done, err := s.openStore()
	if err != nil {
		bed.Close()
	}
	return store, bed, done, err
}

func (s *Session) openStore() (*Store, []trial.Result, error) {
	host, err := ThisHost()
	if err != nil {
		return nil, nil, err
	}
	if s.Resume {
		store, _, done, err := Resume(s.Dir, host)
		return store, done, err
	}
	store, err := Create(s.Dir, Run{
		Experiment: s.Order.Experiment.Name, Size: s.Order.Size, Seed: s.Order.Seed, BitsPerSecond: s.Order.BitsPerSecond,
		Trials: len(s.Order.Experiment.Plan(s.Order.Setting, s.Order.Seed)), Started: time.Now(), Host: host,
	})
	return store, nil, err
}

// CopySummary writes the summary of a run as JSON.
func CopySummary(w io.Writer, dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, summaryFile))
	if err != nil {
		return fmt.Errorf("read the summary: %w", err)
	}
	_, err = w.Write(b)
	return err
}

// PrintHeadlines writes what a run found in a few lines.
func PrintHeadlines(w io.Writer, dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, summaryFile))
	if err != nil {
		return fmt.Errorf("read the summary: %w", err)
	}
	var s summary
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("read the summary: %w", err)
	}
	fmt.Fprintln(w)
	for _, line := range s.Headlines {
		fmt.Fprintln(w, "* "+line)
	}
	if s.Lead != nil {
		if err := s.Lead.print(w); err != nil {
			return err
		}
	}
	if len(s.Failures) > 0 {
		fmt.Fprintf(w, "* %d trials are void: see the report\n", len(s.Failures))
	}
	fmt.Fprintln(w)
	return nil
}
