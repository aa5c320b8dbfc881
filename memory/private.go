package memory

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// NewPrivate returns memory of size bytes that is no guest's RAM, all zero and page-aligned, which
// belongs to the caller until FreePrivate. The host backs it at once, so that no access to it
// waits.
func NewPrivate(size int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", size, err)
	}
	return b, nil
}

// FreePrivate frees memory of NewPrivate. Its slices must not be used afterwards.
func FreePrivate(b []byte) error { return unix.Munmap(b) }
