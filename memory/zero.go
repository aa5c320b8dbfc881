package memory

import (
	"bytes"
	"encoding/binary"
)

var zeroPage [PageSize]byte

// IsZero tells whether a page, or any other slice of at most 4096 bytes, is all
// zero. The first look is at three words, which tells most pages of content; a
// zero page is then compared against one that stays in the cache, with the
// vector instructions of bytes.Equal.
func IsZero(b []byte) bool {
	if len(b) == PageSize {
		if binary.NativeEndian.Uint64(b)|binary.NativeEndian.Uint64(b[PageSize/2:])|binary.NativeEndian.Uint64(b[PageSize-8:]) != 0 {
			return false
		}
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}
