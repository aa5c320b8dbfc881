//go:build stockkvm

package linux

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
	"taskguide/transport"
)

// kill is one way for a handover to go wrong: what the relay holds back when a process is killed.
type kill struct {
	name      string
	direction string
	frame     transport.Type
	victim    string // source or destination
	then      string // what becomes of the frame
	runs      string // who runs the guest afterwards: source, destination, or empty
}

var kills = []kill{
	{"state, destination", "forth", transport.TypeState, "destination", "cut", "source"},
	{"state, source", "forth", transport.TypeState, "source", "cut", ""},
	{"state arrives, source", "forth", transport.TypeState, "source", "pass", ""},
	{"prepared, destination", "back", transport.TypePrepared, "destination", "cut", "source"},
	{"prepared, source", "back", transport.TypePrepared, "source", "cut", ""},
	{"commit, destination", "forth", transport.TypeCommit, "destination", "cut", ""},
	{"commit, source", "forth", transport.TypeCommit, "source", "cut", ""},
	{"commit arrives, source", "forth", transport.TypeCommit, "source", "pass", "destination"},
	{"running, destination", "back", transport.TypeRunning, "destination", "cut", ""},
	{"running, source", "back", transport.TypeRunning, "source", "cut", "destination"},
}

// TestFileSystemOutlivesKills kills either end at each step of the handover of a Linux guest, which
// makes files durable in ext4 all the time. Whoever runs the guest afterwards goes on making files,
// until it is killed, too. Then a fresh VM opens the disk, its kernel recovers the file system, and
// every file that was reported durable is there.
func TestFileSystemOutlivesKills(t *testing.T) {
	image := ext4Image(t)
	rig := newRig(t)
	holder, err := rig.Build(t.Context(), "./integration/linux/holder")
	require.NoError(t, err)
	cfg, err := rig.HostConfig("linux", hostFiles(t, rig, nil, []stockkvm.File{
		{Source: holder, Target: "/bin/holder"},
	}, "virtio_blk"))
	require.NoError(t, err)
	cfg.Disks = []stockkvm.Disk{{Path: image}}
	host := booted(t, cfg)
	requireRun(t.Context(), t, host, hugePages)
	for n, k := range kills {
		t.Run(k.name, func(t *testing.T) { k.outlived(t, host, n) })
	}
}

// outlived makes the handover fail in that way, and looks at the disk afterwards.
func (k kill) outlived(t *testing.T, host *stockkvm.Host, n int) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	const disk = "/dev/vda"
	names := map[string]string{
		"source": fmt.Sprint("source", n), "destination": fmt.Sprint("destination", n),
	}
	relay, to := fmt.Sprint("127.0.0.1:", 7100+n), fmt.Sprint("127.0.0.1:", 7000+n)
	source := bootOnDisk(ctx, t, host, names["source"], disk)
	source.typed(t, "rm -f /mnt/*; sync; "+writes)
	source.await(ctx, t, "wrote=2 ")
	destination := run(t, host, "--name", names["destination"], "--incoming", "tcp:"+to,
		"--disk", disk)
	awaitUp(ctx, t, host, names["destination"])
	between := launched(t, host, []string{
		"holder", relay, to, k.direction, fmt.Sprint(int(k.frame)),
	})
	between.await(ctx, t, "listening.")
	// A busy host may let any time pass while the frame is held.
	migrate := launched(t, host, []string{
		"vmm", "migrate", names["source"], "tcp:" + relay, "--channels", "1",
		"--standstill-limit", "0", "--downtime-limit", "5s",
	})
	between.await(ctx, t, "held.")
	ends := map[string]*machine{"source": source, "destination": destination}
	said := func() string { return source.console.String() + destination.console.String() }
	killed := func(who string) {
		require.NoError(t, ends[who].Signal(syscall.SIGKILL))
		_, err := ends[who].Wait(ctx)
		require.NoError(t, err)
	}
	killed(k.victim)
	between.typed(t, k.then)
	if k.runs != "" {
		ends[k.runs].goesOn(ctx, t, said)
	}
	for who := range ends {
		if who != k.victim {
			killed(who)
		}
	}
	_, err := migrate.Wait(ctx)
	require.NoError(t, err)
	requireRun(ctx, t, host, "killall -9 holder; true")

	fresh := bootOnDisk(ctx, t, host, fmt.Sprint("fresh", n), disk)
	files := wrote.FindAllStringSubmatch(strings.ReplaceAll(said(), "\r", ""), -1)
	require.NotEmpty(t, files)
	fresh.requireFiles(ctx, t, files)
	t.Logf("%d files", len(files))
	requireRun(ctx, t, host, "vmm stop --now "+fmt.Sprint("fresh", n))
}

// goesOn waits until a guest makes files.
func (m *machine) goesOn(ctx context.Context, t *testing.T, said func() string) {
	t.Helper()
	before := len(wrote.FindAllString(m.console.String(), -1))
	for len(wrote.FindAllString(m.console.String(), -1)) < before+2 {
		require.NoError(t, ctx.Err(), "%s\n%s", said(), m.stderr.String())
		time.Sleep(100 * time.Millisecond)
	}
}
