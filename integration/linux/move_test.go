//go:build stockkvm

package linux

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/guestkernel/heartbeat"
	"taskguide/integration/stockkvm"
)

// prompt is the prompt of the shell in the rig's initial RAM disk.
const prompt = "/root # "

// startHost boots a host with vmm, Debian's kernel and an initial RAM disk for it, and more files.
// Guests have huge pages there: they boot in half the time (docs/results/linux-boot.md).
func startHost(t *testing.T, more ...stockkvm.File) *stockkvm.Host {
	t.Helper()
	host := hostOf(t, newRig(t), nil, more...)
	requireRun(t.Context(), t, host, hugePages)
	return host
}

// hugePages lets a host give huge pages to memory that is shared, as that of our guests is. Debian
// has them off.
const hugePages = "echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled"

func newRig(t *testing.T) *stockkvm.Rig {
	t.Helper()
	rig, err := stockkvm.NewRig(t.Context(), t.TempDir())
	require.NoError(t, err)
	return rig
}

// hostOf boots a host of a rig, like startHost. Its guests have the files that are given as inside.
func hostOf(
	t *testing.T, rig *stockkvm.Rig, inside []stockkvm.File, more ...stockkvm.File,
) *stockkvm.Host {
	t.Helper()
	cfg, err := rig.HostConfig("linux", hostFiles(t, rig, inside, more))
	require.NoError(t, err)
	return booted(t, cfg)
}

// hostFiles makes the initramfs of a host like that of hostOf, which loads more kernel modules, and
// returns its path.
func hostFiles(
	t *testing.T, rig *stockkvm.Rig, inside, more []stockkvm.File, modules ...string,
) string {
	t.Helper()
	vmm, err := rig.Build(t.Context(), "./cmd/vmm")
	require.NoError(t, err)
	files, err := rig.GuestFiles(inside...)
	require.NoError(t, err)
	files = append(files, stockkvm.File{Source: vmm, Target: "/bin/vmm"})
	files = append(files, more...)
	initramfs, err := rig.Initramfs("linux", files, modules...)
	require.NoError(t, err)
	return initramfs
}

func booted(t *testing.T, cfg stockkvm.HostConfig) *stockkvm.Host {
	t.Helper()
	host, err := stockkvm.StartHost(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(host.Close)
	return host
}

// machine is a vmm run inside, with the guest's serial port on its standard streams.
type machine struct {
	*stockkvm.Job
	console heartbeat.Log // only as text that a test can wait for
	stderr  heartbeat.Log
}

func run(t *testing.T, host *stockkvm.Host, args ...string) *machine {
	t.Helper()
	return launched(t, host, append([]string{"vmm", "run"}, args...))
}

// launched is run, of any VMM.
func launched(t *testing.T, host *stockkvm.Host, argv []string) *machine {
	t.Helper()
	m := &machine{}
	var err error
	m.Job, err = host.Start(stockkvm.Command{
		Argv: argv, Input: true, Stdout: &m.console, Stderr: &m.stderr,
	})
	require.NoError(t, err)
	return m
}

// typed sends a line to the guest's shell.
func (m *machine) typed(t *testing.T, line string) {
	t.Helper()
	require.NoError(t, m.Input([]byte(line+"\n")))
}

func (m *machine) await(ctx context.Context, t *testing.T, text string) {
	t.Helper()
	err := m.console.WaitText(ctx, text)
	require.NoError(t, err, "%s\n%s", m.console.String(), m.stderr.String())
}

// awaitUp waits until a vmm run answers on its control socket.
func awaitUp(ctx context.Context, t *testing.T, host *stockkvm.Host, name string) {
	t.Helper()
	for {
		out, err := host.Run(ctx, "vmm", "status", name, "--json")
		require.NoError(t, err)
		if listens(out) {
			return
		}
	}
}

// listens tells from the status of a VM whether it listens. One that is still starting does not.
func listens(status stockkvm.Output) bool {
	return status.Exit.Code == 0 && !strings.Contains(status.Stdout, `"state": "starting"`)
}

// ticks returns the numbers that the guest has printed.
func ticks(t *testing.T, output string) []int {
	t.Helper()
	var all []int
	for _, found := range regexp.MustCompile(`tick=([0-9]+)\.`).FindAllStringSubmatch(output, -1) {
		n, err := strconv.Atoi(found[1])
		require.NoError(t, err)
		all = append(all, n)
	}
	return all
}

// TestDebianMovesWhileItPrints boots Debian's kernel, lets it count on its serial port and moves it
// to another process, which verifies the guest. No number is lost or printed twice, and the shell
// and the kernel's log still work. When the guest is asked to shut down, it does.
func TestDebianMovesWhileItPrints(t *testing.T) {
	host := startHost(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	started := time.Now()
	source := run(t, host, "--name", "here", "--memory", "192M",
		"--kernel", stockkvm.GuestKernel, "--initrd", stockkvm.GuestInitrd,
		"--cmdline", "console=ttyS0 quiet")
	source.await(ctx, t, prompt)
	t.Logf("a shell after %.1f s", time.Since(started).Seconds())
	source.typed(t, "n=0; while n=$((n+1)); do echo tick=$n.; sleep 1; done &")
	source.await(ctx, t, "tick=2.")

	destination := run(t, host, "--name", "there", "--incoming", "unix:/run/there.incoming",
		"--shutdown-timeout", "10m")
	awaitUp(ctx, t, host, "there")
	moved(ctx, t, host, "here", "unix:/run/there.incoming")
	exit, err := source.Wait(ctx)
	require.NoError(t, err)
	require.Zero(t, exit.Code, source.stderr.String())

	before := ticks(t, source.console.String())
	destination.await(ctx, t, "tick="+strconv.Itoa(len(before)+3)+".")
	for i, n := range ticks(t, source.console.String()+destination.console.String()) {
		require.Equal(t, i+1, n, "each number once, in order, whichever process printed it")
	}
	destination.typed(t, "echo still-$((6*7)) >/dev/kmsg; dmesg | tail -n 3; "+
		"echo uptime $(cat /proc/uptime)")
	destination.await(ctx, t, "still-42")
	destination.await(ctx, t, "uptime ")
	status, err := host.Run(ctx, "vmm", "status", "there")
	require.NoError(t, err)
	require.Contains(t, status.Stdout, "running")
	t.Logf("%s\n%s", status.Stdout, destination.console.String())

	// The first press of the power button must end it. There is no init here, so this job waits for
	// the press.
	destination.typed(t, "(exec 3</dev/input/event0; echo $((6*7))ready; "+
		"head -c 24 <&3 >/dev/null && poweroff -f) &")
	destination.await(ctx, t, "42ready")
	out, err := host.Run(ctx, "vmm", "stop", "there")
	require.NoError(t, err)
	require.Zero(t, out.Exit.Code, out.Stderr)
	exit, err = destination.Wait(ctx)
	require.NoError(t, err)
	require.Zero(t, exit.Code, "a guest that powers off ends well: %s", destination.stderr.String())
	require.Contains(t, destination.stderr.String(), "asked the guest to shut down")
	require.NotContains(t, destination.stderr.String(), "did not shut down")
}
