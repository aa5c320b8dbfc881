package memory

import (
	"sync/atomic"
	"unsafe"
)

// bytesOf is the memory of words.
//
// Sound: the bytes are those of the slice, which stays alive and in place with it, and any
// bytes are valid bytes.
func bytesOf(words []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words))
}

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

// loadUint32 loads the first word of b, atomically.
//
// Sound: as storeUint32.
func loadUint32(b []byte) uint32 {
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(b[:4]))))
}

// storeHalf stores v in the lower or the upper half of the first word of b, atomically. A guest may
// write the other half at the same time.
//
// Sound: as storeUint32.
func storeHalf(b []byte, upper bool, v uint16) {
	word := (*uint32)(unsafe.Pointer(unsafe.SliceData(b[:4])))
	shift := 0
	if upper {
		shift = 16
	}
	for {
		old := atomic.LoadUint32(word)
		if atomic.CompareAndSwapUint32(word, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return
		}
	}
}

// storeUint32 stores v in the first word of b, atomically.
//
// Sound: b has at least 4 bytes, which the slice expression checks, and is aligned, as its place in
// guest RAM is and RAM is mapped page by page.
func storeUint32(b []byte, v uint32) {
	atomic.StoreUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(b[:4]))), v)
}
