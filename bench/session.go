package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"taskguide/bench/trial"
	"taskguide/control/text"
)

// Session carries out an order in a folder.
type Session struct {
	Dir    string
	Order  Order
	Resume bool // go on with the run in Dir, with its size, seed and link
}

// Run runs the trials and writes the report, even if the run ends early. It returns the path of the
// report, or "" if there is none.
func (s Session) Run(ctx context.Context) (page string, err error) {
	store, site, done, err := s.open(ctx)
	if err != nil {
		return "", err
	}
	defer site.Close()
	all, errRun := execute(ctx, s.Order, site, done, store)
	if err := errors.Join(errRun, store.Close()); err != nil && len(all) == 0 {
		return "", err
	}
	page, errReport := WriteReport(s.Dir)
	return page, errors.Join(errRun, errReport)
}

// open makes the site for the trials first, so that a run that cannot start leaves no folder
// behind.
func (s *Session) open(ctx context.Context) (*Store, *site, []trial.Result, error) {
	if s.Resume {
		if err := s.takeUp(); err != nil {
			return nil, nil, nil, err
		}
	}
	site, err := newSite(ctx, &s.Order, s.Resume)
	if err != nil {
		return nil, nil, nil, err
	}
	store, done, err := s.openStore(ctx, site)
	if err != nil {
		site.Close()
	}
	return store, site, done, err
}

// takeUp makes the order that of the run in Dir. It refuses what would not go on with that run.
func (s *Session) takeUp() error {
	run, done, err := Load(s.Dir)
	if err != nil {
		return err
	}
	if len(run.Parts) > 0 {
		return fmt.Errorf("%s %w", s.Dir, errWhole)
	}
	if run.Experiment != s.Order.Experiment.Name {
		return fmt.Errorf("%s holds results of %s, not of %s: choose another --out",
			s.Dir, run.Experiment, s.Order.Experiment.Name)
	}
	if err := sameCustom(run.Custom, s.Order.Experiment.Custom); err != nil {
		return fmt.Errorf("%s: %w", s.Dir, err)
	}
	if err := sameHosts(run.Hosts, s.Order.Hosts); err != nil {
		return fmt.Errorf("%s: %w", s.Dir, err)
	}
	s.Order.Setting, s.Order.Seed = run.setting(), run.Seed
	if err := samePlan(s.Order.Experiment.Plan(s.Order.Setting, s.Order.Seed), done); err != nil {
		return fmt.Errorf("%s: %w: it was vmm %s that ran them", s.Dir, err, run.Host.VMM)
	}
	return s.samePeers(run.Host)
}

// samePeers refuses a QEMU, and another vmm, that is not the one with which the run compares. A run
// knows the QEMU of its host also if none of its trials starts it.
func (s *Session) samePeers(begun Environment) error {
	o := s.Order
	uses := o.Experiment.usesQEMU(o.Setting)
	if here := qemuVersion(o.Programs.QEMU); uses && o.QEMU != here {
		return fmt.Errorf("%s compares with QEMU %s, and here is %q: name its program with --qemu",
			s.Dir, o.QEMU, here)
	}
	if !o.Before {
		return nil
	}
	if o.Programs.Before == "" {
		return fmt.Errorf("%s compares with another vmm: name its program with --before", s.Dir)
	}
	here, err := buildOf(o.Programs.Before)
	if err != nil {
		return err
	}
	// An older run does not say which one it was. It gets the banner MIXED.
	if begun.Before != "" && begun.Before != here {
		return fmt.Errorf("%s compares with vmm %s, and that of --before is %s: name the same one",
			s.Dir, begun.Before, here)
	}
	return nil
}

func (s *Session) openStore(
	ctx context.Context, site *site,
) (*Store, []trial.Result, error) {
	if !s.Resume { // before files are read, which may take long
		if err := requireVacant(s.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, nil, err
		}
	}
	programs := s.Order.Programs
	if !s.Order.Before {
		programs.Before = "" // a resumed run takes no part of it
	}
	host, err := site.environment(programs)
	if err != nil {
		return nil, nil, err
	}
	inputs, err := s.Order.inputs(ctx)
	if err != nil {
		return nil, nil, err
	}
	if s.Resume {
		store, _, done, err := Resume(s.Dir, Resumption{
			Started: time.Now(), Host: host, Hosts: site.hosts(), Inputs: inputs,
		})
		return store, done, err
	}
	store, err := Create(s.Dir, Run{
		Experiment: s.Order.Experiment.Name, Size: s.Order.Size, Seed: s.Order.Seed,
		BitsPerSecond: s.Order.BitsPerSecond,
		Trials:        len(s.Order.Experiment.Plan(s.Order.Setting, s.Order.Seed)),
		Started:       time.Now(),
		Host:          host,
		Hosts:         site.hosts(),
		Inputs:        inputs,
		Before:        s.Order.Before,
		Ways:          s.Order.Ways,
		Factors:       s.Order.Factors,
		Custom:        s.Order.Experiment.Custom,
		Shard:         s.Order.Shard,
	})
	return store, nil, err
}

// CopySummary writes the summary of the run in dir as JSON.
func CopySummary(w io.Writer, dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, summaryFile))
	if err != nil {
		return fmt.Errorf("read the summary: %w", err)
	}
	_, err = w.Write(b)
	return err
}

// PrintHeadlines writes the results of the run in dir in a few lines, as WriteReport has left them.
func PrintHeadlines(w io.Writer, dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, textFile))
	if err != nil {
		return fmt.Errorf("read the report: %w", err)
	}
	_, err = w.Write(b)
	return err
}

// writeText writes the results in a few lines for a terminal.
func writeText(path string, s summary, results []trial.Result, f Findings) error {
	var b bytes.Buffer
	fmt.Fprintln(&b)
	for _, banner := range s.Banners {
		text.Hanging(&b, "", banner.String())
	}
	for _, line := range s.Headlines {
		text.Hanging(&b, "* ", line)
	}
	if pairs := s.Run.pairs(); len(pairs) > 0 {
		text.Hanging(&b, "* ", ofPairs(pairs, RunHosts.route)+"; "+clocksOf(pairs, results))
	}
	if len(f.Lead.Rows) > 0 {
		if err := f.Lead.print(&b); err != nil {
			return err
		}
	}
	if len(s.Failures) > 0 {
		fmt.Fprintf(&b, "* void: %s; see the report\n", text.Plural(len(s.Failures), "trial"))
	}
	fmt.Fprintln(&b)
	return os.WriteFile(path, b.Bytes(), 0o644)
}
