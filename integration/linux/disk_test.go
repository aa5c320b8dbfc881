//go:build stockkvm

package linux

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/need"
	"taskguide/integration/stockkvm"
	"taskguide/migration"
)

// writes makes one file after the other in the guest's file system, waits until each is durable,
// and prints its number and its sum.
const writes = "n=0; while n=$((n+1)); do " +
	"dd if=/dev/urandom of=/x bs=8k count=1 2>/dev/null; " +
	"dd if=/x of=/mnt/$n bs=8k conv=fsync 2>/dev/null && " +
	"echo wrote=$n $(md5sum </x | cut -c 1-32).; done &"

// wrote finds these lines in the guest's output.
var wrote = regexp.MustCompile(`wrote=([0-9]+) ([0-9a-f]{32})\.`)

// draws takes random bytes from the machine's own source all the time, and prints sums of them.
const draws = "n=0; while n=$((n+1)); do " +
	"echo drew=$n $(dd if=/dev/hwrng bs=32 count=1 2>/dev/null | md5sum | cut -c 1-32).; " +
	"sleep 1; done &"

var drew = regexp.MustCompile(`drew=([0-9]+) ([0-9a-f]{32})\.`)

// requireRandom requires that a guest has drawn random bytes all the time, and each only once.
func requireRandom(t *testing.T, said string) {
	t.Helper()
	const ofNothing = "d41d8cd98f00b204e9800998ecf8427e"
	seen := map[string]bool{ofNothing: true}
	for _, found := range drew.FindAllStringSubmatch(said, -1) {
		require.False(t, seen[found[2]], found[0])
		seen[found[2]] = true
	}
	requireInOrder(t, drew, said)
}

// moves is how many times the guest moves.
const moves = 5

// ext4Image makes a file with an ext4 file system on it, which has a journal.
func ext4Image(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 64<<20))
	e2fs(t, "mke2fs", "-q", "-t", "ext4", image)
	return image
}

// e2fs runs a program of e2fsprogs.
func e2fs(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		need.Skip(t, args[0]+" is not here: install the package e2fsprogs")
	}
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, "%s: %s", args, out)
}

// bootOnDisk boots Debian's kernel and mounts the file system on its disk.
func bootOnDisk(
	ctx context.Context, t *testing.T, host *stockkvm.Host, name, disk string,
) *machine {
	t.Helper()
	m := run(t, host, "--name", name, "--memory", "128M", "--disk", disk,
		"--kernel", stockkvm.GuestKernel, "--initrd", stockkvm.GuestInitrd,
		"--cmdline", "console=ttyS0 quiet")
	m.await(ctx, t, prompt)
	m.typed(t, "mount -t ext4 /dev/vda /mnt && echo mounted=$((6*7))")
	m.await(ctx, t, "mounted=42")
	return m
}

// requireFiles requires that a guest's kernel recovered its file system, which can be written, and
// that the files which were written, as their writer said, are on it.
func (m *machine) requireFiles(ctx context.Context, t *testing.T, files [][]string) {
	t.Helper()
	m.typed(t, fmt.Sprintf("dmesg | grep EXT4; for n in $(seq 1 %d); do "+
		"echo found=$n $(md5sum </mnt/$n | cut -c 1-32).; done; "+
		"echo more >/mnt/more && umount /mnt && echo clean=$((6*7))", len(files)))
	m.await(ctx, t, "clean=42")
	require.Contains(t, m.console.String(), "recovery complete")
	found := regexp.MustCompile(`found=([0-9]+ [0-9a-f]{32}\.)`).
		FindAllStringSubmatch(m.console.String(), -1)
	require.Len(t, found, len(files))
	for i, f := range files {
		require.Equal(t, strconv.Itoa(i+1), f[1], "each write once, in order")
		require.Equal(t, f[1]+" "+f[2]+".", found[i][1])
	}
}

// startHostWith is startHost, with a disk.
func startHostWith(t *testing.T, disk string) *stockkvm.Host {
	t.Helper()
	rig := newRig(t)
	cfg, err := rig.HostConfig("linux", hostFiles(t, rig, nil, nil, "virtio_blk"))
	require.NoError(t, err)
	cfg.Disks = []stockkvm.Disk{{Path: disk}}
	host := booted(t, cfg)
	requireRun(t.Context(), t, host, hugePages)
	return host
}

