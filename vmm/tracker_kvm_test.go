package vmm

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/memory"
)

// forEachTracker runs a test with a machine for every way of tracking that this KVM
// has. Which those are shows in the names of the tests that ran.
func forEachTracker(t *testing.T, cfg Config, test func(t *testing.T, vm *VM)) {
	h, err := Probe()
	require.NoError(t, err)
	for _, kind := range h.DirtyTrackers {
		t.Run(kind, func(t *testing.T) {
			cfg.DirtyLog = dirtylog.Kind(kind)
			vm, err := New(cfg)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, vm.Close()) })
			require.Equal(t, cfg.DirtyLog, vm.DirtyLog())
			test(t, vm)
		})
	}
}

// harvest harvests and, where that is up to the user, protects.
func harvest(t testing.TB, tr dirtylog.Tracker, dirty *memory.Bitmap) int {
	t.Helper()
	n, err := tr.Harvest(dirty)
	require.NoError(t, err)
	if p, ok := tr.(dirtylog.Protector); ok {
		require.NoError(t, p.Protect(dirty, 0, dirty.Len()))
	}
	return n
}

// pageWriter writes the word 1 to every second page from 4 to 12 MiB, then tells the
// recorder and stands in a loop.
var pageWriter = code(
	0xbf, imm32(4<<20), // mov edi, 4 MiB
	0xc7, 0x07, imm32(1), // 1: mov dword [edi], 1
	0x81, 0xc7, imm32(8192), // add edi, 8192
	0x81, 0xff, imm32(12<<20), // cmp edi, 12 MiB
	0x72, 0xec, // jb 1b
	0xa3, imm32(recorderMMIO), // mov [recorder], eax
	0xeb, 0xfe, // jmp .
)

func TestTrackerSeesGuestAndHostWrites(t *testing.T) {
	forEachTracker(t, Config{MemoryBytes: 16 << 20, CPUs: 1}, func(t *testing.T, vm *VM) {
		r := newRecorder()
		attach(vm, r)
		require.NoError(t, vm.Boot(testKernel(pageWriter), nil, ""))
		tr := vm.Tracker()
		require.NoError(t, tr.Start())
		dirty := memory.NewBitmap(vm.RAM().Pages())
		harvest(t, tr, dirty)
		dirty.Reset()

		require.NoError(t, vm.Resume())
		r.waitFor(t, 1)
		require.NoError(t, vm.Pause())
		vm.MarkDirty(13<<20+4095, 2) // two pages
		vm.MarkDirty(0xd0000000, 4)  // not RAM
		vm.MarkDirty(0, 0)
		n := harvest(t, tr, dirty)
		require.Equal(t, dirty.Count(), n)
		// Processors may note what they fetched code through as written.
		dirty.Clear(testEntry / memory.PageSize)
		want := memory.NewBitmap(vm.RAM().Pages())
		for p := 1024; p < 3072; p += 2 {
			want.Set(p)
		}
		want.SetRange(13<<8, 2)
		require.Equal(t, want.Words(), dirty.Words())

		require.Zero(t, harvest(t, tr, dirty), "reported once")
		require.Equal(t, want.Count(), dirty.Count(), "what the bitmap had stays")
		require.NoError(t, tr.Stop())
		require.NoError(t, tr.Stop())
	})
}

// scatter adds 1 to a word of RAM between 4 and 12 MiB, at another place each time,
// for ever.
var scatter = code(
	0x31, 0xc0, // xor eax, eax
	0x69, 0xc0, imm32(1664525), // 1: imul eax, eax, 1664525
	0x05, imm32(1013904223), // add eax, 1013904223
	0x89, 0xc7, // mov edi, eax
	0xc1, 0xef, 0x08, // shr edi, 8
	0x81, 0xe7, imm32(0x7ffffc), // and edi, 8 MiB - 4
	0xff, 0x87, imm32(4<<20), // inc dword [edi + 4 MiB]
	0xeb, 0xe2, // jmp 1b
)

