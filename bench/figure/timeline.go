package figure

import (
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"taskguide/bench/trial"
	"taskguide/migration"
)

// Timeline shows one migration: how much was sent and how many pages the guest dirtied over time.
// Behind that it shows when the guest was inside a segment, when the migration was held back or
// suspended, its rounds, and its stop-and-copy.
func Timeline(title string, r trial.Result) Figure {
	t := timeline{result: r, end: seconds(r.Report.TotalMS)}
	t.begin = -0.1 * t.end
	rate := t.panel(title, "", "sent (Mbit/s)", t.bandwidth())
	dirty := t.panel("", "time since the request (s)", "dirtied (pages/s)", t.dirtyRate())
	return Figure{vg.Points(680), vg.Points(400), nil, func(c draw.Canvas, _ Colours) {
		const margin = 8
		c = draw.Crop(c, margin, -margin, margin, -margin)
		legend := draw.Crop(c, 0, 0, 0, 0)
		legend.Max.Y = c.Min.Y + vg.Points(16)
		t.drawKey(legend)
		c.Min.Y += vg.Points(20)
		plots := [][]*plot.Plot{{rate}, {dirty}}
		canvases := plot.Align(plots, draw.Tiles{Rows: 2, Cols: 1, PadY: vg.Points(4)}, c)
		rate.Draw(canvases[0][0])
		dirty.Draw(canvases[1][0])
	}}
}

func seconds(ms float64) float64 { return ms / 1000 }

type timeline struct {
	result     trial.Result
	begin, end float64 // seconds since the request
}

// step is a constant value for a while.
type step struct{ from, to, value float64 }

// shortest is the least time between two moments, in seconds, for a meaningful rate.
const shortest = 0.015

// bandwidth is the rate on the wire between any two moments at which the number of bytes is known:
// progress reports and the ends of rounds.
func (t timeline) bandwidth() []step {
	ofRound := map[int]int64{}
	for _, r := range t.result.Report.Rounds {
		ofRound[r.N] = r.BytesWire
	}
	var steps []step
	from, sent, rounds := 0.0, int64(0), int64(0)
	add := func(to float64, sum int64) {
		if to-from < shortest || sum < sent {
			return
		}
		steps = append(steps, step{from, to, float64(sum-sent) * 8 / 1e6 / (to - from)})
		from, sent = to, sum
	}
	for _, m := range t.result.Marks {
		switch m.Kind {
		case "progress":
			add(seconds(m.MS), m.WireBytes)
		case "round":
			rounds += ofRound[m.Round]
			if t.result.Report.RoundsOmitted == 0 { // otherwise the sum is not known
				add(seconds(m.MS), rounds)
			}
		}
	}
	add(t.end, t.result.Report.BytesWire)
	return steps
}

// dirtyRate is the engine's measurement in each round.
func (t timeline) dirtyRate() []step {
	ends := map[int]float64{}
	for _, m := range t.result.Marks {
		if m.Kind == "round" {
			ends[m.Round] = seconds(m.MS)
		}
	}
	var steps []step
	for _, r := range t.result.Report.Rounds {
		end, ok := ends[r.N]
		if ok && (r.Phase == migration.PhasePreCopy || r.Phase == migration.PhaseHeld) {
			steps = append(steps, step{end - seconds(r.MS), end, r.DirtyPagesPerS})
		}
	}
	return steps
}

func (t timeline) panel(title, x, y string, steps []step) *plot.Plot {
	p := newPlot(title, x, y)
	p.X.Tick.Marker, p.Y.Tick.Marker = linearTicks{}, linearTicks{}
	t.addBackground(p)
	top := 0.0
	for _, stretch := range unbroken(steps) {
		area := plotter.XYs{{X: stretch[0].from, Y: 0}}
		for _, s := range stretch {
			area = append(area, plotter.XY{X: s.from, Y: s.value}, plotter.XY{X: s.to, Y: s.value})
			top = max(top, s.value)
		}
		area = append(area, plotter.XY{X: stretch[len(stretch)-1].to, Y: 0})
		if line, err := plotter.NewLine(area); err == nil {
			line.Color, line.Width, line.FillColor = black, vg.Points(1.2), faded(black, 0x20)
			p.Add(line)
		}
	}
	p.X.Min, p.X.Max = t.begin, t.end*1.04
	p.Y.Min, p.Y.Max = 0, max(top*1.15, 1)
	return p
}

// unbroken splits steps at every time about which nothing is known, because a line there would be
// invented.
func unbroken(steps []step) [][]step {
	var stretches [][]step
	for i, s := range steps {
		if i == 0 || s.from > steps[i-1].to+shortest {
			stretches = append(stretches, nil)
		}
		last := &stretches[len(stretches)-1]
		*last = append(*last, s)
	}
	return stretches
}

// The colours of what is behind the curves.
var (
	segmentColour  = faded(green, 0x30)
	heldColour     = faded(grey, 0x60)
	stopCopyColour = faded(black, 0xb0)
)

