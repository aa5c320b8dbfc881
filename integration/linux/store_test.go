//go:build stockkvm

package linux

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
)

// storeMoves is how many times the guest moves between the hosts of a pair. It begins on the one
// that has the store, and ends on the other one.
const storeMoves = 3

// storePair boots two hosts with a shared store, which has a file system's image.
func storePair(ctx context.Context, t *testing.T, image string) *stockkvm.Pair {
	t.Helper()
	rig := newRig(t)
	initramfs := hostFiles(t, rig, nil, []stockkvm.File{stockkvm.PairHosts()},
		append(stockkvm.ScriptModules, stockkvm.StoreModules...)...)
	pair, err := rig.StartPair(ctx, initramfs, func(host int, cfg *stockkvm.HostConfig) {
		if host == 0 {
			require.NoError(t, stockkvm.AddStore(cfg))
			cfg.Disks = append(cfg.Disks, stockkvm.Disk{Path: image, Serial: "image"})
		}
	})
	require.NoError(t, err)
	t.Cleanup(pair.Close)
	_, err = pair.SetClocks(ctx)
	require.NoError(t, err)
	require.NoError(t, pair.ShareStore(ctx))
	for _, host := range pair.Hosts {
		requireRun(ctx, t, host, hugePages)
	}
	requireRun(ctx, t, pair.Hosts[0], "dd if=/dev/vdb of="+storeDisk+" bs=1M 2>/dev/null && sync")
	return pair
}

// storeDisk is the guest's disk, as both hosts see it.
const storeDisk = stockkvm.StoreDir + "/disk.img"

// TestDebianMovesBetweenHostsWithItsFileSystem moves Debian's kernel, which writes files to its
// disk all the time, between two hosts that share a store by NFS. Then the host that it runs on
// dies. Once the store has noticed, a guest of the other host can have the disk, recovers its file
// system, and finds each file that was synced.
func TestDebianMovesBetweenHostsWithItsFileSystem(t *testing.T) {
	image := ext4Image(t)
	ctx, cancel := context.WithTimeout(t.Context(), 14*time.Minute)
	defer cancel()
	started := time.Now()
	pair := storePair(ctx, t, image)
	t.Logf("two hosts after %.0f s", time.Since(started).Seconds())
	at := bootOnDisk(ctx, t, pair.Hosts[0], "vm0", storeDisk)
	at.typed(t, writes)
	at.await(ctx, t, "wrote=2 ")
	t.Logf("writes after %.0f s", time.Since(started).Seconds())
	var said strings.Builder
	for n := range storeMoves {
		from, to := fmt.Sprintf("vm%d", n), fmt.Sprintf("vm%d", n+1)
		here, there := pair.Hosts[n%2], pair.Hosts[(n+1)%2]
		address := fmt.Sprintf("tcp:%s:7000", pair.Address((n+1)%2))
		next := run(t, there, "--name", to, "--incoming", address, "--insecure",
			"--disk", storeDisk)
		awaitUp(ctx, t, there, to)
		thief, err := there.Run(ctx, "vmm", "run", "--disk", storeDisk)
		require.NoError(t, err)
		require.Equal(t, 1, thief.Exit.Code)
		require.Contains(t, thief.Stderr, "in use", "the other host has it")
		moved(ctx, t, here, from, address, "--insecure")
		_, err = at.Wait(ctx)
		require.NoError(t, err)
		said.WriteString(at.console.String())
		done := len(wrote.FindAllString(said.String(), -1))
		at = next
		at.await(ctx, t, fmt.Sprintf("wrote=%d ", done+3))
	}
	t.Logf("moved after %.0f s", time.Since(started).Seconds())
	pair.Hosts[1].Close()
	said.WriteString(at.console.String())
	files := wrote.FindAllStringSubmatch(said.String(), -1)
	for died := time.Now(); ; {
		// The embedded guest ends by itself, and lets go of the disk.
		out, err := pair.Hosts[0].Run(ctx, "vmm", "run", "--disk", storeDisk,
			"--memory", "16M", "--cmdline", "workload=idle touch=1M secs=1")
		require.NoError(t, err)
		if out.Exit.Code == 0 {
			t.Logf("the disk is free %.0f s after the host died", time.Since(died).Seconds())
			break
		}
		require.Contains(t, out.Stderr, "in use")
	}
	fresh := bootOnDisk(ctx, t, pair.Hosts[0], "fresh", storeDisk)
	fresh.requireFiles(ctx, t, files)
	t.Logf("%d files, %d moves, %.0f s", len(files), storeMoves, time.Since(started).Seconds())
}
