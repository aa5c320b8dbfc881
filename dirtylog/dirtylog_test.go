package dirtylog

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

func TestWordMask(t *testing.T) {
	for from := -130; from <= 130; from++ {
		for to := from; to <= 130; to++ {
			var want uint64
			for bit := range 64 {
				if bit >= from && bit < to {
					want |= 1 << bit
				}
			}
			require.Equal(t, want, wordMask(from, to), "%d to %d", from, to)
		}
	}
}

func TestTakeMovesPages(t *testing.T) {
	from, to := memory.NewBitmap(200), memory.NewBitmap(256)
	from.SetRange(60, 10)
	to.SetRange(65, 100)
	require.Equal(t, 10, take(to, from))
	require.Zero(t, from.Count())
	require.Equal(t, 105, to.Count())
	require.True(t, to.Test(60))
	require.Zero(t, take(to, from))
}

func TestSlotsMustBeWholeWords(t *testing.T) {
	for _, s := range []Slot{
		{First: 1, Pages: 64}, {First: 64, Pages: 63}, {First: -64, Pages: 64}, {First: 0, Pages: 0},
	} {
		require.Error(t, checkSlots([]Slot{{First: 0, Pages: 64}, s}))
		require.Panics(t, func() { NewGetDirtyLog(-1, []Slot{s}) })
		require.Panics(t, func() { _, _ = NewRing(-1, nil, RingBytes, []Slot{s}) })
	}
	require.NoError(t, checkSlots([]Slot{{First: 0, Pages: 64}, {ID: 1, First: 64, Pages: 128}}))
}

func TestChoose(t *testing.T) {
	all := Kinds
	only := []Kind{KindGetDirtyLog}
	for _, c := range []struct {
		want    Kind
		offered []Kind
		got     Kind
	}{
		{Auto, all, KindManualProtect}, {Auto, only, KindGetDirtyLog},
		{KindRing, all, KindRing}, {KindGetDirtyLog, all, KindGetDirtyLog}, {KindManualProtect, all, KindManualProtect},
	} {
		got, err := Choose(c.want, c.offered)
		require.NoError(t, err)
		require.Equal(t, c.got, got)
	}
	for _, want := range []Kind{KindRing, "magic", ""} {
		_, err := Choose(want, only)
		require.ErrorContains(t, err, string(want))
		require.ErrorContains(t, err, "get-dirty-log")
	}
}

// fakeRing is a ring in plain memory, with KVM played by the test.
func fakeRing(entries int) (*Ring, *vcpuRing) {
	r := &Ring{
		vmFD: -1,
		slots: []Slot{
			{ID: 0, First: 0, Pages: 128},
			{ID: 1, First: 128, Pages: 64},
		},
		pending: memory.NewBitmap(192),
		rings:   []vcpuRing{{mem: make([]byte, entries*ringEntryBytes)}},
	}
	return r, &r.rings[0]
}

func (v *vcpuRing) push(at uint32, slot uint32, offset uint64) {
	*v.entry(at) = gfn{flags: gfnDirty, slot: slot, offset: offset}
}

func TestRingReadsEntriesInOrder(t *testing.T) {
	r, v := fakeRing(8)
	for i := range uint32(5) {
		v.push(i, i%2, uint64(10+i))
	}
	r.read(v)
	require.Equal(t, uint32(5), v.next)
	for i := range uint32(5) {
		require.Equal(t, uint32(gfnReset), v.entry(i).flags, "handed back")
	}
	for _, page := range []int{10, 128 + 11, 12, 128 + 13, 14} {
		require.True(t, r.pending.Test(page), "page %d", page)
	}
	require.Equal(t, 5, r.pending.Count())

	// KVM resets them and goes round the end.
	for i := range uint32(5) {
		v.entry(i).flags = 0
	}
	v.free = 5
	for i := uint32(5); i < 10; i++ {
		v.push(i, 0, uint64(i))
	}
	r.read(v)
	require.Equal(t, uint32(10), v.next)
	require.True(t, r.pending.Test(9))
}

func TestRingIgnoresPagesOutsideOfItsSlots(t *testing.T) {
	r, v := fakeRing(8)
	v.push(0, 7, 0)
	v.push(1, 1, 64)
	v.push(2, 1<<16, 0)
	v.push(3, 0, ^uint64(0))
	r.read(v)
	require.Equal(t, uint32(4), v.next)
	require.Zero(t, r.pending.Count())
}

func TestFullRingCountsAsOverflow(t *testing.T) {
	r, v := fakeRing(8)
	for i := range uint32(8) {
		v.push(i, 0, uint64(i))
	}
	require.ErrorIs(t, r.drain(), ErrRingOverflow)
	require.ErrorIs(t, r.drain(), ErrRingOverflow, "for good")
	_, err := r.Harvest(memory.NewBitmap(192))
	require.ErrorIs(t, err, ErrRingOverflow)
	require.ErrorIs(t, r.Start(), ErrRingOverflow)
}

func TestErrorsNameWhatWasDone(t *testing.T) {
	slots := []Slot{{ID: 3, First: 0, Pages: 64}}
	g := NewGetDirtyLog(-1, slots)
	require.ErrorContains(t, g.Start(), "start dirty logging of memory slot 3")
	_, err := g.Harvest(memory.NewBitmap(64))
	require.ErrorContains(t, err, "get dirty log of memory slot 3")
	m := NewManualProtect(-1, slots)
	require.ErrorContains(t, m.Start(), "manual dirty log protection")
	require.ErrorContains(t, m.Protect(memory.NewBitmap(128), 3, 2), "protect 2 pages at 3")
	require.NoError(t, m.Protect(memory.NewBitmap(128), 64, 10), "no slot has these")
	require.ErrorContains(t, EnableRing(-1, RingBytes), "enable dirty rings")
	_, err = NewRing(-1, []int{-1}, RingBytes, slots)
	require.ErrorContains(t, err, "map dirty ring of vCPU 0")
}

// TestRequestNumbers compares with the numbers that a C compiler makes of
// linux/kvm.h, which have the sizes of the structures in them.
func TestRequestNumbers(t *testing.T) {
	require.Equal(t, uintptr(0x4010ae42), uintptr(kvmGetDirtyLog))
	require.Equal(t, uintptr(0x4020ae46), uintptr(kvmSetUserMemoryRegion))
	require.Equal(t, uintptr(0x4068aea3), uintptr(kvmEnableCap))
	require.Equal(t, uintptr(0xc018aec0), uintptr(kvmClearDirtyLog))
	require.Equal(t, uintptr(0x0000aec7), uintptr(kvmResetDirtyRings))
}
