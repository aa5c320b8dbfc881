package figure

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHeatMap shows each value, what stands below it, the axes and the scale; a cell without a
// value has no colour.
func TestHeatMap(t *testing.T) {
	h := Heat{
		Title: "Gain", XAxis: "busy", YAxis: "rate", X: []string{"1s", "2s"}, Y: []string{"0.5"},
		Panels: []HeatPanel{{"limit 1 ms", [][]HeatCell{{
			{Value: 4, Text: "4.0", Below: "xen"},
			{Value: math.NaN(), Text: "missing", Below: "1 of 4"},
		}}}},
		Scale: HeatScale{
			Title: "times", Shade: math.Log2,
			Marks: []HeatMark{{0.25, "quarter"}, {1, "one"}, {4, "four"}},
		},
	}
	svg, err := HeatMap(h).SVG(nil)
	require.NoError(t, err)
	for _, text := range []string{
		"Gain", "busy", "rate", "1s", "2s", "0.5", "limit 1 ms", "4.0", "xen", "missing", "1 of 4",
		"times",
		"quarter",
	} {
		require.Contains(t, string(svg), text)
	}
	require.Positive(t, ink(t, HeatMap(h)))
	require.Equal(t, middle, heatColour(0))
	require.Equal(t, best, heatColour(7))
	require.Equal(t, worst, heatColour(-7))
}
