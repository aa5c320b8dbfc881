package dirtylog

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/kvm"
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

// fakeKVM is a VM's dirty log as KVM keeps it: a flat bitmap for each slot. With manual, a
// page stays in it until it is cleared.
type fakeKVM struct {
	mu      sync.Mutex // as KVM's slots_lock
	dirty   map[uint32][]uint64
	cleared map[uint32][]uint64
	manual  bool
	broken  uint32 // a slot that cannot be read
}

func newFakeKVM(slots []Slot) *fakeKVM {
	k := &fakeKVM{dirty: map[uint32][]uint64{}, cleared: map[uint32][]uint64{}, broken: 1 << 31}
	for _, s := range slots {
		k.dirty[s.ID] = make([]uint64, s.Pages/64)
		k.cleared[s.ID] = make([]uint64, s.Pages/64)
	}
	return k
}

func (k *fakeKVM) setLogging(Slot, bool) error { return nil }

func (k *fakeKVM) get(s Slot, flat []uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.ID == k.broken {
		return errors.New("no such slot")
	}
	copy(flat, k.dirty[s.ID])
	if !k.manual {
		clear(k.dirty[s.ID])
	}
	return nil
}

func (k *fakeKVM) clear(s Slot, first int, bitmap []uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, w := range bitmap {
		k.dirty[s.ID][first/64+i] &^= w
		k.cleared[s.ID][first/64+i] |= w
	}
	return nil
}

func (k *fakeKVM) write(s Slot, page int) { k.dirty[s.ID][page/64] |= 1 << (page % 64) }

// TestHarvestOfManySlots: however many goroutines share the slots, each page is reported, and
// counted, once; a slot that fails does not lose what the others had.
func TestHarvestOfManySlots(t *testing.T) {
	slots := []Slot{
		{ID: 0, First: 0, Pages: 128}, {ID: 1, First: 128, Pages: 64},
		{ID: 2, First: 192, Pages: 12800},
		{ID: 3, First: 12992, Pages: 64}, {ID: 4, First: 13056, Pages: 640},
	}
	for _, harvesters := range []int{1, 2, 3, 8} {
		k := newFakeKVM(slots)
		g := newGetDirtyLog(k, slots)
		for len(g.flat) < harvesters {
			g.flat = append(g.flat, make([]uint64, len(g.flat[0])))
		}
		rnd := rand.New(rand.NewPCG(uint64(harvesters), 5))
		for range 20 {
			want, got := memory.NewBitmap(pagesOf(slots)), memory.NewBitmap(pagesOf(slots))
			for range rnd.IntN(300) {
				s := slots[rnd.IntN(len(slots))]
				page := rnd.IntN(s.Pages)
				k.write(s, page)
				want.Set(s.First + page)
			}
			n, err := g.Harvest(got)
			require.NoError(t, err)
			require.True(t, want.Equal(got))
			require.Equal(t, want.Count(), n)
		}
		k.write(slots[1], 5)
		k.write(slots[2], 5)
		k.write(slots[4], 5)
		k.broken = 2
		got := memory.NewBitmap(pagesOf(slots))
		n, err := g.Harvest(got)
		require.ErrorContains(t, err, "get dirty log of memory slot 2: no such slot")
		require.Equal(t, 2, n)
		require.True(t, got.Test(128+5))
		require.True(t, got.Test(13056+5))
	}
}

func TestHarvesters(t *testing.T) {
	require.Equal(t, 1, harvesters(2<<30/memory.PageSize))
	require.Equal(t, min(16, runtime.GOMAXPROCS(0)), harvesters(1<<40/memory.PageSize))
}

