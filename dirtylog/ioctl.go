package dirtylog

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"taskguide/memory"
)

// Request numbers as _IOW(KVMIO, nr, type) makes them: direction, size of the
// structure, type 0xae, number.
const (
	iocWrite = 1 << 30
	iocRead  = 2 << 30
	kvmio    = 0xae << 8

	kvmGetDirtyLog         = iocWrite | unsafe.Sizeof(dirtyLog{})<<16 | kvmio | 0x42
	kvmEnableCap           = iocWrite | unsafe.Sizeof(capability{})<<16 | kvmio | 0xa3
	kvmClearDirtyLog       = iocWrite | iocRead | unsafe.Sizeof(clearDirtyLog{})<<16 | kvmio | 0xc0
	kvmResetDirtyRings     = kvmio | 0xc7
	kvmSetUserMemoryRegion = iocWrite | unsafe.Sizeof(memoryRegion{})<<16 | kvmio | 0x46
)

// memLogDirtyPages is KVM_MEM_LOG_DIRTY_PAGES.
const memLogDirtyPages = 1 << 0

// memoryRegion is struct kvm_userspace_memory_region.
type memoryRegion struct {
	slot          uint32
	flags         uint32
	guestPhysAddr uint64
	memorySize    uint64 // bytes
	userspaceAddr uint64
}

// dirtyLog is struct kvm_dirty_log.
type dirtyLog struct {
	slot   uint32
	_      uint32
	bitmap *uint64
}

const (
	capManualProtect2 = 168 // KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
	capDirtyLogRing   = 223 // KVM_CAP_DIRTY_LOG_RING_ACQ_REL

	manualProtectEnable       = 1 << 0 // KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
	manualProtectInitiallySet = 1 << 1 // KVM_DIRTY_LOG_INITIALLY_SET
)

// capability is struct kvm_enable_cap.
type capability struct {
	cap  uint32
	_    uint32 // flags, none defined
	args [4]uint64
	_    [64]byte
}

// clearDirtyLog is struct kvm_clear_dirty_log.
type clearDirtyLog struct {
	slot      uint32
	numPages  uint32
	firstPage uint64
	bitmap    *uint64
}

// enableCap turns a capability of a VM on, or changes how it is on.
func enableCap(vmFD int, number uint32, arg uint64) error {
	return ioctl(vmFD, kvmEnableCap, &capability{cap: number, args: [4]uint64{arg}})
}

// resetRings protects the pages of ring entries that were handed back and returns
// how many entries that were. A signal makes it return early.
func resetRings(vmFD int) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(vmFD), kvmResetDirtyRings, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, errno
}

// ioctl issues a request whose argument is a structure that the kernel reads or
// fills during the call.
//
// Sound: p is converted in the call itself, which keeps its target alive and in
// place; the same holds for what the structure points to as long as the caller uses
// it afterwards, which all callers do.
func ioctl[T any](fd int, req uintptr, p *T) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(p)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			// The runtime preempts goroutines by signals; none of these requests has had
			// an effect when it is interrupted.
		default:
			return errno
		}
	}
}

// setLogging turns dirty logging of a live slot on or off. Only the flags differ
// from what is registered, which KVM applies without unmapping the slot.
func setLogging(vmFD int, s Slot, flags uint32) error {
	return ioctl(vmFD, kvmSetUserMemoryRegion, &memoryRegion{
		slot:          s.ID,
		flags:         flags,
		guestPhysAddr: s.GPA,
		memorySize:    uint64(s.Pages) * memory.PageSize,
		userspaceAddr: uint64(s.Host),
	})
}
