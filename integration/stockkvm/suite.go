package stockkvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// Suite is one package's tests, run inside an emulated host.
type Suite struct {
	Name    string
	Package string        // import path, or relative to the module as ./vmm
	Tags    string        // build tags
	Run     string        // -test.run; all tests if empty
	Args    []string      // further arguments of the test binary
	Data    []string      // folders of the package that its tests read, besides testdata
	Env     []string      // NAME=VALUE
	Timeout time.Duration // for the whole suite; 2 minutes if 0
}

// Result is the outcome of a suite.
type Result struct {
	Suite                   string
	Passed, Failed, Skipped int // tests and subtests
	Elapsed                 time.Duration
	Err                     error // why the suite as a whole failed; nil if only tests failed
}

// OK tells whether the suite ran, ran at least one test, and nothing failed or was skipped: the
// host is made for these tests, so each of them can run.
func (r Result) OK() bool {
	return r.Err == nil && r.Failed == 0 && r.Skipped == 0 && r.Passed > 0
}

// ErrNoTests is returned for a suite that ended well without running a test.
var ErrNoTests = errors.New("ran no test")

// ErrHung is returned for a suite that did not end in time.
var ErrHung = errors.New("hung")

// ErrDidNotRun is returned for a suite that was not started because something before it broke.
var ErrDidNotRun = errors.New("did not run")

// suiteDir is a suite's folder inside: it has the binary, and testdata in the working directory, as
// with go test.
func suiteDir(name string) string { return path.Join("/suites", name) }

// SuiteFiles builds the suites' test binaries and lists what they need inside.
func (r *Rig) SuiteFiles(ctx context.Context, suites []Suite) ([]File, error) {
	var files []File
	for _, s := range suites {
		binary := filepath.Join(r.Dir, "bin", s.Name+".test")
		if err := r.goTool(ctx, "test", "-c", "-buildvcs=false", "-trimpath", "-tags", s.Tags, "-o",
			binary, s.Package); err != nil {
			return nil, fmt.Errorf("build suite %s: %w", s.Name, err)
		}
		if _, err := os.Stat(binary); err != nil {
			return nil, fmt.Errorf("build suite %s: %w: package %s has no tests", s.Name,
				ErrNoTests, s.Package)
		}
		files = append(files,
			File{Source: binary, Target: path.Join(suiteDir(s.Name), s.Name+".test")})
		dir, err := r.packageDir(ctx, s.Package)
		if err != nil {
			return nil, err
		}
		for _, folder := range append([]string{"testdata"}, s.Data...) {
			data, err := Tree(filepath.Join(dir, folder), path.Join(suiteDir(s.Name), folder))
			if err != nil {
				return nil, fmt.Errorf("data of suite %s: %w", s.Name, err)
			}
			files = append(files, data...)
		}
	}
	return files, nil
}

func (r *Rig) packageDir(ctx context.Context, pkg string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", pkg)
	cmd.Dir = r.Module
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find package %s: %w", pkg, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// RunSuites runs the suites one after the other. It writes progress to w test by test, and each
// suite's whole output to NAME.log in logs. If the host dies or a suite hangs, the remaining suites
// get ErrDidNotRun.
func (h *Host) RunSuites(ctx context.Context, suites []Suite, w io.Writer, logs string) []Result {
	results := make([]Result, 0, len(suites))
	var broken string
	for _, s := range suites {
		if broken != "" {
			err := fmt.Errorf("%w: suite %s broke the host", ErrDidNotRun, broken)
			results = append(results, Result{Suite: s.Name, Err: err})
			continue
		}
		r := h.runSuite(ctx, s, w, logs)
		if errors.Is(r.Err, ErrDied) || errors.Is(r.Err, ErrHung) || ctx.Err() != nil {
			broken = s.Name
		}
		if r.Err != nil {
			fmt.Fprintf(w, "suite %s: %v\n", s.Name, r.Err)
		}
		results = append(results, r)
	}
	return results
}

func (h *Host) runSuite(ctx context.Context, s Suite, w io.Writer, logs string) Result {
	started := time.Now()
	result := Result{Suite: s.Name}
	log, err := os.Create(filepath.Join(logs, s.Name+".log"))
	if err != nil {
		result.Err = err
		return result
	}
	defer log.Close()
	c, err := newCollector(s.Name, w, log)
	if err == nil {
		err = h.runTestBinary(ctx, s, c.in)
		err = errors.Join(err, c.finish(&result))
	}
	result.Elapsed = time.Since(started)
	switch {
	case err != nil:
		result.Err = err
	case result.Passed+result.Failed == 0:
		result.Err = ErrNoTests
	}
	return result
}

// runTestBinary runs the suite's binary and feeds its output to out.
func (h *Host) runTestBinary(ctx context.Context, s Suite, out io.Writer) error {
	timeout := orDefault(s.Timeout, 2*time.Minute)
	dir := suiteDir(s.Name)
	argv := []string{
		path.Join(dir, s.Name+".test"),
		"-test.v=test2json", "-test.paniconexit0",
		"-test.timeout=" + timeout.String(),
	}
	if s.Run != "" {
		argv = append(argv, "-test.run="+s.Run)
	}
	job, err := h.Start(Command{
		Argv: append(argv, s.Args...), Env: s.Env, Dir: dir, Stdout: out, Stderr: out,
	})
	if err != nil {
		return err
	}
	// The binary's own timeout comes first, because it prints what hung where.
	const grace = 20 * time.Second
	deadline, cancel := context.WithTimeout(ctx, timeout+grace)
	defer cancel()
	exit, err := job.Wait(deadline)
	switch {
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: not done after %v, %s", ErrHung, timeout+grace, h.autopsy(ctx, job))
	case err != nil:
		return err
	case exit.Code == 0 || exit.Code == 1: // 1: tests failed, which are counted
		return nil
	}
	return fmt.Errorf("test binary ended with status %d %s", exit.Code, exit.Reason)
}

// autopsy asks a job that hangs for its goroutines, and the inner kernel for what its CPUs and
// tasks do. It ends the job and says how far that went. The answers are in the suite's log and on
// the console.
func (h *Host) autopsy(ctx context.Context, job *Job) string {
	const patience = 20 * time.Second
	ended := func() bool {
		waiting, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		_, err := job.Wait(waiting)
		return err == nil
	}
	if _ = job.Signal(syscall.SIGQUIT); ended() {
		return "but it answered SIGQUIT with its goroutines"
	}
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	script := "for c in l w t; do echo $c >/proc/sysrq-trigger; sleep 1; done"
	if _, err := h.Run(asking, "sh", "-c", script); err != nil {
		return "and the host itself does not answer"
	}
	if _ = job.Signal(syscall.SIGKILL); !ended() {
		return "and SIGKILL does not end it"
	}
	return "and it did not answer SIGQUIT: the kernel's view of its threads is on the console"
}

// collector counts test results. go tool test2json, the toolchain's own parser, reads the output.
type collector struct {
	in      io.WriteCloser
	cmd     *exec.Cmd
	drained chan error
	counts  Result
}

// testEvent is one object of go tool test2json's output.
type testEvent struct {
	Action  string
	Test    string
	Elapsed float64
	Output  string
}

func newCollector(suite string, progress, log io.Writer) (*collector, error) {
	c := &collector{
		cmd: exec.Command("go", "tool", "test2json", "-t"), drained: make(chan error, 1),
	}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	events, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("go tool test2json: %w", err)
	}
	go func() { c.drained <- c.collect(events, suite, progress, log) }()
	return c, nil
}

