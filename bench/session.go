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
	store, done, err := s.open()
	if err != nil {
		return "", err
	}
	all, errRun := s.execute(ctx, done, store)
	if err := errors.Join(errRun, store.Close()); err != nil && len(all) == 0 {
		return "", err
	}
	page, errReport := WriteReport(s.Dir)
	return page, errors.Join(errRun, errReport)
}

func (s *Session) execute(ctx context.Context, done []trial.Result, store *Store) ([]trial.Result, error) {
	bed, cleanUp, err := newBed(s.Order)
	if err != nil {
		return done, err
	}
	defer cleanUp()
	return execute(ctx, s.Order, bed, done, store)
}

func (s *Session) open() (*Store, []trial.Result, error) {
	if !s.Resume {
		host, err := ThisHost()
		if err != nil {
			return nil, nil, err
		}
		store, err := Create(s.Dir, Run{
			Experiment: s.Order.Experiment.Name, Size: s.Order.Size, Seed: s.Order.Seed, BitsPerSecond: s.Order.BitsPerSecond,
			Started: time.Now(), Host: host,
		})
		return store, nil, err
	}
	store, run, done, err := Resume(s.Dir)
	if err != nil {
		return nil, nil, err
	}
	if run.Experiment != s.Order.Experiment.Name {
		store.Close()
		return nil, nil, fmt.Errorf("%s holds results of %s, not of %s: choose another --out", s.Dir, run.Experiment, s.Order.Experiment.Name)
	}
	s.Order.Size, s.Order.Seed, s.Order.BitsPerSecond = run.Size, run.Seed, run.BitsPerSecond
	return store, done, nil
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
	if len(s.Failures) > 0 {
		fmt.Fprintf(w, "* %d trials are void: see the report\n", len(s.Failures))
	}
	fmt.Fprintln(w)
	return nil
}
