package figure

import (
	"regexp"
	"strings"
)

// What belongs to the page and not to what is shown, as an SVG has it: what is behind the figure,
// its guides, and its lines, whose black is rounded where they are translucent. No colour that
// ColoursOf chooses is as dark.
var (
	paper     = "fill:#FFFFFF"
	lines     = "#E4E4E4"
	nearBlack = regexp.MustCompile(`#((2[A-F]|3[0-4]){3})\b`)
)

// Inline returns the svg element of a document, for a page of HTML whose style sets --ink and
// --line. So a figure follows its page into dark mode, and onto paper.
func Inline(svg []byte) string {
	s := string(svg)
	s = s[max(0, strings.Index(s, "<svg")):]
	s = strings.NewReplacer(paper, "fill:none", lines, "var(--line)").Replace(s)
	return nearBlack.ReplaceAllString(s, "var(--ink)")
}
