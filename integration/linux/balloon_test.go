//go:build stockkvm

package linux

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
)

// TestDebianGivesMemoryBack: a guest uses memory and frees it, and the host gets it back. What it
// did without is neither sent nor backed at the destination, and the guest uses it again there.
func TestDebianGivesMemoryBack(t *testing.T) {
	host := startHost(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	const used = 96 << 20
	at := run(t, host, "--name", "b0", "--memory", "256M", "--balloon", "reporting",
		"--kernel", stockkvm.GuestKernel, "--initrd", stockkvm.GuestInitrd,
		"--cmdline", "console=ttyS0 quiet")
	at.await(ctx, t, prompt)
	before := ramOf(ctx, t, host, "b0")
	fill := "mkdir -p /m; mount -t tmpfs m /m; dd if=/dev/urandom of=/m/x bs=1M count=96 " +
		"2>/dev/null; md5sum </m/x; echo full$((6*7))."
	at.typed(t, fill)
	at.await(ctx, t, "full42.")
	full := ramOf(ctx, t, host, "b0")
	// Meanwhile the guest may have given back what it used to boot.
	require.Greater(t, full, int64(used))
	at.typed(t, "rm /m/x; echo freed$((6*7)).")
	at.await(ctx, t, "freed42.")
	freed := time.Now()
	// Linux reports in pieces of 2 MiB, and not what lies among other pages.
	const reported = used * 3 / 4
	for ramOf(ctx, t, host, "b0") > full-reported {
		require.NoError(t, ctx.Err())
	}
	t.Logf("%d MiB at the prompt, %d MiB full, %d MiB %.1f s after the guest freed it", before>>20,
		full>>20, ramOf(ctx, t, host, "b0")>>20, time.Since(freed).Seconds())

	next := run(t, host, "--name", "b1", "--incoming", "unix:/run/b1")
	awaitUp(ctx, t, host, "b1")
	said := ordered(ctx, t, host, "b0", "unix:/run/b1")
	if said != "" { // else it moved out of sight
		report := requireMoved(t, "b0", said)
		require.Less(t, report.BytesWire, full-reported, "what is free is not sent")
		t.Logf("%d MiB sent", report.BytesWire>>20)
	}
	there := ramOf(ctx, t, host, "b1")
	require.Less(t, there, full-reported)
	t.Logf("%d MiB at the destination", there>>20)
	next.typed(t, strings.Replace(fill, "full", "again", 1))
	next.await(ctx, t, "again42.")
	require.Greater(t, ramOf(ctx, t, host, "b1"), int64(used))
}

// ramOf returns how much memory the host has given to a guest's RAM, in bytes.
func ramOf(ctx context.Context, t *testing.T, host *stockkvm.Host, name string) int64 {
	t.Helper()
	// A memfd is the shared memory of the process.
	out := requireRun(ctx, t, host, "for p in $(pidof vmm); do grep -q -z -x "+name+
		" /proc/$p/cmdline && grep RssShmem /proc/$p/status; done")
	fields := strings.Fields(out)
	require.Len(t, fields, 3, out)
	kib, err := strconv.ParseInt(fields[1], 10, 64)
	require.NoError(t, err)
	return kib << 10
}
