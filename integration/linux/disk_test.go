//go:build stockkvm

package linux

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
	"taskguide/migration"
)

// writes writes one block after the other to the guest's disk, waits until each is durable, and
// prints its number and its sum.
const writes = "n=0; while n=$((n+1)); do " +
	"dd if=/dev/urandom of=/x bs=4k count=1 2>/dev/null; " +
	"dd if=/x of=/dev/vda bs=4k seek=$n oflag=direct conv=fsync 2>/dev/null && " +
	"echo wrote=$n $(md5sum </x | cut -c 1-32).; done &"

// wrote finds these lines in the guest's output.
var wrote = regexp.MustCompile(`wrote=([0-9]+) ([0-9a-f]{32})\.`)

// moves is how many times the guest moves.
const moves = 5

// TestDebianMovesWithItsDisk moves Debian's kernel, which writes to its disk all the time, from
// process to process, and kills the last one. No write that was reported durable is lost, none is
// reported twice, and the disk is free for the next VM.
func TestDebianMovesWithItsDisk(t *testing.T) {
	host := startHost(t)
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	const disk = "/tmp/disk.img"
	requireRun(ctx, t, host, "truncate -s 64M "+disk)
	at := run(t, host, "--name", "vm0", "--memory", "128M", "--disk", disk+",cache=host",
		"--kernel", stockkvm.GuestKernel, "--initrd", stockkvm.GuestInitrd,
		"--cmdline", "console=ttyS0 quiet")
	at.await(ctx, t, prompt)
	at.typed(t, "cat /sys/class/misc/hw_random/rng_current; "+
		"dd if=/dev/hwrng bs=16 count=1 2>/dev/null | md5sum")
	at.await(ctx, t, "virtio_rng.0")
	at.typed(t, writes)
	at.await(ctx, t, "wrote=2 ")
	var said strings.Builder
	for n := range moves {
		from, to := fmt.Sprintf("vm%d", n), fmt.Sprintf("vm%d", n+1)
		next := run(t, host, "--name", to, "--incoming", "unix:/run/"+to,
			"--disk", disk+",cache=host")
		awaitUp(ctx, t, host, to)
		moved(ctx, t, host, from, "unix:/run/"+to)
		_, err := at.Wait(ctx)
		require.NoError(t, err)
		said.WriteString(at.console.String())
		done := len(wrote.FindAllString(said.String(), -1))
		at = next
		at.await(ctx, t, fmt.Sprintf("wrote=%d ", done+3))
	}
	requireRun(ctx, t, host, "kill -9 $(pidof vmm)")
	_, err := at.Wait(ctx)
	require.NoError(t, err)
	said.WriteString(at.console.String())

	blocks := wrote.FindAllStringSubmatch(said.String(), -1)
	sums := strings.Fields(requireRun(ctx, t, host, fmt.Sprintf(
		"for n in $(seq 1 %d); do dd if=%s bs=4k skip=$n count=1 2>/dev/null | md5sum | "+
			"cut -c 1-32; done", len(blocks), disk)))
	require.Len(t, sums, len(blocks))
	for i, b := range blocks {
		require.Equal(t, strconv.Itoa(i+1), b[1], "each write once, in order")
		require.Equal(t, sums[i], b[2], "write %d", i+1)
	}
	t.Logf("%d writes, %d moves", len(blocks), moves)
	run(t, host, "--name", "fresh", "--disk", disk+",cache=host")
	awaitUp(ctx, t, host, "fresh")
}

// moved moves a guest and verifies it at the destination.
func moved(ctx context.Context, t *testing.T, host *stockkvm.Host, from, to string) {
	t.Helper()
	out, err := host.Run(ctx, "vmm", "migrate", from, to, "--verify", "--json")
	require.NoError(t, err)
	require.Zero(t, out.Exit.Code, out.Stderr)
	var report migration.Report
	require.NoError(t, json.Unmarshal([]byte(out.Stdout), &report))
	require.NotNil(t, report.Verified)
	require.True(t, *report.Verified)
	t.Logf("%s moved in %.0f ms, %.0f ms of it standing still, of that %.0f to verify", from,
		report.TotalMS, report.DowntimeMS, report.Downtime.VerifyMS)
}

// requireRun runs a line in the host's shell and returns its output. It must succeed.
func requireRun(ctx context.Context, t *testing.T, host *stockkvm.Host, line string) string {
	t.Helper()
	out, err := host.Run(ctx, "sh", "-c", line)
	require.NoError(t, err)
	require.Zero(t, out.Exit.Code, out.Stderr)
	return out.Stdout
}
