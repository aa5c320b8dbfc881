package memory

import (
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"
)

// Release gives the memory of count pages from first on back to the host. They read as zero, and
// get memory again when somebody touches them. The host may keep the memory of a page that is a
// part of a huge one; the page reads as zero nevertheless.
//
// Others may access the pages meanwhile. What they write is lost, or stays.
func (r *RAM) Release(first, count int) error {
	if count == 0 {
		return nil
	}
	r.mu.Lock()
	r.releases++
	r.populated = false
	r.mu.Unlock()
	err := punch(r.fd, int64(first)*PageSize, int64(count)*PageSize)
	// Holes relies on this order: the pages are noted once they are holes.
	for p := first; p < first+count; {
		n := min(64-p&63, first+count-p)
		r.maybeHoles[p>>6].Or(^uint64(0) >> (64 - n) << (p & 63))
		p += n
	}
	if err != nil {
		return fmt.Errorf("release guest RAM at page %d: %w", first, err)
	}
	return nil
}

// punch makes a hole in a file (fallocate(2)). The mappings of the file lose the pages, too.
func punch(fd int, offset, n int64) error {
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	for {
		if err := unix.Fallocate(fd, mode, offset, n); err != unix.EINTR {
			return err
		}
	}
}

// HolesAtOnce is the most pages that [RAM.Holes] looks at.
const HolesAtOnce = 64

// Holes returns which of the count pages from first on are holes because they were released: bit i
// is page first+i. Reading a hole would make the host back it with memory. A page that is not in
// the set may be zero, too.
//
// A page may get memory while Holes looks at it. So whoever relies on the answer must learn of
// later writes, as from a dirty log. Two goroutines must not look at the same page.
func (r *RAM) Holes(first, count int) uint64 {
	var holes uint64
	for p := first; p < first+count; {
		word, n := &r.maybeHoles[p>>6], min(64-p&63, first+count-p)
		maybe := word.Load() & (^uint64(0) >> (64 - n) << (p & 63))
		for ; maybe != 0; maybe &= maybe - 1 {
			if at := p&^63 + bits.TrailingZeros64(maybe); r.stillHole(at) {
				holes |= 1 << (at - first)
			}
		}
		p += n
	}
	return holes
}

// stillHole tells whether a page of maybeHoles is a hole, and takes it out if it is not.
//
// The page is taken out before the look and put back after it. So if it is released at the same
// time, either the look finds the hole, or Release notes it after the page was taken out.
func (r *RAM) stillHole(page int) bool {
	return r.stillHoleAs(page, r.showsHole)
}

// stillHoleAs is stillHole with a look that may take a page with content for a hole: before Linux
// 6.4, pages look like holes for a moment when the host makes a huge page of them, see Allocated.
// So the page is also read, from the file and not from memory, because that backs no hole, and
// waits for the host to be done with the huge page. A page that reads as zero may count as a hole.
func (r *RAM) stillHoleAs(page int, shows func(page int) bool) bool {
	word, bit := &r.maybeHoles[page>>6], uint64(1)<<(page&63)
	word.And(^bit)
	if shows(page) && r.readsZero(page) {
		word.Or(bit)
		return true
	}
	return false
}

// showsHole tells whether the host shows a page as a hole.
func (r *RAM) showsHole(page int) bool {
	at := int64(page) * PageSize
	data, err := unix.Seek(r.fd, at, unix.SEEK_DATA)
	// ENXIO: there is no data behind it. After any other error the page is read, which is never
	// wrong.
	return err == unix.ENXIO || err == nil && data >= at+PageSize
}

// readsZero tells whether a page reads as zero, and backs no hole.
func (r *RAM) readsZero(page int) bool {
	var content [PageSize]byte
	for {
		n, err := unix.Pread(r.fd, content[:], int64(page)*PageSize)
		if err != unix.EINTR {
			return err == nil && n == PageSize && IsZero(content[:])
		}
	}
}
