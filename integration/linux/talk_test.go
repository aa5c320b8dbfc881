//go:build stockkvm

package linux

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/guestkernel/heartbeat"
	"taskguide/integration/stockkvm"
)

var (
	hvcLine = regexp.MustCompile(`hvc=([0-9]+)\.`)
	called  = regexp.MustCompile(`called=([0-9]+)\.`)
)

// peer is a program of the host that talks to one of the guest through a VM's vsock.
type peer struct {
	*stockkvm.Job
	said heartbeat.Log
}

func startPeer(t *testing.T, host *stockkvm.Host, vm string) *peer {
	t.Helper()
	p := &peer{}
	var err error
	p.Job, err = host.Start(stockkvm.Command{
		Argv: []string{"peer", "host", vsockOf(vm)}, Stdout: &p.said, Stderr: &p.said,
	})
	require.NoError(t, err)
	return p
}

// talks waits until the guest's program has answered so often.
func (p *peer) talks(ctx context.Context, t *testing.T, times int) {
	t.Helper()
	require.NoError(t, p.said.WaitText(ctx, fmt.Sprintf("echoed=%d.", times)), p.said.String())
}

func vsockOf(vm string) string { return "/run/" + vm + ".vsock" }
func hvcOf(vm string) string   { return "/run/" + vm + ".hvc" }

// roundPatience is how long a boot, or a move with what comes before it, may take. On a machine
// with twenty times as much to do as it has CPUs, a move takes up to three minutes, and all five
// 12. One limit for all of them would take that for a hang after the last one.
const roundPatience = 8 * time.Minute

// explain logs, after a failure, two looks at the VMs of a host: counters that have grown in
// between tell a machine that is too busy from a guest that hangs.
func explain(t *testing.T, host *stockkvm.Host) {
	if !t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := host.Run(ctx, "sh", "-c", `for look in 1 2; do
		for vm in $(vmm list | awk 'NR > 1 {print $1}'); do vmm status $vm; vmm debug $vm; done
		sleep 3; done`)
	t.Logf("%v\n%s%s", err, out.Stdout, out.Stderr)
}

// TestDebianTalksAcrossMoves moves Debian's kernel while it counts on its second console, and while
// programs of guest and host talk through its vsock in both directions. No number is lost or
// printed twice. Connections are reset at each move, and made anew at the destination.
func TestDebianTalksAcrossMoves(t *testing.T) {
	rig := newRig(t)
	path, err := rig.Build(t.Context(), "./integration/linux/peer")
	require.NoError(t, err)
	program := stockkvm.File{Source: path, Target: "/bin/peer"}
	host := hostOf(t, rig, []stockkvm.File{program}, program)
	t.Cleanup(func() { explain(t, host) })
	round := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), roundPatience)
		t.Cleanup(cancel)
		return ctx
	}
	ctx := round()
	requireRun(ctx, t, host, hugePages)
	flags := func(vm string) []string {
		return []string{"--name", vm, "--hvc", "file:" + hvcOf(vm), "--vsock", "3," + vsockOf(vm)}
	}
	at := run(t, host, append(flags("vm0"), "--memory", "128M",
		"--kernel", stockkvm.GuestKernel, "--initrd", stockkvm.GuestInitrd,
		"--cmdline", "console=ttyS0 quiet")...)
	at.await(ctx, t, prompt)
	at.typed(t, "(n=0; while n=$((n+1)); do echo hvc=$n.; sleep 0.5; done >/dev/hvc0) &")
	at.typed(t, "peer guest &")
	other := startPeer(t, host, "vm0")
	var console strings.Builder
	calls := 0
	for n := range moves {
		ctx = round()
		other.talks(ctx, t, 3)
		at.await(ctx, t, fmt.Sprintf("called=%d.", calls+3))
		from, to := fmt.Sprintf("vm%d", n), fmt.Sprintf("vm%d", n+1)
		next := run(t, host, append(flags(to), "--incoming", "unix:/run/"+to)...)
		awaitUp(ctx, t, host, to)
		moved(ctx, t, host, from, "unix:/run/"+to)
		exit, err := at.Wait(ctx)
		require.NoError(t, err)
		require.Zero(t, exit.Code, at.stderr.String())
		exit, err = other.Wait(ctx)
		require.NoError(t, err)
		require.Zero(t, exit.Code, other.said.String())
		console.WriteString(at.console.String())
		calls = len(called.FindAllString(console.String(), -1))
		at, other = next, startPeer(t, host, to)
	}
	ctx = round()
	other.talks(ctx, t, 3)
	at.await(ctx, t, fmt.Sprintf("called=%d.", calls+3))
	console.WriteString(at.console.String())
	said := console.String()
	require.NotContains(t, said, "wrong answer")
	require.Equal(t, moves, strings.Count(said, "echo ended: "), said)
	require.Equal(t, moves, strings.Count(said, "call ended: "), said)
	require.NotContains(t, said, "ended: <nil>", "a reset is no orderly end")
	require.NotContains(t, said, "ended: EOF", "a reset is no orderly end")
	requireInOrder(t, called, said)

	var printed strings.Builder
	for n := range moves + 1 {
		text := requireRun(ctx, t, host, "cat "+hvcOf(fmt.Sprintf("vm%d", n)))
		require.Regexp(t, hvcLine, text, "each of them printed")
		printed.WriteString(text)
	}
	lines := requireInOrder(t, hvcLine, printed.String())
	t.Logf("%d lines on hvc0, %d moves", lines, moves)
}

// requireInOrder requires that the numbers that a text has are 1, 2, 3, ..., and returns the last.
func requireInOrder(t *testing.T, number *regexp.Regexp, text string) int {
	t.Helper()
	all := number.FindAllStringSubmatch(text, -1)
	for i, found := range all {
		require.Equal(t, strconv.Itoa(i+1), found[1], "each once, in order")
	}
	return len(all)
}
