package transport

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"taskguide/memory"
)

// A delta describes a page by how it differs from the version that was sent last,
// which the destination still has: a list of stretches of 8-byte words, each as
//
//	uint16 first word, uint16 number of words, the words
//
// in ascending order, not touching. It pays when few words of a page change, as
// counters and pointers do. QEMU's XBZRLE is of the same kind.

const (
	wordSize      = 8
	wordsPerPage  = memory.PageSize / wordSize
	stretchHeader = 4
	// maxDelta is the longest delta that is worth sending instead of the page.
	maxDelta = memory.PageSize / 2
	// deltaLength precedes each delta in a frame's data.
	deltaLength = 2
)

// appendDelta appends the delta from old to new, two pages, and false if it is
// longer than maxDelta.
func appendDelta(delta, old, new []byte) ([]byte, bool) {
	begin := len(delta)
	for w := 0; w < wordsPerPage; {
		if wordAt(old, w) == wordAt(new, w) {
			w++
			continue
		}
		first := w
		for w < wordsPerPage && wordAt(old, w) != wordAt(new, w) {
			w++
		}
		if len(delta)-begin+stretchHeader+(w-first)*wordSize > maxDelta {
			return delta[:begin], false
		}
		delta = binary.LittleEndian.AppendUint16(delta, uint16(first))
		delta = binary.LittleEndian.AppendUint16(delta, uint16(w-first))
		delta = append(delta, new[first*wordSize:w*wordSize]...)
	}
	return delta, true
}

func wordAt(page []byte, w int) uint64 { return binary.NativeEndian.Uint64(page[w*wordSize:]) }

// applyDelta changes page as delta says. It changes nothing outside the page,
// whatever delta holds.
func applyDelta(page, delta []byte) error {
	next := 0
	for len(delta) > 0 {
		if len(delta) < stretchHeader {
			return fmt.Errorf("%w: a delta ends within a stretch", ErrFrame)
		}
		first := int(binary.LittleEndian.Uint16(delta))
		count := int(binary.LittleEndian.Uint16(delta[2:]))
		delta = delta[stretchHeader:]
		if first < next || count == 0 || first+count > wordsPerPage || len(delta) < count*wordSize {
			return fmt.Errorf("%w: a delta of %d words at %d", ErrFrame, count, first)
		}
		copy(page[first*wordSize:], delta[:count*wordSize])
		delta, next = delta[count*wordSize:], first+count
	}
	return nil
}

// DeltaCache remembers, for one channel, the version of each page that was sent last. Its size is
// bounded: if the channel has more pages than the cache has places, several pages share a place,
// and the newest stays.
type DeltaCache struct {
	channels int
	owner    []int32 // page by place, -1 for none
	content  []byte  // outside Go's heap: backed with memory as places are used
	fresh    []byte  // a stable copy of the page at hand
	delta    []byte
}

// NewDeltaCache returns a cache for one channel of a migration, over a RAM of the given number of
// pages. It has a place for each page of the channel, but takes at most size bytes.
func NewDeltaCache(size int64, pages, channel, channels int) (*DeltaCache, error) {
	places := max(min(int(size/memory.PageSize), ownPages(pages, channel, channels)), 1)
	content, err := unix.Mmap(-1, 0, places*memory.PageSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map the delta cache: %w", err)
	}
	c := &DeltaCache{
		channels: channels,
		owner:    make([]int32, places),
		content:  content,
		fresh:    make([]byte, memory.PageSize),
		delta:    make([]byte, 0, maxDelta),
	}
	for i := range c.owner {
		c.owner[i] = -1
	}
	return c, nil
}

// Close frees the cache.
func (c *DeltaCache) Close() error { return unix.Munmap(c.content) }

// place is where a page is kept. It is computed from the page's number among the channel's own
// pages. Plain page numbers have gaps where other channels' stretches are, so that some pages would
// share a place while other places stay empty.
func (c *DeltaCache) place(page int) int { return ownIndex(page, c.channels) % len(c.owner) }

// Forget drops a page. Call it when the destination gets a version that the cache does not know.
func (c *DeltaCache) Forget(page int) {
	if i := c.place(page); c.owner[i] == int32(page) {
		c.owner[i] = -1
	}
}

// Update takes a page's live content and returns what to send: a delta to the previous version, or
// a stable copy of the content. Both are valid until the next call. The caller must send what it
// gets, because the cache takes it as sent.
func (c *DeltaCache) Update(page int, live []byte) (delta, content []byte) {
	copy(c.fresh, live)
	i := c.place(page)
	kept := c.content[i*memory.PageSize : (i+1)*memory.PageSize]
	known := c.owner[i] == int32(page)
	if known {
		var ok bool
		c.delta, ok = appendDelta(c.delta[:0], kept, c.fresh)
		known = ok
	}
	copy(kept, c.fresh)
	c.owner[i] = int32(page)
	if known {
		return c.delta, nil
	}
	return nil, c.fresh
}
