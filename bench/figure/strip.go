package figure

import (
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Sample is some values that belong together.
type Sample struct {
	Group  string // samples of a group stand together
	Label  string
	Colour string // policies of the same name have the same colour
	Values []float64
}

// meanings are the colours' meanings, the same in all figures of all reports.
var meanings = map[string]color.NRGBA{
	"unguided": vermilion, "guided": blue, "guided, no exit": sky,
	"begun in a segment": orange, "suspended outside": purple,
	"inverted tags": brown, "random tags": olive, "tag port": teal, "tag page": yellow,
	"QEMU": black, "inside a segment": green, "all else": grey,
}

// meaningOf returns what a policy, a kind of tags or a VMM stands for, by its name. A program
// without tags is not guided. One with true tags is guided if its experiment guides at all.
func meaningOf(name string) string {
	known := map[string]string{
		"off": "unguided", "start": "begun in a segment", "suspend": "suspended outside",
		"switchover": "guided", "switchover, no exit": "guided, no exit",
		"none": "unguided", "cool": "guided", "busy": "inverted tags", "random": "random tags",
		"port": "tag port", "fast": "tag page",
	}
	if m, ok := known[name]; ok {
		return m
	}
	switch {
	case strings.HasPrefix(name, "QEMU"):
		return "QEMU"
	case strings.HasPrefix(name, "vmm") && strings.HasSuffix(name, ", guided"):
		return "guided"
	case strings.HasPrefix(name, "vmm"):
		return "unguided"
	}
	return "all else"
}

func colourOf(name string) color.NRGBA { return meanings[meaningOf(name)] }

// leastForBox is the fewest values whose quartiles are drawn, and the fewest points that a line
// joins. Fewer would show a shape that nobody has measured.
const leastForBox = 5

// Strip shows all values of all samples along a logarithmic axis, one sample in each row. If there
// are enough values, it adds a box from quartile to quartile and a bar at the median. Values that
// are not positive have no place on the axis and are shown at the left edge.
func Strip(title, axis string, samples []Sample) Figure {
	p := newPlot(title, axis+" (logarithmic)", "")
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, logTicks{}
	p.X.Min, p.X.Max = logRange(samples)
	return strips(p, samples)
}

// LinearStrip is Strip along a linear axis that includes 0, for values that may be 0 or negative.
func LinearStrip(title, axis string, samples []Sample) Figure {
	p := newPlot(title, axis, "")
	p.X.Tick.Marker = linearTicks{}
	p.X.Min, p.X.Max = linearRange(samples)
	return strips(p, samples)
}

// strips adds the samples to a plot whose x axis is set up.
func strips(p *plot.Plot, samples []Sample) Figure {
	rows := rowsOf(samples)
	var ticks []plot.Tick
	for _, v := range p.X.Tick.Marker.Ticks(p.X.Min, p.X.Max) {
		p.Add(guide{x: v.Value})
	}
	for i, s := range samples {
		p.Add(&strip{y: rows[i], low: p.X.Min, sample: s})
		label := s.Label
		if s.Group != "" {
			label = s.Group + ":  " + s.Label
		}
		ticks = append(ticks, plot.Tick{Value: rows[i], Label: label})
	}
	p.Y.Tick.Marker = plot.ConstantTicks(ticks)
	p.Y.Tick.LineStyle.Width = 0
	p.Y.LineStyle.Width = 0
	p.Y.Min, p.Y.Max = -0.7, slices.Max(append(rows, 0))+0.7
	height := vg.Points(80 + 22*(p.Y.Max-p.Y.Min))
	return ofPlot(p, vg.Points(620), height)
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
}

// DataRange implements plot.DataRanger. The caller sets the axes.
func (s *strip) DataRange() (xmin, xmax, ymin, ymax float64) { return s.low, s.low, s.y, s.y }

func (s *strip) Plot(c draw.Canvas, p *plot.Plot) {
	if len(s.sample.Values) == 0 {
		return
	}
	toX, toY := p.Transforms(&c)
	x := func(v float64) vg.Length { return toX(max(v, s.low)) }
	colour := colourOf(s.sample.Colour)
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
	p := newPlot(title, xAxis, yAxis)
	p.X.Tick.Marker, p.Y.Tick.Marker = linearTicks{}, linearTicks{}
	p.Legend.Top = true
	top := 0.0
	for _, s := range shaded {
		p.Add(band{s.From, s.To, faded(grey, 0x28), s.Label})
	}
	for _, cloud := range clouds {
		points := slices.Clone(cloud.Points)
		slices.SortFunc(points, func(a, b Point) int { return int(math.Copysign(1, a.X-b.X)) })
		xy := make(plotter.XYs, len(points))
		for i, pt := range points {
			xy[i] = plotter.XY{X: pt.X, Y: pt.Y}
			top = max(top, pt.Y)
		}
		addCloud(p, cloud, xy)
	}
	p.Y.Min, p.Y.Max = 0, max(top*1.08, 1e-9)
	if len(shaded) > 0 {
		p.X.Min, p.X.Max = 0, 1
	}
	p.Legend.Left = false
	p.Legend.Padding = vg.Points(2)
	return withLegendBeside(p, vg.Points(620), vg.Points(260))
}

func addCloud(p *plot.Plot, cloud Cloud, xy plotter.XYs) {
	if len(xy) == 0 {
		return
	}
	line, err := plotter.NewLine(xy)
	if err != nil {
		return // not a number, so there is nothing to draw
	}
	colour := colourOf(cloud.Colour)
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
func withLegendBeside(p *plot.Plot, width, height vg.Length) Figure {
	legend := p.Legend
	p.Legend = plot.NewLegend()
	legend.Top, legend.Left = true, true
	return Figure{width, height, func(c draw.Canvas) {
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