func (t timeline) addBackground(p *plot.Plot) {
	for _, s := range t.segments() {
		p.Add(band{s.From, s.To, segmentColour, ""})
	}
	for _, s := range t.phases(migration.PhaseWaiting, migration.PhaseSuspended,
		migration.PhaseHeld) {
		p.Add(band{s.From, s.To, heldColour, s.Label})
	}
	for _, m := range t.result.Marks {
		if m.Kind == "round" && m.Round < t.result.Report.RoundCount() {
			p.Add(rule{seconds(m.MS)})
		}
	}
	for _, s := range t.phases(migration.PhaseStopCopy) {
		// Draw at least a hair's breadth, so that the shortest is visible.
		p.Add(
			band{
				s.From,
				max(s.From+seconds(t.result.Report.DowntimeMS), s.From+(t.end-t.begin)*0.004),
				stopCopyColour,
				"",
			},
		)
	}
	p.Add(rule{0})
}

// segments are the times when the task was inside a segment, at the source.
func (t timeline) segments() []Span {
	inside, from := t.insideAtBegin(), t.begin
	var spans []Span
	for _, m := range t.result.Marks {
		at := seconds(m.MS)
		if m.Kind != "tag" || m.Inside == nil || *m.Inside == inside || at <= t.begin {
			continue
		}
		if inside {
			spans = append(spans, Span{from, at, ""})
		}
		inside, from = *m.Inside, at
	}
	if end := t.moved(); inside && end > from {
		spans = append(spans, Span{from, end, ""})
	}
	return spans
}

func (t timeline) insideAtBegin() bool {
	inside := false
	for _, m := range t.result.Marks {
		if m.Kind == "tag" && m.Inside != nil && seconds(m.MS) <= t.begin {
			inside = *m.Inside
		}
	}
	return inside
}

// moved is when the guest stopped at the source. Its tags are not followed after that.
func (t timeline) moved() float64 {
	for _, s := range t.phases(migration.PhaseStopCopy) {
		return s.From
	}
	return t.end
}

// phases are the times when the engine was in one of the given phases.
func (t timeline) phases(which ...migration.Phase) []Span {
	var spans []Span
	open := -1
	for _, m := range t.result.Marks {
		if m.Kind != "phase" {
			continue
		}
		if open >= 0 {
			spans[open].To = seconds(m.MS)
			open = -1
		}
		for _, w := range which {
			if m.Phase == w {
				spans = append(spans, Span{seconds(m.MS), t.end, string(w)})
				open = len(spans) - 1
			}
		}
	}
	return spans
}

// rule is a thin vertical line.
type rule struct{ x float64 }

func (r rule) Plot(c draw.Canvas, p *plot.Plot) {
	toX, _ := p.Transforms(&c)
	x := toX(r.x)
	style := draw.LineStyle{
		Color:  grey,
		Width:  vg.Points(0.5),
		Dashes: []vg.Length{vg.Points(2), vg.Points(2)},
	}
	if r.x == 0 {
		style.Dashes, style.Color = nil, black
	}
	if !math.IsNaN(float64(x)) {
		c.StrokeLine2(style, x, c.Min.Y, x, c.Max.Y)
	}
}

// drawKey explains the colours in one line.
func (t timeline) drawKey(c draw.Canvas) {
	style := draw.TextStyle{
		Color:   black,
		Font:    sans(tickSize),
		Handler: plot.DefaultTextHandler,
		YAlign:  draw.YCenter,
	}
	x, y := c.Min.X+vg.Points(60), c.Center().Y
	for _, k := range []struct {
		label string
		draw  func(x vg.Length)
	}{
		{"inside a segment", func(x vg.Length) { c.SetColor(segmentColour); c.Fill(box(x, y)) }},
		{"held back", func(x vg.Length) { c.SetColor(heldColour); c.Fill(box(x, y)) }},
		{"stop-and-copy", func(x vg.Length) { c.SetColor(stopCopyColour); c.Fill(box(x, y)) }},
		{"end of a round", func(x vg.Length) {
			style := draw.LineStyle{
				Color: grey, Width: vg.Points(0.8), Dashes: []vg.Length{vg.Points(2), vg.Points(2)},
			}
			c.StrokeLine2(style, x+keySide/2, y-keySide/2, x+keySide/2, y+keySide/2)
		}},
	} {
		k.draw(x)
		x += keySide + vg.Points(4)
		c.FillText(style, vg.Point{X: x, Y: y}, k.label)
		x += style.Width(k.label) + vg.Points(18)
	}
}

const keySide = vg.Length(11)

func box(x, y vg.Length) vg.Path {
	var p vg.Path
	p.Move(vg.Point{X: x, Y: y - keySide/2})
	p.Line(vg.Point{X: x + keySide, Y: y - keySide/2})
	p.Line(vg.Point{X: x + keySide, Y: y + keySide/2})
	p.Line(vg.Point{X: x, Y: y + keySide/2})
	p.Close()
	return p
}
