package figure

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
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
	draw          func(draw.Canvas)
}

// SVG returns the figure as a document.
func (f Figure) SVG() ([]byte, error) {
	c := vgsvg.New(f.width, f.height)
	f.draw(draw.New(c))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("write SVG: %w", err)
	}
	return b.Bytes(), nil
}

// PNG returns the figure as a picture with 144 dots per inch.
func (f Figure) PNG() ([]byte, error) {
	c := vgimg.NewWith(vgimg.UseWH(f.width, f.height), vgimg.UseDPI(144))
	f.draw(draw.New(c))
	var b bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: c}).WriteTo(&b); err != nil {
		return nil, fmt.Errorf("write PNG: %w", err)
	}
	return b.Bytes(), nil
}

// These colours can also be told apart by colour-blind people (after Okabe and Ito).
var (
	vermilion = color.NRGBA{0xd5, 0x5e, 0x00, 0xff}
	orange    = color.NRGBA{0xe6, 0x9f, 0x00, 0xff}
	green     = color.NRGBA{0x00, 0x9e, 0x73, 0xff}
	blue      = color.NRGBA{0x00, 0x72, 0xb2, 0xff}
	sky       = color.NRGBA{0x56, 0xb4, 0xe9, 0xff}
	purple    = color.NRGBA{0xcc, 0x79, 0xa7, 0xff}
	yellow    = color.NRGBA{0xf0, 0xe4, 0x42, 0xff}
	brown     = color.NRGBA{0x8c, 0x51, 0x0a, 0xff}
	teal      = color.NRGBA{0x44, 0xaa, 0x99, 0xff}
	olive     = color.NRGBA{0x88, 0x88, 0x33, 0xff}
	black     = color.NRGBA{0x33, 0x33, 0x33, 0xff}
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

// ofPlot makes a figure of one plot.
func ofPlot(p *plot.Plot, width, height vg.Length) Figure {
	const margin = 8
	return Figure{
		width,
		height,
		func(c draw.Canvas) { p.Draw(draw.Crop(c, margin, -2*margin, margin, -margin)) },
	}
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
