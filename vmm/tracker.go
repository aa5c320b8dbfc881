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

// protector is a tracker whose pages are protected when its user says so.
type protector struct {
	*tracker
	kvm dirtylog.Protector
}

// Protect implements [dirtylog.Protector].
func (p protector) Protect(pages *memory.Bitmap, first, count int) error {
	return p.kvm.Protect(pages, first, count)
}

// offeredTrackers lists the ways of tracking that a KVM has.
func offeredTrackers(kvmFD int) []dirtylog.Kind {
	kinds := []dirtylog.Kind{dirtylog.KindGetDirtyLog}
	const both = manualProtectEnable | manualProtectInitiallySet
	if checkExtension(kvmFD, capManualProtect2)&both == both {
		kinds = append(kinds, dirtylog.KindManualProtect)
	}
	if checkExtension(kvmFD, capDirtyLogRing) >= dirtylog.RingBytes {
		kinds = append(kinds, dirtylog.KindRing)
	}
	return kinds
}

// chooseTracker settles how writes are tracked. It comes before the vCPUs are made,
// because rings must.
func (vm *VM) chooseTracker(opts Options) error {
	want := opts.DirtyLog
	if want == "" {
		want = dirtylog.KindGetDirtyLog
	}
	kind, err := dirtylog.Choose(want, offeredTrackers(vm.kvmFD))
	if err != nil {
		return err
	}
	vm.kind = kind
	if kind == dirtylog.KindRing {
		return dirtylog.EnableRing(vm.fd, opts.ring())
	}
	return nil
}

// ring is how many bytes each vCPU's ring has.
func (o Options) ring() int {
	if o.ringBytes != 0 {
		return o.ringBytes
	}
	return dirtylog.RingBytes
}

// createTracker makes the tracker that was chosen.
func (vm *VM) createTracker(opts Options) error {
	var t dirtylog.Tracker
	switch vm.kind {
	case dirtylog.KindRing:
		var fds []int
		for _, c := range vm.vcpus {
			fds = append(fds, c.fd)
		}
		ring, err := dirtylog.NewRing(vm.fd, fds, opts.ring(), vm.slots)
		if err != nil {
			return err
		}
		vm.ring, t = ring, ring
	case dirtylog.KindManualProtect:
		t = dirtylog.NewManualProtect(vm.fd, vm.slots)
	default:
		t = dirtylog.NewGetDirtyLog(vm.fd, vm.slots)
	}
	vm.tracker = newTracker(t, vm.ram)
	return nil
}

// hostAddress is where a region of RAM is mapped in this process, which KVM is told
// as a number.
//
// Sound: RAM is a mapping outside Go's heap, which stays in place until it is closed,
// and that happens after KVM's file descriptors are.
func hostAddress(ram *memory.RAM, r memory.Region) uintptr {
	return uintptr(unsafe.Pointer(&ram.Bytes()[r.First*memory.PageSize]))
}
