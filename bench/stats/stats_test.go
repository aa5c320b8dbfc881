package stats

import (
	"math"
	"math/rand/v2"
	"slices"
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

// In a large sample of a normal distribution, the mean's standard deviation is σ/√n.
func TestMeanIntervalHasTheWidthOfTheory(t *testing.T) {
	const n = 400
	v := make([]float64, n)
	for i := range v {
		v[i] = math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/n-1)
	}
	ci := MeanInterval(v)
	require.InDelta(t, 2*1.96/math.Sqrt(n), ci.High-ci.Low, 0.03)
	require.InDelta(t, 0, (ci.High+ci.Low)/2, 0.02)
	require.Nil(t, MeanInterval(v[:2]))
}

func TestSummaryLeavesValuesAlone(t *testing.T) {
	v := []float64{3, 1, 2}
	Summarize(v)
	Median(v)
	_, _ = RatioOf(Median, []Pair{{A: 3, B: 1}, {A: 1, B: 2}})
	require.Equal(t, []float64{3, 1, 2}, v)
}

func TestSummaryOfFewValues(t *testing.T) {
	require.Equal(t, Summary{}, Summarize(nil))
	require.Zero(t, Median(nil))
	one := Summarize([]float64{7})
	require.Equal(t, Summary{N: 1, Median: 7, Min: 7, Q1: 7, Q3: 7, P95: 7, Max: 7}, one)
}

func TestIntervalIsReproducible(t *testing.T) {
	v := []float64{5, 9, 1, 4, 8, 2}
	require.NotNil(t, Summarize(v).CI)
	require.Equal(t, Summarize(v).CI, Summarize(v).CI)
}

// In a large sample of a normal distribution, the median's standard deviation is 1.2533 σ/√n.
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

// An interval must do what its name says: 95 % of the intervals of many samples from a known
// distribution hold the true median, or a few more, because there are only so many ranks.
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
	require.InDelta(t, 0.957, float64(covered)/samples, 0.04) // ranks 8 and 18 of 25
}

// pairsOf pairs values by their places.
func pairsOf(a, b []float64) []Pair {
	var pairs []Pair
	for i := range a {
		pairs = append(pairs, Pair{A: a[i], B: b[i]})
	}
	return pairs
}

func TestRatioOf(t *testing.T) {
	pairs := pairsOf([]float64{2, 2, 4, 4, 6, 6}, []float64{8, 8, 8, 8, 8, 8})
	r, ok := RatioOf(Median, pairs)
	require.True(t, ok)
	require.InDelta(t, 0.5, r.Value, 1e-12)
	require.Equal(t, &Interval{0.25, 0.75}, r.CI)

	slices.Reverse(pairs)
	again, _ := RatioOf(Median, pairs)
	require.Equal(t, r, again, "the order of the pairs says nothing")

	_, ok = RatioOf(Median, nil)
	require.False(t, ok)
	_, ok = RatioOf(Median, pairsOf([]float64{1, 1}, []float64{0, 0}))
	require.False(t, ok)
}

// TestNoIntervalFromFive: the least and the largest of n values have the median between them with
// a probability of 1-2^(1-n), which is less than 95 % for five of them.
func TestNoIntervalFromFive(t *testing.T) {
	require.Nil(t, Summarize([]float64{1, 2, 3, 4, 5}).CI)
	require.Nil(t, MeanInterval([]float64{1, 2, 3, 4, 5}))
	require.Equal(t, &Interval{1, 6}, Summarize([]float64{1, 2, 3, 4, 5, 6}).CI)
	require.Equal(t, LeastForInterval, LeastForQuantile(0.5))
	r, ok := RatioOf(Mean, pairsOf([]float64{1, 2, 3, 4, 5}, []float64{2, 4, 6, 8, 10}))
	require.True(t, ok)
	require.Nil(t, r.CI)
	// Many pairs, but of one program only five.
	var pairs []Pair
	for i := range 11 {
		p := Pair{A: float64(i), B: float64(i + 1)}
		if i < 5 {
			p.Stratum = "kv"
		}
		pairs = append(pairs, p)
	}
	r, ok = RatioOf(Mean, pairs)
	require.True(t, ok)
	require.Nil(t, r.CI)
}

// What both sides of each pair share says nothing about their ratio, however much it varies.
func TestPairsCancelTheirCircumstances(t *testing.T) {
	var a, b []float64
	for i := range 12 {
		circumstance := 100 * float64(1+i%4)
		a, b = append(a, circumstance+1), append(b, circumstance)
	}
	r, ok := RatioOf(Mean, pairsOf(a, b))
	require.True(t, ok)
	require.InDelta(t, 1, r.CI.Low, 0.01)
	require.InDelta(t, 1, r.CI.High, 0.01)

	// The same values in pairs that do not belong together.
	b = append(b[1:], b[0])
	r, ok = RatioOf(Mean, pairsOf(a, b))
	require.True(t, ok)
	require.Greater(t, r.CI.High-r.CI.Low, 0.1)
}

// Programs of another size are never drawn for one another.
func TestStrataAreDrawnApart(t *testing.T) {
	var pairs []Pair
	for range LeastForInterval {
		pairs = append(
			pairs,
			Pair{A: 1, B: 10, Stratum: "small"},
			Pair{A: 1000, B: 1000, Stratum: "large"},
		)
	}
	r, ok := RatioOf(Mean, pairs)
	require.True(t, ok)
	require.InDelta(t, 1001.0/1010, r.Value, 1e-12)
	require.InDelta(t, r.Value, r.CI.Low, 1e-12)
	require.InDelta(t, r.Value, r.CI.High, 1e-12)
}

// If samples are either small or large, medians jump from one to the other, and means show the
// share of each.
func TestRatioOfOtherStatistics(t *testing.T) {
	r, ok := RatioOf(
		Mean,
		pairsOf([]float64{1, 1, 1, 1, 1, 101}, []float64{1, 1, 101, 101, 101, 101}),
	)
	require.True(t, ok)
	require.InDelta(t, 106.0/406, r.Value, 1e-12)
	require.Less(t, r.CI.Low, r.Value)
	require.Greater(t, r.CI.High, r.Value)
	r, ok = RatioOf(Max, pairsOf([]float64{1, 2, 1, 1, 2, 1}, []float64{4, 3, 4, 4, 3, 4}))
	require.True(t, ok)
	require.InDelta(t, 0.5, r.Value, 1e-12)
	require.Equal(t, &Interval{0.25, 0.5}, r.CI)
	require.Zero(t, Mean(nil))
	require.Zero(t, Max(nil))
}