// TestProtectClearsWhatItWasAsked: Protect clears nothing else, because KVM no longer reports what
// it has cleared. A page that is not read then would be lost.
func TestProtectClearsWhatItWasAsked(t *testing.T) {
	slots := []Slot{{ID: 0, First: 0, Pages: 256}, {ID: 7, First: 256, Pages: 128}}
	rnd := rand.New(rand.NewPCG(6, 7))
	for range 500 {
		k := newFakeKVM(slots)
		m := &ManualProtect{GetDirtyLog: *newGetDirtyLog(k, slots)}
		pages := memory.NewBitmap(384)
		for range rnd.IntN(200) {
			pages.Set(rnd.IntN(384))
		}
		first := rnd.IntN(384)
		count := rnd.IntN(384 - first + 1)
		require.NoError(t, m.Protect(pages, first, count))
		want, got := memory.NewBitmap(384), memory.NewBitmap(384)
		for p := first; p < first+count; p++ {
			if pages.Test(p) {
				want.Set(p)
			}
		}
		for _, s := range slots {
			got.AddFlat(s.First, k.cleared[s.ID])
		}
		require.True(t, want.Equal(got), "%d pages at %d", count, first)
	}
}

// TestWhoProtects: Protect of a tracker that protects at the harvest does nothing, and keeps pages
// on the list that were written since.
func TestWhoProtects(t *testing.T) {
	slots := []Slot{{ID: 0, First: 0, Pages: 128}}
	k := newFakeKVM(slots)
	g := newGetDirtyLog(k, slots)
	ring, _ := fakeRing(8)
	for tracker, onDemand := range map[Tracker]bool{
		g: false, ring: false, &ManualProtect{GetDirtyLog: *newGetDirtyLog(k, slots)}: true,
	} {
		require.Equal(t, onDemand, tracker.OnDemand())
		if onDemand {
			continue // TestProtectClearsWhatItWasAsked
		}
		k.write(slots[0], 7)
		dirty := memory.NewBitmap(192)
		dirty.Set(7)
		require.NoError(t, tracker.Protect(dirty, 0, 128))
		require.Zero(t, k.cleared[0][0])
		require.NotZero(t, k.dirty[0][0])
	}
}

func TestSlotsMustBeWholeWords(t *testing.T) {
	for _, s := range []Slot{
		{First: 1, Pages: 64}, {First: 64, Pages: 63}, {First: -64, Pages: 64},
		{First: 0, Pages: 0},
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
		{KindRing, all, KindRing}, {KindGetDirtyLog, all, KindGetDirtyLog},
		{KindManualProtect, all, KindManualProtect},
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
		vm: kvm.Closed,
		slots: []Slot{
			{ID: 0, First: 0, Pages: 128},
			{ID: 1, First: 128, Pages: 64},
		},
		pending: memory.NewBitmap(192),
		rings:   []vcpuRing{{DirtyRing: kvm.DirtyRingOf(make([]byte, entries*kvm.DirtyGFNBytes))}},
	}
	return r, &r.rings[0]
}

func (v *vcpuRing) push(at uint32, slot uint32, offset uint64) {
	*v.Entry(at) = kvm.DirtyGFN{Flags: kvm.DirtyGFNDirty, Slot: slot, Offset: offset}
}

func TestRingReadsEntriesInOrder(t *testing.T) {
	r, v := fakeRing(8)
	for i := range uint32(5) {
		v.push(i, i%2, uint64(10+i))
	}
	r.read(v)
	require.Equal(t, uint32(5), v.next)
	for i := range uint32(5) {
		require.Equal(t, uint32(kvm.DirtyGFNReset), v.Entry(i).Flags, "handed back")
	}
	for _, page := range []int{10, 128 + 11, 12, 128 + 13, 14} {
		require.True(t, r.pending.Test(page), "page %d", page)
	}
	require.Equal(t, 5, r.pending.Count())

	// KVM resets them and goes round the end.
	for i := range uint32(5) {
		v.Entry(i).Flags = 0
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
	_, err = NewRing(-1, []kvm.FD{kvm.Closed}, RingBytes, slots)
	require.ErrorContains(t, err, "map dirty ring of vCPU 0")
}
