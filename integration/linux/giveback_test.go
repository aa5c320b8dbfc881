//go:build stockkvm

package linux

import (
	"context"
	"encoding/json"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
	"taskguide/migration"
)

// TestGoProgramGivesGarbageBack: a Go program whose heap is 80 % garbage is asked by a migration.
// If it gives the garbage back before it says yes, the migration does not send it. The log says
// what that saves, and what the program pays afterwards.
func TestGoProgramGivesGarbageBack(t *testing.T) {
	rig := newRig(t)
	tag, err := rig.Build(t.Context(), "./cmd/vmm-tag")
	require.NoError(t, err)
	garbage, err := rig.Build(t.Context(), "./integration/linux/garbage")
	require.NoError(t, err)
	host := hostOf(t, rig, []stockkvm.File{
		{Source: tag, Target: "/bin/vmm-tag"}, {Source: garbage, Target: "/bin/garbage"},
	})
	requireRun(t.Context(), t, host, hugePages)
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	kept := moveGarbage(ctx, t, host, "kept", "garbage")
	given := moveGarbage(ctx, t, host, "given", "garbage --giveback")
	t.Logf("MiB sent: %d with its garbage, %d after it gave that back", kept.BytesWire>>20,
		given.BytesWire>>20)
	// 80 MiB of the heap are garbage. Half of that is left for what Linux does not report, because
	// it lies among pages in use.
	require.Less(t, given.BytesWire, kept.BytesWire-40<<20)
}

// moveGarbage boots a guest that runs the program, moves it, and returns the report.
func moveGarbage(
	ctx context.Context, t *testing.T, host *stockkvm.Host, name, program string,
) migration.Report {
	guest := run(t, host, "--name", name, "--memory", "256M", "--balloon", "reporting",
		"--kernel", stockkvm.GuestKernel, "--initrd", stockkvm.GuestInitrd,
		"--cmdline", "console=ttyS0 quiet")
	guest.await(ctx, t, prompt)
	// Linux reports pieces of 2 MiB by default; the balloon's driver sets that when it is loaded.
	guest.typed(t, "echo 4 >/sys/module/page_reporting/parameters/page_reporting_order; "+
		"mkdir -p /run; (vmm-tag daemon &); until vmm-tag status; do sleep 1; done; "+
		"("+program+" &)")
	guest.await(ctx, t, "garbage: ready.")
	there := run(t, host, "--name", name+"2", "--incoming", "unix:/run/"+name+"2")
	awaitUp(ctx, t, host, name+"2")
	out, err := host.Run(ctx, "vmm", "migrate", name, "unix:/run/"+name+"2", "--verify", "--json",
		"--guidance", "start", "--max-defer", "2m", "--standstill-limit", "2m")
	require.NoError(t, err)
	require.Zero(t, out.Exit.Code, out.Stderr)
	requireMoved(t, name, out.Stdout)
	var report migration.Report
	require.NoError(t, json.Unmarshal([]byte(out.Stdout), &report))
	require.False(t, report.Forced, "it waited until the program said yes")
	there.await(ctx, t, "garbage: done.")
	line := regexp.MustCompile(`garbage: moved=true intact=true [^\r\n]*`).
		FindString(there.console.String())
	require.NotEmpty(t, line, there.console.String())
	t.Logf("%s: %s", name, line)
	requireRun(ctx, t, host, "vmm stop --now "+name+"2")
	return report
}
