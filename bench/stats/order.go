package stats

import "math"

// Quantile is a quantile of a distribution, estimated from a sample, with an interval by order
// statistics. It assumes nothing about the distribution: how many of n independent values lie
// below the quantile follows the binomial distribution, so two values of the sorted sample enclose
// the quantile with a known confidence (David and Nagaraja, Order Statistics, section 7.1).
//
// The bootstrap is of no use far out in a tail, because a sample has too few values there to be
// drawn from itself.
type Quantile struct {
	N     int      `json:"n"`
	Value float64  `json:"value"` // the value at the quantile's rank
	CI    Interval `json:"ci95"`
}

// QuantileOf returns the q-quantile of values. It returns false if they are too few for an
// interval: then the sample's largest value may well lie below the quantile, and no figure would
// mean anything. LeastForQuantile says how many it takes.
func QuantileOf(values []float64, q float64) (Quantile, bool) {
	n := len(values)
	low, high, ok := ranks(n, q)
	if !ok {
		return Quantile{N: n}, false
	}
	s := sorted(values)
	at := max(1, int(math.Ceil(q*float64(n)-1e-9)))
	return Quantile{N: n, Value: s[at-1], CI: Interval{s[low-1], s[high-1]}}, true
}

// LeastForQuantile is the fewest values for which QuantileOf has an interval.
func LeastForQuantile(q float64) int {
	n := 1
	for {
		if _, _, ok := ranks(n, q); ok {
			return n
		}
		n++
	}
}

// ranks are the ranks, from 1, of the two values of a sorted sample that enclose its q-quantile.
// The probability that it lies below the first is at most half of what the confidence leaves, and
// so is that of lying above the second; no ranks nearer to each other have that.
func ranks(n int, q float64) (low, high int, ok bool) {
	if n < 1 || q <= 0 || q >= 1 {
		return 0, 0, false
	}
	const tail = (1 - confidence) / 2
	below := 0.0 // P(fewer than k of the values are below the quantile)
	for k := 0; k <= n; k++ {
		// The quantile lies below the value of rank k if fewer than k values are below it.
		if k >= 1 && below <= tail {
			low = k
		}
		// It lies above that of rank k if at least k values are below it.
		if k >= 1 && high == 0 && 1-below <= tail {
			high = k
		}
		below += binomial(n, k, q)
	}
	return low, high, low >= 1 && high >= 1
}

// binomial is the probability of k successes in n trials, each of probability q.
func binomial(n, k int, q float64) float64 {
	ln := func(m int) float64 { v, _ := math.Lgamma(float64(m) + 1); return v }
	return math.Exp(ln(n) - ln(k) - ln(n-k) + float64(k)*math.Log(q) +
		float64(n-k)*math.Log1p(-q))
}
