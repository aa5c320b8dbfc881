package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/guestkernel/heartbeat"
	"taskguide/migration"
)

// patience is far longer than anything here takes. It turns a hang into a failure.
const patience = 8 * time.Minute

// vmmBinary is the vmm under test.
var vmmBinary string

// TestMain builds the binaries, or takes the one in VMM_BIN, because a test host has no compiler.
func TestMain(m *testing.M) {
	if vmmBinary = os.Getenv("VMM_BIN"); vmmBinary != "" {
		os.Exit(m.Run())
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "vmm-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Tests drop privileges and run it as another user.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	vmmBinary = filepath.Join(dir, "vmm")
	// vmm bench finds vmm-bench beside vmm.
	args := append([]string{"build", "-buildvcs=false", "-o", dir}, buildArgs...)
	build := exec.Command("go", append(args, "../cmd/vmm", "../cmd/vmm-bench")...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build vmm and vmm-bench:", err)
		return 1
	}
	return m.Run()
}

// box is a runtime directory of its own and the processes that use it.
type box struct {
	t   *testing.T
	ctx context.Context
	dir string
}

func newBox(t *testing.T) *box {
	t.Helper()
	t.Parallel()
	// Not t.TempDir: with the test's name in it, paths of sockets would become too long.
	dir, err := os.MkdirTemp("", "vmm-it-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return &box{t: t, ctx: ctx, dir: dir}
}

func (b *box) path(name string) string { return filepath.Join(b.dir, name) }

func (b *box) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.ctx, vmmBinary, args...)
	cmd.Env = append(os.Environ(), "VMM_RUNTIME_DIR="+b.dir)
	return cmd
}

// result is the outcome of a command.
type result struct {
	status         int
	stdout, stderr string
}

// vmm runs a command to its end.
func (b *box) vmm(args ...string) result {
	b.t.Helper()
	return b.finish(b.command(args...))
}

func (b *box) finish(cmd *exec.Cmd) result {
	b.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(b.t, err)
	}
	require.NoError(b.t, b.ctx.Err(), "%v took too long: %s", cmd.Args, stderr.String())
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// ok runs a command that must succeed and returns its output.
func (b *box) ok(args ...string) string {
	b.t.Helper()
	r := b.vmm(args...)
	require.Equal(b.t, 0, r.status, "%v: %s", args, r.stderr)
	return r.stdout
}

// refused runs a command that must fail with that status, print one line on standard error beside
// what it logs, and nothing on standard output.
func (b *box) refused(status int, args ...string) string {
	b.t.Helper()
	r := b.vmm(args...)
	requireRefusal(b.t, r, status, args)
	return r.stderr
}

func requireRefusal(t *testing.T, r result, status int, what any) {
	t.Helper()
	require.Equal(t, status, r.status, "%v: %s", what, r.stderr)
	require.Empty(t, r.stdout, "%v", what)
	said := unlogged(r.stderr)
	require.Equal(t, 1, strings.Count(said, "\n"), "%v: one line, but: %s", what, r.stderr)
	require.True(t, strings.HasPrefix(said, "vmm: "), "%v: %s", what, r.stderr)
}

// unlogged leaves out what was logged, which depends on the host: some file systems have no
// O_DIRECT, for example.
func unlogged(text string) string {
	var said strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "time=") {
			said.WriteString(line)
		}
	}
	return said.String()
}

// until waits for something that no event announces.
func (b *box) until(what string, ok func() bool) {
	b.t.Helper()
	for !ok() {
		require.NoError(b.t, b.ctx.Err(), what)
		time.Sleep(10 * time.Millisecond)
	}
}

// guest is the output of one guest, wherever it runs.
type guest struct {
	heartbeat.Log
	last *process // where it is, or will be next
}

