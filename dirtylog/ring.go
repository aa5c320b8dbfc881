package dirtylog

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"taskguide/memory"
)

// Ring tracks with KVM_CAP_DIRTY_LOG_RING_ACQ_REL. Instead of a bitmap of all pages,
// every vCPU has a ring in memory shared with KVM, to which KVM appends the pages that
// it dirties. Harvesting costs what is dirty, however large RAM is, and takes no call
// into the kernel but one to protect the pages again.
//
// A ring can fill up. Its vCPU then comes out of KVM_RUN with
// KVM_EXIT_DIRTY_RING_FULL, before it has lost anything, and must not go on until
// [Ring.Full] has emptied it.
//
// KVM publishes an entry by setting its flags to dirty, with release order; whoever
// reads it hands it back by setting them to reset; KVM_RESET_DIRTY_RINGS protects the
// pages of all entries handed back and makes their places free.
//
// KVM looks whether a ring is full when it enters the guest. Where it emulates guest
// kernel code it goes on without entering for as long as that code runs, and can push
// more than the ring holds: pages are lost, which shows here and is reported as
// [ErrRingOverflow]. No [Auto] chooses a ring.
type Ring struct {
	vmFD  int
	slots []Slot

	mu    sync.Mutex // a ring has one reader at a time
	rings []vcpuRing
	// pending are pages that were taken out of rings and not harvested yet.
	pending *memory.Bitmap
	// lost says that a ring has overflowed: where KVM goes on writing in it is unknown
	// from then on.
	lost bool
}

// ErrRingOverflow is returned when KVM has written more into a dirty ring than it
// holds. The tracker cannot be used again.
var ErrRingOverflow = errors.New("a dirty ring has overflowed: track with another method on this KVM")

// vcpuRing is the ring of one vCPU.
type vcpuRing struct {
	mem  []byte
	next uint32 // entries read so far
	free uint32 // entries that KVM has reset so far
}

// size is how many entries a ring has.
func (v *vcpuRing) size() uint32 { return uint32(len(v.mem) / ringEntryBytes) }

// ringEntryBytes is the size of struct kvm_dirty_gfn: u32 flags, u32 slot (address
// space in the upper half), u64 offset in the slot in pages.
const ringEntryBytes = 16

const (
	gfnDirty = 1 << 0 // KVM_DIRTY_GFN_F_DIRTY
	gfnReset = 1 << 1 // KVM_DIRTY_GFN_F_RESET

	ringPageOffset = 64 // KVM_DIRTY_LOG_PAGE_OFFSET, in a vCPU's file
)

// RingBytes is a good size for a vCPU's ring: 65536 entries, the most that KVM
// takes. A smaller one would fill up while a busy vCPU dirties memory faster than
// rounds come to an end.
const RingBytes = 65536 * ringEntryBytes

// EnableRing makes a VM use rings of size bytes. It must come before the first vCPU
// is created, and lasts for the VM's life: KVM_GET_DIRTY_LOG does not work then.
func EnableRing(vmFD, size int) error {
	if err := enableCap(vmFD, capDirtyLogRing, uint64(size)); err != nil {
		return fmt.Errorf("enable dirty rings of %d bytes: %w", size, err)
	}
	return nil
}

// NewRing returns a tracker for the slots of a VM on which EnableRing was called with
// the same size, and all its vCPUs. It panics if a slot is not made of whole words of
// a bitmap. Close it before the vCPUs are closed.
func NewRing(vmFD int, vcpuFDs []int, size int, slots []Slot) (*Ring, error) {
	if err := checkSlots(slots); err != nil {
		panic(err)
	}
	r := &Ring{vmFD: vmFD, slots: slots, pending: memory.NewBitmap(pagesOf(slots))}
	for i, fd := range vcpuFDs {
		mem, err := unix.Mmap(fd, int64(ringPageOffset*os.Getpagesize()), size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("map dirty ring of vCPU %d: %w", i, err), r.Close())
		}
		r.rings = append(r.rings, vcpuRing{mem: mem})
	}
	return r, nil
}

// Close unmaps the rings.
func (r *Ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var failed error
	for _, v := range r.rings {
		failed = errors.Join(failed, unix.Munmap(v.mem))
	}
	r.rings = nil
	return failed
}

