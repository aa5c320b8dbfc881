package figure

import (
	"bytes"
	"image"
	"image/png"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/trial"
	"taskguide/migration"
)

// ink is how many pixels of a figure are not white.
func ink(t *testing.T, f Figure) int {
	t.Helper()
	b, err := f.PNG(ColoursOf(f))
	require.NoError(t, err)
	img, err := png.Decode(bytes.NewReader(b))
	require.NoError(t, err)
	n := 0
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y++ {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x++ {
			if r, g, b, _ := img.At(x, y).RGBA(); r&g&b != 0xffff {
				n++
			}
		}
	}
	require.NotEqual(t, image.Point{}, img.Bounds().Size())
	return n
}

func TestStripShowsEveryValue(t *testing.T) {
	few := Strip(
		"Downtime",
		"downtime in ms",
		[]Sample{{Group: "kv", Label: "off", Colour: "off", Values: []float64{1, 100}}},
	)
	many := Strip(
		"Downtime",
		"downtime in ms",
		[]Sample{
			{Group: "kv", Label: "off", Colour: "off", Values: []float64{1, 2, 5, 10, 20, 50, 100}},
		},
	)
	require.Greater(t, ink(t, many), ink(t, few))
	svg, err := many.SVG(ColoursOf(many))
	require.NoError(t, err)
	for _, text := range []string{"kv: off", "downtime in ms (logarithmic)", ">50<"} {
		require.Contains(t, string(svg), text)
	}
}

// A text is as wide as it was measured, also where its typeface is not installed.
func TestTextsKeepTheirWidth(t *testing.T) {
	f := Strip("a & b", "x", []Sample{{Label: "wide, wider", Values: []float64{1}}, {}})
	svg, err := f.SVG(ColoursOf(f))
	require.NoError(t, err)
	widths := regexp.MustCompile(`textLength="([0-9.]+)" lengthAdjust="spacingAndGlyphs">([^<]+)<`)
	found := map[string]string{}
	for _, m := range widths.FindAllStringSubmatch(string(svg), -1) {
		found[m[2]] = m[1]
	}
	require.Equal(t, "28.02", found["a &amp; b"], "the sum of the typeface's advances at 12 points")
	require.Contains(t, found, "wide, wider")
	require.Len(t, found, strings.Count(string(svg), "<text "), "every text")
	require.NotContains(t, string(svg), "font-family:Liberation Sans;")
}

// On a page of any background, nothing of a figure has the colours of a white one.
func TestInlineFollowsThePage(t *testing.T) {
	samples := []Sample{{Label: "a", Colour: "QEMU", Values: []float64{1, 2, 3, 4, 5}}}
	for _, f := range []Figure{
		Strip("t", "x", samples), Timeline("t", migrationOf()),
		Scatter("t", "x", "y", []Span{{0, 0.5, "busy"}},
			[]Cloud{{Label: "a", Colour: "QEMU", Points: []Point{{0.1, 1}}}}),
	} {
		svg, err := f.SVG(ColoursOf(f))
		require.NoError(t, err)
		page := Inline(svg)
		require.True(t, strings.HasPrefix(page, "<svg "))
		require.Contains(t, page, "var(--ink)")
		for _, m := range regexp.MustCompile("#[0-9A-F]{6}").FindAllString(page, -1) {
			require.NotEqual(t, "#FFFFFF", m)
			require.NotRegexp(t, "#[0-4].[0-4].[0-4].", m, "black on a dark page")
		}
	}
}

func TestStripOfDegenerateValues(t *testing.T) {
	for _, values := range [][]float64{nil, {0}, {-1, 0, 3}, {7, 7, 7}, {1e-3, 1e7}} {
		require.Positive(
			t,
			ink(t, Strip("t", "x", []Sample{{Label: "a", Colour: "a", Values: values}})),
			values,
		)
	}
	require.Positive(t, ink(t, Strip("t", "x", nil)))
}

func TestScatterBeginsAtZero(t *testing.T) {
	f := Scatter(
		"t",
		"x",
		"pages",
		[]Span{{0, 0.5, "busy"}},
		[]Cloud{{Label: "off, xen", Colour: "off", Points: []Point{{0.7, 900}, {0.2, 1000}}}},
	)
	svg, err := f.SVG(ColoursOf(f))
	require.NoError(t, err)
	require.Contains(t, string(svg), ">0<")
	require.Contains(t, string(svg), "off, xen")
	require.Contains(t, string(svg), "busy")
	require.Positive(t, ink(t, Scatter("t", "x", "y", nil, nil)))
}

func TestLogTicks(t *testing.T) {
	var labels []string
	for _, tick := range (logTicks{}).Ticks(0.5, 20) {
		labels = append(labels, tick.Label)
	}
	require.Equal(t, "0.5 1 2 5 10 20", strings.Join(labels, " "))
	require.Len(t, logTicks{}.Ticks(1, 1e4), 5, "powers of ten only, over many of them")
}

func TestLinearTicks(t *testing.T) {
	var labels []string
	for _, tick := range (linearTicks{}).Ticks(-0.19, 1.98) {
		labels = append(labels, tick.Label)
	}
	require.Equal(t, "0 0.5 1 1.5", strings.Join(labels, " "))
	require.Empty(t, linearTicks{}.Ticks(1, 1))
	require.Empty(t, linearTicks{}.Ticks(0, math.Inf(1)))
}

func TestNumber(t *testing.T) {
	require.Equal(t, "0.5", number(0.5))
	require.Equal(t, "9999", number(9999))
	require.Equal(t, "1 234 567", number(1234567))
	require.Equal(t, "-123 456", number(-123456))
}

