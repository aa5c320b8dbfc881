package dirtylog

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"taskguide/memory"
	"taskguide/vmm/kvm"
)

// Ring tracks with KVM_CAP_DIRTY_LOG_RING_ACQ_REL. Instead of a bitmap of all pages, every vCPU has
// a ring in memory shared with KVM, to which KVM appends the pages that it dirties. The cost of
// harvesting grows with the dirty pages, however large RAM is, and only protecting the pages again
// takes a call into the kernel.
//
// A ring can fill up. Its vCPU then comes out of KVM_RUN with KVM_EXIT_DIRTY_RING_FULL, before
// anything is lost, and must not go on until [Ring.Full] has emptied the ring.
//
// KVM publishes an entry by setting its flags to dirty, with release order. The reader hands it
// back by setting them to reset. KVM_RESET_DIRTY_RINGS protects the pages of all entries handed
// back and frees their places.
//
// KVM checks whether a ring is full when it enters the guest. A KVM that emulates guest kernel code
// does not enter while that code runs, and can push more than the ring holds. Then pages are lost;
// the tracker detects that and reports [ErrRingOverflow]. [Auto] never chooses a ring.
type Ring struct {
	vm    kvm.FD
	slots []Slot

	mu    sync.Mutex // a ring has one reader at a time
	rings []vcpuRing
	// pending are pages that were taken out of rings and not harvested yet.
	pending *memory.Bitmap
	// lost says that a ring has overflowed. From then on it is unknown where in it KVM writes.
	lost bool
}

// ErrRingOverflow is returned when KVM has written more into a dirty ring than it
// holds. The tracker cannot be used again.
var ErrRingOverflow = errors.New(
	"a dirty ring has overflowed: track with another method on this KVM",
)

// vcpuRing is the ring of one vCPU.
type vcpuRing struct {
	kvm.DirtyRing
	next uint32 // entries read so far
	free uint32 // entries that KVM has reset so far
}

// RingBytes is a good size for a vCPU's ring, in bytes: 65536 entries, the most that KVM takes. A
// smaller ring would fill up when a busy vCPU dirties memory faster than rounds end.
const RingBytes = 65536 * kvm.DirtyGFNBytes

// EnableRing makes a VM use rings of size bytes. It must come before the first vCPU is created, and
// holds for the VM's life. KVM_GET_DIRTY_LOG does not work on that VM.
func EnableRing(vm kvm.FD, size int) error {
	if err := vm.Enable(kvm.CapDirtyLogRing, uint64(size)); err != nil {
		return fmt.Errorf("enable dirty rings of %d bytes: %w", size, err)
	}
	return nil
}

// NewRing returns a tracker for the slots of a VM and all its vCPUs. EnableRing must have been
// called with the same size. It panics if a slot is not made of whole words of a bitmap. Close it
// before the vCPUs are closed.
func NewRing(vm kvm.FD, vcpus []kvm.FD, size int, slots []Slot) (*Ring, error) {
	if err := checkSlots(slots); err != nil {
		panic(err)
	}
	r := &Ring{vm: vm, slots: slots, pending: memory.NewBitmap(pagesOf(slots))}
	for i, vcpu := range vcpus {
		ring, err := vcpu.MapDirtyRing(size)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("map dirty ring of vCPU %d: %w", i, err), r.Close())
		}
		r.rings = append(r.rings, vcpuRing{DirtyRing: ring})
	}
	return r, nil
}

// Close unmaps the rings.
func (r *Ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var failed error
	for _, v := range r.rings {
		failed = errors.Join(failed, v.Unmap())
	}
	r.rings = nil
	return failed
}

// Start turns logging on for all slots.
func (r *Ring) Start() error {
	// The rings may still have entries from before, for pages that are not protected now.
	r.mu.Lock()
	err := r.drain()
	r.pending.Reset()
	r.mu.Unlock()
	if err != nil {
		return err
	}
	for _, s := range r.slots {
		if err := r.log().setLogging(s, true); err != nil {
			return errors.Join(fmt.Errorf("start dirty logging of memory slot %d: %w", s.ID, err),
				r.Stop())
		}
	}
	return nil
}

// Harvest implements [Tracker].
func (r *Ring) Harvest(dirty *memory.Bitmap) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.drain()
	n, _ := dirty.Take(r.pending)
	return n, err
}

// OnDemand implements [Tracker].
func (r *Ring) OnDemand() bool { return false }

