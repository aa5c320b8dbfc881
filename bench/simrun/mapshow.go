package simrun

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"taskguide/bench/figure"
	"taskguide/control/text"
	"taskguide/control/units"
)

// MapName is the map's cells as CSV.
const MapName = "map.csv"

var mapColumns = []string{
	"busy_ms", "rate_over_bandwidth", "limit_ms", "moves", "moved", "best", "best_tail",
	"guided_downtime_p50_ms", "best_downtime_p50_ms", "gain_p50", "guided_downtime_p99_ms",
	"best_tail_downtime_p99_ms", "gain_p99", "total_difference_ms", "extrapolated",
}

func (c Comparison) writeMap(to io.Writer) error {
	w := csv.NewWriter(to)
	_ = w.Write(mapColumns) // Flush has the error
	for _, m := range c.MapSummary().Cells {
		_ = w.Write([]string{
			f(m.BusyMS), f(m.Ratio), f(m.LimitMS), n(int64(m.Moves)), n(int64(m.Moved)), m.Best,
			m.BestTail, f(m.GuidedP50MS), f(m.BestP50MS), f(m.GainP50), f(m.GuidedP99MS),
			f(m.BestP99MS), f(m.GainP99), f(m.TotalMS), strconv.FormatBool(m.Extrapolated != ""),
		})
	}
	w.Flush()
	return w.Error()
}

// picture is one way to look at a map.
type picture struct {
	name, title, scale string
	value              func(MapCell) float64
	text, below        func(MapCell) string
	shade              func(float64) float64
	marks              []float64
}

// logShade is 0 at a ratio of 1, and 1 at 16.
func logShade(v float64) float64 { return math.Log2(v) / 4 }

// timeShade is for a difference in seconds, where less is better: 1 at 60 s less.
func timeShade(s float64) float64 {
	return math.Copysign(math.Log1p(math.Abs(s))/math.Log1p(60), -s)
}

var pictures = []picture{
	{
		name: "map-median", title: "Median downtime: the best policy without tags / guided",
		scale: "times: blue, guidance pays; orange, it costs",
		value: func(c MapCell) float64 { return c.GainP50 },
		text:  func(c MapCell) string { return ratio(c.GainP50) },
		below: func(c MapCell) string { return c.Best }, shade: logShade,
		marks: []float64{1. / 16, 1. / 8, 1. / 4, 1. / 2, 1, 2, 4, 8, 16},
	},
	{
		name: "map-p99", title: "p99 downtime: the best policy without tags / guided",
		scale: "times: blue, guidance pays; orange, it costs",
		value: func(c MapCell) float64 { return c.GainP99 },
		text:  func(c MapCell) string { return ratio(c.GainP99) },
		below: func(c MapCell) string { return c.BestTail }, shade: logShade,
		marks: []float64{1. / 16, 1. / 8, 1. / 4, 1. / 2, 1, 2, 4, 8, 16},
	},
	{
		name: "map-total", title: "Median total time: guided - the best policy without tags",
		scale: "seconds: blue, guidance takes less; orange, more",
		value: func(c MapCell) float64 { return c.TotalMS / 1000 },
		text:  func(c MapCell) string { return seconds(c.TotalMS / 1000) },
		below: func(c MapCell) string { return c.Best }, shade: timeShade,
		marks: []float64{60, 15, 4, 1, 0, -1, -4, -15, -60},
	},
}

func ratio(v float64) string { return strconv.FormatFloat(v, 'g', 2, 64) }

