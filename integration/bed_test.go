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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/integration/heartbeat"
	"taskguide/migration"
)

// patience is far beyond what anything here takes; it turns a hang into a failure.
const patience = 3 * time.Minute

// vmmBinary is the vmm under test.
var vmmBinary string

// TestMain builds the binary, or takes the one that VMM_BIN names: a host made for tests has no compiler.
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
	// Tests drop privileges and run it as somebody else.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	vmmBinary = filepath.Join(dir, "vmm")
	args := append([]string{"build", "-buildvcs=false", "-o", vmmBinary}, buildArgs...)
	build := exec.Command("go", append(args, "../cmd/vmm")...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build vmm:", err)
		return 1
	}
	return m.Run()
}

// bed is a runtime directory of its own and the processes that use it.
type bed struct {
	t   *testing.T
	ctx context.Context
	dir string
}

func newBed(t *testing.T) *bed {
	t.Helper()
	t.Parallel()
	// Not t.TempDir: with the test's name in it, paths of sockets would become too long.
	dir, err := os.MkdirTemp("", "vmm-it-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return &bed{t: t, ctx: ctx, dir: dir}
}

func (b *bed) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bed) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.ctx, vmmBinary, args...)
	cmd.Env = append(os.Environ(), "VMM_RUNTIME_DIR="+b.dir)
	return cmd
}

// result is what became of a command.
type result struct {
	status         int
	stdout, stderr string
}

// vmm runs a command to its end.
func (b *bed) vmm(args ...string) result {
	b.t.Helper()
	return b.finish(b.command(args...))
}

