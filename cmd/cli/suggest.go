package cli

import (
	"fmt"
	"strings"

	"github.com/hbollon/go-edlib"
)

// Nearest is the word that the user probably meant, or "" if none is near: one that begins with
// what was typed, or differs in few letters, which may be wrong, extra, missing or swapped.
func Nearest(typed string, words []string) string {
	typed = strings.ToLower(typed)
	few := max(1, len(typed)/3)
	best, least := "", few+1
	for _, w := range words {
		small := strings.ToLower(w)
		d := edlib.OSADamerauLevenshteinDistance(typed, small)
		if d > few && len(typed) >= 2 && strings.HasPrefix(small, typed) {
			d = few
		}
		if d < least && d < len(w) {
			best, least = w, d
		}
	}
	return best
}

// Unknown returns an error for a word that is not one of words.
func Unknown(typed string, words []string) error {
	last := len(words) - 1
	list := words[last]
	if last > 0 {
		list = strings.Join(words[:last], ", ") + " or " + list
	}
	return fmt.Errorf("%q is unknown: use %s%s", typed, list, Meant(typed, words))
}

// Meant is the question at the end of an error that has listed words, or "".
func Meant(typed string, words []string) string {
	if near := Nearest(typed, words); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}
