package figure

import (
	"bytes"
	"fmt"
	"html"
	"image/color"
	"math"
	"regexp"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Figure is a drawing of a size.
type Figure struct {
	width, height vg.Length
	names         []string // what its colours stand for
	draw          func(draw.Canvas, Colours)
}

// SVG returns the figure as a document, in its report's colours.
func (f Figure) SVG(colours Colours) ([]byte, error) {
	c := vgsvg.New(f.width, f.height)
	f.draw(draw.New(c), colours)
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("write SVG: %w", err)
	}
	return portable(b.Bytes()), nil
}

// textElement is a text of an SVG: its attributes, the size of its letters, and its words.
var textElement = regexp.MustCompile(
	`<text ([^>]*font-family:)Liberation Sans(;[^>]*font-size:([0-9.]+)px")>([^<]*)</text>`)

// portable makes texts as wide on every machine as they were measured, because labels are aligned
// by that. A machine without the typeface has one like it, or squeezes what it has.
func portable(svg []byte) []byte {
	return textElement.ReplaceAllFunc(svg, func(element []byte) []byte {
		m := textElement.FindSubmatch(element)
		size, err := strconv.ParseFloat(string(m[3]), 64)
		words := html.UnescapeString(string(m[4]))
		if err != nil || words == "" {
			return element
		}
		style := draw.TextStyle{Font: sans(size), Handler: plot.DefaultTextHandler}
		return fmt.Appendf(nil, `<text %s'Liberation Sans',Arial,Helvetica,sans-serif%s `+
			`textLength="%.2f" lengthAdjust="spacingAndGlyphs">%s</text>`,
			m[1], m[2], style.Width(words).Points(), m[4])
	})
}

// PNG returns the figure as a picture with 144 dots per inch, in its report's colours.
func (f Figure) PNG(colours Colours) ([]byte, error) {
	c := vgimg.NewWith(vgimg.UseWH(f.width, f.height), vgimg.UseDPI(144))
	f.draw(draw.New(c), colours)
	var b bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: c}).WriteTo(&b); err != nil {
		return nil, fmt.Errorf("write PNG: %w", err)
	}
	return b.Bytes(), nil
}

// The first four are after Okabe and Ito. The others were chosen as ColoursOf chooses: as unlike
// each other as possible, also to colour-blind people, and readable on white and on the dark page.
var (
	vermilion = color.NRGBA{0xd5, 0x5e, 0x00, 0xff}
	green     = color.NRGBA{0x00, 0x9e, 0x73, 0xff}
	blue      = color.NRGBA{0x00, 0x72, 0xb2, 0xff}
	black     = color.NRGBA{0x33, 0x33, 0x33, 0xff} // light on the dark page, see Ink
	steel     = color.NRGBA{0x70, 0x90, 0xb0, 0xff}
	violet    = color.NRGBA{0x80, 0x30, 0xf0, 0xff}
	pink      = color.NRGBA{0xe0, 0x60, 0xe0, 0xff}
	rust      = color.NRGBA{0xb0, 0x40, 0x00, 0xff}
	khaki     = color.NRGBA{0x80, 0x70, 0x50, 0xff}
	plum      = color.NRGBA{0x90, 0x50, 0x70, 0xff}
	orchid    = color.NRGBA{0xc0, 0x50, 0xf0, 0xff}
	grey      = color.NRGBA{0x99, 0x99, 0x99, 0xff}
	faint     = color.NRGBA{0xe4, 0xe4, 0xe4, 0xff}
)

func faded(c color.NRGBA, alpha uint8) color.NRGBA { c.A = alpha; return c }

const (
	titleSize = 12
	labelSize = 10
	tickSize  = 9
)

func sans(size float64) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(size)}
}

// newPlot makes a plot in the common style.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font = sans(titleSize)
	p.Title.Padding = vg.Points(8)
	p.Legend.TextStyle.Font = sans(tickSize)
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font = sans(labelSize)
		a.Label.Padding = vg.Points(4)
		a.Tick.Label.Font = sans(tickSize)
		a.LineStyle.Color, a.Tick.LineStyle.Color = grey, grey
	}
	return p
}

// ofPlot makes a figure of one plot, which is built anew each time it is drawn.
func ofPlot(
	build func(Colours) *plot.Plot, names []string, width, height vg.Length,
) Figure {
	const margin = 8
	return Figure{width, height, names, func(c draw.Canvas, colours Colours) {
		build(colours).Draw(draw.Crop(c, margin, -2*margin, margin, -margin))
	}}
}

// logTicks are ticks at 1, 2 and 5 times the powers of ten, or at the powers only if there are
// many.
type logTicks struct{}

func (logTicks) Ticks(low, high float64) []plot.Tick {
	factors := []float64{1, 2, 5}
	if high/low > 2e3 {
		factors = factors[:1]
	}
	var ticks []plot.Tick
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		for _, f := range factors {
			v := f * math.Pow(10, e)
			if v >= low*0.999 && v <= high*1.001 {
				ticks = append(ticks, plot.Tick{Value: v, Label: number(v)})
			}
		}
	}
	return ticks
}

// linearTicks are about five ticks, at multiples of 1, 2 or 5 times a power of ten.
type linearTicks struct{}

func (linearTicks) Ticks(low, high float64) []plot.Tick {
	const about = 5
	rough := (high - low) / about
	if !(rough > 1e-300) || math.IsInf(rough, 1) {
		return nil
	}
	decade := math.Pow(10, math.Floor(math.Log10(rough)))
	step := 10 * decade
	for _, f := range []float64{5, 2, 1} {
		if f*decade >= rough {
			step = f * decade
		}
	}
	var ticks []plot.Tick
	for i := math.Ceil(low / step); i*step <= high; i++ {
		v := i*step + 0 // turns -0 into 0
		ticks = append(ticks, plot.Tick{Value: v, Label: number(v)})
	}
	return ticks
}

// number writes v as short as possible: 0.5, 20, 12 000.
func number(v float64) string {
	if math.Abs(v) < 10_000 {
		return strconv.FormatFloat(v, 'f', -1, 32)
	}
	s := strconv.FormatFloat(v, 'f', 0, 64)
	var b []byte
	for i := range s {
		if i > 0 && (len(s)-i)%3 == 0 && s[i-1] != '-' {
			b = append(b, ' ')
		}
		b = append(b, s[i])
	}
	return string(b)
}