func (b *bed) finish(cmd *exec.Cmd) result {
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
func (b *bed) ok(args ...string) string {
	b.t.Helper()
	r := b.vmm(args...)
	require.Equal(b.t, 0, r.status, "%v: %s", args, r.stderr)
	return r.stdout
}

// refused runs a command that must fail with that status, one line on standard error, and nothing on standard output.
func (b *bed) refused(status int, args ...string) string {
	b.t.Helper()
	r := b.vmm(args...)
	requireRefusal(b.t, r, status, args)
	return r.stderr
}

func requireRefusal(t *testing.T, r result, status int, what any) {
	t.Helper()
	require.Equal(t, status, r.status, "%v: %s", what, r.stderr)
	require.Empty(t, r.stdout, "%v", what)
	require.Equal(t, 1, strings.Count(r.stderr, "\n"), "%v: one line, but: %s", what, r.stderr)
	require.True(t, strings.HasPrefix(r.stderr, "vmm: "), "%v: %s", what, r.stderr)
}

// guest is what one guest prints, wherever it runs.
type guest struct {
	heartbeat.Log
	last *process // where it is, or will be next
}

// process is a vmm run.
type process struct {
	bed    *bed
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

// run starts a vmm run. What its guest prints follows what it printed in the process before.
func (b *bed) run(g *guest, name string, args ...string) *process {
	b.t.Helper()
	cmd := b.command(append([]string{"run", "--name", name}, args...)...)
	p := &process{
		bed: b, name: name, cmd: cmd, stderr: &lockedBuffer{}, silent: make(chan struct{}), done: make(chan struct{}),
	}
	before := g.last
	g.last = p
	out, err := cmd.StdoutPipe()
	require.NoError(b.t, err)
	cmd.Stderr = p.stderr
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
		_ = cmd.Wait() // its status is asked for by those who care
		close(p.done)
	}()
	p.await("up", func(control.VM) bool { return true })
	return p
}

// incoming starts a vmm run that waits for a migration, and returns its address too.
func (b *bed) incoming(g *guest, name, addr string, args ...string) (*process, string) {
	b.t.Helper()
	p := b.run(g, name, append([]string{"--incoming", addr}, args...)...)
	vm := p.await("listening", func(vm control.VM) bool { return vm.Incoming != "" })
	return p, vm.Incoming
}

func (b *bed) unix(name string) string { return "unix:" + b.path(name) }

func (p *process) kill() { _ = p.cmd.Process.Kill() }

// wait waits for the process' end and returns its exit status.
func (p *process) wait() int {
	p.bed.t.Helper()
	select {
	case <-p.done:
	case <-p.bed.ctx.Done():
		require.FailNow(p.bed.t, "vmm run does not end", "%s: %s", p.name, p.stderr)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) client() *control.Client {
	p.bed.t.Helper()
	c, err := control.NewClient(p.bed.path(p.name + ".sock"))
	require.NoError(p.bed.t, err)
	p.bed.t.Cleanup(c.Close)
	return c
}

// vm asks the VM how it is doing.
func (p *process) vm() control.VM {
	p.bed.t.Helper()
	vm, err := p.client().VM(p.bed.ctx)
	require.NoError(p.bed.t, err, "%s", p.stderr)
	return vm
}

// await waits until the VM answers and is as wanted.
func (p *process) await(what string, ok func(control.VM) bool) control.VM {
	p.bed.t.Helper()
	client := p.client()
	for {
		vm, err := client.VM(p.bed.ctx)
		if err == nil && ok(vm) {
			return vm
		}
		select {
		case <-p.done:
			require.FailNow(p.bed.t, "vmm run has ended", "%s, waiting for it to be %s: %s", p.name, what, p.stderr)
		case <-p.bed.ctx.Done():
			require.FailNow(p.bed.t, "vmm run is not "+what, "%s: %+v, %v: %s", p.name, vm, err, p.stderr)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *process) awaitState(s control.State) {
	p.bed.t.Helper()
	p.await(string(s), func(vm control.VM) bool { return vm.State == s })
}

// untouched says that the guest is here, runs, and pays nothing for a migration any more.
func (p *process) untouched() {
	p.bed.t.Helper()
	vm := p.vm()
	require.Equal(p.bed.t, control.StateRunning, vm.State)
	require.False(p.bed.t, vm.DirtyLogging, "dirty logging is still on")
}

// alive waits for n more heartbeats and checks that the guest found nothing wrong with its memory.
func (g *guest) alive(b *bed, n int) []heartbeat.Beat {
	b.t.Helper()
	beats, err := g.WaitBeats(b.ctx, len(g.Beats())+n-1)
	require.NoError(b.t, err)
	require.Empty(b.t, g.Corrupt())
	return beats
}

// migrate runs vmm migrate --json and returns its report, which must be that of a completed migration.
func (b *bed) migrate(name, addr string, args ...string) migration.Report {
	b.t.Helper()
	order := append([]string{"migrate", name, addr, "--json"}, args...)
	r := b.vmm(order...)
	// A destination that has just lost a migration may take a moment to clear it away.
	for r.status != 0 && strings.Contains(r.stderr, "busy with another migration") {
		time.Sleep(10 * time.Millisecond)
		r = b.vmm(order...)
	}
	require.Equal(b.t, 0, r.status, "%s", r.stderr)
	var report migration.Report
	d := json.NewDecoder(strings.NewReader(r.stdout))
	d.DisallowUnknownFields()
	require.NoError(b.t, d.Decode(&report), r.stdout)
	require.Equal(b.t, migration.StatusCompleted, report.Status)
	return report
}

// background starts a command and returns what waits for its end.
func (b *bed) background(args ...string) (*exec.Cmd, func() result) {
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

// migrating waits until a migration of p has sent some of its pages. The guest must have filled its memory.
func (p *process) migrating() {
	p.bed.t.Helper()
	client := p.client()
	for {
		r, err := client.Migration(p.bed.ctx)
		if err == nil && r.BytesWire > 100_000 {
			return
		}
		select {
		case <-p.done:
			require.FailNow(p.bed.t, "vmm run has ended", "%s", p.stderr)
		case <-p.bed.ctx.Done():
			require.FailNow(p.bed.t, "no migration gets under way", "%+v %v", r, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (b *bed) signal(p *process, s syscall.Signal) {
	b.t.Helper()
	require.NoError(b.t, p.cmd.Process.Signal(s))
}
