package vmm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/memory"
)

// BenchmarkHarvest measures a harvest of a machine that stands still: the cost that
// every round and every downtime has, whatever was written.
func BenchmarkHarvest(b *testing.B) {
	for _, kind := range dirtylog.Kinds {
		b.Run(string(kind), func(b *testing.B) {
			vm, err := New(Config{MemoryBytes: 2 << 30, CPUs: 2, Options: Options{DirtyLog: kind}})
			require.NoError(b, err)
			defer vm.Close()
			tr := vm.Tracker()
			require.NoError(b, tr.Start())
			dirty := memory.NewBitmap(vm.RAM().Pages())
			_, err = tr.Harvest(dirty)
			require.NoError(b, err)
			if p, ok := tr.(dirtylog.Protector); ok {
				require.NoError(b, p.Protect(dirty, 0, dirty.Len()))
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tr.Harvest(dirty); err != nil {
					b.Fatal(err)
				}
			}
			require.NoError(b, tr.Stop())
		})
	}
}

// BenchmarkProtect measures one protected run of pages, as before each frame.
func BenchmarkProtect(b *testing.B) {
	vm, err := New(Config{MemoryBytes: 1 << 30, CPUs: 2, Options: Options{DirtyLog: dirtylog.KindManualProtect}})
	require.NoError(b, err)
	defer vm.Close()
	p := vm.Tracker().(dirtylog.Protector)
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
