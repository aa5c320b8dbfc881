package integration

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/control"
	"taskguide/guestkernel/heartbeat"
)

// runInto starts a vmm run with out as both outputs, and closes out here.
func (b *box) runInto(out *os.File, name string, args ...string) *process {
	b.t.Helper()
	cmd := b.command(append([]string{"run", "--name", name}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	p := &process{
		box: b, name: name, cmd: cmd, stderr: &lockedBuffer{},
		silent: make(chan struct{}), done: make(chan struct{}),
	}
	require.NoError(b.t, cmd.Start())
	require.NoError(b.t, out.Close())
	b.t.Cleanup(func() {
		p.kill()
		<-p.done
	})
	go func() {
		_ = cmd.Wait()
		close(p.silent)
		close(p.done)
	}()
	p.await("up", func(control.VM) bool { return true })
	return p
}

// brokenPipe returns a pipe whose reader has gone.
func brokenPipe(t *testing.T) *os.File {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return w
}

// fullPipe returns a pipe that nobody reads and that takes nothing any more.
func fullPipe(t *testing.T) *os.File {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	fd := int(w.Fd()) // blocking, as the child will have it
	require.NoError(t, unix.SetNonblock(fd, true))
	for {
		if _, err := unix.Write(fd, make([]byte, 4096)); err != nil {
			require.ErrorIs(t, err, unix.EAGAIN)
			break
		}
	}
	require.NoError(t, unix.SetNonblock(fd, false))
	return w
}

// TestNobodyListens: a guest and its migrations outlive the readers of all outputs, both readers
// that have gone and readers that take nothing. The guest prints a lot. A third host, whose output
// somebody reads, shows how the guest is.
func TestNobodyListens(t *testing.T) {
	outputs := map[string]func(*testing.T) *os.File{"gone": brokenPipe, "stuck": fullPipe}
	for name, output := range outputs {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			source := b.runInto(output(t), "source", "--memory", "32M",
				"--cmdline", "workload=idle touch=8M fill=random verify=1")
			source.awaitState(control.StateRunning)
			destination := b.runInto(output(t), "destination", "--incoming", b.unix("in"),
				"--prefault")
			destination.awaitState(control.StateIncoming)
			// A migration that is refused is logged, too.
			require.NotZero(t, b.vmm("migrate", "source", b.unix("in"), "--channels", "17").status)
			migrate := b.command("migrate", "source", b.unix("in"), "--bandwidth", "100Mbit",
				"--standstill-limit", "0")
			out := output(t)
			if name == "gone" { // a client that is stuck stays stuck
				migrate.Stdout, migrate.Stderr = out, out
			}
			require.NoError(t, migrate.Run(), "the exit status is the migration's")
			require.NoError(t, out.Close())
			require.Equal(t, 0, source.wait())
			require.Equal(t, control.StateRunning, destination.vm().State)

			g := &guest{}
			third, to := b.incoming(g, "third", b.unix("in3"))
			requireVerified(t, b.migrate("destination", to, "--verify"))
			require.Equal(t, 0, destination.wait(), "its last words do not keep it from ending")
			g.alive(b, 2)
			require.Equal(t, control.StateRunning, third.vm().State)
		})
	}
}

// TestReaderLeaves does the same as people do it, in a shell.
func TestReaderLeaves(t *testing.T) {
	b := newBox(t)
	shell := func(script string) *exec.Cmd {
		cmd := exec.CommandContext(b.ctx, "sh", "-c", script, vmmBinary)
		cmd.Env = append(os.Environ(), "VMM_RUNTIME_DIR="+b.dir)
		return cmd
	}
	var out strings.Builder
	var errs heartbeat.Log
	run := shell(`{ "$0" run --name vm --memory 32M --cmdline workload=idle
		echo ended $? >&3; } 3>&2 | sed -u 1q`)
	run.Stdout, run.Stderr = &out, &errs
	require.NoError(t, run.Start())
	require.NoError(t, errs.WaitText(b.ctx, "broken pipe"))
	b.ok("stop", "vm")
	require.NoError(t, run.Wait())
	require.Equal(t, 1, strings.Count(out.String(), "\n"))
	require.True(t, strings.HasSuffix(errs.String(), "ended 0\n"), errs.String())

	var said strings.Builder
	run = shell(`"$0" run --memory 32M --cmdline "workload=idle secs=3" > /dev/full; echo ended $?`)
	out.Reset()
	run.Stdout, run.Stderr = &out, &said
	require.NoError(t, run.Run())
	require.Equal(t, "ended 0\n", out.String())
	require.Equal(t, 3, strings.Count(said.String(), "\n"), said.String())
	require.Contains(t, said.String(), "no space left on device")
	require.Contains(t, said.String(), "bytes of the guest's output were lost")
}

// TestConsoleSurvivesRefusal: a run that is refused does not touch the console file of the VM that
// has its name.
func TestConsoleSurvivesRefusal(t *testing.T) {
	b := newBox(t)
	log := b.path("log")
	console := []string{"--console", "file:" + log}
	p := b.runInto(brokenPipe(t), "vm",
		append([]string{"--memory", "16M", "--cmdline", "workload=idle"}, console...)...)
	refused := func(why string, args ...string) {
		t.Helper()
		order := append(append([]string{"run"}, args...), console...)
		require.Contains(t, b.refused(1, order...), why)
	}
	size := func() int64 {
		info, err := os.Stat(log)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode())
		return info.Size()
	}
	p.await("speaking", func(control.VM) bool { return size() > 10 })
	before := size()
	refused("in use", "--name", "vm")
	refused("is the console of another VM", "--name", "other")
	require.NoFileExists(t, b.path("other.sock"))
	require.GreaterOrEqual(t, size(), before)
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	require.NotContains(t, string(text), "\x00", "no hole where its beginning was")
	b.ok("stop", "vm")
	require.Equal(t, 0, p.wait())
	before = size()
	refused("no such file", "--name", "vm", "--kernel", b.path("none"))
	refused("no such file", "--name", "vm", "--disk", b.path("none"))
	refused("outputs_test.go", "--name", "vm", "--kernel", "outputs_test.go")
	require.Equal(t, before, size(), "a VM that was refused has begun nothing")
}

// TestSocketsArePrivate: whatever the umask.
func TestSocketsArePrivate(t *testing.T) {
	b := newBox(t)
	cmd := exec.CommandContext(b.ctx, "sh", "-c",
		`umask 0; exec "$0" run --name vm --incoming "$1" --console "file:$2"`,
		vmmBinary, b.unix("in"), b.path("log"))
	cmd.Env = append(os.Environ(), "VMM_RUNTIME_DIR="+b.path("r"))
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	p := &process{box: b, name: "r/vm", stderr: &lockedBuffer{}, done: make(chan struct{})}
	p.awaitState(control.StateIncoming)
	modes := map[string]os.FileMode{"in": 0o600, "r/vm.sock": 0o600, "log": 0o600, "r": 0o700}
	for file, mode := range modes {
		info, err := os.Stat(b.path(file))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), file)
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait()
}
