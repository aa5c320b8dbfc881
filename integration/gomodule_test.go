package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
)

// TestGoModule builds examples/gomodule as its users do, in its own module, and moves a guest with
// its program.
func TestGoModule(t *testing.T) {
	b := newBox(t)
	in := func(args ...string) {
		cmd := exec.CommandContext(b.ctx, "go", args...)
		cmd.Dir = "../examples/gomodule"
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %v: %s", args, out)
	}
	in("vet", "./...")
	in("build", "-o", b.dir+"/", "./...")

	g := &guest{}
	b.run(g, "source", "--memory", "32M", "--cmdline", "workload=idle touch=1M verify=1")
	g.alive(b, 1)
	destination, to := b.incoming(g, "destination", b.unix("in"))
	mover := exec.CommandContext(b.ctx, filepath.Join(b.dir, "mover"), "source", to)
	mover.Env = append(os.Environ(), "VMM_RUNTIME_DIR="+b.dir)
	r := b.finish(mover)
	require.Zero(t, r.status, r.stderr)
	require.Regexp(t, `(?m)^round 1 sent \d+ pages; xen says continue$`, r.stdout)
	require.Regexp(t, `(?m)^moved, with a downtime of [0-9.]+ ms$`, r.stdout)
	destination.awaitState(control.StateRunning)
	g.alive(b, 1)
}
