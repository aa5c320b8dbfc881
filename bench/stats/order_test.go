package stats

import (
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// between is P(a <= B < b) for a binomial B, by its recurrence in long numbers.
func between(n, a, b int, q float64) float64 {
	long := func(v float64) *big.Float { return new(big.Float).SetPrec(200).SetFloat64(v) }
	odds := long(q)
	odds.Quo(odds, long(1-q))
	term, sum := long(1), long(0)
	for range n {
		term.Mul(term, long(1-q)) // P(B = 0)
	}
	for k := range b {
		if k >= a {
			sum.Add(sum, term)
		}
		step := long(float64(n - k))
		step.Quo(step, long(float64(k+1)))
		term.Mul(term, step.Mul(step, odds))
	}
	f, _ := sum.Float64()
	return f
}

// TestRanks: the two ranks miss the quantile on either side with a probability of at most 2.5 %,
// and the next nearer ones do not.
func TestRanks(t *testing.T) {
	for _, c := range []struct {
		n int
		q float64
	}{{6, 0.5}, {7, 0.5}, {50, 0.5}, {40, 0.9}, {368, 0.99}, {500, 0.99}, {5000, 0.99}} {
		low, high, ok := ranks(c.n, c.q)
		require.True(t, ok, "%v", c)
		// The quantile is below the value of rank k if at most k-1 values are below it.
		require.LessOrEqual(t, between(c.n, 0, low, c.q), 0.025, "%v", c)
		require.Greater(t, between(c.n, 0, low+1, c.q), 0.025, "%v", c)
		require.LessOrEqual(t, between(c.n, high, c.n+1, c.q), 0.025, "%v", c)
		require.Greater(t, between(c.n, high-1, c.n+1, c.q), 0.025, "%v", c)
		require.Less(t, low, high)
	}
}

// TestTooFewForAQuantile: 1 - 0.99^n reaches 97.5 % at 368 values, and below that nothing is said.
func TestTooFewForAQuantile(t *testing.T) {
	require.Equal(t, 6, LeastForQuantile(0.5))
	require.Equal(t, 36, LeastForQuantile(0.9))
	require.Equal(t, 368, LeastForQuantile(0.99))
	require.Equal(t, LeastForQuantile(0.99), LeastForQuantile(0.01))
	values := make([]float64, 367)
	got, ok := QuantileOf(values, 0.99)
	require.False(t, ok)
	require.Equal(t, Quantile{N: 367}, got, "no figure")
	_, ok = QuantileOf(append(values, 1), 0.99)
	require.True(t, ok)
	for _, q := range []float64{0, 1, -1, 2} {
		_, ok = QuantileOf(values, q)
		require.False(t, ok)
	}
	_, ok = QuantileOf(nil, 0.5)
	require.False(t, ok)
}

func TestQuantileOfKnownValues(t *testing.T) {
	values := make([]float64, 500)
	for i := range values {
		values[i] = float64(500 - i) // 1 to 500
	}
	p99, ok := QuantileOf(values, 0.99)
	require.True(t, ok)
	low, high, _ := ranks(500, 0.99)
	require.Equal(t, Quantile{500, 495, Interval{float64(low), float64(high)}}, p99)
	require.Equal(t, 500.0, values[0], "they are left alone")
	p50, ok := QuantileOf(values, 0.5)
	require.True(t, ok)
	require.Equal(t, 250.0, p50.Value)
	same, ok := QuantileOf([]float64{3, 3, 3, 3, 3, 3}, 0.5)
	require.True(t, ok)
	require.Equal(t, Quantile{6, 3, Interval{3, 3}}, same)
}

// TestIntervalsHoldTheQuantile: at least 95 % of the intervals hold the quantile, also if the
// distribution has two modes, as gaps have. The generator's seed is fixed, so the count is always
// the same.
func TestIntervalsHoldTheQuantile(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	draw := func() float64 { // 2 % of it are about a hundred times as large
		if u := r.Float64(); u < 0.98 {
			return u
		}
		return 100 + r.Float64()
	}
	const want, tries = 100.5, 2000 // the 0.99-quantile: in the middle of the upper mode
	held := 0
	for range tries {
		values := make([]float64, 500)
		for i := range values {
			values[i] = draw()
		}
		p99, ok := QuantileOf(values, 0.99)
		require.True(t, ok)
		if p99.CI.Low <= want && want <= p99.CI.High {
			held++
		}
	}
	require.GreaterOrEqual(t, float64(held)/tries, 0.95)
	require.Less(t, float64(held)/tries, 0.99, "nor are they needlessly wide")
}
