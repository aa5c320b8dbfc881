package memory

import (
	"bytes"
	"encoding/binary"
)

var zeroPage [PageSize]byte

// IsZero tells whether a page, or another slice of at most 4096 bytes, is all zero. The first word
// gives most pages with content away. The rest is compared with a zero page that stays in the
// cache, by the vector instructions of bytes.Equal, and from the front, because the processor
// prefetches in that direction.
func IsZero(b []byte) bool {
	if len(b) >= 8 && binary.NativeEndian.Uint64(b) != 0 {
		return false
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}
