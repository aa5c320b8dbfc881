package memory

import (
	"bytes"
	"encoding/binary"
)

var zeroPage [PageSize]byte

// IsZero tells whether a page, or any other slice of at most 4096 bytes, is all
// zero. The first word tells most pages of content. The rest is compared against a
// page that stays in the cache, with the vector instructions of bytes.Equal, from
// the front, for that is the way that the processor's prefetcher goes.
func IsZero(b []byte) bool {
	if len(b) >= 8 && binary.NativeEndian.Uint64(b) != 0 {
		return false
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}