// collect reads events until their end. A test that started and never ended has failed.
func (c *collector) collect(events io.Reader, suite string, progress, log io.Writer) error {
	running := map[string]*strings.Builder{}
	dec := json.NewDecoder(events)
	for {
		var e testEvent
		if err := dec.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("read test events: %w", err)
		}
		if _, err := io.WriteString(log, e.Output); err != nil {
			return fmt.Errorf("write suite log: %w", err)
		}
		if e.Test == "" {
			continue
		}
		switch e.Action {
		case "run":
			running[e.Test] = &strings.Builder{}
		case "output":
			if out := running[e.Test]; out != nil {
				out.WriteString(e.Output)
			}
		case "pass", "fail", "skip":
			output := running[e.Test]
			delete(running, e.Test)
			c.count(e, suite, progress, output)
		}
	}
	for test, out := range running {
		c.counts.Failed++
		fmt.Fprintf(progress, "  FAIL  %s %s: never ended\n%s", suite, test, indent(out.String()))
	}
	return nil
}

func (c *collector) count(e testEvent, suite string, progress io.Writer, output *strings.Builder) {
	word := e.Action
	switch e.Action {
	case "pass":
		c.counts.Passed++
	case "skip":
		c.counts.Skipped++
	case "fail":
		c.counts.Failed++
		word = "FAIL"
	}
	fmt.Fprintf(progress, "  %s  %s %s (%.1fs)\n", word, suite, e.Test, e.Elapsed)
	if e.Action == "fail" && output != nil {
		fmt.Fprint(progress, indent(output.String()))
	}
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("        " + line)
	}
	return b.String()
}

// finish ends the parsing and puts the counts into r.
func (c *collector) finish(r *Result) error {
	c.in.Close()
	err := <-c.drained
	if werr := c.cmd.Wait(); err == nil && werr != nil {
		err = fmt.Errorf("go tool test2json: %w", werr)
	}
	r.Passed, r.Failed, r.Skipped = c.counts.Passed, c.counts.Failed, c.counts.Skipped
	return err
}

// Summary writes the table of all suites and the last line, and tells whether all is well. No
// results at all are a failure.
func Summary(w io.Writer, results []Result) bool {
	ok := len(results) > 0
	var passed, failed, skipped int
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "suite\tpassed\tfailed\tskipped\tseconds\t")
	for _, r := range results {
		ok = ok && r.OK()
		passed += r.Passed
		failed += r.Failed
		skipped += r.Skipped
		what := ""
		if r.Err != nil {
			failed++ // the suite itself
			what, _, _ = strings.Cut(r.Err.Error(), "\n")
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%.0f\t%s\n", r.Suite, r.Passed, r.Failed, r.Skipped,
			r.Elapsed.Seconds(), what)
	}
	t.Flush()
	if skipped > 0 {
		fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	} else {
		fmt.Fprintf(w, "%d passed, %d failed\n", passed, failed)
	}
	return ok
}
