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
	kvmio    = 0xae << 8

	kvmGetDirtyLog         = iocWrite | unsafe.Sizeof(dirtyLog{})<<16 | kvmio | 0x42
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