// process is a vmm run.
type process struct {
	box    *box
	name   string
	cmd    *exec.Cmd
	stderr *lockedBuffer
	silent chan struct{} // closed once its guest prints nothing any more
	done   chan struct{} // closed once it has ended
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// run starts a vmm run. Its guest's output continues that of the process before.
func (b *box) run(g *guest, name string, args ...string) *process {
	b.t.Helper()
	return b.runWithInput(g, name, nil, args...)
}

// runWithInput is run with input for the guest's serial port.
func (b *box) runWithInput(g *guest, name string, in io.Reader, args ...string) *process {
	b.t.Helper()
	cmd := b.command(append([]string{"run", "--name", name}, args...)...)
	p := &process{
		box: b, name: name, cmd: cmd, stderr: &lockedBuffer{},
		silent: make(chan struct{}), done: make(chan struct{}),
	}
	before := g.last
	g.last = p
	out, err := cmd.StdoutPipe()
	require.NoError(b.t, err)
	cmd.Stderr = p.stderr
	cmd.Stdin = in
	// One that is still there when patience is over says where it hangs.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) }
	cmd.WaitDelay = 10 * time.Second
	require.NoError(b.t, cmd.Start())
	b.t.Cleanup(func() {
		p.kill()
		<-p.done
	})
	go func() {
		if before != nil {
			<-before.silent
		}
		_, _ = io.Copy(&g.Log, out)
		close(p.silent)
		_ = cmd.Wait() // tests that need its status ask for it
		close(p.done)
	}()
	p.await("up", func(control.VM) bool { return true })
	return p
}

// incoming starts a vmm run that waits for a migration. It also returns the address.
func (b *box) incoming(g *guest, name, addr string, args ...string) (*process, string) {
	b.t.Helper()
	p := b.run(g, name, append([]string{"--incoming", addr}, args...)...)
	vm := p.await("listening", func(vm control.VM) bool { return vm.Incoming != "" })
	return p, vm.Incoming
}

func (b *box) unix(name string) string { return "unix:" + b.path(name) }

func (p *process) kill() { _ = p.cmd.Process.Kill() }

// wait waits until the process has ended and returns its exit status.
func (p *process) wait() int {
	p.box.t.Helper()
	select {
	case <-p.done:
	case <-p.box.ctx.Done():
		<-p.done
		require.FailNow(p.box.t, "vmm run does not end", "%s: %s", p.name, p.stderr)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) client() *control.Client {
	p.box.t.Helper()
	c, err := control.NewClient(p.box.path(p.name + ".sock"))
	require.NoError(p.box.t, err)
	p.box.t.Cleanup(c.Close)
	return c
}

// vm returns the VM's state.
func (p *process) vm() control.VM {
	p.box.t.Helper()
	vm, err := p.client().VM(p.box.ctx)
	require.NoError(p.box.t, err, "%s", p.stderr)
	return vm
}

// await waits until the VM answers and is in the wanted state.
func (p *process) await(what string, ok func(control.VM) bool) control.VM {
	p.box.t.Helper()
	client := p.client()
	for {
		vm, err := client.VM(p.box.ctx)
		if err == nil && ok(vm) {
			return vm
		}
		select {
		case <-p.done:
			require.FailNow(p.box.t, "vmm run has ended", "%s, waiting for it to be %s: %s",
				p.name, what, p.stderr)
		case <-p.box.ctx.Done():
			require.FailNow(p.box.t, "vmm run is not "+what, "%s: %+v, %v: %s",
				p.name, vm, err, p.stderr)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *process) awaitState(s control.State) {
	p.box.t.Helper()
	p.await(string(s), func(vm control.VM) bool { return vm.State == s })
}

// untouched requires that the guest is here and runs, and that dirty logging is off.
func (p *process) untouched() {
	p.box.t.Helper()
	vm := p.vm()
	require.Equal(p.box.t, control.StateRunning, vm.State)
	require.False(p.box.t, vm.DirtyLogging, "dirty logging is still on")
}

// alive waits for n more heartbeats and requires that the guest found its memory correct.
func (g *guest) alive(b *box, n int) []heartbeat.Beat {
	b.t.Helper()
	beats, err := g.WaitBeats(b.ctx, len(g.Beats())+n-1)
	require.NoError(b.t, err)
	require.Empty(b.t, g.Corrupt())
	return beats
}

// migrate runs vmm migrate --json and returns its report. The migration must complete.
func (b *box) migrate(name, addr string, args ...string) migration.Report {
	b.t.Helper()
	order := append([]string{"migrate", name, addr, "--json"}, args...)
	if !slices.ContainsFunc(args, endsPreCopy) {
		order = append(order, "--max-rounds", "30")
	}
	if !slices.Contains(args, "--standstill-limit") {
		order = append(order, "--standstill-limit", "0") // nor too slow for the switchover
	}
	r := b.vmm(order...)
	require.Equal(b.t, 0, r.status, "%s", r.stderr)
	var report migration.Report
	d := json.NewDecoder(strings.NewReader(r.stdout))
	d.DisallowUnknownFields()
	require.NoError(b.t, d.Decode(&report), r.stdout)
	require.Equal(b.t, migration.StatusCompleted, report.Status)
	return report
}

// endsPreCopy tells whether an argument says when pre-copy ends. Without any, it ends after some
// rounds at the latest: a busy host may be too slow for a busy guest's memory to be sent in the
// downtime, ever.
func endsPreCopy(arg string) bool {
	return slices.Contains([]string{
		"--rule", "--policy", "--max-rounds", "--guidance", "--downtime-limit",
	}, arg)
}

// background starts a command and returns a function that waits for its end.
func (b *box) background(args ...string) (*exec.Cmd, func() result) {
	b.t.Helper()
	cmd := b.command(args...)
	var stdout, stderr lockedBuffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(b.t, cmd.Start())
	return cmd, func() result {
		b.t.Helper()
		_ = cmd.Wait()
		require.NoError(b.t, b.ctx.Err(), "%v took too long", args)
		return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	}
}

// migrating waits until a migration of p has sent some of its pages. The guest must have filled its
// memory before.
func (p *process) migrating() {
	p.box.t.Helper()
	client := p.client()
	for {
		r, err := client.Migration(p.box.ctx)
		if err == nil && r.BytesWire > 100_000 {
			return
		}
		select {
		case <-p.done:
			require.FailNow(p.box.t, "vmm run has ended", "%s", p.stderr)
		case <-p.box.ctx.Done():
			require.FailNow(p.box.t, "no migration gets under way", "%+v %v", r, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (b *box) signal(p *process, s syscall.Signal) {
	b.t.Helper()
	require.NoError(b.t, p.cmd.Process.Signal(s))
}
