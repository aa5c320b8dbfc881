package tagging

import "unsafe"

// bytesOf returns the memory of words. Sound: same memory, same length, and the
// garbage collector keeps words alive through the result.
func bytesOf(words []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))
}
