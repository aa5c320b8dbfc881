package integration

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/transport"
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

// TestDisksThatAreNotTheSources: a destination whose disks are not those of the guest refuses it
// before a page is sent, and says why. The guest goes on, and moves to one that has them.
func TestDisksThatAreNotTheSources(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	first, second, third := b.bigImage("a.img"), b.bigImage("b.img"), b.image("c.img")
	small := b.image("small.img")
	copied := b.bigImage("copy.img")
	// A sound list of disks, to be changed in one place.
	disks := func(all ...string) (args []string) {
		for _, d := range all {
			args = append(args, "--disk", d)
		}
		return args
	}
	sound := disks(first, second, third+",readonly")
	source := b.run(g, "source", append(b.writer(first), sound[2:]...)...)
	writes(b, 10, g)
	blocks := func(kind transport.Type, payload []byte) []byte {
		if kind == transport.TypeConfig {
			const ours, theirs = `"block_bytes":512`, `"block_bytes":4096`
			return bytes.Replace(payload, []byte(ours), []byte(theirs), 1)
		}
		return payload
	}
	for _, c := range []struct {
		name   string
		disks  []string
		change rewrite
		want   string
	}{
		{"none", nil, nil, "use vmm run --incoming --disk FILE --disk FILE --disk FILE,readonly"},
		{"too few", sound[:4], nil, "it has 3 and 2 were given"},
		{"too many", append(disks(copied), sound...), nil, "it has 3 and 4 were given"},
		{
			"missing", disks(first, b.path("nothing"), third+",readonly"), nil,
			"disk " + b.path("nothing") + ": there is no such file",
		},
		{
			"too small", disks(first, small, third+",readonly"), nil,
			"disk " + small + ": it has 1048576 bytes, and the source's 1073741824",
		},
		{
			"readonly", disks(first, second+",readonly", third+",readonly"), nil,
			"disk " + second + ": only one of it and the source's is readonly",
		},
		{
			"writable", disks(first, second, third), nil,
			"disk " + third + ": only one of it and the source's is readonly",
		},
		{
			"swapped", disks(second, first, third+",readonly"), nil,
			"disk " + second + ": it is not the source's disk at this place",
		},
		{
			"a copy", disks(copied, second, third+",readonly"), nil,
			"disk " + copied + ": it is not the source's disk at this place",
		},
		{
			"without a lock", disks(first+",lock=none", second, third+",readonly"), nil,
			"disk " + first + ": only one of it and the source's has lock=none",
		},
		{
			"one of them twice", disks(first, first, third+",readonly"), nil,
			"disk " + first + ": given twice",
		},
		{
			"other blocks", sound, blocks,
			"disk " + first + ": it has blocks of 512 bytes, and the source's of 4096",
		},
	} {
		name := strings.ReplaceAll(c.name, " ", "-")
		destination, to := b.incoming(&guest{}, name, "tcp:127.0.0.1:0", c.disks...)
		relay := newRelay(t, to, frameOf{}, c.change)
		r := b.vmm("migrate", "source", relay.address(), "--channels", "1")
		require.Equal(t, 1, r.status, c.name)
		require.Contains(t, r.stderr, c.want, c.name)
		require.Contains(t, r.stderr, "the guest still runs here", c.name)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
		require.True(t, relay.sent(transport.TypeConfig), c.name)
		require.False(t, relay.sent(transport.TypePages), c.name)
		source.untouched()
		require.True(t, source.owns(first), c.name)
		writes(b, 10, g)
		destination.kill()
		destination.wait()
	}
	destination, to := b.incoming(g, "destination", b.unix("in"), sound...)
	requireVerified(t, b.migrate("source", to, "--verify"))
	writes(b, 10, g)
	destination.kill()
	destination.wait()
	nothingLost(b, first, g)
}

// TestDiskGivenTwice: a VM that is given a file twice is told so.
func TestDiskGivenTwice(t *testing.T) {
	b := newBox(t)
	disk := b.image("a.img")
	require.Contains(t, b.refused(1, "run", "--disk", disk, "--disk", disk+",readonly"),
		"disk "+disk+": given twice: a machine can have it once, or twice readonly")
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