// TestDebianMovesWithItsFileSystem moves Debian's kernel, which writes files to ext4 on its disk
// all the time, from process to process, and kills the last one. No write that was reported durable
// is lost, and none is reported twice. Its source of random numbers works all the while. The disk
// is a block device of the host. It is free for the next VM, whose kernel recovers the file system
// from its journal.
func TestDebianMovesWithItsFileSystem(t *testing.T) {
	image := ext4Image(t)
	host := startHostWith(t, image)
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	const disk = "/dev/vda"
	at := bootOnDisk(ctx, t, host, "vm0", disk)
	at.typed(t, "cat /sys/class/misc/hw_random/rng_current; "+
		"dd if=/dev/hwrng bs=16 count=1 2>/dev/null | md5sum")
	at.await(ctx, t, "virtio_rng.0")
	at.typed(t, draws)
	at.typed(t, writes)
	at.await(ctx, t, "drew=1 ")
	at.await(ctx, t, "wrote=2 ")
	var said strings.Builder
	for n := range moves {
		from, to := fmt.Sprintf("vm%d", n), fmt.Sprintf("vm%d", n+1)
		next := run(t, host, "--name", to, "--incoming", "unix:/run/"+to, "--disk", disk)
		awaitUp(ctx, t, host, to)
		moved(ctx, t, host, from, "unix:/run/"+to)
		_, err := at.Wait(ctx)
		require.NoError(t, err)
		said.WriteString(at.console.String())
		done := len(wrote.FindAllString(said.String(), -1))
		drawn := len(drew.FindAllString(said.String(), -1))
		at = next
		at.await(ctx, t, fmt.Sprintf("wrote=%d ", done+3))
		at.await(ctx, t, fmt.Sprintf("drew=%d ", drawn+2))
	}
	requireRun(ctx, t, host, "kill -9 $(pidof vmm)")
	_, err := at.Wait(ctx)
	require.NoError(t, err)
	said.WriteString(at.console.String())
	requireRandom(t, said.String())

	files := wrote.FindAllStringSubmatch(said.String(), -1)
	fresh := bootOnDisk(ctx, t, host, "fresh", disk)
	fresh.requireFiles(ctx, t, files)
	t.Logf("%d files, %d moves", len(files), moves)
	requireRun(ctx, t, host, "vmm stop --now fresh")
	_, err = fresh.Wait(ctx)
	require.NoError(t, err)
	host.Close()
	e2fs(t, "e2fsck", "-fn", image)
}

// moved moves a guest and verifies it at the destination. The guest may stand still for long,
// because its host may starve. See [ordered].
func moved(
	ctx context.Context, t *testing.T, host *stockkvm.Host, from, to string, args ...string,
) {
	t.Helper()
	if report := ordered(ctx, t, host, from, to, args...); report != "" {
		requireMoved(t, from, report)
	}
}

// ordered orders a verified move and returns its report. On a host that starves, vmm migrate may
// lose sight of the VM's process for a while, whether or not its order has arrived; then it is
// asked again. If the VM has moved out of sight by then, there is no report.
func ordered(
	ctx context.Context, t *testing.T, host *stockkvm.Host, from, to string, args ...string,
) string {
	t.Helper()
	return askAgain(ctx, t, host, from, append([]string{
		"vmm", "migrate", from, to, "--verify", "--json", "--standstill-limit", "2m",
	}, args...))
}

// askAgain runs the order to move a VM, as ordered does.
func askAgain(
	ctx context.Context, t *testing.T, host *stockkvm.Host, from string, order []string,
) string {
	t.Helper()
	for lost := false; ; lost = true {
		out, err := host.Run(ctx, order...)
		require.NoError(t, err)
		if lost && strings.Contains(out.Stderr, "no such VM is running") {
			t.Logf("%s moved out of sight: its host starves", from)
			return ""
		}
		again := lost && out.Stdout == "" && strings.Contains(out.Stderr, "is under way")
		if !again && !starves(out) {
			require.Zero(t, out.Exit.Code, out.Stderr)
			return out.Stdout
		}
	}
}

// starves tells whether a VM's process has not answered in time. A migration that failed has a
// report.
func starves(out stockkvm.Output) bool {
	return out.Stdout == "" && strings.Contains(out.Stderr, "it may be stopped (kill")
}

// requireMoved requires that a report, as JSON, is of a move that was verified.
func requireMoved(t *testing.T, from, output string) migration.Report {
	t.Helper()
	var report migration.Report
	require.NoError(t, json.Unmarshal([]byte(output), &report))
	require.NotNil(t, report.Verified)
	require.True(t, *report.Verified)
	t.Logf("%s moved in %.0f ms, %.0f ms of it standing still, of that %.0f to verify", from,
		report.TotalMS, report.DowntimeMS, report.Downtime.VerifyMS)
	return report
}

// requireRun runs a line in the host's shell and returns its output. It must succeed.
func requireRun(ctx context.Context, t *testing.T, host *stockkvm.Host, line string) string {
	t.Helper()
	out, err := host.Run(ctx, "sh", "-c", line)
	require.NoError(t, err)
	require.Zero(t, out.Exit.Code, out.Stderr)
	return out.Stdout
}
