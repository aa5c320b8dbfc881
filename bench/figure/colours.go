package figure

import (
	"cmp"
	"image/color"
	"math"
	"slices"
	"strings"
)

// meanings are the colours of what has one meaning in all figures of all reports.
var meanings = map[string]color.NRGBA{
	"unguided": vermilion, "guided": blue, "guided, no exit": steel, "QEMU": black,
	"begun in a segment": violet, "suspended outside": pink,
	"inverted tags": rust, "random tags": khaki, "tag port": plum, "tag page": orchid,
	"inside a segment": green,
}

// meaningOf returns what a policy of guidance, a kind of tags or a VMM stands for, by its name, or
// "". A program without tags is not guided. One with true tags is guided if its experiment guides
// at all.
func meaningOf(name string) string {
	return map[string]string{
		"off": "unguided", "start": "begun in a segment", "suspend": "suspended outside",
		"switchover": "guided", "switchover, no exit": "guided, no exit",
		"none": "unguided", "cool": "guided", "busy": "inverted tags", "random": "random tags",
		"port": "tag port", "fast": "tag page",
		"vmm": "unguided", "vmm, unguided": "unguided", "vmm, guided": "guided", "QEMU": "QEMU",
	}[name]
}

// familyOf returns the meaning that a name is a variant of, or "". Variants look alike, so that
// one sees at a glance what is guided, unguided and QEMU.
func familyOf(name string) string {
	switch {
	case strings.HasPrefix(name, "QEMU, "):
		return "QEMU"
	case strings.HasPrefix(name, "vmm, ") && strings.HasSuffix(name, ", guided"):
		return "guided"
	case strings.HasPrefix(name, "vmm, "), strings.HasPrefix(name, "vmm "):
		return "unguided"
	}
	return ""
}

// Colours says which colour a name has in the figures of one report.
type Colours map[string]color.NRGBA

// of returns a name's colour. What has no name is grey.
func (c Colours) of(name string) color.NRGBA {
	if colour, ok := c[name]; ok {
		return colour
	}
	return grey
}

// ColoursOf gives each name in the figures a colour: that of its meaning, one like that of its
// family's meaning, or else one as unlike all others as possible, also to colour-blind people. It
// depends on the names alone, not on their order.
func ColoursOf(figures ...Figure) Colours {
	var names []string
	for _, f := range figures {
		names = append(names, f.names...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	names = slices.DeleteFunc(names, func(n string) bool { return n == "" })
	colours := Colours{}
	taken := []perceived{perceive(grey)}
	for _, m := range []string{"guided", "unguided", "QEMU", "inside a segment"} {
		taken = append(taken, perceive(meanings[m])) // readers know them
	}
	for _, name := range names {
		if m := meaningOf(name); m != "" {
			colours[name] = meanings[m]
			taken = append(taken, perceive(meanings[m]))
		}
	}
	shades := map[string][]shade{}
	// Variants come first, because they have fewer colours to choose from.
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Compare(min(len(familyOf(b)), 1), min(len(familyOf(a)), 1))
	})
	for _, name := range names {
		if _, has := colours[name]; has {
			continue
		}
		family := familyOf(name)
		if shades[family] == nil {
			shades[family] = shadesOf(family)
		}
		best := farthest(shades[family], taken)
		colours[name] = best.colour
		taken = append(taken, best.seen)
	}
	return colours
}

// shade is a colour to choose from.
type shade struct {
	colour color.NRGBA
	seen   perceived
}

// farthest returns the candidate whose nearest neighbour among those taken is farthest away.
func farthest(candidates []shade, taken []perceived) shade {
	best, distance := candidates[0], -1.0
	for _, c := range candidates {
		nearest := math.Inf(1)
		for _, t := range taken {
			nearest = min(nearest, c.seen.distance(t))
		}
		if nearest > distance {
			best, distance = c, nearest
		}
	}
	return best
}

// shadesOf are the colours that a variant of a meaning may have, or any name if it is "". All can
// be read on white and on the dark page.
func shadesOf(family string) []shade {
	var shades []shade
	for _, r := range steps {
		for _, g := range steps {
			for _, b := range steps {
				c := color.NRGBA{r, g, b, 0xff}
				if readable(c) && like(c, family) {
					shades = append(shades, shade{c, perceive(c)})
				}
			}
		}
	}
	return shades
}

// steps are the values that a shade's red, green and blue may have.
var steps = [...]uint8{
	0, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
}

// leastContrast is the least ratio of luminances between a point and what is behind it. It is what
// WCAG 2.1 asks of graphics.
const leastContrast = 3

// darkPaper is the page behind a figure in dark mode.
var darkPaper = color.NRGBA{0x16, 0x18, 0x1b, 0xff}

func readable(c color.NRGBA) bool {
	return contrast(c, color.NRGBA{0xff, 0xff, 0xff, 0xff}) >= leastContrast &&
		contrast(c, darkPaper) >= leastContrast
}

// like tells whether a colour has about the hue of a meaning, or is grey if that one is. Colours of
// no family are not grey.
func like(c color.NRGBA, family string) bool {
	chroma, hue := perceive(c)[0].polar()
	const least, narrow = 0.05, 0.35 // in OKLab, and in radians
	if family == "" || meanings[family] == black {
		return (chroma >= least) == (family == "")
	}
	_, of := perceive(meanings[family])[0].polar()
	return chroma >= least && math.Abs(math.Remainder(hue-of, 2*math.Pi)) < narrow
}
