//go:build stockkvm

package linux

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
)

// bridge makes a user without privileges, who may use KVM, and a bridge with two TAP interfaces
// without an owner, to which any user may attach.
const bridge = `set -e
echo root:x:0:0::/root:/bin/sh >/etc/passwd
echo user:x:1000:1000::/tmp:/bin/sh >>/etc/passwd
mkdir -m 700 /run/user && chown 1000 /run/user
chmod 666 /dev/kvm /dev/net/tun
ip link add br0 type bridge
ip addr add 10.9.0.1/24 dev br0
ip link set br0 up
for tap in tap0 tap1; do
  tunctl -t $tap >/dev/null
  brctl addif br0 $tap
  ip link set $tap up
done`

// echoes keeps one connection to the guest busy until /tmp/enough is there: it sends numbered
// blocks, which the guest sends back.
const echoes = `n=0
while [ ! -e /tmp/enough ]; do
  n=$((n+1)); echo block $n
  head -c 3000 /dev/zero | tr '\0' x; echo
  sleep 0.1
done | tee /tmp/sent | nc 10.9.0.2 7 >/tmp/echoed`

// asUser is a command that a user without privileges runs.
func asUser(command string) []string {
	return []string{"su", "user", "-c", "VMM_RUNTIME_DIR=/run/user exec " + command}
}

// TestDebianMovesWithItsNetwork moves Debian's kernel, which answers a client all the time, from
// process to process and from one interface of a bridge to another. The processes are a user's, who
// has no privileges. The connection stays, and each byte comes back.
func TestDebianMovesWithItsNetwork(t *testing.T) {
	rig := newRig(t)
	cfg, err := rig.HostConfig("linux", hostFiles(t, rig, nil, nil, "tun", "bridge"))
	require.NoError(t, err)
	host := booted(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	requireRun(ctx, t, host, hugePages)
	requireRun(ctx, t, host, bridge)
	start := func(name, flags string) *machine {
		m := &machine{}
		var err error
		m.Job, err = host.Start(stockkvm.Command{
			Argv: asUser("vmm run --name " + name + " " + flags), Input: true,
			Stdout: &m.console, Stderr: &m.stderr,
		})
		require.NoError(t, err)
		return m
	}
	at := start("vm0", "--net tap:tap0,mac=02:00:00:00:00:07 --memory 96M --kernel "+
		stockkvm.GuestKernel+" --initrd "+stockkvm.GuestInitrd+" --cmdline 'console=ttyS0 quiet'")
	at.await(ctx, t, prompt)
	at.typed(t, "ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up; "+
		"nc -ll -p 7 -e cat & nc -ll -p 8 -e md5sum & "+
		"cat /sys/class/net/*/address; echo up-$((6*7))")
	at.await(ctx, t, "up-42")
	require.Contains(t, at.console.String(), "02:00:00:00:00:07")
	// Large packets, which the kernels at both ends leave to others to cut and to sum up.
	sums := strings.Fields(requireRun(ctx, t, host, "dd if=/dev/urandom of=/tmp/big bs=64k "+
		"count=16 2>/dev/null; for port in 7 8; do until echo hi | nc 10.9.0.2 $port; do sleep 1; "+
		"done; done >/dev/null 2>&1; "+
		"md5sum </tmp/big; nc 10.9.0.2 8 </tmp/big; nc 10.9.0.2 7 </tmp/big | md5sum"))
	require.Equal(t, []string{sums[0], "-", sums[0], "-", sums[0], "-"}, sums)

	load, err := host.Start(stockkvm.Command{Argv: []string{"sh", "-c", echoes}})
	require.NoError(t, err)
	ping, err := host.Start(stockkvm.Command{
		Argv: []string{"sh", "-c", "exec ping -i 0.2 10.9.0.2 >/tmp/ping"},
	})
	require.NoError(t, err)
	for n := range moves {
		from, to := fmt.Sprintf("vm%d", n), fmt.Sprintf("vm%d", n+1)
		next := start(to, fmt.Sprintf("--incoming unix:/run/user/%s.in --net tap:tap%d", to,
			(n+1)%2))
		awaitUserVM(ctx, t, host, to)
		order := asUser("vmm migrate " + from + " unix:/run/user/" + to +
			".in --verify --json --standstill-limit 2m")
		if report := askAgain(ctx, t, host, from, order); report != "" {
			requireMoved(t, from, report)
		}
		_, err = at.Wait(ctx)
		require.NoError(t, err)
		at = next
		before := answered(ctx, t, host)
		for answered(ctx, t, host) < before+3 {
			time.Sleep(100 * time.Millisecond)
		}
	}
	requireRun(ctx, t, host, "touch /tmp/enough")
	exit, err := load.Wait(ctx)
	require.NoError(t, err)
	require.Zero(t, exit.Code)
	requireRun(ctx, t, host, "cmp /tmp/sent /tmp/echoed && kill -INT $(pidof ping)") // each byte
	_, err = ping.Wait(ctx)
	require.NoError(t, err)
	t.Logf("%d blocks, %d moves; %s", answered(ctx, t, host), moves,
		requireRun(ctx, t, host, "tail -n 2 /tmp/ping"))
	requireMoreThanHalf(t, requireRun(ctx, t, host, "cat /tmp/ping"))
}

// awaitUserVM is awaitUp for a user's VM.
func awaitUserVM(ctx context.Context, t *testing.T, host *stockkvm.Host, name string) {
	t.Helper()
	for {
		out, err := host.Run(ctx, asUser("vmm status "+name+" --json")...)
		require.NoError(t, err)
		if listens(out) {
			return
		}
	}
}

// answered is how many blocks have come back.
func answered(ctx context.Context, t *testing.T, host *stockkvm.Host) int {
	t.Helper()
	var n int
	out := requireRun(ctx, t, host, "grep -c block /tmp/echoed || true")
	_, err := fmt.Sscan(out, &n)
	require.NoError(t, err, out)
	return n
}

var pinged = regexp.MustCompile(`([0-9]+) packets transmitted, ([0-9]+) packets received`)

// requireMoreThanHalf requires that the guest has answered most pings. Those that came while it
// stood still are lost.
func requireMoreThanHalf(t *testing.T, output string) {
	t.Helper()
	found := pinged.FindStringSubmatch(output)
	require.NotNil(t, found, output)
	var sent, came int
	_, err := fmt.Sscan(found[1]+" "+found[2], &sent, &came)
	require.NoError(t, err)
	require.Greater(t, 2*came, sent)
}
