//go:build qemu

// These tests need QEMU, which make test-qemu installs.
package qemu

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/guestkernel"
)

// guestELF writes the embedded guest to a file: QEMU loads the very same bytes.
func guestELF(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guest.elf")
	require.NoError(t, os.WriteFile(path, guestkernel.ELF, 0o644))
	return path
}

func start(t *testing.T, opts Options) *VM {
	t.Helper()
	vm, err := Start(t.Context(), opts)
	require.NoError(t, err)
	t.Cleanup(vm.Close)
	return vm
}

// busy is a guest that verifies and rewrites its memory all the time, and has enough of it for a
// migration of several rounds.
const busy = "workload=phased ws=16M hot=1M busy=1s cool=1s fill=pattern tasks=2"

func TestGuestMigratesUnderQEMU(t *testing.T) {
	for name, opts := range map[string]Options{
		"microvm on KVM": {Machine: MicroVM, Accel: KVM},
		"pc on KVM":      {Machine: PC, Accel: KVM},
		"microvm on TCG": {Machine: MicroVM, Accel: TCG},
		"pc on TCG":      {Machine: PC, Accel: TCG},
	} {
		t.Run(name, func(t *testing.T) {
			opts.Kernel, opts.Cmdline = guestELF(t), busy
			opts.CPUs, opts.MemoryBytes = 2, 64<<20
			migrateThere(t, opts, "tcp:127.0.0.1:0", Migration{})
		})
	}
}

func TestWaysToMigrate(t *testing.T) {
	for name, m := range map[string]Migration{
		"unix socket":    {},
		"multifd":        {Channels: 2},
		"multifd zstd":   {Channels: 2, Compression: Zstd},
		"delta":          {Delta: true},
		"with bandwidth": {BytesPerSecond: 50 << 20, DowntimeLimit: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			opts := Options{
				Kernel: guestELF(t), Cmdline: busy, CPUs: 2, MemoryBytes: 128 << 20, Preallocate: 2,
			}
			address := "tcp:127.0.0.1:0"
			if name == "unix socket" {
				address = "unix:" + filepath.Join(t.TempDir(), "m.sock")
			}
			stats := migrateThere(t, opts, address, m)
			require.Positive(t, stats.RAM.NormalPages)
			require.Equal(t, m.Delta, stats.Delta != nil)
			require.Equal(t, m.Channels > 0, stats.RAM.MultifdBytes > 0)
		})
	}
}

// TestWaysOfThisQEMU needs no KVM: it proves the dialogue with QEMU, not how long anything takes.
// QEMU=PATH names another QEMU than the installed one: QEMU="$(make qemu)" make test-qemu.
func TestWaysOfThisQEMU(t *testing.T) {
	binary := os.Getenv("QEMU")
	ways, err := Ways(t.Context(), binary)
	require.NoError(t, err)
	t.Logf("this QEMU has %q", ways)
	for _, m := range []Migration{
		{PostCopy: true, BytesPerSecond: 2 << 20}, // the first rounds must leave something over
		{AutoConverge: true, BytesPerSecond: 100 << 20},
		{Channels: 2, ZeroPages: InChannels},
		{Channels: 2, ZeroPages: InFeeder},
	} {
		t.Run(string(m.Needs())+" "+string(m.ZeroPages), func(t *testing.T) {
			opts := Options{
				Binary: binary, Accel: TCG, Kernel: guestELF(t), MemoryBytes: 64 << 20,
				Cmdline: "workload=phased ws=2M hot=1M busy=600s cool=1s fill=pattern",
			}
			if !slices.Contains(ways, m.Needs()) {
				_, err := start(t, opts).Migrate(t.Context(), "unix:/nowhere", m, nil)
				require.ErrorIs(t, err, ErrNoWay)
				require.ErrorContains(t, err, string(m.Needs()))
				return
			}
			stats := migrateThere(t, opts, "tcp:127.0.0.1:0", m)
			require.Positive(t, stats.RAM.NormalPages)
		})
	}
}

// A migration that could not do what it was asked to do is no result.
func TestPostCopyThatNeverBegan(t *testing.T) {
	binary := os.Getenv("QEMU")
	opts := Options{
		Binary: binary, Accel: TCG, Kernel: guestELF(t), Cmdline: "workload=idle",
		MemoryBytes: 32 << 20,
	}
	src := start(t, opts)
	_, err := src.Console.WaitBeats(t.Context(), 1)
	require.NoError(t, err)
	require.NoError(t, src.QMP().Execute(t.Context(), "stop", nil, nil)) // nothing is written
	opts.Incoming = true
	dst := start(t, opts)
	m := Migration{PostCopy: true}
	uri, err := dst.Listen(t.Context(), "tcp:127.0.0.1:0", m)
	require.NoError(t, err)
	_, err = src.Migrate(t.Context(), uri, m, nil)
	require.ErrorIs(t, err, ErrNoPostCopy)
}