func seconds(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// drawMap writes the map's pictures.
func (c Comparison) drawMap(folder string) error {
	s := c.MapSummary()
	for _, p := range pictures {
		drawn := figure.HeatMap(s.heat(p))
		for suffix, render := range map[string]func(figure.Colours) ([]byte, error){
			".svg": drawn.SVG, ".png": drawn.PNG,
		} {
			b, err := render(nil)
			if err != nil {
				return fmt.Errorf("figure %s: %w", p.name, err)
			}
			path := filepath.Join(folder, p.name+suffix)
			if err := os.WriteFile(path, b, 0o666); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s MapSummary) heat(p picture) figure.Heat {
	title := p.title
	if s.tailNote() != "" {
		title = strings.Replace(title, "p99", "Largest", 1)
	}
	h := figure.Heat{
		Title: title + markMeans, XAxis: "length of the busy phase",
		YAxis: "dirty rate / bandwidth",
		Scale: figure.HeatScale{Title: p.scale, Shade: p.shade},
	}
	for _, b := range s.BusyMS {
		h.X = append(h.X, fmt.Sprint(time.Duration(b*float64(time.Millisecond))))
	}
	for _, r := range s.Ratios {
		h.Y = append(h.Y, fmt.Sprint(r))
	}
	for _, m := range p.marks {
		h.Scale.Marks = append(h.Scale.Marks, figure.HeatMark{Value: m, Label: fmt.Sprint(m)})
	}
	for _, limit := range s.LimitsMS {
		panel := figure.HeatPanel{Title: fmt.Sprintf("downtime limit %v ms", limit)}
		for _, r := range s.Ratios {
			var row []figure.HeatCell
			for _, b := range s.BusyMS {
				row = append(row, p.cell(s.at(b, r, limit)))
			}
			panel.Cells = append(panel.Cells, row)
		}
		h.Panels = append(h.Panels, panel)
	}
	return h
}

func (p picture) cell(c MapCell) figure.HeatCell {
	switch {
	case c.Moves == 0:
		return figure.HeatCell{Value: math.NaN(), Text: "missing"}
	case c.Best == "" && c.Moved > 0: // fewer than of another policy
		return figure.HeatCell{
			Value: math.NaN(), Text: "stays", Below: fmt.Sprintf("%d of %d", c.Moved, c.Moves),
		}
	case c.Best == "":
		return figure.HeatCell{Value: math.NaN(), Text: "stays"}
	}
	return figure.HeatCell{
		Value: p.value(c), Text: marked(p.text(c), c.Extrapolated), Below: p.below(c),
	}
}

// at returns the cell at a place of the map, the zero MapCell if there is none.
func (s MapSummary) at(busy, ratio, limit float64) MapCell {
	want := Point{busy, ratio}
	i := slices.IndexFunc(s.Cells, func(c MapCell) bool {
		return c.Point == want && c.LimitMS == limit
	})
	if i < 0 {
		return MapCell{}
	}
	return s.Cells[i]
}

// leastForTail is the fewest moves whose p99 is not simply the largest.
const leastForTail = 101

// tailNote says what a p99 of few moves is.
func (s MapSummary) tailNote() string {
	most := 0
	for _, m := range s.Cells {
		most = max(most, m.Moves)
	}
	if most >= leastForTail {
		return ""
	}
	return fmt.Sprintf("A p99 of %s is the largest.", text.Plural(most, "move"))
}

// mapReport is a table of the map's cells, and what concerns them.
func (c Comparison) mapReport() Report {
	s := c.MapSummary()
	r := Report{
		Title: "Where guidance pays",
		Summary: "Synthetic guests, moved in virtual time by a guided policy and by those that " +
			"need no tags.",
		Partial: s.Partial, Tables: []Table{s.table()},
	}
	for _, note := range []string{
		s.tailNote(), s.endedNote(), s.extrapolatedNote(), notModelled(s.Not),
	} {
		r.Notes = addNew(r.Notes, note)
	}
	for _, cell := range c.Results {
		for _, note := range cell.compared() {
			r.Notes = addNew(r.Notes, note)
		}
	}
	return r
}

func (s MapSummary) table() Table {
	t := Table{
		Place: "Each busy phase, dirty rate and downtime limit",
		Caption: fmt.Sprintf("Guided: %s, at %s. Best is the best policy without tags. A gain of "+
			"2 is a downtime half as long as the best one's.", s.Orders[s.Guided],
			units.BitRate(float64(s.Setting.BitsPerSecond)/8)),
		Head: []string{"busy", "rate", "limit", "best", "gain p50", "gain p99", "total"},
	}
	for _, m := range s.Cells {
		t.Rows = append(t.Rows, m.tableRow())
	}
	return t
}

func (c MapCell) tableRow() []string {
	place := []string{c.busy(), fmt.Sprint(c.Ratio), fmt.Sprintf("%v ms", c.LimitMS)}
	if c.Best == "" {
		return append(place, "-", "-", "-", "-")
	}
	return append(place, c.Best, ratio(c.GainP50), ratio(c.GainP99), seconds(c.TotalMS/1000)+" s")
}

// busy writes the length of the busy phase.
func (p Point) busy() string {
	return time.Duration(p.BusyMS * float64(time.Millisecond)).String()
}

// endedNote says in which cells guided moves did not end, and how many did.
func (s MapSummary) endedNote() string {
	var few []string
	for _, m := range s.Cells {
		if m.Moved < m.Moves {
			few = append(few, fmt.Sprintf("%d of %d at busy %s, rate %v, limit %v ms", m.Moved,
				m.Moves, m.busy(), m.Ratio, m.LimitMS))
		}
	}
	if len(few) == 0 {
		return ""
	}
	return "Not all guided moves ended. A cell has no figure where none did, or where another " +
		"policy ended more. So many ended: " + strings.Join(few, "; ") + "."
}

// extrapolatedNote says how much of the map no comparison with real moves covers, and why.
func (s MapSummary) extrapolatedNote() string {
	var reasons []string
	extrapolated := 0
	for _, m := range s.Cells {
		reasons = addNew(reasons, m.Extrapolated)
		if m.Extrapolated != "" {
			extrapolated++
		}
	}
	why := strings.Join(reasons, "; ") + "."
	switch extrapolated {
	case 0:
		return ""
	case len(s.Cells):
		return "All of it is extrapolated: " + why
	}
	return fmt.Sprintf("%d of %d cells are extrapolated: %s", extrapolated, len(s.Cells), why)
}
