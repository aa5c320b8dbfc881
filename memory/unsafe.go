package memory

import (
	"sync/atomic"
	"unsafe"
)

// touch write-faults every page of b and changes nothing, even if a guest writes
// the same words at the same time.
//
// Sound: b is a page-aligned mapping, so each page begins with an aligned word
// that lies wholly in b.
func touch(b []byte) {
	for off := 0; off+PageSize <= len(b); off += PageSize {
		atomic.AddUint64((*uint64)(unsafe.Pointer(&b[off])), 0)
	}
}
