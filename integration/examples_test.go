//go:build examples

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/migration"
)

// makeExample builds a guest of examples/ as its page says. It fails without a C compiler.
func makeExample(b *box, folder string) string {
	b.t.Helper()
	elf := filepath.Join(b.dir, "guest.elf")
	make := exec.CommandContext(b.ctx, "make", "-C", "../examples/"+folder, "OUT="+elf)
	out, err := make.CombinedOutput()
	require.NoError(b.t, err, "%s", out)
	return elf
}

// TestUnikernelInC: an ELF32 file boots by its PVH note, tags its calm stretch, is moved there, and
// notices that.
func TestUnikernelInC(t *testing.T) {
	b := newBox(t)
	kernel := makeExample(b, "unikernel-c")
	g := &guest{}
	source := b.run(g, "uni", "--memory", "16M", "--kernel", kernel)
	require.NoError(t, g.WaitText(b.ctx, "unikernel: at work\n"))
	require.Contains(t, b.ok("tags", "uni"), "gate: ")
	destination, to := b.incoming(g, "uni2", b.unix("in"))
	r := b.migrate("uni", to, "--verify")
	requireVerified(t, r)
	require.Equal(t, migration.GuidanceSwitchover, r.Guidance, "it has registered its task")
	require.False(t, r.Forced)
	require.NoError(t, g.WaitText(b.ctx, "unikernel: moved, inside the segment\n"))
	require.Zero(t, destination.wait(), "its exit status")
	require.Zero(t, source.wait())
}

// TestMoveScript: the script on the unikernel's page ends with the unikernel's status.
func TestMoveScript(t *testing.T) {
	b := newBox(t)
	kernel := makeExample(b, "unikernel-c")
	script := exec.CommandContext(b.ctx, "sh", "../examples/unikernel-c/move.sh", kernel)
	script.Env = append(os.Environ(), "PATH="+filepath.Dir(vmmBinary)+":"+os.Getenv("PATH"))
	r := b.finish(script)
	require.Zero(t, r.status, r.stderr)
	require.Contains(t, r.stdout, "unikernel: moved, inside the segment\n")
}

// TestAddedWorkload: the embedded guest with one more workload tags, beats, moves and ends.
func TestAddedWorkload(t *testing.T) {
	b := newBox(t)
	kernel := makeExample(b, "workload")
	g := &guest{}
	b.run(g, "pulse", "--memory", "64M", "--kernel", kernel, "--cmdline",
		"workload=pulse ws=4M fill=random tag=cool secs=30")
	g.alive(b, 1)
	destination, to := b.incoming(g, "pulse2", b.unix("in"))
	r := b.migrate("pulse", to, "--verify")
	requireVerified(t, r)
	require.Equal(t, migration.GuidanceSwitchover, r.Guidance)
	destination.awaitState(control.StateRunning)
	require.NoError(t, g.WaitText(b.ctx, "moved task=0 epoch=1"))
	require.Zero(t, destination.wait())
	require.Empty(t, g.Corrupt())
}