// Start turns logging on for all slots.
func (r *Ring) Start() error {
	// What is left from before would be reported for pages that nobody protects now.
	r.mu.Lock()
	err := r.drain()
	r.pending.Reset()
	r.mu.Unlock()
	if err != nil {
		return err
	}
	for _, s := range r.slots {
		if err := setLogging(r.vmFD, s, memLogDirtyPages); err != nil {
			return errors.Join(fmt.Errorf("start dirty logging of memory slot %d: %w", s.ID, err), r.Stop())
		}
	}
	return nil
}

// Harvest implements [Tracker].
func (r *Ring) Harvest(dirty *memory.Bitmap) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.drain()
	return take(dirty, r.pending), err
}

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

func (r *Ring) stopLogging() error {
	var failed error
	for _, s := range r.slots {
		if err := setLogging(r.vmFD, s, 0); err != nil {
			failed = errors.Join(failed, fmt.Errorf("stop dirty logging of memory slot %d: %w", s.ID, err))
		}
	}
	return failed
}

// Full makes room in the rings, for a vCPU that came out of KVM_RUN because its ring
// is full. What it takes out, the next Harvest reports.
func (r *Ring) Full() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.lost {
		if err := r.drain(); !errors.Is(err, ErrRingOverflow) {
			return err
		}
		// The guest goes on untracked; Harvest fails.
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
		if v.next-v.free >= v.size() {
			r.lost = true
			return ErrRingOverflow
		}
	}
	return r.reset()
}

// read moves a ring's entries to pending and hands them back, at most one ring full.
func (r *Ring) read(v *vcpuRing) {
	for ; v.next-v.free < v.size(); v.next++ {
		e := v.entry(v.next)
		// Acquire: what KVM wrote before the flags is seen.
		if atomic.LoadUint32(&e.flags) != gfnDirty {
			return
		}
		r.note(e.slot, e.offset)
		// Release: the entry has been read before KVM may use it again.
		atomic.StoreUint32(&e.flags, gfnReset)
	}
}

// reset protects the pages of all entries that were handed back.
//
// KVM stops half way when a signal comes, of which the Go runtime sends many, and
// only the number that it returns tells. A page left out would stay writable, and
// writes to it unnoticed, so it is called until it has done them all.
func (r *Ring) reset() error {
	todo := 0
	for i := range r.rings {
		todo += int(r.rings[i].next - r.rings[i].free)
	}
	for idle := 0; todo > 0; idle++ {
		n, err := resetRings(r.vmFD)
		if err != nil {
			return fmt.Errorf("reset dirty rings: %w", err)
		}
		todo -= n
		if n > 0 {
			idle = 0
		}
		if todo < 0 || idle > maxIdleResets {
			// Entries that were handed back are dirty again: KVM has gone round.
			r.lost = true
			return ErrRingOverflow
		}
	}
	for i := range r.rings {
		r.rings[i].free = r.rings[i].next
	}
	return nil
}

// maxIdleResets is how many resets in a row may do nothing for a signal each.
const maxIdleResets = 1000

// discard makes room in rings of which one has overflowed: up to half of each is
// handed back unread. Never more is than KVM has written, which would confuse it.
func (r *Ring) discard() error {
	for i := range r.rings {
		v := &r.rings[i]
		for n := uint32(0); n < v.size()/2; n++ {
			e := v.entry(v.free + n)
			if atomic.LoadUint32(&e.flags)&(gfnDirty|gfnReset) == 0 {
				break
			}
			atomic.StoreUint32(&e.flags, gfnReset)
		}
	}
	for idle := 0; idle < maxIdleResets; idle++ {
		if n, err := resetRings(r.vmFD); err != nil {
			return fmt.Errorf("reset dirty rings: %w", err)
		} else if n > 0 {
			break
		}
	}
	for i := range r.rings {
		v := &r.rings[i]
		for n := uint32(0); n < v.size()/2 && atomic.LoadUint32(&v.entry(v.free).flags) == 0; n++ {
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

// gfn is struct kvm_dirty_gfn.
type gfn struct {
	flags  uint32
	slot   uint32
	offset uint64 // pages
}

// entry is the place of the i-th entry.
//
// Sound: the mapping begins on a page, and a gfn has as many bytes as an entry. KVM
// and this process agree by the flags who may access the rest.
func (v *vcpuRing) entry(i uint32) *gfn {
	return (*gfn)(unsafe.Pointer(&v.mem[int(i%v.size())*ringEntryBytes]))
}
