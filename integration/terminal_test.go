package integration

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/control"
)

// terminal is a pseudo-terminal. What a process prints on it arrives at master, and the other way
// round.
type terminal struct {
	screen guest // everything that was shown
	master *os.File
	slave  *os.File
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ,
		&unix.Winsize{Row: 40, Col: 80}))
	tty := &terminal{master: master, slave: slave}
	go func() { _, _ = io.Copy(&tty.screen.Log, master) }()
	t.Cleanup(func() { slave.Close(); master.Close() })
	return tty
}

// start runs cmd with the terminal as its controlling one, as a shell's foreground job. A standard
// output that cmd already has stays as it is.
func (tty *terminal) start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stdin, cmd.Stderr = tty.slave, tty.slave
	if cmd.Stdout == nil {
		cmd.Stdout = tty.slave
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
}

func (tty *terminal) settings(t *testing.T) unix.Termios {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(tty.slave.Fd()), unix.TCGETS)
	require.NoError(t, err)
	return *s
}

func (tty *terminal) press(t *testing.T, keys string) {
	t.Helper()
	_, err := io.WriteString(tty.master, keys)
	require.NoError(t, err)
}

// TestConsoleOnTerminal: keys go to the guest as they are typed, even Ctrl-C. Ctrl-A X ends the VM,
// and the terminal is restored.
func TestConsoleOnTerminal(t *testing.T) {
	b := newBox(t)
	tty := newTerminal(t)
	before := tty.settings(t)
	cmd := b.command("run", "--name", "vm", "--memory", "16M", "--cmdline", "workload=echo")
	tty.start(t, cmd)
	require.NoError(t, tty.screen.WaitText(b.ctx, "Ctrl-A X ends the VM"))
	require.NoError(t, tty.screen.WaitText(b.ctx, "workload=echo"))
	require.Zero(t, tty.settings(t).Lflag&(unix.ICANON|unix.ISIG|unix.ECHO))
	tty.press(t, "hello\x03\x01q guest\r\n")
	require.NoError(t, tty.screen.WaitText(b.ctx, " guest"))
	tty.press(t, "\x01x")
	require.NoError(t, cmd.Wait())
	require.Equal(t, before, tty.settings(t))

	// The same holds if a signal ends it.
	cmd = b.command("run", "--name", "vm", "--memory", "16M", "--cmdline", "workload=echo",
		"--incoming", b.unix("in"))
	tty.start(t, cmd)
	require.NoError(t, tty.screen.WaitText(b.ctx, "waiting for a migration"))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
	require.NoError(t, tty.screen.WaitText(b.ctx, "stopped by SIGTERM"))
	require.Equal(t, before, tty.settings(t))
}

// TestLiveProgress: on a terminal, the rounds stay and the live line goes away. Ctrl-C cancels.
func TestLiveProgress(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	source := b.run(g, "source", busy...)
	g.alive(b, 1)
	_, to := b.incoming(g, "destination", b.unix("in"))
	tty := newTerminal(t)
	cmd := b.command("migrate", "source", to, "--bandwidth", slow)
	tty.start(t, cmd)
	require.NoError(t, tty.screen.WaitText(b.ctx, "pre-copy, round 1 |"))
	source.migrating()
	tty.press(t, "\x03")
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, 1, exit.ExitCode())
	require.NoError(t, tty.screen.WaitText(b.ctx, "cancelled"))
	source.untouched()

	tty = newTerminal(t)
	cmd = b.command("migrate", "source", to, "--bandwidth", "100Mbit", "--max-rounds", "3")
	tty.start(t, cmd)
	require.NoError(t, cmd.Wait())
	require.NoError(t, tty.screen.WaitText(b.ctx, "round   dirty"))
	require.NoError(t, tty.screen.WaitText(b.ctx, " stop  "))
	require.NoError(t, tty.screen.WaitText(b.ctx, "completed: the guest runs at "+to))
	require.Equal(t, 0, source.wait())
	g.alive(b, 2)
}

// TestCtrlCEndsItsLine: an error begins on its own line, not behind the echo of Ctrl-C. With a live
// line, neither the line nor the echo remains.
func TestCtrlCEndsItsLine(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	source := b.run(g, "source", busy...)
	g.alive(b, 1)
	_, to := b.incoming(g, "destination", b.unix("in"))
	for _, out := range []io.Writer{io.Discard, nil} {
		tty := newTerminal(t)
		cmd := b.command("migrate", "source", to, "--bandwidth", slow)
		cmd.Stdout = out
		tty.start(t, cmd)
		if out != nil {
			source.migrating()
		} else {
			require.NoError(t, tty.screen.WaitText(b.ctx, "round 1 |"))
		}
		tty.press(t, "\x03")
		require.Error(t, cmd.Wait())
		require.NoError(t, tty.screen.WaitText(b.ctx, "still runs here\r\n"))
		before, _, found := strings.Cut(tty.screen.String(), "vmm: migration cancelled; the guest")
		require.True(t, found)
		if out != nil {
			require.Equal(t, "^C\r\n", before)
		} else {
			require.True(t, strings.HasSuffix(before, "\x1b[J\r\x1b[K"),
				"%q is not erased, or a Ctrl-C before the live line is not", before)
			require.NotContains(t, before, "^C\r\n", "the bar would be drawn a line too low")
		}
	}
	source.untouched()
}

// TestBackgroundJob: a vmm run in the background of a terminal runs, and is not stopped for reading
// from it.
func TestBackgroundJob(t *testing.T) {
	b := newBox(t)
	tty := newTerminal(t)
	before := tty.settings(t)
	shell := exec.CommandContext(b.ctx, "sh", "-mc",
		`"$0" run --name vm --memory 16M --cmdline workload=idle & wait $!; echo ended $?`,
		vmmBinary)
	shell.Env = append(os.Environ(), "VMM_RUNTIME_DIR="+b.dir)
	tty.start(t, shell)
	vm := &process{box: b, name: "vm", stderr: &lockedBuffer{}, done: make(chan struct{})}
	vm.awaitState(control.StateRunning)
	require.Equal(t, before, tty.settings(t))
	b.ok("stop", "vm")
	require.NoError(t, tty.screen.WaitText(b.ctx, "ended 0"))
	require.NoError(t, shell.Wait())
}
