package migration

import (
	"context"
	"fmt"
	"sync/atomic"

	"taskguide/memory"
	"taskguide/transport"
)

// extentPages is the unit in which a source announces where RAM is dense with content, in
// pages (2 MiB).
const extentPages = 512

// packExtents returns a bit for each extent of RAM, set where the extent is dense: at least half of
// its pages are in content. The destination backs dense extents as a whole, and pages of the others
// one by one as they arrive. So a sparse guest takes at most twice its memory there.
func packExtents(content *memory.Bitmap) []byte {
	bits := make([]byte, (content.Len()+8*extentPages-1)/(8*extentPages))
	for first := 0; first < content.Len(); first += extentPages {
		n := min(extentPages, content.Len()-first)
		if 2*content.CountRange(first, n) >= n {
			bits[first/extentPages/8] |= 1 << (first / extentPages % 8)
		}
	}
	return bits
}

// checkExtents returns an error unless the extents are those of a RAM with that many pages.
func checkExtents(bits []byte, pages int) error {
	if want := len(packExtents(memory.NewBitmap(pages))); len(bits) != want {
		return fmt.Errorf("%w: %d bytes of extents where %d are due", transport.ErrFrame, len(bits),
			want)
	}
	return nil
}

// populateAhead backs the extents with memory in ascending order while pages arrive, so that a
// receiver rarely pays for a page's first touch. Round 1 sends pages in ascending order too;
// extents that it has reached are left to the receivers. When memory is short, the page's arrival
// asks for it again, so an error here only ends the populating.
func populateAhead(ctx context.Context, ram *memory.RAM, bits []byte, reached *atomic.Int64) {
	var turn memory.Turn
	for first := 0; first < ram.Pages() && ctx.Err() == nil; first += extentPages {
		extent := first / extentPages
		if bits[extent/8]&(1<<(extent%8)) == 0 || int64(first) < reached.Load() {
			continue
		}
		if ram.PopulateRange(first, min(extentPages, ram.Pages()-first)) != nil {
			return
		}
		turn.Yield()
	}
}
