package readme

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	steps, err := Parse("# Title\n```\n$ not run\n```\ntext\n" +
		"```console\n$ one \\\n> two\nsays\n\n$ three\n```\n$ text\n")
	require.NoError(t, err)
	require.Equal(t, []Step{
		{Line: 7, Command: "one \\\ntwo", Output: []string{"says", ""}},
		{Line: 11, Command: "three"},
	}, steps)
	for page, says := range map[string]string{
		"```console\nsays\n```\n":                    "line 2",
		"```console\n$ one\n":                        "not closed",
		"```console\n$ one\n```\n```console\nx\n```": "line 5",
	} {
		_, err := Parse(page)
		require.ErrorContains(t, err, says, page)
	}
}

func TestMissing(t *testing.T) {
	output := "hb task=0 ms=1000 gap_us=84\nround 1   12.5 MiB\nmoved: web1\n"
	for _, page := range []string{
		"hb task=7 ms=5 gap_us=1",
		"hb task=0 ...",
		"round 2 700 MiB\nmoved: web8",
		"hb ...\n...\nmoved: web1",
		"  moved: web1",
		"\n",
	} {
		line, missing := Missing(strings.Split(page, "\n"), output)
		require.False(t, missing, "%q of %q", line, page)
	}
	for page, want := range map[string]string{
		"moved":                        "moved",
		"moved: web":                   "moved: web",
		"moved: web1\nround 1 12 MiB":  "round 1 12 MiB",
		"hb task=0 ms=x gap_us=84":     "hb task=0 ms=x gap_us=84",
		"hb ...\nhb ...":               "hb ...",
		"round 1 12 MiB\n...\nround 1": "round 1",
	} {
		line, missing := Missing(strings.Split(page, "\n"), output)
		require.True(t, missing, page)
		require.Equal(t, want, line)
	}
}

// tour runs steps in one environment.
type tour struct {
	t       *testing.T
	env     []string
	running []*command
}

// command is a step that was begun.
type command struct {
	step Step
	cmd  *exec.Cmd
	out  output
	done chan error
}

// output collects both streams of a command.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// newTour puts vmm on the PATH: the one in VMM_BIN, or else one that it builds.
func newTour(t *testing.T) *tour {
	t.Helper()
	dir, err := os.MkdirTemp("", "tour-") // short, for the paths of sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	vmm := os.Getenv("VMM_BIN")
	if vmm == "" {
		vmm = filepath.Join(dir, "vmm")
		build := exec.Command("go", "build", "-buildvcs=false", "-o", vmm, "taskguide/cmd/vmm")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := build.CombinedOutput()
		require.NoError(t, err, string(out))
	}
	return &tour{t: t, env: append(os.Environ(),
		"PATH="+filepath.Dir(vmm)+":"+os.Getenv("PATH"),
		"VMM_RUNTIME_DIR="+filepath.Join(dir, "run"))}
}

func (r *tour) begin(ctx context.Context, step Step) (*command, error) {
	c := &command{step: step, done: make(chan error, 1)}
	c.cmd = r.bash(ctx, step.Command)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.out
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	gone := make(chan struct{})
	go func() {
		c.done <- c.cmd.Wait()
		close(gone)
	}()
	// No command outlives the test, however the tour ended.
	r.t.Cleanup(func() {
		select {
		case <-gone:
		default:
			_ = c.cmd.Cancel()
			<-gone
		}
	})
	return c, nil
}

// bash makes a command that runs a line. Everything that it starts ends with ctx.
func (r *tour) bash(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Dir, cmd.Env = "../..", r.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// parts returns an error: the page and the program differ.
func (c *command) parts(what string) error {
	return fmt.Errorf("README.md, line %d: $ %s\n%s; it printed:\n%s",
		c.step.Line, c.step.Command, what, c.out.String())
}

// ended waits for a command's end, which must be as the page says.
func (c *command) ended() error {
	if err := <-c.done; err != nil {
		return c.parts(err.Error())
	}
	if line, missing := Missing(c.step.Output, c.out.String()); missing {
		return c.parts(fmt.Sprintf("does not print %q", line))
	}
	return nil
}

// awaitRunning waits until a command in the background has done what the page shows, and its VM is
// past its start: it listens.
func (r *tour) awaitRunning(ctx context.Context, c *command) error {
	name, err := c.step.Name()
	if err != nil {
		return err
	}
	for {
		line, missing := Missing(c.step.Output, c.out.String())
		ready := "s=$(vmm status " + name + ` --json) && ! grep -q '"starting"' <<<"$s"`
		if !missing && r.bash(ctx, ready).Run() == nil {
			return nil
		}
		select {
		case err := <-c.done:
			return c.parts(fmt.Sprintf("ended too early (%v)", err))
		case <-ctx.Done():
			return c.parts(fmt.Sprintf("never printed %q, or does not run", line))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// take carries out one step.
func (r *tour) take(ctx context.Context, step Step) error {
	c, err := r.begin(ctx, step)
	if err != nil {
		return err
	}
	if !step.Background() {
		return c.ended()
	}
	if err := r.awaitRunning(ctx, c); err != nil {
		return err
	}
	r.running = append(r.running, c)
	return nil
}

// finish stops what still runs, and checks how every background command ended.
func (r *tour) finish(ctx context.Context) error {
	for _, c := range r.running {
		name, err := c.step.Name()
		if err != nil {
			return err
		}
		// It fails if the tour has stopped that VM itself.
		_ = r.bash(ctx, "vmm stop "+name).Run()
		if err := c.ended(); err != nil {
			return err
		}
	}
	return nil
}

func (r *tour) all(ctx context.Context, steps []Step) error {
	for _, step := range steps {
		r.t.Logf("$ %s", step.Command)
		if err := r.take(ctx, step); err != nil {
			return err
		}
	}
	return r.finish(ctx)
}

// TestTour types every command of README.md's tour.
func TestTour(t *testing.T) {
	page, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	steps, err := Parse(string(page))
	require.NoError(t, err)
	require.NotEmpty(t, steps, "README.md has a tour, in blocks that begin with ```console")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	require.NoError(t, newTour(t).all(ctx, steps))
}

// TestAPageThatPartsFromTheProgram: a page with a wrong claim fails.
func TestAPageThatPartsFromTheProgram(t *testing.T) {
	r := newTour(t)
	for _, c := range []struct {
		page, says string
	}{
		{"$ echo one\ntwo", `does not print "two"`},
		{"$ echo one two\none", `does not print "one"`},
		{"$ vmm versions", "exit status 2"},
		{"$ vmm run --name x --memory 1", "ended too early"},
		{"$ vmm run --memory 32M", "--name"},
		{"$ vmm run --name x --memory 32M --cmdline workload=none\nnever", "README.md, line 2"},
		{"$ vmm run --name x --memory 32M --cmdline secs=1s\nsomething else", "ended too early"},
		{"$ vmm run --name x --memory 32M\n$ vmm stop y", "exit status 1"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		steps, err := Parse("```console\n" + c.page + "\n```\n")
		require.NoError(t, err)
		require.ErrorContains(t, r.all(ctx, steps), c.says, c.page)
		cancel()
	}
}
