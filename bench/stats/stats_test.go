package stats

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSummaryOfKnownValues(t *testing.T) {
	s := Summarize([]float64{4, 1, 3, 2})
	// R: quantile(1:4, c(.25, .5, .75, .95))
	require.Equal(t, 4, s.N)
	require.InDelta(t, 1.75, s.Q1, 1e-12)
	require.InDelta(t, 2.5, s.Median, 1e-12)
	require.InDelta(t, 3.25, s.Q3, 1e-12)
	require.InDelta(t, 3.85, s.P95, 1e-12)
	require.InDelta(t, 1, s.Min, 0)
	require.InDelta(t, 4, s.Max, 0)
}

func TestSummaryLeavesValuesAlone(t *testing.T) {
	v := []float64{3, 1, 2}
	Summarize(v)
	Median(v)
	_, _ = RatioOf(Median, v, v)
	require.Equal(t, []float64{3, 1, 2}, v)
}

func TestSummaryOfFewValues(t *testing.T) {
	require.Equal(t, Summary{}, Summarize(nil))
	require.Zero(t, Median(nil))
	one := Summarize([]float64{7})
	require.Equal(t, Summary{N: 1, Median: 7, CI: Interval{7, 7}, Min: 7, Q1: 7, Q3: 7, P95: 7, Max: 7}, one)
}

func TestIntervalIsReproducible(t *testing.T) {
	v := []float64{5, 9, 1, 4, 8, 2}
	require.Equal(t, Summarize(v).CI, Summarize(v).CI)
}

// For a large sample of a normal distribution the median is off by 1.2533 σ/√n in the standard deviation.
func TestIntervalHasTheWidthOfTheory(t *testing.T) {
	const n = 400
	v := make([]float64, n)
	for i := range v {
		v[i] = math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/n-1)
	}
	ci := Summarize(v).CI
	require.InDelta(t, 2*1.96*1.2533/math.Sqrt(n), ci.High-ci.Low, 0.03)
	require.InDelta(t, 0, (ci.High+ci.Low)/2, 0.02)
}

// The interval must do what it is named after: of many samples from a known distribution, about 95 % of the
// intervals hold the true median. (The percentile bootstrap is known to be a little off for small samples.)
func TestIntervalCoversTheTrueMedian(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const samples = 200
	covered := 0
	for range samples {
		v := make([]float64, 25)
		for i := range v {
			v[i] = r.ExpFloat64()
		}
		ci := Summarize(v).CI
		if ci.Low <= 0.6931 && 0.6931 <= ci.High {
			covered++
		}
	}
	require.InDelta(t, 0.94, float64(covered)/samples, 0.05)
}

func TestRatioOf(t *testing.T) {
	r, ok := RatioOf(Median, []float64{2, 4, 6}, []float64{8, 8, 8})
	require.True(t, ok)
	require.InDelta(t, 0.5, r.Value, 1e-12)
	require.LessOrEqual(t, r.CI.Low, 0.5)
	require.GreaterOrEqual(t, r.CI.High, 0.5)
	require.GreaterOrEqual(t, r.CI.Low, 0.25)
	require.LessOrEqual(t, r.CI.High, 0.75)

	again, _ := RatioOf(Median, []float64{6, 2, 4}, []float64{8, 8, 8})
	require.Equal(t, r, again, "the order of the values says nothing")

	_, ok = RatioOf(Median, []float64{1}, nil)
	require.False(t, ok)
	_, ok = RatioOf(Median, []float64{1}, []float64{0, 0})
	require.False(t, ok)
}

// Of samples that are either small or large, medians jump from one to the other; means tell the share of each.
func TestRatioOfOtherStatistics(t *testing.T) {
	a, b := []float64{1, 1, 1, 1, 1, 101}, []float64{1, 1, 101, 101, 101, 101}
	r, ok := RatioOf(Mean, a, b)
	require.True(t, ok)
	require.InDelta(t, 106.0/406, r.Value, 1e-12)
	require.Less(t, r.CI.Low, r.Value)
	require.Greater(t, r.CI.High, r.Value)
	r, ok = RatioOf(Max, []float64{1, 2}, []float64{4, 3})
	require.True(t, ok)
	require.InDelta(t, 0.5, r.Value, 1e-12)
	require.Equal(t, Interval{0.25, 2.0 / 3}, r.CI)
	require.Zero(t, Mean(nil))
	require.Zero(t, Max(nil))
}
