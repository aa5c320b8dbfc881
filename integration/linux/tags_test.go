//go:build stockkvm

package linux

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
	"taskguide/migration"
	"taskguide/tagging"
)

// TestUnprivilegedProgramsTag: in Debian's kernel, programs of user 1000, which cannot open the
// device, tag through vmm-tag's daemon. A move is guided by them, and their tags go on after it. A
// program that is killed is unregistered, and so are those of a daemon that is killed, once its
// lease has ended.
func TestUnprivilegedProgramsTag(t *testing.T) {
	rig := newRig(t)
	program, err := rig.Build(t.Context(), "./cmd/vmm-tag")
	require.NoError(t, err)
	host := hostOf(t, rig, []stockkvm.File{{Source: program, Target: "/bin/vmm-tag"}})
	requireRun(t.Context(), t, host, hugePages)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	guest := run(t, host, "--name", "here", "--memory", "192M",
		"--kernel", stockkvm.GuestKernel, "--initrd", stockkvm.GuestInitrd,
		"--cmdline", "console=ttyS0 quiet")
	guest.await(ctx, t, prompt)
	guest.typed(t, "mkdir -p /etc /run; echo user:x:1000:1000::/:/bin/sh >/etc/passwd; "+
		"echo user:x:1000: >/etc/group; (vmm-tag daemon --group user --lease 100 &); "+
		"until vmm-tag status; do sleep 1; done; echo daemon=$((6*7))")
	guest.await(ctx, t, "daemon=42")
	guest.typed(t, "su user -c 'cat /sys/bus/pci/devices/*/resource2 || echo no-rights=$(id -u)'; "+
		"su user -c 'vmm-tag exec -- sleep 10000' & "+
		"su user -c 'while :; do vmm-tag enter script; sleep 2; vmm-tag exit script; sleep 1; "+
		"done' &")
	guest.await(ctx, t, "no-rights=1000")
	names := func(vm string) []string {
		var names []string
		for _, task := range tagsOf(ctx, t, host, vm).Tasks {
			require.True(t, task.Fast)
			names = append(names, task.Name)
		}
		return names
	}
	until := func(what func() bool) {
		for !what() {
			require.NoError(t, ctx.Err(), guest.console.String())
			time.Sleep(100 * time.Millisecond)
		}
	}
	until(func() bool { return len(names("here")) == 2 })
	require.ElementsMatch(t, []string{"sleep", "script"}, names("here"))

	there := run(t, host, "--name", "there", "--incoming", "unix:/run/there")
	awaitUp(ctx, t, host, "there")
	said := ordered(ctx, t, host, "here", "unix:/run/there", "--max-defer", "10m")
	if said != "" { // else it moved out of sight
		report := requireMoved(t, "here", said)
		require.Equal(t, migration.GuidanceSwitchover, report.Guidance)
		require.False(t, report.Forced)
		t.Logf("moved: %s; %.0f ms held back, %.0f ms standing still", report.SwitchoverReason,
			report.WaitedMS, report.DowntimeMS)
	}
	require.ElementsMatch(t, []string{"sleep", "script"}, names("there"))
	require.Zero(t, tagsOf(ctx, t, host, "there").GuestErrors)
	started := time.Now()
	there.typed(t, killed("exec"))
	until(func() bool { return len(names("there")) == 1 })
	t.Logf("a killed program was gone after %.1f s", time.Since(started).Seconds())
	started = time.Now()
	there.typed(t, killed("daemon"))
	until(func() bool { return len(names("there")) == 0 })
	require.NotZero(t, tagsOf(ctx, t, host, "there").LapsedPages)
	t.Logf("a killed daemon's tasks were gone after %.1f s", time.Since(started).Seconds())
	there.typed(t, "(vmm-tag daemon --group user &); "+
		"until vmm-tag status; do sleep 1; done; su user -c 'vmm-tag exec -- sleep 10000' &")
	until(func() bool { return len(names("there")) >= 1 })
	requireRun(ctx, t, host, "vmm stop --now there")
}

// killed is a line that kills the programs of vmm-tag that were run with this word.
func killed(word string) string {
	return "for p in $(pidof vmm-tag); do grep -q " + word +
		" /proc/$p/cmdline && kill -9 $p; done"
}

// tagsOf returns what vmm tags says of a guest.
func tagsOf(ctx context.Context, t *testing.T, host *stockkvm.Host, name string) tagging.Info {
	t.Helper()
	for {
		out, err := host.Run(ctx, "vmm", "tags", name, "--json")
		require.NoError(t, err)
		if starves(out) {
			continue
		}
		require.Zero(t, out.Exit.Code, out.Stderr)
		var info tagging.Info
		require.NoError(t, json.Unmarshal([]byte(out.Stdout), &info))
		return info
	}
}
