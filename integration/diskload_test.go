package integration

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
)

// diskLoad is a guest that reads and writes its disk all the time, with several requests in flight,
// and verifies every block that it reads, some time after it came.
var diskLoad = []string{
	"--memory", "64M", "--cmdline", "workload=disk ws=4M block=4K depth=16 keep=512",
}

// readsOf returns how many blocks or frames the guest has taken, by its last heartbeat.
func (g *guest) readsOf(b *box) uint64 {
	b.t.Helper()
	beats := g.alive(b, 1)
	reads, err := strconv.ParseUint(beats[len(beats)-1].Fields["reads"], 10, 64)
	require.NoError(b.t, err)
	return reads
}

// TestBusyDiskMoves: a guest whose disk always has requests in flight moves again and again, and
// goes on to read what it wrote.
func TestBusyDiskMoves(t *testing.T) {
	const blocks = 1024
	b := newBox(t)
	g := &guest{}
	disk := []string{"--disk", b.bigImage("a.img")}
	at := b.run(g, "vm0", append(disk, diskLoad...)...)
	require.NoError(t, g.WaitText(b.ctx, "phase=busy"))
	for hop := range 5 {
		before := g.readsOf(b)
		next, to := b.incoming(g, fmt.Sprintf("vm%d", hop+1), b.unix(fmt.Sprintf("in%d", hop)),
			disk...)
		requireVerified(t, b.migrate(at.name, to, "--verify"))
		require.Equal(t, 0, at.wait())
		next.awaitState(control.StateRunning)
		for g.readsOf(b) < before+blocks { // on average each block once
		}
		at = next
	}
}
