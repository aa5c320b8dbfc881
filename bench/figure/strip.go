package figure

import (
	"cmp"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Sample is some values that belong together.
type Sample struct {
	Group  string // samples of a group stand together
	Label  string
	Colour string // a name that has the same colour in all figures; may be empty
	Values []float64
}

// leastForBox is the fewest values whose quartiles are drawn, and the fewest points that a line
// joins. Fewer would show a shape that nobody has measured.
const leastForBox = 5

// Strip shows all values of all samples along a logarithmic axis, one sample in each row. If there
// are enough values, it adds a box from quartile to quartile and a bar at the median. Values that
// are not positive have no place on the axis and are shown at the left edge.
func Strip(title, axis string, samples []Sample) Figure {
	return strips(samples, func() *plot.Plot {
		p := newPlot(title, axis+" (logarithmic)", "")
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, logTicks{}
		p.X.Min, p.X.Max = logRange(samples)
		return p
	})
}

// LinearStrip is Strip along a linear axis that includes 0, for values that may be 0 or negative.
func LinearStrip(title, axis string, samples []Sample) Figure {
	return strips(samples, func() *plot.Plot {
		p := newPlot(title, axis, "")
		p.X.Tick.Marker = linearTicks{}
		p.X.Min, p.X.Max = linearRange(samples)
		return p
	})
}

// strips draws the samples on a plot with an x axis. A figure is wider if its labels are wide.
func strips(samples []Sample, withAxis func() *plot.Plot) Figure {
	const usual = 160
	rows := rowsOf(samples)
	top := slices.Max(append(rows, 0)) + 0.7
	var ticks []plot.Tick
	var names []string
	wide := vg.Points(usual)
	for i, s := range samples {
		label := rowLabel(s)
		wide = max(wide, labelStyle().Width(label))
		ticks = append(ticks, plot.Tick{Value: rows[i], Label: label})
		names = append(names, s.Colour)
	}
	build := func(colours Colours) *plot.Plot {
		p := withAxis()
		for _, v := range p.X.Tick.Marker.Ticks(p.X.Min, p.X.Max) {
			p.Add(guide{x: v.Value})
		}
		for i, s := range samples {
			p.Add(&strip{y: rows[i], low: p.X.Min, sample: s, colour: colours.of(s.Colour)})
		}
		p.Y.Tick.Marker = plot.ConstantTicks(ticks)
		p.Y.Tick.LineStyle.Width = 0
		p.Y.LineStyle.Width = 0
		p.Y.Min, p.Y.Max = -0.7, top
		return p
	}
	return ofPlot(build, names, vg.Points(620-usual)+wide, vg.Points(80+22*(top+0.7)))
}

func labelStyle() draw.TextStyle {
	return draw.TextStyle{Font: sans(tickSize), Handler: plot.DefaultTextHandler}
}

// widestLabel is about half of a figure of the usual width.
const widestLabel = 320

// rowLabel names a sample. The middle of a long name, often a path, is left out.
func rowLabel(s Sample) string {
	label := []rune(s.Label)
	if s.Group != "" {
		label = []rune(s.Group + ": " + s.Label)
	}
	text, style := string(label), labelStyle()
	for drop := 2; style.Width(text) > vg.Points(widestLabel) && drop < len(label); drop++ {
		from := (len(label) - drop) / 2
		text = string(label[:from]) + "…" + string(label[from+drop:])
	}
	return text
}

// linearRange includes 0, all values, and some space beside them.
func linearRange(samples []Sample) (low, high float64) {
	for _, s := range samples {
		for _, v := range s.Values {
			low, high = min(low, v), max(high, v)
		}
	}
	space := 0.06 * (high - low)
	if space == 0 {
		space = 0.5
	}
	return low - space, high + space
}

// rowsOf puts the first sample on top, and half a row between groups.
func rowsOf(samples []Sample) []float64 {
	rows := make([]float64, len(samples))
	y := 0.0
	for i := len(samples) - 1; i >= 0; i-- {
		if i+1 < len(samples) && samples[i].Group != samples[i+1].Group {
			y += 0.5
		}
		rows[i] = y
		y++
	}
	return rows
}

// logRange goes from tick to tick, so that no value lies on the edge.
func logRange(samples []Sample) (low, high float64) {
	low, high = math.Inf(1), 0
	for _, s := range samples {
		for _, v := range s.Values {
			if v > 0 {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	if high == 0 {
		return 1, 10
	}
	low, high = low/1.3, high*1.3
	if high/low < 10 {
		high = low * 10
	}
	return low, high
}

// guide is a faint vertical line.
type guide struct{ x float64 }

func (g guide) Plot(c draw.Canvas, p *plot.Plot) {
	toX, _ := p.Transforms(&c)
	x := toX(g.x)
	c.StrokeLine2(draw.LineStyle{Color: faint, Width: vg.Points(0.6)}, x, c.Min.Y, x, c.Max.Y)
}

// strip draws one sample.
type strip struct {
	y, low float64
	sample Sample
	colour color.NRGBA
}

// DataRange implements plot.DataRanger. The caller sets the axes.
func (s *strip) DataRange() (xmin, xmax, ymin, ymax float64) { return s.low, s.low, s.y, s.y }

func (s *strip) Plot(c draw.Canvas, p *plot.Plot) {
	if len(s.sample.Values) == 0 {
		return
	}
	toX, toY := p.Transforms(&c)
	x := func(v float64) vg.Length { return toX(max(v, s.low)) }
	colour := s.colour
	v := slices.Clone(s.sample.Values)
	slices.Sort(v)
	half := toY(s.y+0.32) - toY(s.y)
	y := toY(s.y)
	q1, q2, q3 := at(v, 0.25), at(v, 0.5), at(v, 0.75)
	if len(v) >= leastForBox {
		c.FillPolygon(faded(colour, 0x38), []vg.Point{
			{
				X: x(q1),
				Y: y - half,
			}, {X: x(q3), Y: y - half}, {X: x(q3), Y: y + half}, {X: x(q1), Y: y + half},
		})
	}
	for i, value := range v {
		// The golden ratio spreads the points of a row, so that no two neighbours have the same
		// height.
		_, frac := math.Modf(float64(i) * math.Phi)
		point := vg.Point{X: x(value), Y: y + half*vg.Length(1.5*frac-0.75)}
		c.DrawGlyph(
			draw.GlyphStyle{
				Color:  faded(colour, 0xc0),
				Radius: vg.Points(2.2),
				Shape:  draw.CircleGlyph{},
			},
			point,
		)
	}
	if len(v) >= leastForBox {
		c.StrokeLine2(
			draw.LineStyle{Color: black, Width: vg.Points(2)},
			x(q2),
			y-half,
			x(q2),
			y+half,
		)
	}
}

// at is the quantile q of sorted values, computed as in package stats.
func at(v []float64, q float64) float64 {
	pos := q * float64(len(v)-1)
	i := int(pos)
	if i+1 >= len(v) {
		return v[len(v)-1]
	}
	return v[i] + (pos-float64(i))*(v[i+1]-v[i])
}

// Point is one trial in a Scatter.
type Point struct{ X, Y float64 }

// Cloud is points that belong together.
type Cloud struct {
	Label, Colour string
	Hollow        bool
	Points        []Point
}

// Span shades a part of the x axis.
type Span struct {
	From, To float64
	Label    string
}

// Scatter shows clouds of points over a linear x axis and a y axis that begins at 0. A thin line
// joins the points of a cloud, in the order of x, if there are enough of them.
func Scatter(title, xAxis, yAxis string, shaded []Span, clouds []Cloud) Figure {
	top := 0.0
	var names []string
	for _, cloud := range clouds {
		names = append(names, cloud.Colour)
		for _, pt := range cloud.Points {
			top = max(top, pt.Y)
		}
	}
	build := func(colours Colours) *plot.Plot {
		p := newPlot(title, xAxis, yAxis)
		p.X.Tick.Marker, p.Y.Tick.Marker = linearTicks{}, linearTicks{}
		for _, s := range shaded {
			p.Add(band{s.From, s.To, faded(grey, 0x28), s.Label})
		}
		for _, cloud := range clouds {
			addCloud(p, cloud, colours.of(cloud.Colour))
		}
		p.Y.Min, p.Y.Max = 0, max(top*1.08, 1e-9)
		if len(shaded) > 0 {
			p.X.Min, p.X.Max = 0, 1
		}
		p.Legend.Padding = vg.Points(2)
		return p
	}
	return withLegendBeside(build, names, vg.Points(620), vg.Points(260))
}

func addCloud(p *plot.Plot, cloud Cloud, colour color.NRGBA) {
	if len(cloud.Points) == 0 {
		return
	}
	points := slices.Clone(cloud.Points)
	slices.SortFunc(points, func(a, b Point) int { return cmp.Compare(a.X, b.X) })
	xy := make(plotter.XYs, len(points))
	for i, pt := range points {
		xy[i] = plotter.XY{X: pt.X, Y: pt.Y}
	}
	line, err := plotter.NewLine(xy)
	if err != nil {
		return // not a number, so there is nothing to draw
	}
	line.Color, line.Width = faded(colour, 0x70), vg.Points(1)
	dots, err := plotter.NewScatter(xy)
	if err != nil {
		return
	}
	dots.GlyphStyle = draw.GlyphStyle{
		Color:  colour,
		Radius: vg.Points(3),
		Shape:  draw.CircleGlyph{},
	}
	if cloud.Hollow {
		dots.Shape = draw.RingGlyph{}
		line.Dashes = []vg.Length{vg.Points(3), vg.Points(3)}
	}
	if len(xy) < leastForBox {
		p.Add(dots)
		p.Legend.Add(cloud.Label, dots)
		return
	}
	p.Add(line, dots)
	p.Legend.Add(cloud.Label, line, dots)
}

// withLegendBeside draws the legend to the right of the plot, where it hides no point.
func withLegendBeside(
	build func(Colours) *plot.Plot, names []string, width, height vg.Length,
) Figure {
	return Figure{width, height, names, func(c draw.Canvas, colours Colours) {
		p := build(colours)
		legend := p.Legend
		p.Legend = plot.NewLegend()
		legend.Top, legend.Left = true, true
		const margin = 8
		space := legend.Rectangle(c).Size().X + vg.Points(2*margin)
		p.Draw(draw.Crop(c, margin, -space-margin, margin, -margin))
		legend.Draw(draw.Crop(c, c.Max.X-space, 0, 0, -vg.Points(30)))
	}}
}

// band shades a part of the x axis, with a word at its top if there is room.
type band struct {
	from, to float64
	colour   color.NRGBA
	label    string
}

func (b band) Plot(c draw.Canvas, p *plot.Plot) {
	toX, _ := p.Transforms(&c)
	from, to := max(toX(b.from), c.Min.X), min(toX(b.to), c.Max.X)
	if from >= to {
		return
	}
	c.FillPolygon(b.colour, []vg.Point{
		{X: from, Y: c.Min.Y}, {X: to, Y: c.Min.Y}, {X: to, Y: c.Max.Y}, {X: from, Y: c.Max.Y},
	})
	style := p.X.Tick.Label
	if b.label != "" && style.Width(b.label) < to-from {
		style.Color, style.XAlign, style.YAlign = black, draw.XCenter, draw.YTop
		c.FillText(style, vg.Point{X: (from + to) / 2, Y: c.Max.Y - vg.Points(2)}, b.label)
	}
}
