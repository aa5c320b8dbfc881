// Package stats summarizes samples without assuming that they are normally distributed, which times
// on a busy host never are: medians and quantiles, with confidence intervals.
//
// Two ways to do a thing are compared in pairs: both were tried under the same circumstances, in
// one block of the design. The effects of the circumstances then cancel out, and the interval is
// about the difference alone. Fewer than six values get no interval, because it would pretend to
// knowledge that nobody has: not even the least and the largest of five enclose the true median in
// 95 of 100 samples.
//
// A median's interval is of order statistics, as that of any [Quantile]. That of a mean or a ratio
// is a bootstrap interval. It answers "how far might this be off, given how few samples there are":
// the sample is drawn from itself, with replacement, some thousand times, and the interval holds
// the middle 95 % of the figures so obtained (the percentile method; Efron and Tibshirani, An
// Introduction to the Bootstrap, chapter 13). The draws come from a generator with a fixed seed, so
// that the same data give the same interval.
package stats

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

const (
	// LeastForInterval is the fewest values, or pairs in each stratum, that give an interval.
	LeastForInterval = 6

	resamples  = 2000
	confidence = 0.95
	seed       = 0x7461736b // any value will do, as long as it stays the same
)

// Interval is a confidence interval at 95 %.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Summary describes a sample.
type Summary struct {
	N      int       `json:"n"`
	Median float64   `json:"median"`
	CI     *Interval `json:"median_ci95"` // nil for fewer values than LeastForInterval
	Min    float64   `json:"min"`
	Q1     float64   `json:"q1"`
	Q3     float64   `json:"q3"`
	P95    float64   `json:"p95"`
	Max    float64   `json:"max"`
}

// Summarize describes values. All fields are 0 if there are no values.
func Summarize(values []float64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	s := sorted(values)
	sum := Summary{
		N: len(s), Median: quantile(s, 0.5),
		Min: s[0], Q1: quantile(s, 0.25), Q3: quantile(s, 0.75), P95: quantile(s, 0.95),
		Max: s[len(s)-1],
	}
	if low, high, ok := ranks(len(s), 0.5); ok { // from LeastForInterval values on
		sum.CI = &Interval{s[low-1], s[high-1]}
	}
	return sum
}

// Median returns the median of values, or 0 if there are none. It does not change values.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return quantile(sorted(values), 0.5)
}

// Mean returns the mean of values, or 0 if there are none.
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

// Max returns the maximum of values, or 0 if there are none.
func Max(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Max(values)
}

// Ratio is the quotient of one statistic of two samples.
type Ratio struct {
	Value float64   `json:"value"`
	CI    *Interval `json:"ci95"` // nil if a stratum has fewer pairs than LeastForInterval
}

// Pair holds the results of two ways under the same circumstances.
type Pair struct {
	A, B float64
	// Stratum names circumstances that are alike, for instance a program. Each draw has as many
	// pairs of a stratum as the data have, so that no draw compares one program with another.
	Stratum string
}

// RatioOf compares the two sides of pairs, A over B, by a statistic: [Median]; [Mean], which says
// more about samples that are either small or large; or [Max]. The interval of [Max] shows only how
// much depends on single values, because values beyond the worst of a sample are not in it. The
// interval comes from draws of whole pairs, stratum by stratum. RatioOf returns false if the ratio
// has no meaning: there is no pair, or B's statistic is not positive.
func RatioOf(statistic func([]float64) float64, pairs []Pair) (Ratio, bool) {
	a, b := sides(pairs)
	if len(pairs) == 0 || statistic(b) <= 0 {
		return Ratio{}, false
	}
	ratio := Ratio{Value: statistic(a) / statistic(b)}
	strata := stratify(pairs)
	for _, s := range strata {
		if len(s) < LeastForInterval {
			return ratio, true
		}
	}
	drawn := make([]Pair, 0, len(pairs))
	ratio.CI = bootstrap(func(r *rand.Rand) float64 {
		drawn = drawn[:0]
		for _, s := range strata {
			for range s {
				drawn = append(drawn, s[r.IntN(len(s))])
			}
		}
		a, b := sides(drawn)
		below := statistic(b)
		if below <= 0 {
			return math.MaxFloat64
		}
		return statistic(a) / below
	})
	return ratio, true
}

// stratify sorts pairs into their strata. Its order does not depend on that of the pairs.
func stratify(pairs []Pair) [][]Pair {
	s := slices.Clone(pairs)
	slices.SortFunc(s, func(p, q Pair) int {
		return cmp.Or(
			cmp.Compare(p.Stratum, q.Stratum),
			cmp.Compare(p.A, q.A),
			cmp.Compare(p.B, q.B),
		)
	})
	var strata [][]Pair
	for i, p := range s {
		if i == 0 || p.Stratum != s[i-1].Stratum {
			strata = append(strata, nil)
		}
		last := &strata[len(strata)-1]
		*last = append(*last, p)
	}
	return strata
}

func sides(pairs []Pair) (a, b []float64) {
	for _, p := range pairs {
		a, b = append(a, p.A), append(b, p.B)
	}
	return a, b
}

func bootstrap(statistic func(*rand.Rand) float64) *Interval {
	r := rand.New(rand.NewPCG(seed, seed))
	s := make([]float64, resamples)
	for i := range s {
		s[i] = statistic(r)
	}
	slices.Sort(s)
	return &Interval{quantile(s, (1-confidence)/2), quantile(s, (1+confidence)/2)}
}

func draw(r *rand.Rand, from []float64) []float64 {
	s := make([]float64, len(from))
	for i := range s {
		s[i] = from[r.IntN(len(from))]
	}
	return s
}

// quantile interpolates linearly between the order statistics of s, which is sorted (Hyndman and
// Fan's type 7).
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

// MeanInterval is the interval of a mean. It is nil for fewer values than LeastForInterval.
func MeanInterval(values []float64) *Interval {
	if len(values) < LeastForInterval {
		return nil
	}
	s := sorted(values)
	return bootstrap(func(r *rand.Rand) float64 { return Mean(draw(r, s)) })
}
