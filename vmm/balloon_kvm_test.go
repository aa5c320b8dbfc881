package vmm

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/state"
)

// TestBalloonIsOptional: a machine has a balloon only if it is told to, announces it, and has it
// wherever it goes.
func TestBalloonIsOptional(t *testing.T) {
	balloon := state.Kind{Name: "balloon", Version: 1}
	for choice, has := range map[Balloon]bool{
		"": false, BalloonOff: false, BalloonReporting: true,
	} {
		vm, err := New(Config{MemoryBytes: 16 << 20, CPUs: 1, Balloon: choice})
		require.NoError(t, err)
		defer vm.Close()
		for range 2 {
			require.Equal(t, has, vm.devices.Catalog().Has("balloon"), "%q", choice)
			if has {
				require.Contains(t, vm.config.Sections, balloon)
			} else {
				require.NotContains(t, vm.config.Sections, balloon)
			}
			vm = copyOf(t, vm) // and on from there
		}
	}
}

// touchAll adds 1 to a word of each page from 4 to 5 MiB, for ever.
var touchAll = code(
	0xbf, imm32(4<<20), // mov edi, 4 MiB
	0xff, 0x07, // 1: inc dword [edi]
	0x81, 0xc7, imm32(memory.PageSize), // add edi, 4096
	0x81, 0xff, imm32(5<<20), // cmp edi, 5 MiB
	0x72, 0xf0, // jb 1b
	0xeb, 0xe9, // jmp to the first instruction
)

// TestPreCopyOfAGuestThatReleasesRAM copies a machine's RAM while its guest writes pages and the
// host takes them away, at random. The guest uses them again without a word. The copy must be the
// same in the end.
func TestPreCopyOfAGuestThatReleasesRAM(t *testing.T) {
	cfg := Config{MemoryBytes: 16 << 20, CPUs: 1}
	forEachTracker(t, cfg, func(t *testing.T, vm *VM) {
		require.NoError(t, vm.Boot(testKernel(touchAll), nil, ""))
		require.NoError(t, vm.Resume())
		for seed := range uint64(2) {
			c := newCopying(t, vm)
			stop := make(chan struct{})
			var released atomic.Int64
			var reporting sync.WaitGroup
			reporting.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, 1))
				for {
					select {
					case <-stop:
						return
					default:
					}
					n := 1 + rnd.IntN(64)
					at := uint64(4<<20) + uint64(rnd.IntN(256-n))*memory.PageSize
					if err := vm.guest.Release(at, n*memory.PageSize); err != nil {
						t.Error(err)
						return
					}
					released.Add(1)
				}
			})
			halt := sync.OnceFunc(func() {
				close(stop)
				reporting.Wait()
			})
			defer halt()
			for c.rounds(100); released.Load() <= 100; c.rounds(10) {
			}
			halt()
			require.True(t, bytes.Equal(vm.RAM().Bytes(), c.stop()))
			require.NoError(t, vm.Resume())
		}
	})
}
