package trace

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strconv"

	"taskguide/memory"
)

// Set is a set of pages, as a line of a trace has it.
type Set struct {
	Runs []int  `json:"runs,omitempty"` // gap, length, gap, length, ...
	Bits []byte `json:"bits,omitempty"` // page n is bit n%8 of byte n/8
}

var errBoth = errors.New("trace: a set has both runs and bits")

// NewSet encodes a set, in the shorter of its forms.
func NewSet(pages *memory.Bitmap) *Set {
	// Bits cost 4 characters for 3 bytes, up to the last page.
	last, length := -1, 0
	var runs []int
	for first, count := pages.NextRun(0, pages.Len()); count > 0; {
		gap := first - (last + 1)
		runs = append(runs, gap, count)
		length += digits(gap) + digits(count) + 2
		last = first + count - 1
		first, count = pages.NextRun(last+1, pages.Len())
	}
	if length <= base64.StdEncoding.EncodedLen(last/8+1) || last < 0 {
		return &Set{Runs: runs}
	}
	flat := make([]byte, last/8+1)
	for word, w := range pages.NonZero() {
		for at := 8 * word; w != 0; at, w = at+1, w>>8 {
			if b := byte(w); b != 0 {
				flat[at] = b
			}
		}
	}
	return &Set{Bits: flat}
}

func digits(n int) int { return len(strconv.Itoa(n)) }

// MarshalJSON writes an empty set as one without runs.
func (s *Set) MarshalJSON() ([]byte, error) {
	if s.Bits != nil {
		return json.Marshal(struct {
			Bits []byte `json:"bits"`
		}{s.Bits})
	}
	runs := s.Runs
	if runs == nil {
		runs = []int{}
	}
	return json.Marshal(struct {
		Runs []int `json:"runs"`
	}{runs})
}

// AddTo adds the set to pages. It returns an error, and may have added a part, if the set has pages
// that the guest has not.
func (s *Set) AddTo(pages *memory.Bitmap) error {
	if s.Bits != nil && s.Runs != nil {
		return errBoth
	}
	if err := s.addRuns(pages); err != nil {
		return err
	}
	return s.addBits(pages)
}

func (s *Set) addRuns(pages *memory.Bitmap) error {
	if len(s.Runs)%2 != 0 {
		return errors.New("trace: runs of pages that end with a gap")
	}
	at := 0
	for i := 0; i < len(s.Runs); i += 2 {
		gap, count := s.Runs[i], s.Runs[i+1]
		// Compared so that no sum can overflow.
		if gap < 0 || count <= 0 || gap > pages.Len()-at || count > pages.Len()-at-gap {
			return fmt.Errorf("trace: a run of %d pages, %d after page %d, of %d pages",
				count, gap, at, pages.Len())
		}
		pages.SetRange(at+gap, count)
		at += gap + count
	}
	return nil
}

func (s *Set) addBits(pages *memory.Bitmap) error {
	for i, b := range s.Bits {
		for ; b != 0; b &= b - 1 {
			page := 8*i + bits.TrailingZeros8(b)
			if page >= pages.Len() {
				return fmt.Errorf("trace: page %d of %d", page, pages.Len())
			}
			pages.Set(page)
		}
	}
	return nil
}
