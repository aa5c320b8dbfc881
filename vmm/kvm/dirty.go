package kvm

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// MemLogDirtyPages is KVM_MEM_LOG_DIRTY_PAGES, a flag of [MemoryRegion].
	MemLogDirtyPages = 1 << 0

	// ManualProtectEnable is KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE and ManualProtectInitiallySet
	// KVM_DIRTY_LOG_INITIALLY_SET: bits of [CapManualProtect2].
	ManualProtectEnable       = 1 << 0
	ManualProtectInitiallySet = 1 << 1
)

// DirtyLog is struct kvm_dirty_log. gokvm's version has the bitmap's address as a number, which
// keeps the bitmap neither alive nor in place.
type DirtyLog struct {
	Slot   uint32
	_      uint32
	Bitmap *uint64 // of the whole slot
}

// DirtyLogPart is struct kvm_clear_dirty_log.
type DirtyLogPart struct {
	Slot      uint32
	NumPages  uint32
	FirstPage uint64
	Bitmap    *uint64
}

// Address returns where memory is mapped in this process, as the number that KVM takes.
//
// Sound: the memory is a mapping outside Go's heap, which stays in place until it is unmapped.
// Callers promise to unmap it only after KVM's file descriptors are closed.
func Address(mapped []byte) uintptr { return uintptr(unsafe.Pointer(&mapped[0])) }

// DirtyRing is a vCPU's dirty ring ([CapDirtyLogRing]): entries in memory shared with KVM. KVM
// publishes an entry by setting its flags to [DirtyGFNDirty], with release order. The reader hands
// it back by setting them to [DirtyGFNReset].
type DirtyRing struct {
	mem []byte
}

// DirtyGFN is struct kvm_dirty_gfn.
type DirtyGFN struct {
	Flags  uint32 // accessed atomically
	Slot   uint32 // address space in the upper half
	Offset uint64 // in the slot, in pages
}

// Flags of [DirtyGFN].
const (
	DirtyGFNDirty = 1 << 0 // KVM_DIRTY_GFN_F_DIRTY
	DirtyGFNReset = 1 << 1 // KVM_DIRTY_GFN_F_RESET
)

const (
	// DirtyGFNBytes is the size of an entry in bytes.
	DirtyGFNBytes = int(unsafe.Sizeof(DirtyGFN{}))

	ringPageOffset = 64 // KVM_DIRTY_LOG_PAGE_OFFSET, in a vCPU's file
)

// MapDirtyRing maps a vCPU's ring. size is the number of bytes with which [CapDirtyLogRing] was
// enabled.
func (fd FD) MapDirtyRing(size int) (DirtyRing, error) {
	offset := int64(ringPageOffset * os.Getpagesize())
	mem, err := unix.Mmap(int(fd), offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return DirtyRing{}, err
	}
	return DirtyRing{mem}, nil
}

// DirtyRingOf returns a ring in the caller's memory, which must begin at a multiple of 8. Tests use
// it to stand in for KVM.
func DirtyRingOf(mem []byte) DirtyRing { return DirtyRing{mem} }

// Unmap frees the mapping.
func (r DirtyRing) Unmap() error { return unix.Munmap(r.mem) }

// Len is how many entries a ring has.
func (r DirtyRing) Len() uint32 { return uint32(len(r.mem) / DirtyGFNBytes) }

// Entry returns the place of the i-th entry; i wraps around.
//
// Sound: the mapping begins on a page, or as DirtyRingOf requires, and the entry is within it. By
// the flags KVM and this process agree on who may access the other fields.
func (r DirtyRing) Entry(i uint32) *DirtyGFN {
	at := int(i%r.Len()) * DirtyGFNBytes
	return (*DirtyGFN)(unsafe.Pointer(&r.mem[at : at+DirtyGFNBytes][0]))
}

// ResetDirtyRings protects the pages of all ring entries of a VM that were handed back, and returns
// the number of these entries. A signal makes it return early, with a smaller number.
func (fd FD) ResetDirtyRings() (int, error) {
	switch n, errno := once(fd, kvmResetDirtyRings, 0); errno {
	case 0:
		return n, nil
	case unix.EINTR:
		return 0, nil
	default:
		return 0, errno
	}
}
