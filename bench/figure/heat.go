package figure

import (
	"image/color"
	"math"

	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Heat is a field of coloured cells, one panel below the other.
type Heat struct {
	Title, XAxis, YAxis string
	X, Y                []string // of the columns and, from below, of the rows
	Panels              []HeatPanel
	Scale               HeatScale
}

// HeatPanel is a panel of a Heat.
type HeatPanel struct {
	Title string
	Cells [][]HeatCell // by row and column
}

// HeatCell is a value, NaN where there is none, and what stands below it.
type HeatCell struct {
	Value       float64
	Text, Below string
}

// HeatScale gives colours to values.
type HeatScale struct {
	Title string
	// Shade is from -1 to 1, for values from the worst to the best; 0 is neither.
	Shade func(float64) float64
	Marks []HeatMark // on the bar below the panels, from the worst to the best
}

// HeatMark is a value on the bar.
type HeatMark struct {
	Value float64
	Label string
}

// The ends and the middle of the scale. Colour-blind people can tell orange from blue, and all
// three differ in a print without colours.
var (
	worst  = color.NRGBA{0xd9, 0x6c, 0x06, 0xff}
	middle = color.NRGBA{0xf4, 0xf4, 0xf4, 0xff}
	best   = color.NRGBA{0x1f, 0x6f, 0xb4, 0xff}
)

func heatColour(s float64) color.NRGBA {
	s = min(max(s, -1), 1)
	end := best
	if s < 0 {
		end = worst
	}
	mix := func(a, b uint8) uint8 {
		return uint8(math.Round(float64(a) + (float64(b)-float64(a))*math.Abs(s)))
	}
	return color.NRGBA{mix(middle.R, end.R), mix(middle.G, end.G), mix(middle.B, end.B), 0xff}
}

const (
	heatCellWidth, heatCellHeight = 50, 26
	heatLeft, heatTop             = 64, 34
	heatPanelGap, heatBar         = 62, 60
)

// HeatMap draws a Heat.
func HeatMap(h Heat) Figure {
	panel := len(h.Y)*heatCellHeight + heatPanelGap
	width := vg.Points(float64(heatLeft + 16 + max(len(h.X), 8)*heatCellWidth))
	height := vg.Points(float64(heatTop + len(h.Panels)*panel + heatBar))
	return Figure{width, height, nil, func(c draw.Canvas, _ Colours) {
		c.FillPolygon(color.White, corners(0, 0, c.Max.X, c.Max.Y))
		words := writer{c, text.Plain{Fonts: font.DefaultCache}}
		top := c.Max.Y - vg.Points(14)
		words.write(h.Title, titleSize, c.Center().X, top, black)
		for i, p := range h.Panels {
			bottom := c.Max.Y - vg.Points(float64(heatTop+(i+1)*panel-40))
			h.drawPanel(words, p, bottom)
		}
		h.drawBar(words)
	}}
}

// writer writes centred words.
type writer struct {
	draw.Canvas
	text.Handler
}

func (w writer) write(s string, size float64, x, y vg.Length, c color.Color) {
	w.FillText(draw.TextStyle{
		Color: c, Font: sans(size), XAlign: draw.XCenter, YAlign: draw.YCenter, Handler: w.Handler,
	}, vg.Point{X: x, Y: y}, s)
}

func corners(x0, y0, x1, y1 vg.Length) []vg.Point {
	return []vg.Point{{X: x0, Y: y0}, {X: x1, Y: y0}, {X: x1, Y: y1}, {X: x0, Y: y1}}
}

// drawPanel draws a panel whose cells begin at a height.
func (h Heat) drawPanel(w writer, p HeatPanel, bottom vg.Length) {
	cw, ch := vg.Points(heatCellWidth), vg.Points(heatCellHeight)
	left := vg.Points(heatLeft)
	middleX := left + cw*vg.Length(len(h.X))/2
	w.write(p.Title, labelSize, middleX, bottom+ch*vg.Length(len(h.Y))+vg.Points(10), black)
	for row, name := range h.Y {
		y := bottom + ch*vg.Length(row)
		w.write(name, tickSize, left-vg.Points(20), y+ch/2, black)
		for col := range h.X {
			x := left + cw*vg.Length(col)
			h.drawCell(w, p.Cells[row][col], x, y)
		}
	}
	for col, name := range h.X {
		w.write(name, tickSize, left+cw*(vg.Length(col)+0.5), bottom-vg.Points(8), black)
	}
	w.write(h.XAxis, tickSize, middleX, bottom-vg.Points(21), black)
	w.Push()
	w.Translate(vg.Point{X: vg.Points(12), Y: bottom + ch*vg.Length(len(h.Y))/2})
	w.Rotate(math.Pi / 2)
	w.write(h.YAxis, tickSize, 0, 0, black)
	w.Pop()
}

func (h Heat) drawCell(w writer, cell HeatCell, x, y vg.Length) {
	cw, ch := vg.Points(heatCellWidth), vg.Points(heatCellHeight)
	gap := vg.Points(0.5)
	if math.IsNaN(cell.Value) {
		w.StrokeLines(draw.LineStyle{Color: faint, Width: gap},
			append(corners(x+gap, y+gap, x+cw-gap, y+ch-gap), vg.Point{X: x + gap, Y: y + gap}))
		w.write(cell.Text, tickSize, x+cw/2, y+ch*0.6, grey)
		w.write(cell.Below, tickSize-2.5, x+cw/2, y+ch*0.26, grey)
		return
	}
	s := h.Scale.Shade(cell.Value)
	w.FillPolygon(heatColour(s), corners(x+gap, y+gap, x+cw-gap, y+ch-gap))
	ink := color.Color(black)
	if math.Abs(s) > 0.7 {
		ink = color.White
	}
	w.write(cell.Text, tickSize, x+cw/2, y+ch*0.67, ink)
	w.write(cell.Below, tickSize-2.5, x+cw/2, y+ch*0.26, ink)
}

// drawBar draws what the colours mean.
func (h Heat) drawBar(w writer) {
	n := len(h.Scale.Marks)
	part := vg.Points(float64(max(len(h.X), 8)*heatCellWidth)) / vg.Length(max(n, 1))
	left, bottom, height := vg.Points(heatLeft), vg.Points(24), vg.Points(12)
	for i, m := range h.Scale.Marks {
		x := left + part*vg.Length(i)
		w.FillPolygon(heatColour(h.Scale.Shade(m.Value)), corners(x, bottom, x+part, bottom+height))
		w.write(m.Label, tickSize, x+part/2, bottom-vg.Points(8), black)
	}
	w.write(h.Scale.Title, tickSize, left+part*vg.Length(n)/2, bottom+height+vg.Points(9), black)
}
