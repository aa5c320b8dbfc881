package migration

import (
	"context"
	"fmt"
	"sync/atomic"

	"taskguide/memory"
	"taskguide/transport"
)

// extentPages is the unit in which a source announces where RAM has content, in
// pages (2 MiB).
const extentPages = 512

// packExtents is a bit for each extent of RAM, set where any page is in content.
func packExtents(content *memory.Bitmap) []byte {
	bits := make([]byte, (content.Len()+8*extentPages-1)/(8*extentPages))
	for first := 0; first < content.Len(); first += extentPages {
		if _, n := content.NextRunBefore(first, first+extentPages); n > 0 {
			bits[first/extentPages/8] |= 1 << (first / extentPages % 8)
		}
	}
	return bits
}

// checkExtents refuses extents of another RAM than one of so many pages.
func checkExtents(bits []byte, pages int) error {
	if want := len(packExtents(memory.NewBitmap(pages))); len(bits) != want {
		return fmt.Errorf("%w: %d bytes of extents where %d are due", transport.ErrFrame, len(bits), want)
	}
	return nil
}

// populateAhead backs the extents with memory while pages arrive, in their order,
// so that a page's first touch is rarely paid by who receives it. Round 1 sends
// pages in ascending order too; extents that it has reached are left to it. Memory
// that cannot be had here is asked for again when a page arrives for it, so errors
// only end the populating.
func populateAhead(ctx context.Context, ram *memory.RAM, bits []byte, reached *atomic.Int64) {
	for first := 0; first < ram.Pages() && ctx.Err() == nil; first += extentPages {
		extent := first / extentPages
		if bits[extent/8]&(1<<(extent%8)) == 0 || int64(first) < reached.Load() {
			continue
		}
		if ram.PopulateRange(first, min(extentPages, ram.Pages()-first)) != nil {
			return
		}
	}
}
