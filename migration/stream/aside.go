package stream

import (
	"fmt"
	"math/bits"

	"taskguide/memory"
)

// aside is what rounds leave out because the guest declares it to be not worth moving.
//
// A page that is left out stays owed: it is in pages until a look at the guest's table does not
// find it any more, and then it is pending again, whether or not it was written since. Nothing else
// would be sound. With a tracker that protects on demand, the protection of a declared page takes
// its mark off the log, so the log alone may not know of a page that was taken back and written
// just before.
//
// The engine's goroutine uses it. Any goroutine may look at pages with Stream.track held, and with
// it held they change.
type aside struct {
	look  func() memory.Spans // what is declared now; nil: nothing ever is
	spans memory.Spans        // the last look
	pages *memory.Bitmap      // owed, all of them in spans; nil until there are any
	// bare are those of pages that were not protected since they were put aside, with a tracker
	// that leaves protection to its user. It would report them again at each harvest.
	bare *memory.Bitmap
	// Pages that were put aside since the last round began, and before that one since the one
	// before.
	since, ofRound int64
}

// begin begins a round.
func (a *aside) begin() { a.ofRound, a.since = a.since, 0 }

// putAside moves declared pages out of pending and next, and what is declared no more back into
// pending. It comes after a harvest of the dirty log: a write that the harvest has reported came
// after its page was taken back, and so this look sees that. The other way round, a page could be
// taken back and written between the look and the harvest, and nobody would know of it.
//
// It is part of every downtime. Its cost grows with the pages that it moves and with the number of
// ranges, not with their size. s.track is held.
func (s *Stream) putAside() {
	a := &s.aside
	if a.look == nil {
		return
	}
	a.spans = a.look()
	if a.pages == nil {
		if len(a.spans) == 0 {
			return
		}
		a.pages = memory.NewBitmap(s.pending.Len())
		a.bare = memory.NewBitmap(s.pending.Len())
	}
	back := 0
	for _, gap := range a.spans.Gaps(s.pending.Len()) {
		back += a.pages.MoveRange(s.pending, gap.First, gap.Count)
		a.bare.MoveRange(s.pending, gap.First, gap.Count) // or they would be put aside again
	}
	s.round.giveBack(back)
	for _, span := range a.spans {
		s.next.MoveRange(a.bare, span.First, span.Count)
		s.pending.MoveRange(a.bare, span.First, span.Count)
	}
	for i, w := range a.bare.NonZero() {
		a.since += int64(bits.OnesCount64(w &^ a.pages.Word(i)))
		a.pages.OrWord(i, w)
	}
	if !s.tracker.OnDemand() {
		a.bare.Reset()
	}
}

// protectAside protects what was put aside, while the guest runs. These pages may be written at the
// same time, and their marks lost: they are owed anyway.
func (s *Stream) protectAside() error {
	bare := s.aside.bare
	if bare == nil || !s.tracker.OnDemand() {
		return nil
	}
	if err := s.tracker.Protect(bare, 0, bare.Len()); err != nil {
		return fmt.Errorf("protect pages that are left out: %w", err)
	}
	bare.Reset()
	return nil
}

// peekAside tells what putAside would do now: how many pages of next are declared, and how many
// that were put aside are not declared any more. s.track is held.
func (s *Stream) peekAside() (declared, back int) {
	a := &s.aside
	if a.look == nil {
		return 0, 0
	}
	spans := a.look()
	for _, span := range spans {
		declared += s.next.CountHeld(span.First, span.Count)
	}
	if a.pages != nil {
		for _, gap := range spans.Gaps(a.pages.Len()) {
			back += a.pages.CountHeld(gap.First, gap.Count)
		}
	}
	return declared, back
}

// Aside is how many pages are owed to the destination, and left out because they are declared.
func (s *Stream) Aside() int {
	s.track.Lock()
	defer s.track.Unlock()
	if s.aside.pages == nil {
		return 0
	}
	return s.aside.pages.Trim()
}

// Declared returns what was declared at the last look, when dirty pages were last taken: in a
// standstill, what the destination may hold otherwise. Call it between rounds only.
func (s *Stream) Declared() memory.Spans { return s.aside.spans }
