package integration

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
)

// image makes a disk's file.
func (b *box) image(name string) string {
	require.NoError(b.t, os.WriteFile(b.path(name), make([]byte, 1<<20), 0o600))
	return b.path(name)
}

// inUse requires that no other VM can open a disk.
func (b *box) inUse(disk string) {
	b.t.Helper()
	require.Contains(b.t, b.refused(1, "run", "--name", "thief", "--disk", disk),
		"disk "+disk+": in use: another process has locked it")
}

// TestDisksMove: a disk belongs to its guest, wherever that is, and is free once the guest's
// process has died.
func TestDisksMove(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	disk, other := b.image("a.img"), b.image("b.img")
	disks := []string{"--disk", disk, "--disk", other + ",readonly,cache=host"}
	source := b.run(g, "source", append(disks, busy...)...)
	g.alive(b, 1)
	b.inUse(disk)

	for name, c := range map[string]struct {
		disks []string
		want  string
	}{
		"none":    {nil, "use vmm run --incoming --disk FILE --disk FILE,readonly"},
		"swapped": {[]string{"--disk", other + ",readonly", "--disk", disk}, "readonly"},
		"copy": {
			append([]string{"--disk", b.image("copy.img")}, disks[2:]...), "not the source's",
		},
	} {
		destination, to := b.incoming(&guest{}, name, b.unix(name), c.disks...)
		r := b.vmm("migrate", "source", to)
		require.Equal(t, 1, r.status, name)
		require.Contains(t, r.stderr, c.want)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
		source.untouched()
		destination.kill()
		destination.wait()
	}

	destination, to := b.incoming(g, "destination", b.unix("in"), disks...)
	b.inUse(disk)
	requireVerified(t, b.migrate("source", to, "--verify"))
	require.Equal(t, 0, source.wait())
	destination.awaitState(control.StateRunning)
	g.alive(b, 2)
	b.inUse(disk)
	destination.kill()
	destination.wait()
	fresh := b.run(&guest{}, "fresh", append(disks, idle...)...)
	fresh.awaitState(control.StateRunning)
	b.inUse(disk)
}

// TestDiskOfAPausedGuest: a guest that stands still keeps its disk, wherever it is.
func TestDiskOfAPausedGuest(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	disk := b.image("a.img")
	source := b.run(g, "source", append([]string{"--disk", disk}, idle...)...)
	g.alive(b, 1)
	b.ok("pause", "source")
	b.inUse(disk)
	destination, to := b.incoming(g, "destination", b.unix("in"), "--disk", disk)
	requireVerified(t, b.migrate("source", to, "--verify"))
	require.Equal(t, 0, source.wait())
	destination.awaitState(control.StatePaused)
	b.inUse(disk)
	b.ok("resume", "destination")
	g.alive(b, 1)
}
