package transport

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// adjacent tells whether b begins in memory where a ends. The addresses are
// compared, not followed.
func adjacent(a, b []byte) bool {
	return unsafe.Add(unsafe.Pointer(unsafe.SliceData(a)),
		len(a)) == unsafe.Pointer(unsafe.SliceData(b))
}

// join is the slice that covers a and b, which must be adjacent.
//
// Sound: both are slices of one mapping of guest RAM, which outlives them and is
// not managed by the garbage collector, and every byte of the result belongs to
// one of them.
func join(a, b []byte) []byte {
	return unsafe.Slice(unsafe.SliceData(a), len(a)+len(b))
}

// iovec points to b, which must not be empty.
//
// Sound for readv: b is guest RAM, a mapping that outlives the call and is not
// managed by the garbage collector, or is kept alive by its owner.
func iovec(b []byte) unix.Iovec {
	return unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))}
}

// advance is v without its first n bytes. v has more than n bytes.
func advance(v unix.Iovec, n int) unix.Iovec {
	return unix.Iovec{Base: (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n)), Len: v.Len - uint64(n)}
}

// readv is readv(2) without the allocations of unix.Readv. The socket is in
// non-blocking mode, so the call does not block the thread.
//
// Sound: iovs points to len(iovs) iovecs for the time of the call, each to memory
// that its maker (iovec) vouches for.
func readv(fd uintptr, iovs []unix.Iovec) (int, unix.Errno) {
	n, _, errno := unix.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(unsafe.SliceData(iovs))),
		uintptr(len(iovs)))
	return int(n), errno
}
