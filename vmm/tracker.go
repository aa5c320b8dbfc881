package vmm

import (
	"math/bits"
	"sync/atomic"
	"unsafe"

	"taskguide/dirtylog"
	"taskguide/memory"
)

// tracker adds to KVM's dirty log the pages that this process itself writes.
type tracker struct {
	dirtylog.Tracker
	ram  *memory.RAM
	host []atomic.Uint64 // bitmap of pages, as in memory.Bitmap
}

func newTracker(t dirtylog.Tracker, ram *memory.RAM) *tracker {
	return &tracker{Tracker: t, ram: ram, host: make([]atomic.Uint64, (ram.Pages()+63)/64)}
}

// mark notes n bytes at a guest-physical address, from any thread.
func (t *tracker) mark(gpa uint64, n int) {
	if n <= 0 {
		return
	}
	first, ok := t.ram.PageOf(gpa)
	last, okLast := t.ram.PageOf(gpa + uint64(n) - 1)
	if !ok || !okLast {
		return
	}
	for p := first; p <= last; p++ {
		t.host[p>>6].Or(1 << (p & 63))
	}
}

// Harvest adds the pages marked since the last one. A page that was marked before
// Start may be reported too, which costs sending it twice.
func (t *tracker) Harvest(dirty *memory.Bitmap) (int, error) {
	n, err := t.Tracker.Harvest(dirty)
	words := dirty.Words()
	for i := range t.host {
		if t.host[i].Load() == 0 {
			continue
		}
		w := t.host[i].Swap(0)
		n += bits.OnesCount64(w &^ words[i])
		words[i] |= w
	}
	return n, err
}

// hostAddress is where a region of RAM is mapped in this process, which KVM is told
// as a number.
//
// Sound: RAM is a mapping outside Go's heap, which stays in place until it is closed,
// and that happens after KVM's file descriptors are.
func hostAddress(ram *memory.RAM, r memory.Region) uintptr {
	return uintptr(unsafe.Pointer(&ram.Bytes()[r.First*memory.PageSize]))
}