func TestRowsKeepGroupsApart(t *testing.T) {
	rows := rowsOf([]Sample{{Group: "a"}, {Group: "a"}, {Group: "b"}})
	require.Equal(t, []float64{2.5, 1.5, 0}, rows)
}

func migrationOf(marks ...trial.Mark) trial.Result {
	return trial.Result{
		Marks: marks,
		Report: migration.Report{
			TotalMS:    1000,
			DowntimeMS: 50,
			BytesWire:  3e6,
			Rounds: []migration.Round{
				{N: 1, Phase: migration.PhasePreCopy, MS: 400, BytesWire: 1e6, DirtyPagesPerS: 100},
				{N: 2, Phase: migration.PhaseStopCopy, MS: 50, BytesWire: 1e6},
			},
		},
	}
}

func TestTimelineReadsMarks(t *testing.T) {
	yes, no := true, false
	r := migrationOf(
		trial.Mark{
			MS:     -500,
			Kind:   "tag",
			Inside: &yes,
		},
		trial.Mark{MS: 100, Kind: "tag", Inside: &no},
		trial.Mark{MS: 100, Kind: "progress", WireBytes: 500_000},
		trial.Mark{
			MS:    400,
			Kind:  "round",
			Round: 1,
		},
		trial.Mark{MS: 450, Kind: "phase", Phase: migration.PhaseSuspended},
		trial.Mark{
			MS:     700,
			Kind:   "tag",
			Inside: &yes,
		},
		trial.Mark{MS: 700, Kind: "phase", Phase: migration.PhasePreCopy},
		trial.Mark{
			MS:    900,
			Kind:  "phase",
			Phase: migration.PhaseStopCopy,
		},
		trial.Mark{MS: 950, Kind: "round", Round: 2},
	)
	tl := timeline{result: r, begin: -0.1, end: 1}
	require.Equal(t, []Span{{-0.1, 0.1, ""}, {0.7, 0.9, ""}}, tl.segments())
	require.Equal(t, []Span{{0.45, 0.7, "suspended"}}, tl.phases(migration.PhaseSuspended))
	bandwidth := tl.bandwidth()
	require.Len(t, bandwidth, 4)
	require.InDelta(t, 40, bandwidth[0].value, 1e-9, "500 kB in 100 ms, in Mbit/s")
	require.InDelta(t, 500_000*8/1e6/0.3, bandwidth[1].value, 1e-9)
	sum := 0.0
	for _, s := range bandwidth {
		sum += s.value * (s.to - s.from)
	}
	require.InDelta(t, 3e6*8/1e6, sum, 1e-9, "all that was sent is shown")
	dirty := tl.dirtyRate()
	require.Len(t, dirty, 1, "nothing is written while the guest is stopped")
	require.InDelta(t, 100, dirty[0].value, 0)
	require.InDelta(t, 0, dirty[0].from, 1e-12)
	require.InDelta(t, 0.4, dirty[0].to, 1e-12)
	require.Positive(t, ink(t, Timeline("t", r)))
}

// The plot leaves a time blank when nothing is known about it. It does not draw a zero there.
func TestTimelineLeavesTheUnknownBlank(t *testing.T) {
	known := []step{{0, 0.1, 5}, {0.1, 0.2, 6}, {0.3, 0.4, 7}}
	require.Equal(t, [][]step{known[:2], known[2:]}, unbroken(known))
	require.Empty(t, unbroken(nil))
}

func TestLinearStripHasZeroAndAllValues(t *testing.T) {
	samples := []Sample{{Label: "a", Values: []float64{-3, 20}}, {Label: "b"}}
	low, high := linearRange(samples)
	require.Less(t, low, -3.0)
	require.Greater(t, high, 20.0)
	low, high = linearRange([]Sample{{Values: []float64{7, 8}}})
	require.LessOrEqual(t, low, 0.0)
	require.Greater(t, high, 8.0)
	low, high = linearRange(nil)
	require.Less(t, low, high)
	require.Positive(t, ink(t, LinearStrip("t", "x", samples)))
}

func TestTimelineWithoutMarks(t *testing.T) {
	require.Positive(t, ink(t, Timeline("t", migrationOf())))
	r := migrationOf()
	r.Report.TotalMS = 1e-6
	require.Positive(t, ink(t, Timeline("t", r)))
}

// Four values are too few for quartiles, and four points are too few to be joined.
func TestFewValuesHaveNoShape(t *testing.T) {
	values := []float64{1, 16, 2, 4, 8} // so that the axis is the same for all
	sample := func(n int) Figure {
		return Strip("t", "x", []Sample{{Label: "a", Colour: "off", Values: values[:n]}})
	}
	polygons := func(f Figure) int {
		svg, err := f.SVG(ColoursOf(f))
		require.NoError(t, err)
		return strings.Count(string(svg), "<path")
	}
	// One more point, and the box and the bar.
	require.Equal(t, polygons(sample(3))+1, polygons(sample(4)))
	require.Equal(t, polygons(sample(4))+3, polygons(sample(5)))
	cloud := func(n int) Figure {
		var points []Point
		for i := range n {
			points = append(points, Point{float64(i) / 5, 7})
		}
		return Scatter(
			"t",
			"x",
			"y",
			[]Span{{0, 0.5, ""}},
			[]Cloud{{Label: "a", Colour: "off", Points: points}},
		)
	}
	require.Equal(t, polygons(cloud(3))+1, polygons(cloud(4)))
	require.Equal(
		t,
		polygons(cloud(4))+3,
		polygons(cloud(5)),
		"a point, the line, and the line in the legend",
	)
}
