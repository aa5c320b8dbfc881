package simrun

import (
	"fmt"
	"io"
	"math"
	"slices"

	"taskguide/bench/figure"
	"taskguide/control/units"
	"taskguide/memory"
)

// SweepName is the picture of a sweep over memory and bandwidth.
const SweepName = "sweep.svg"

// isSweep tells whether the cells are of one trace and round trip, and differ in memory or
// bandwidth.
func (c Comparison) isSweep() bool {
	if c.Map != nil || len(c.Results) < 2 {
		return false
	}
	first := c.Results[0]
	return !slices.ContainsFunc(c.Results, func(r Result) bool {
		return r.Trace != first.Trace || r.Setting.RTT != first.Setting.RTT
	})
}

// downtimeShade is 0 at 300 ms, the usual limit, and 1 at 3 ms.
func downtimeShade(ms float64) float64 { return -math.Log10(ms/300) / 2 }

// sweep draws the median downtimes, a panel for each policy.
func (c Comparison) sweep() figure.Figure {
	h := figure.Heat{
		Title: "Median downtime in ms, total time below it; simulated" + markMeans,
		XAxis: "bandwidth", YAxis: "memory", Scale: figure.HeatScale{
			Title: "ms of downtime: blue, less than the usual limit of 300 ms; orange, more",
			Shade: downtimeShade,
		},
	}
	for _, v := range []float64{30000, 10000, 3000, 1000, 300, 100, 30, 10, 3} {
		h.Scale.Marks = append(h.Scale.Marks, figure.HeatMark{Value: v, Label: fmt.Sprint(v)})
	}
	var sizes []int
	var rates []int64
	for _, r := range c.Results {
		if !slices.Contains(sizes, r.Pages) {
			sizes = append(sizes, r.Pages)
			h.Y = append(h.Y, units.Bytes(int64(r.Pages)*memory.PageSize))
		}
		if !slices.Contains(rates, r.Setting.BitsPerSecond) {
			rates = append(rates, r.Setting.BitsPerSecond)
			h.X = append(h.X, units.BitRate(float64(r.Setting.BitsPerSecond)/8))
		}
	}
	for k, row := range c.Results[0].Rows {
		p := figure.HeatPanel{Title: row.Policy + ", guidance " + row.Guidance}
		p.Cells = make([][]figure.HeatCell, len(sizes))
		for i := range p.Cells {
			p.Cells[i] = make([]figure.HeatCell, len(rates))
		}
		for _, r := range c.Results {
			y, x := slices.Index(sizes, r.Pages), slices.Index(rates, r.Setting.BitsPerSecond)
			p.Cells[y][x] = downtimeCell(r, k)
		}
		h.Panels = append(h.Panels, p)
	}
	return figure.HeatMap(h)
}

// markMeans ends the title of a picture.
const markMeans = "; * extrapolated"

// marked is a figure with the mark behind it if there is a reason for that.
func marked(said, extrapolated string) string {
	if extrapolated == "" {
		return said
	}
	return said + mark
}

func downtimeCell(r Result, k int) figure.HeatCell {
	row := r.Rows[k]
	downtime := marked(short(row.DowntimeMS.P50), row.Extrapolated)
	switch {
	case row.Moves == 0:
		return figure.HeatCell{Value: math.NaN(), Text: "missing"}
	case row.Moved == 0:
		return figure.HeatCell{Value: math.NaN(), Text: "stays"}
	case row.Moved < row.Moves: // its figures are of those that ended
		return figure.HeatCell{
			Value: math.NaN(), Text: downtime,
			Below: fmt.Sprintf("%d of %d", row.Moved, row.Moves),
		}
	}
	return figure.HeatCell{
		Value: row.DowntimeMS.P50, Text: downtime,
		Below: fmt.Sprintf("%.1f s", row.TotalMS.P50/1000),
	}
}

func (c Comparison) writeSweep(w io.Writer) error {
	svg, err := c.sweep().SVG(nil)
	if err != nil {
		return err
	}
	_, err = w.Write(svg)
	return err
}
