package vmm

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/vmm/kvm"
)

// BenchmarkHarvest measures a harvest of a machine that stands still and has 100 dirty pages:
// the cost that every round and every downtime has, whatever was written. kvm-ms/op is KVM's
// share of it, where that is a call of its own: KVM_GET_DIRTY_LOG of all slots.
func BenchmarkHarvest(b *testing.B) {
	for _, gib := range []int64{2, 64, 1024} {
		for _, kind := range dirtylog.Kinds {
			b.Run(fmt.Sprintf("%dGiB/%s", gib, kind), func(b *testing.B) {
				benchmarkHarvest(b, gib<<30, kind)
			})
		}
	}
}

func benchmarkHarvest(b *testing.B, size int64, kind dirtylog.Kind) {
	vm, err := New(Config{MemoryBytes: size, CPUs: 2, Options: Options{DirtyLog: kind}})
	require.NoError(b, err)
	defer vm.Close()
	tr := vm.Tracker()
	require.NoError(b, tr.Start())
	dirty := memory.NewBitmap(vm.RAM().Pages())
	_, err = tr.Harvest(dirty)
	require.NoError(b, err)
	require.NoError(b, tr.Protect(dirty, 0, dirty.Len()))
	b.ReportAllocs()
	for b.Loop() {
		for i := range 100 {
			vm.guest.Fill(addressOf(i*(vm.RAM().Pages()/100)), 1, func([]byte) {})
		}
		if _, err := tr.Harvest(dirty); err != nil {
			b.Fatal(err)
		}
	}
	if kind != dirtylog.KindRing {
		flat := make([]uint64, maxSlotPages/64)
		begin := time.Now()
		for range b.N {
			for _, s := range vm.slots {
				log := kvm.DirtyLog{Slot: s.ID, Bitmap: &flat[0]}
				require.NoError(b, kvm.GetDirtyLog.Do(vm.fd, &log))
			}
		}
		b.ReportMetric(1000*time.Since(begin).Seconds()/float64(b.N), "kvm-ms/op")
	}
	require.NoError(b, tr.Stop())
}

// BenchmarkProtect measures one protected run of pages, as before each frame.
func BenchmarkProtect(b *testing.B) {
	vm, err := New(Config{
		MemoryBytes: 1 << 30, CPUs: 2, Options: Options{DirtyLog: dirtylog.KindManualProtect},
	})
	require.NoError(b, err)
	defer vm.Close()
	p := vm.Tracker()
	require.NoError(b, p.Start())
	pages := memory.NewBitmap(vm.RAM().Pages())
	pages.Fill()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := p.Protect(pages, i*256%vm.RAM().Pages(), 256); err != nil {
			b.Fatal(err)
		}
	}
	require.NoError(b, p.Stop())
}

// BenchmarkPauseResume measures how long a machine takes to stand still and to go on.
func BenchmarkPauseResume(b *testing.B) {
	vm, err := New(Config{MemoryBytes: 16 << 20, CPUs: 2})
	require.NoError(b, err)
	defer vm.Close()
	require.NoError(b, vm.Boot(testKernel(code(0xeb, 0xfe)), nil, "")) // jmp .
	require.NoError(b, vm.Resume())
	b.ReportAllocs()
	for b.Loop() {
		if err := vm.Pause(); err != nil {
			b.Fatal(err)
		}
		if err := vm.Resume(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkState(b *testing.B) {
	vm, err := New(Config{MemoryBytes: 16 << 20, CPUs: 2})
	require.NoError(b, err)
	defer vm.Close()
	state, err := vm.SaveState()
	require.NoError(b, err)
	b.Run("save", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := vm.SaveState(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("load", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := vm.LoadState(state); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// addressOf is where a guest has a page of its RAM.
func addressOf(page int) uint64 {
	if gpa := uint64(page) * memory.PageSize; gpa < memory.LowEnd {
		return gpa
	}
	return uint64(page)*memory.PageSize + memory.HighStart - memory.LowEnd
}
