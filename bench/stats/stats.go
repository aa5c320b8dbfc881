// Package stats summarizes samples without assuming that they are normally distributed, which times on a busy host
// never are: medians and quantiles, with bootstrap confidence intervals.
//
// A bootstrap interval answers "how far might this median be off, given how few samples there are": the sample is drawn
// from itself, with replacement, some thousand times, and the interval holds the middle 95 % of the medians so
// obtained (the percentile method; Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13). The draws come
// from a generator with a fixed seed, so that the same data give the same interval.
package stats

import (
	"math"
	"math/rand/v2"
	"slices"
)

const (
	resamples  = 2000
	confidence = 0.95
	seed       = 0x7461736b // any will do, as long as it stays
)

// Interval is a confidence interval at 95 %.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Summary describes a sample.
type Summary struct {
	N      int      `json:"n"`
	Median float64  `json:"median"`
	CI     Interval `json:"median_ci95"`
	Min    float64  `json:"min"`
	Q1     float64  `json:"q1"`
	Q3     float64  `json:"q3"`
	P95    float64  `json:"p95"`
	Max    float64  `json:"max"`
}

// Summarize describes values. Of no values, everything is 0.
func Summarize(values []float64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	s := sorted(values)
	return Summary{
		N: len(s), Median: quantile(s, 0.5), CI: bootstrap(func(r *rand.Rand) float64 { return Median(draw(r, s)) }),
		Min: s[0], Q1: quantile(s, 0.25), Q3: quantile(s, 0.75), P95: quantile(s, 0.95), Max: s[len(s)-1],
	}
}

// Median of values, 0 of none. It does not change values.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return quantile(sorted(values), 0.5)
}

// Mean of values, 0 of none.
func Mean(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// Max of values, 0 of none.
func Max(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Max(values)
}

// Ratio is a quotient of the same statistic of two samples.
type Ratio struct {
	Value float64  `json:"value"`
	CI    Interval `json:"ci95"`
}

// RatioOf compares two independent samples, a over b, by a statistic: [Median]; [Mean], which says more of samples that
// are either small or large; or [Max], whose interval only tells how much hangs on single values, for what is worse than
// the worst of a sample is not in it. It returns false if the ratio has no meaning: a sample is empty, or b's statistic is
// not positive.
func RatioOf(statistic func([]float64) float64, a, b []float64) (Ratio, bool) {
	if len(a) == 0 || len(b) == 0 || statistic(b) <= 0 {
		return Ratio{}, false
	}
	a, b = sorted(a), sorted(b) // so that their order does not matter to the draws
	ci := bootstrap(func(r *rand.Rand) float64 {
		below := statistic(draw(r, b))
		if below <= 0 {
			return math.MaxFloat64
		}
		return statistic(draw(r, a)) / below
	})
	return Ratio{statistic(a) / statistic(b), ci}, true
}

func bootstrap(statistic func(*rand.Rand) float64) Interval {
	r := rand.New(rand.NewPCG(seed, seed))
	s := make([]float64, resamples)
	for i := range s {
		s[i] = statistic(r)
	}
	slices.Sort(s)
	return Interval{quantile(s, (1-confidence)/2), quantile(s, (1+confidence)/2)}
}

func draw(r *rand.Rand, from []float64) []float64 {
	s := make([]float64, len(from))
	for i := range s {
		s[i] = from[r.IntN(len(from))]
	}
	return s
}

// quantile interpolates linearly between the order statistics of s, which is sorted (Hyndman and Fan's type 7).
func quantile(s []float64, q float64) float64 {
	at := q * float64(len(s)-1)
	below := int(at)
	if below+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[below] + (at-float64(below))*(s[below+1]-s[below])
}

func sorted(values []float64) []float64 {
	s := slices.Clone(values)
	slices.Sort(s)
	return s
}
