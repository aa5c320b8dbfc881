//go:build stockkvm

package linux

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
)

const (
	memtestPackage = "memtest86+"
	memtestFile    = "boot/memtest86+x64.bin"
	memtestMoves   = 10
)

// memtestBinary fetches Debian's memtest86+.
func memtestBinary(t *testing.T) stockkvm.File {
	t.Helper()
	cache, err := stockkvm.CacheDir()
	require.NoError(t, err)
	dir := filepath.Join(cache, "stockkvm")
	root, err := stockkvm.FetchPackage(t.Context(), dir, memtestPackage)
	require.NoError(t, err)
	return stockkvm.File{Source: filepath.Join(root, memtestFile), Target: "/boot/memtest"}
}

// memtest86+ draws how many passes it has made, and how many errors it has found.
var (
	memtestPasses = regexp.MustCompile(`Pass: +([0-9]+) +Errors:`)
	memtestErrors = regexp.MustCompile(`Errors: +[1-9]`)
)

// TestMemtestFindsNoErrorWhileItIsMoved: memtest86+, which reads back everything that it wrote to
// RAM, makes a full pass while it is moved ten times.
func TestMemtestFindsNoErrorWhileItIsMoved(t *testing.T) {
	host := startHost(t, memtestBinary(t))
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	m := run(t, host, "--name", "m0", "--memory", "16M",
		"--kernel", "/boot/memtest", "--cmdline", "console=ttyS0,115200")
	m.await(ctx, t, "Testing:")
	started := time.Now()
	for hop := range memtestMoves {
		here, there := fmt.Sprintf("m%d", hop), fmt.Sprintf("m%d", hop+1)
		m.await(ctx, t, "Errors: 0") // it goes on, and has drawn this once in this process
		in := "unix:/run/" + there + ".incoming"
		next := run(t, host, "--name", there, "--incoming", in)
		awaitUp(ctx, t, host, there)
		out, err := host.Run(ctx, "vmm", "migrate", here, in, "--verify", "--max-rounds", "3")
		require.NoError(t, err)
		require.Zero(t, out.Exit.Code, "%s\n%s", out.Stderr, m.stderr.String())
		exit, err := m.Wait(ctx)
		require.NoError(t, err)
		require.Zero(t, exit.Code, m.stderr.String())
		require.NotRegexp(t, memtestErrors, m.console.String())
		require.Equal(t, "0", passes(m.console.String()), "moved within the first pass")
		m = next
		t.Logf("move %d after %.0f s", hop+1, time.Since(started).Seconds())
	}
	for passes(m.console.String()) == "0" {
		require.NoError(t, ctx.Err(), m.console.String())
		time.Sleep(time.Second)
	}
	require.NotRegexp(t, memtestErrors, m.console.String())
	t.Logf("a pass after %.0f s", time.Since(started).Seconds())
}

// passes is the last number of passes that memtest86+ has shown.
func passes(console string) string {
	all := memtestPasses.FindAllStringSubmatch(console, -1)
	if len(all) == 0 {
		return "0"
	}
	return all[len(all)-1][1]
}
