package transport

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// Versions of the protocol that this side speaks, from lowest to highest. The
// greeting settles on the highest that both speak.
const (
	Version       = 2
	LowestVersion = 2
)

// FeatureParts makes verification compare part by part, so that it can name the parts that differ:
// digests frames carry a number for each chunk of RAM, and the state's fingerprint.
const FeatureParts Features = 1 << 1

// FeatureLeftOut makes a verification part by part leave out what the guest declares to be not
// worth moving: the source says which pages those are before the destination sums up its RAM.
const FeatureLeftOut Features = 1 << 2

// FeatureTimes makes the destination say in prepared and running how long its own work took: 8
// bytes, in nanoseconds by its own clock.
const FeatureTimes Features = 1 << 3

// features are the bits that this program offers, and accepts when offered.
const features = FeatureParts | FeatureLeftOut | FeatureTimes

// ErrFeature is returned when one side requires a feature that the other does not know.
var ErrFeature = errors.New("unknown protocol feature")

// Features is a set of bits. Both sides must know a bit before either acts on it.
//
// A bit of the lower half is optional: a destination that does not know it leaves it out of its
// answer. A bit of the upper half is required: a destination that does not know it refuses, and a
// source does not migrate if the destination leaves it out.
type Features uint64

// required are the bits of the upper half.
const required Features = 0xffffffff << 32

// Bits are the numbers of the bits that are set, from the lowest.
func (f Features) Bits() []int {
	all := []int{}
	for ; f != 0; f &= f - 1 {
		all = append(all, bits.TrailingZeros64(uint64(f)))
	}
	return all
}

// String writes the bits down as people read them.
func (f Features) String() string {
	var words []string
	for _, bit := range f.Bits() {
		words = append(words, fmt.Sprint(bit))
	}
	switch len(words) {
	case 0:
		return "none"
	case 1:
		return "bit " + words[0]
	}
	return "bits " + strings.Join(words, ", ")
}

// MarshalJSON writes the numbers of the bits.
func (f Features) MarshalJSON() ([]byte, error) { return json.Marshal(f.Bits()) }

// UnmarshalJSON reads them.
func (f *Features) UnmarshalJSON(text []byte) error {
	var numbers []int
	if err := json.Unmarshal(text, &numbers); err != nil {
		return err
	}
	*f = 0
	for _, n := range numbers {
		if n < 0 || n > 63 {
			return fmt.Errorf("feature bit %d: want 0 to 63", n)
		}
		*f |= 1 << n
	}
	return nil
}

// Protocol is what a program speaks.
type Protocol struct {
	Lowest   uint32   `json:"lowest_version"`
	Highest  uint32   `json:"highest_version"`
	Features Features `json:"features"`
}

// Spoken is what this program speaks.
func Spoken() Protocol {
	return Protocol{Lowest: LowestVersion, Highest: Version, Features: features}
}

// Terms are what the two sides of a migration agreed on in the greeting.
type Terms struct {
	Version  uint32   `json:"version"`
	Features Features `json:"features"` // in force: neither side acts on any other
}

// Agree is the destination's half of the agreement. It returns the highest version that both speak,
// and those of the offered features that are known.
func (h Hello) Agree(known Features) (Terms, error) {
	if unknown := h.Features & required &^ known; unknown != 0 {
		return Terms{}, fmt.Errorf("%w: the source needs %v, which is not known here: "+
			"use a newer program at the destination", ErrFeature, unknown)
	}
	return Terms{Version: h.Version, Features: h.Features & known}, nil
}

// check is the source's half: it refuses terms that do not follow from what it offered.
func (t Terms) check(offered Features) error {
	if extra := t.Features &^ offered; extra != 0 {
		return fmt.Errorf("%w: it chose feature %v, which was not offered", ErrNotOurs, extra)
	}
	if missing := offered & required &^ t.Features; missing != 0 {
		return fmt.Errorf("%w: the destination does not know %v, which this migration needs: "+
			"use a newer program there", ErrFeature, missing)
	}
	return nil
}
