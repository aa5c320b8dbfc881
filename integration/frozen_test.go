package integration

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
)

// TestFrozenProcess: commands about a VM whose process is stopped end by themselves, name the
// process, and change nothing once it goes on.
func TestFrozenProcess(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	p := b.run(g, "vm", idle...)
	g.alive(b, 1)
	_, to := b.incoming(&guest{}, "destination", b.unix("in"))
	b.signal(p, syscall.SIGSTOP)
	var waits []func() result
	for _, args := range [][]string{
		{"status", "vm"}, {"pause", "vm"}, {"resume", "vm"}, {"stop", "vm"}, {"cancel", "vm"},
		{"tags", "vm"}, {"tags", "vm", "--follow"}, {"migrate", "vm", to},
	} {
		_, wait := b.background(args...)
		waits = append(waits, func() result {
			r := wait()
			requireRefusal(t, r, 1, args)
			return r
		})
	}
	says := fmt.Sprintf("its process %d does not answer", p.cmd.Process.Pid)
	for _, wait := range waits {
		require.Contains(t, wait().stderr, says)
	}
	r := b.vmm("list")
	require.Equal(t, 0, r.status)
	require.Contains(t, r.stderr, says)
	require.Contains(t, r.stdout, "destination")
	b.signal(p, syscall.SIGCONT)
	p.untouched()
	g.alive(b, 2)
}

// TestFrozenInMigration does the same in the middle of a migration, with a Ctrl-C. The migration
// can be cancelled afterwards.
func TestFrozenInMigration(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	p := b.run(g, "vm", busy...)
	g.alive(b, 1)
	_, to := b.incoming(&guest{}, "destination", b.unix("in"))
	cmd, wait := b.background("migrate", "vm", to, "--bandwidth", slow)
	p.migrating()
	b.signal(p, syscall.SIGSTOP)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	r := wait()
	require.Equal(t, 1, r.status, r.stderr)
	require.Contains(t, r.stderr, fmt.Sprintf("its process %d does not answer", p.cmd.Process.Pid))
	b.signal(p, syscall.SIGCONT)
	// The Ctrl-C may or may not have reached it as an order. Both end here.
	b.vmm("cancel", "vm")
	p.await("free", func(vm control.VM) bool { return vm.Migration.Status != "running" })
	p.untouched()
}

// TestStoppedInMigration: if a VM is stopped during its migration, vmm migrate says what became of
// the guest.
func TestStoppedInMigration(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	b.run(g, "vm", busy...)
	g.alive(b, 1)
	destination, to := b.incoming(&guest{}, "destination", b.unix("in"))
	_, wait := b.background("migrate", "vm", to, "--bandwidth", slow)
	g.last.migrating()
	b.ok("stop", "vm")
	r := wait()
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "the VM was told to stop")
	require.NotContains(t, r.stderr, "still runs")

	g = &guest{}
	source := b.run(g, "source", busy...)
	g.alive(b, 1)
	_, wait = b.background("migrate", "source", to, "--bandwidth", slow)
	source.migrating()
	b.signal(destination, syscall.SIGTERM)
	r = wait()
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "was told to end")
	require.NotContains(t, r.stderr, "context canceled")
	require.Contains(t, r.stderr, "the guest still runs here")
	source.untouched()
	require.Equal(t, 0, destination.wait())
}