// migrateThere moves a guest at work and requires that it goes on working with its memory and its
// counters unchanged.
func migrateThere(t *testing.T, opts Options, address string, m Migration) Stats {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	src := start(t, opts)
	opts.Incoming = true
	dst := start(t, opts)
	before, err := src.Console.WaitBeats(ctx, 1)
	require.NoError(t, err)

	uri, err := dst.Listen(ctx, address, m)
	require.NoError(t, err)
	seen := 0
	stats, err := src.Migrate(ctx, uri, m, func(Stats) { seen++ })
	require.NoError(t, err)
	requireParameters(t, src, m)
	if m.PostCopy {
		t.Logf("the destination asked for %d pages", stats.RAM.PostCopyRequests)
	}
	require.Positive(t, seen)
	require.GreaterOrEqual(t, stats.RAM.TotalBytes, opts.MemoryBytes)
	require.Positive(t, stats.RAM.TransferredBytes)

	after, err := dst.Console.WaitBeats(ctx, 2)
	require.NoError(t, err)
	require.Empty(t, src.Console.Corrupt()+dst.Console.Corrupt())
	last := before[len(before)-1]
	for _, b := range after {
		require.Greater(t, b.Elapsed, last.Elapsed, "the guest's clock goes on")
	}
	t.Logf("downtime %d ms as QEMU reports it, gap %v as the guest saw it, %d rounds",
		stats.DowntimeMs, after[0].Gap, stats.RAM.Rounds)
	return stats
}

// requireParameters asks QEMU itself what it migrated with.
func requireParameters(t *testing.T, vm *VM, m Migration) {
	t.Helper()
	var got struct {
		Compression Compression `json:"multifd-compression"`
		Channels    int         `json:"multifd-channels"`
		Bandwidth   int64       `json:"max-bandwidth"`
		DowntimeMs  int64       `json:"downtime-limit"`
		ZeroPages   Detection   `json:"zero-page-detection"`
	}
	require.NoError(t, vm.QMP().Execute(t.Context(), "query-migrate-parameters", nil, &got))
	require.Equal(t, orDefault(m.BytesPerSecond, unlimitedBytesPerSecond), got.Bandwidth)
	limit := orDefault(m.DowntimeLimit, 300*time.Millisecond).Milliseconds()
	if m.PostCopy {
		limit = leastDowntimeMs
	}
	require.Equal(t, limit, got.DowntimeMs)
	if m.ZeroPages != "" {
		require.Equal(t, m.ZeroPages, got.ZeroPages)
	}
	if m.Channels > 0 {
		require.Equal(t, m.Channels, got.Channels)
		require.Equal(t, orDefault(m.Compression, NoCompression), got.Compression)
	}
}

func TestExitStatusOfTheGuest(t *testing.T) {
	elf := guestELF(t)
	for cmdline, status := range map[string]int{
		"workload=idle secs=1":                             0,
		"workload=fault":                                   2,
		"workload=no-such-thing":                           3,
		"workload=phased inject=1 ws=1M busy=100ms cool=0": 1,
	} {
		t.Run(cmdline, func(t *testing.T) {
			vm := start(t, Options{Kernel: elf, Cmdline: cmdline, MemoryBytes: 64 << 20})
			got, err := vm.Wait(t.Context())
			require.NoError(t, err, vm.Console.String())
			require.Equal(t, status, got, vm.Console.String())
		})
	}
}

func TestConsoleInputReachesTheGuest(t *testing.T) {
	vm := start(t, Options{Kernel: guestELF(t), Cmdline: "workload=echo", MemoryBytes: 64 << 20})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, vm.Console.WaitText(ctx, "guestkernel:"))
	require.NoError(t, vm.Input([]byte("is anybody there\n")))
	require.NoError(t, vm.Console.WaitText(ctx, "is anybody there"))
}

func TestFailedMigrationLeavesTheGuestAtTheSource(t *testing.T) {
	vm := start(t, Options{Kernel: guestELF(t), Cmdline: busy, CPUs: 2, MemoryBytes: 128 << 20})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	before, err := vm.Console.WaitBeats(ctx, 0)
	require.NoError(t, err)
	_, err = vm.Migrate(ctx, "unix:"+filepath.Join(t.TempDir(), "nobody.sock"), Migration{}, nil)
	require.ErrorIs(t, err, ErrMigrationFailed)
	_, err = vm.Console.WaitBeats(ctx, len(before))
	require.NoError(t, err)
}

func TestCancelledMigrationLeavesTheGuestAtTheSource(t *testing.T) {
	opts := Options{Kernel: guestELF(t), Cmdline: busy, CPUs: 2, MemoryBytes: 128 << 20}
	src := start(t, opts)
	opts.Incoming = true
	dst := start(t, opts)
	slow := Migration{BytesPerSecond: 1 << 20}
	uri, err := dst.Listen(t.Context(), "tcp:127.0.0.1:0", slow)
	require.NoError(t, err)
	_, err = src.Console.WaitBeats(t.Context(), 0)
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	_, err = src.Migrate(ctx, uri, slow, func(s Stats) {
		if s.Status == "active" {
			cancel()
		}
	})
	require.ErrorIs(t, err, ErrMigrationFailed)
	require.ErrorIs(t, err, context.Canceled)
	beats := len(src.Console.Beats())
	_, err = src.Console.WaitBeats(t.Context(), beats)
	require.NoError(t, err)
}

func TestQEMUsOwnWordsAreInTheError(t *testing.T) {
	_, err := Start(t.Context(), Options{Kernel: "/no/such/kernel", Cmdline: ""})
	require.ErrorIs(t, err, ErrExited)
	require.ErrorContains(t, err, "/no/such/kernel")
}
