package transport

import "unsafe"

// adjacent tells whether b begins in memory where a ends. The addresses are
// compared, not followed.
func adjacent(a, b []byte) bool {
	return unsafe.Add(unsafe.Pointer(unsafe.SliceData(a)), len(a)) == unsafe.Pointer(unsafe.SliceData(b))
}

// join is the slice that covers a and b, which must be adjacent.
//
// Sound: both are slices of one mapping of guest RAM, which outlives them and is
// not managed by the garbage collector, and every byte of the result belongs to
// one of them.
func join(a, b []byte) []byte {
	return unsafe.Slice(unsafe.SliceData(a), len(a)+len(b))
}
