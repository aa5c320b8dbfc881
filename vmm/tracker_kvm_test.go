package vmm

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/vmm/probe"
)

// forEachTracker runs a test with a machine for every way of tracking that this KVM has. The names
// of the tests that ran show which these are.
//
// A KVM that emulates the guest's code overfills a ring that nobody harvests for some 50 ms, and a
// busy host may be late by that. The loss is told, so the test begins again with another machine.
func forEachTracker(t *testing.T, cfg Config, test func(t *testing.T, vm *VM)) {
	h, err := probe.Ask()
	require.NoError(t, err)
	for _, kind := range h.DirtyTrackers {
		t.Run(kind, func(t *testing.T) {
			cfg.DirtyLog = dirtylog.Kind(kind)
			tries := 1
			if kind == string(dirtylog.KindRing) && h.EmulatedRing0 {
				tries = 20
			}
			for withTracker(t, cfg, test) {
				tries--
				require.Positive(t, tries, "the ring has overflowed each time")
			}
		})
	}
}

// withTracker runs a test with a machine. It tells whether a dirty ring has overflowed, which ends
// the test early.
func withTracker(
	t *testing.T, cfg Config, test func(t *testing.T, vm *VM),
) (overflowed bool) {
	vm, err := New(cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, vm.Close()) }()
	defer func() {
		switch r := recover(); r {
		case nil:
		case errOverflowed:
			overflowed = true
		default:
			panic(r)
		}
	}()
	require.Equal(t, cfg.DirtyLog, vm.DirtyLog())
	test(t, vm)
	return false
}

// errOverflowed is what mustHarvest panics with, so that withTracker knows.
var errOverflowed = errors.New("a dirty ring has overflowed")

// mustHarvest harvests. The caller runs below withTracker.
func mustHarvest(t testing.TB, tr dirtylog.Tracker, dirty *memory.Bitmap) int {
	t.Helper()
	n, err := tr.Harvest(dirty)
	if errors.Is(err, dirtylog.ErrRingOverflow) {
		panic(errOverflowed)
	}
	require.NoError(t, err)
	return n
}

// harvest harvests, and protects if the tracker leaves that to its user.
func harvest(t testing.TB, tr dirtylog.Tracker, dirty *memory.Bitmap) int {
	t.Helper()
	n := mustHarvest(t, tr, dirty)
	require.NoError(t, tr.Protect(dirty, 0, dirty.Len()))
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
		require.True(t, vm.guest.Write(13<<20+4095, []byte{1, 2})) // two pages
		require.False(t, vm.guest.Write(0xd0000000, []byte{3}))    // not RAM
		n := harvest(t, tr, dirty)
		require.Equal(t, dirty.Count(), n)
		// Processors may note what they fetched code through as written.
		dirty.Clear(testEntry / memory.PageSize)
		want := memory.NewBitmap(vm.RAM().Pages())
		for p := 1024; p < 3072; p += 2 {
			want.Set(p)
		}
		want.SetRange(13<<8, 2)
		require.True(t, want.Equal(dirty))

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

// preCopy returns a copy of a running machine's RAM, made in rounds, and leaves it paused.
// It goes on until so many rounds had writes in them.
func preCopy(t testing.TB, vm *VM, rounds int) []byte {
	c := newCopying(t, vm)
	c.rounds(rounds)
	return c.stop()
}

// copying is a copy of a running machine's RAM in the making.
type copying struct {
	t      testing.TB
	vm     *VM
	copied []byte
	dirty  *memory.Bitmap // to copy
}

func newCopying(t testing.TB, vm *VM) *copying {
	require.NoError(t, vm.Tracker().Start())
	ram := vm.RAM()
	c := &copying{t, vm, make([]byte, ram.Size()), memory.NewBitmap(ram.Pages())}
	c.dirty.Fill()
	return c
}

func (c *copying) page(first, count int) {
	copy(c.copied[first*memory.PageSize:], c.vm.RAM().Range(first, count))
}

func (c *copying) round() {
	for first := 0; ; {
		var count int
		if first, count = c.dirty.NextRun(first, 100); count == 0 {
			break
		}
		require.NoError(c.t, c.vm.Tracker().Protect(c.dirty, first, count))
		c.page(first, count)
		first += count
	}
	c.dirty.Reset()
}

// rounds copies until so many rounds had writes in them.
func (c *copying) rounds(n int) {
	deadline := time.Now().Add(testTimeout)
	for n > 0 {
		c.round()
		if c.harvest() > 0 {
			n--
		}
		require.True(c.t, time.Now().Before(deadline), "%d rounds with writes are missing", n)
	}
}

func (c *copying) harvest() int {
	return mustHarvest(c.t, c.vm.Tracker(), c.dirty)
}

// takeBack begins a stop-and-copy, which protects nothing because nobody writes, and lets the guest
// run on after half of it.
func (c *copying) takeBack() {
	require.NoError(c.t, c.vm.Pause())
	c.harvest()
	for half := c.dirty.Count() / 2; half > 0; half-- {
		first, _ := c.dirty.NextRun(0, 1)
		c.page(first, 1)
		c.dirty.ClearRange(first, 1)
	}
	require.NoError(c.t, c.vm.Resume())
}

// stop copies the rest of the paused machine.
func (c *copying) stop() []byte {
	require.NoError(c.t, c.vm.Pause())
	c.harvest()
	c.round()
	require.NoError(c.t, c.vm.Tracker().Stop())
	return c.copied
}

// TestTakenBackStopAndCopyMissesNoWrite: what the guest writes to pages that a
// stop-and-copy has sent already, unprotected, is seen once it runs on.
func TestTakenBackStopAndCopyMissesNoWrite(t *testing.T) {
	cfg := Config{MemoryBytes: 16 << 20, CPUs: 2}
	forEachTracker(t, cfg, func(t *testing.T, vm *VM) {
		require.NoError(t, vm.Boot(testKernel(scatter), nil, ""))
		require.NoError(t, vm.Resume())
		c := newCopying(t, vm)
		for range 5 {
			c.rounds(8)
			c.takeBack()
		}
		require.True(t, bytes.Equal(c.vm.RAM().Bytes(), c.stop()))
	})
}

// TestFullRingsLoseNothingSilently lets a guest dirty more pages than its ring has entries while
// nobody harvests. The guest must go on, and either all its pages or the loss must be reported,
// because KVM overfills a ring when it emulates the guest's code.
func TestFullRingsLoseNothingSilently(t *testing.T) {
	h, err := probe.Ask()
	require.NoError(t, err)
	if h.DirtyRing == 0 {
		t.Skip("this KVM has no dirty rings, as its probe says")
	}
	cfg := Config{MemoryBytes: 16 << 20, CPUs: 1, Options: Options{
		DirtyLog: dirtylog.KindRing, ringBytes: 1024 * 16,
	}}
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
