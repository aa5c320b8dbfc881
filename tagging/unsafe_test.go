package tagging

import "unsafe"

// wordOf returns the first word of b. Sound if b is aligned: the slice expression
// checks that it is long enough.
func wordOf(b []byte) *uint32 { return (*uint32)(unsafe.Pointer(&b[:4][0])) }

// bytesOf returns the memory of words. Sound: same memory, same length, and the
// garbage collector keeps words alive through the result.
func bytesOf(words []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))
}
