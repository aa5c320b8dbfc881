package figure

import (
	"fmt"
	"image/color"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func coloursOf(names ...string) Colours { return ColoursOf(Figure{names: names}) }

func solid(c color.NRGBA) color.NRGBA { c.A = 0xff; return c }

// apart is how unlike the two most similar of some colours are.
func apart(colours map[string]color.NRGBA) (least float64, pair string) {
	least = math.Inf(1)
	for a, c := range colours {
		for b, d := range colours {
			if l := perceive(c).distance(perceive(d)); a < b && l < least {
				least, pair = l, a+" and "+b
			}
		}
	}
	return least, pair
}

// barely is a distance in OKLab that is seen side by side.
const barely = 0.02

// TestColoursThatMeet: colours in one picture can be told apart, also by colour-blind people.
func TestColoursThatMeet(t *testing.T) {
	policies := []string{
		"cycle", "downtime", "qemu", "ramp", "stall", "xen", "exec:/usr/lib/mine.py",
		"exec:/usr/lib/yours.py", "qemu:limit=100ms", "stall:skip=on",
	}
	for _, together := range [][]string{
		{"off", "start", "suspend", "switchover", "switchover, no exit"},
		{"none", "cool", "busy", "random"},
		{"none", "cool", "fast", "port"},
		policies,
		append([]string{"off", "switchover", "QEMU"}, policies...),
		{"matmul", "sort", "kv", "phased", "my guest"},
		{"ring", "manual-protect", "get-dirty-log", "auto"},
		{"100 Mbit/s", "1.00 Gbit/s", "2.50 Gbit/s"},
		{"vmm", "vmm before", "vmm, none", "vmm, zstd", "raw TCP", "memcpy", "QEMU"},
		{
			"vmm, unguided", "vmm, guided", "vmm, zstd, unguided", "vmm, zstd, guided",
			"vmm, 1 channel, raw, unguided", "vmm, 1 channel, raw, guided",
			"vmm, rate not told, unguided", "QEMU", "QEMU, multifd", "QEMU, multifd zstd",
			"QEMU, multifd zero pages", "QEMU, auto-converge", "QEMU, post-copy",
		},
	} {
		least, pair := apart(coloursOf(together...))
		require.Greater(t, least, barely, pair)
	}
	least, pair := apart(meanings)
	require.Greater(t, least, 3*barely, pair)
}

// Even more names than anybody reads in one figure have as many colours.
func TestColoursOfManyNames(t *testing.T) {
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprint("level ", i), fmt.Sprintf("QEMU, way %d", i%30))
	}
	seen := map[color.NRGBA]string{}
	for name, c := range coloursOf(names...) {
		require.Empty(t, seen[c], name)
		seen[c] = name
	}
}

// A colour means one thing: guided is the same in every figure, and nothing else has its colour.
func TestOneColourOneMeaning(t *testing.T) {
	for name, meaning := range map[string]string{
		"off": "unguided", "none": "unguided", "vmm": "unguided", "vmm, unguided": "unguided",
		"switchover": "guided", "vmm, guided": "guided", "cool": "guided", "QEMU": "QEMU",
	} {
		all := coloursOf(name, "xen", "raw TCP", "vmm, zstd, guided")
		require.Equal(t, meanings[meaning], all[name], name)
		require.NotEqual(t, all[name], all["xen"])
	}
	require.Equal(t, meanings["inside a segment"], solid(segmentColour))
	require.Equal(t, grey, coloursOf("xen").of(""), "what has no name")
}

// A variant is nearer to its family than to any other.
func TestVariantsLookAlike(t *testing.T) {
	families := []string{"guided", "unguided", "QEMU"}
	for name, family := range map[string]string{
		"vmm, zstd, guided": "guided", "vmm, zstd, unguided": "unguided",
		"vmm, none": "unguided", "vmm before": "unguided", "QEMU, multifd": "QEMU",
	} {
		c := coloursOf(name)[name]
		require.Equal(t, []string{family}, slices.DeleteFunc(slices.Clone(families),
			func(f string) bool { return !like(c, f) }), name)
	}
}

// The colours of a report do not depend on the order of its figures, nor of what is in them.
func TestColoursAreDeterministic(t *testing.T) {
	a, b := Figure{names: []string{"xen", "off", "QEMU"}}, Figure{names: []string{"stall", "xen"}}
	both := ColoursOf(a, b)
	require.Len(t, both, 4)
	for range 10 { // maps are in another order each time
		require.Equal(t, both, ColoursOf(b, a, a))
	}
}

// Contrasts are those that WCAG asks of graphics. The dark page makes figures brighter than this,
// and shows black as light.
func TestColoursAreReadable(t *testing.T) {
	all := coloursOf("xen", "stall", "ring", "kv", "QEMU, multifd", "vmm, zstd, guided", "off",
		"suspend", "start", "switchover, no exit", "busy", "random", "port", "fast", "switchover")
	for name, c := range all {
		require.True(t, readable(c), "%s: %v", name, c)
	}
	require.InDelta(t, 21, contrast(color.NRGBA{0, 0, 0, 0xff}, color.NRGBA{255, 255, 255, 0xff}),
		0.01)
}

// A colour-blind person's white is white, and red and green of one lightness are alike.
func TestVision(t *testing.T) {
	white := perceive(color.NRGBA{0xff, 0xff, 0xff, 0xff})
	for _, seen := range white {
		require.InDelta(t, 1, seen[0], 0.01)
		require.InDelta(t, 0, math.Hypot(seen[1], seen[2]), 0.01)
	}
	red := perceive(color.NRGBA{0xb0, 0x60, 0x40, 0xff})
	green := perceive(color.NRGBA{0x70, 0x78, 0x40, 0xff})
	const deuteranopia = 2
	far := func(i int) float64 {
		return math.Hypot(red[i][1]-green[i][1], red[i][2]-green[i][2])
	}
	require.Less(t, far(deuteranopia), far(0)/3)
}
