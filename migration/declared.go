package migration

import (
	"encoding/binary"
	"fmt"

	"taskguide/memory"
	"taskguide/tagging"
	"taskguide/transport"
)

// A guest may declare memory to be not worth moving; package tagging says how, and what it may rely
// on. Package stream leaves these pages out of rounds. To the destination they are pages that have
// not changed, so it need not know of them. Only a verification must leave them out at both ends.

// declared returns the pages that the guest declares, as they are now. It waits for nothing.
func (s *Source) declared() memory.Spans {
	if !s.mayLeaveOut() {
		return nil
	}
	var spans memory.Spans
	for _, r := range s.m.Tags().Declared() {
		spans = s.m.RAM().AddSpans(spans, r.First, r.Pages)
	}
	return spans
}

// worthMoving returns a set of pages without those that are declared.
func (s *Source) worthMoving(pages *memory.Bitmap) *memory.Bitmap {
	declared := s.declared()
	if len(declared) == 0 {
		return pages
	}
	worth := memory.NewBitmap(pages.Len())
	worth.CopyFrom(pages)
	for _, span := range declared {
		worth.ClearRange(span.First, span.Count)
	}
	return worth
}

// mayLeaveOut tells whether declared pages can stay behind. They are sent if the guest is to be
// verified by a destination that cannot leave them out of its digests.
func (s *Source) mayLeaveOut() bool { return !s.p.Verify || s.agreesOnLeftOut() }

// agreesOnLeftOut tells whether both ends know how to verify without declared pages.
func (s *Source) agreesOnLeftOut() bool {
	const both = transport.FeatureParts | transport.FeatureLeftOut
	return s.peer.Terms().Features&both == both
}

// warnOfLeftOut says in the report that declared pages are sent for the sake of a verification.
func (s *Source) warnOfLeftOut() {
	if s.mayLeaveOut() || len(s.m.Tags().Declared()) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Warnings = append(s.report.Warnings, "the memory that the guest declares to be not "+
		"worth moving is sent, because the destination cannot leave it out of the verification")
}

// leftOutBytes is what a span takes on the wire: its first page and its length, 32 bits each.
const leftOutBytes = 8

// maxLeftOut is the most spans that a verification may leave out. The hole in RAM splits one.
const maxLeftOut = tagging.DeclaredAtMost + 1

// packSpans lays spans out for the wire; unpackSpans reverses it for RAM of so many pages, and
// trusts nothing in it.
func packSpans(spans memory.Spans) []byte {
	b := make([]byte, 0, leftOutBytes*len(spans))
	for _, span := range spans {
		b = binary.LittleEndian.AppendUint32(b, uint32(span.First))
		b = binary.LittleEndian.AppendUint32(b, uint32(span.Count))
	}
	return b
}

func unpackSpans(b []byte, pages int) (memory.Spans, error) {
	if len(b)%leftOutBytes != 0 || len(b) > maxLeftOut*leftOutBytes {
		return nil, fmt.Errorf("%w: %d bytes of pages that are left out", transport.ErrFrame,
			len(b))
	}
	var spans memory.Spans
	end := uint64(0) // of the span before
	for ; len(b) > 0; b = b[leftOutBytes:] {
		first := uint64(binary.LittleEndian.Uint32(b))
		count := uint64(binary.LittleEndian.Uint32(b[4:]))
		if first < end || count == 0 || first+count > uint64(pages) {
			return nil, fmt.Errorf("%w: %d pages from page %d are left out, of %d pages",
				transport.ErrFrame, count, first, pages)
		}
		end = first + count
		spans = append(spans, memory.Span{First: int(first), Count: int(count)})
	}
	return spans, nil
}