// TestPreCopyMissesNoWrite copies a machine's RAM while its guest writes, as a
// migration does, twice: the copy must be the same in the end.
func TestPreCopyMissesNoWrite(t *testing.T) {
	cfg := Config{MemoryBytes: 16 << 20, CPUs: 2}
	forEachTracker(t, cfg, func(t *testing.T, vm *VM) {
		require.NoError(t, vm.Boot(testKernel(scatter), nil, ""))
		require.NoError(t, vm.Resume())
		for range 2 {
			copied := preCopy(t, vm, 40)
			require.True(t, bytes.Equal(vm.RAM().Bytes(), copied))
			require.NoError(t, vm.Resume())
		}
	})
}

// preCopy returns a copy of a running machine's RAM, made in rounds of which so many
// have writes in them, and leaves it paused.
func preCopy(t testing.TB, vm *VM, rounds int) []byte {
	tr, ram := vm.Tracker(), vm.RAM()
	require.NoError(t, tr.Start())
	copied := make([]byte, ram.Size())
	dirty := memory.NewBitmap(ram.Pages())
	round := func() {
		for first, count := dirty.NextRun(0, 100); count > 0; first, count = dirty.NextRun(first+count, 100) {
			if p, ok := tr.(dirtylog.Protector); ok {
				require.NoError(t, p.Protect(dirty, first, count))
			}
			copy(copied[first*memory.PageSize:], ram.Range(first, count))
		}
		dirty.Reset()
	}
	dirty.Fill()
	deadline := time.Now().Add(testTimeout)
	for rounds > 0 {
		round()
		n, err := tr.Harvest(dirty)
		require.NoError(t, err)
		if n > 0 {
			rounds--
		}
		require.True(t, time.Now().Before(deadline), "%d rounds in which the guest writes are missing", rounds)
	}
	require.NoError(t, vm.Pause())
	_, err := tr.Harvest(dirty)
	require.NoError(t, err)
	round()
	require.NoError(t, tr.Stop())
	return copied
}

// TestFullRingsLoseNothingSilently lets a guest dirty more pages than its ring has
// entries while nobody harvests. The guest must go on, and either all its pages are
// reported or the loss is: KVM overfills a ring where it emulates the guest's code.
func TestFullRingsLoseNothingSilently(t *testing.T) {
	h, err := Probe()
	require.NoError(t, err)
	if h.DirtyRing == 0 {
		t.Skip("this KVM has no dirty rings, as its probe says")
	}
	cfg := Config{MemoryBytes: 16 << 20, CPUs: 1, Options: Options{DirtyLog: dirtylog.KindRing, ringBytes: 1024 * 16}}
	vm, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, vm.Close()) })
	r := newRecorder()
	attach(vm, r)
	require.NoError(t, vm.Boot(testKernel(pageWriter), nil, ""))
	tr := vm.Tracker()
	require.NoError(t, tr.Start())
	require.NoError(t, vm.Resume())
	r.waitFor(t, 1)
	require.NoError(t, vm.Pause())
	dirty := memory.NewBitmap(vm.RAM().Pages())
	_, err = tr.Harvest(dirty)
	if err == nil || !h.EmulatedRing0 {
		require.NoError(t, err)
		for p := 1024; p < 3072; p += 2 {
			require.True(t, dirty.Test(p), "page %d", p)
		}
		require.NoError(t, tr.Stop())
		return
	}
	require.ErrorIs(t, err, dirtylog.ErrRingOverflow)
	require.NoError(t, tr.Stop())
	require.ErrorIs(t, tr.Start(), dirtylog.ErrRingOverflow, "it stays unusable")
}

func TestUnknownTrackerIsRefused(t *testing.T) {
	_, err := New(Config{MemoryBytes: 16 << 20, CPUs: 1, Options: Options{DirtyLog: "magic"}})
	require.ErrorContains(t, err, `dirty tracking by "magic"`)
}