// Protect implements [Tracker]. It does nothing, because Harvest protects.
func (r *Ring) Protect(*memory.Bitmap, int, int) error { return nil }

// Stop turns logging off for all slots.
func (r *Ring) Stop() error {
	failed := r.stopLogging()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.drain(); err != nil && !r.lost {
		failed = errors.Join(failed, err)
	}
	return failed
}

func (r *Ring) log() vmLog { return vmLog{r.vm} }

func (r *Ring) stopLogging() error {
	var failed error
	for _, s := range r.slots {
		if err := r.log().setLogging(s, false); err != nil {
			failed = errors.Join(failed,
				fmt.Errorf("stop dirty logging of memory slot %d: %w", s.ID, err))
		}
	}
	return failed
}

// Full makes room in the rings, for a vCPU that came out of KVM_RUN because its ring is full. The
// next Harvest reports what Full takes out.
func (r *Ring) Full() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.lost {
		if err := r.drain(); !errors.Is(err, ErrRingOverflow) {
			return err
		}
		// The guest goes on untracked, and Harvest fails.
		if err := r.stopLogging(); err != nil {
			return err
		}
	}
	return r.discard()
}

// drain empties all rings into pending and protects their pages again.
func (r *Ring) drain() error {
	if r.lost {
		return ErrRingOverflow
	}
	for i := range r.rings {
		v := &r.rings[i]
		r.read(v)
		if v.next-v.free >= v.Len() {
			r.lost = true
			return ErrRingOverflow
		}
	}
	return r.reset()
}

// read moves a ring's entries to pending and hands them back, at most one ring full.
func (r *Ring) read(v *vcpuRing) {
	for ; v.next-v.free < v.Len(); v.next++ {
		e := v.Entry(v.next)
		// This load acquires: it makes visible what KVM wrote before the flags.
		if atomic.LoadUint32(&e.Flags) != kvm.DirtyGFNDirty {
			return
		}
		r.note(e.Slot, e.Offset)
		// This store releases: the entry has been read before KVM may use it again.
		atomic.StoreUint32(&e.Flags, kvm.DirtyGFNReset)
	}
}

// reset protects the pages of all entries that were handed back.
//
// KVM stops half way when a signal comes, and the Go runtime sends many signals. Only the number
// that KVM returns shows it. A page left out would stay writable and its writes unnoticed, so reset
// repeats the call until all entries are done.
func (r *Ring) reset() error {
	todo := 0
	for i := range r.rings {
		todo += int(r.rings[i].next - r.rings[i].free)
	}
	for idle := 0; todo > 0; idle++ {
		n, err := r.vm.ResetDirtyRings()
		if err != nil {
			return fmt.Errorf("reset dirty rings: %w", err)
		}
		todo -= n
		if n > 0 {
			idle = 0
		}
		if todo < 0 || idle > maxIdleResets {
			// Entries that were handed back are dirty again, so KVM has gone round the ring.
			r.lost = true
			return ErrRingOverflow
		}
	}
	for i := range r.rings {
		r.rings[i].free = r.rings[i].next
	}
	return nil
}

// maxIdleResets is how many resets in a row may do nothing because of signals.
const maxIdleResets = 1000

// discard makes room after one of the rings has overflowed: it hands back up to half of each ring
// unread. It never hands back more than KVM has written, because that would confuse KVM.
func (r *Ring) discard() error {
	for i := range r.rings {
		v := &r.rings[i]
		for n := uint32(0); n < v.Len()/2; n++ {
			e := v.Entry(v.free + n)
			if atomic.LoadUint32(&e.Flags)&(kvm.DirtyGFNDirty|kvm.DirtyGFNReset) == 0 {
				break
			}
			atomic.StoreUint32(&e.Flags, kvm.DirtyGFNReset)
		}
	}
	for idle := 0; idle < maxIdleResets; idle++ {
		if n, err := r.vm.ResetDirtyRings(); err != nil {
			return fmt.Errorf("reset dirty rings: %w", err)
		} else if n > 0 {
			break
		}
	}
	for i := range r.rings {
		v := &r.rings[i]
		for n := uint32(0); n < v.Len()/2 && atomic.LoadUint32(&v.Entry(v.free).Flags) == 0; n++ {
			v.free++
		}
	}
	return nil
}

// note adds a page by slot and offset to pending.
func (r *Ring) note(slot uint32, offset uint64) {
	for _, s := range r.slots {
		if s.ID == slot && offset < uint64(s.Pages) {
			r.pending.Set(s.First + int(offset))
		}
	}
}
