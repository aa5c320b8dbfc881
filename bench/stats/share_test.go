package stats

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestShare compares with the closed forms at the ends, and with published values in between
// (Newcombe 1998, Statistics in Medicine 17, table I, method 5).
func TestShare(t *testing.T) {
	for _, c := range []struct {
		hits, n   int
		low, high float64
	}{
		{0, 1, 0, 0.975}, {1, 1, 0.025, 1}, {0, 20, 0, 0.1684}, {1, 29, 0.0009, 0.1776},
		{15, 148, 0.0578, 0.1617}, {81, 263, 0.2527, 0.3676}, {29, 29, 0.8806, 1},
	} {
		s := ShareOf(c.hits, c.n)
		require.InDelta(t, c.low, s.CI.Low, 1e-4, "%v", c)
		require.InDelta(t, c.high, s.CI.High, 1e-4, "%v", c)
	}
	require.Equal(t, Share{CI: Interval{0, 1}}, ShareOf(0, 0))
	require.Zero(t, ShareOf(0, 0).Value())
}

// TestShareInterval: at its ends, what was seen has a probability of 2.5 % on that side.
func TestShareInterval(t *testing.T) {
	for _, c := range [][2]int{{1, 10}, {5, 10}, {40, 400}, {399, 400}} {
		s := ShareOf(c[0], c[1])
		require.InDelta(t, 0.025, between(s.N, s.Hits, s.N+1, s.CI.Low), 1e-6)
		require.InDelta(t, 0.025, between(s.N, 0, s.Hits+1, s.CI.High), 1e-6)
	}
}

// TestSignTest has the values of 2 * sum of n over k / 2^n.
func TestSignTest(t *testing.T) {
	for _, test := range []struct {
		one, other int
		p          float64
	}{
		{0, 0, 1}, {1, 0, 1}, {0, 5, 0.0625}, {6, 0, 0.03125}, {2, 2, 1}, {1, 7, 0.0703125},
	} {
		require.InDelta(t, test.p, SignTest(test.one, test.other), 1e-12, "%+v", test)
	}
}

// TestAgrees: the other share must lie in the interval of the measured one, at its ends, too.
func TestAgrees(t *testing.T) {
	measured := ShareOf(15, 148) // [0.058, 0.162]
	for hits, want := range map[int]bool{8: false, 9: true, 15: true, 23: true, 24: false} {
		require.Equal(t, want, measured.Agrees(ShareOf(hits, 148)), "%d", hits)
	}
	none := ShareOf(0, 100)
	require.True(t, none.Agrees(none))
	require.False(t, none.Agrees(ShareOf(4, 100)))
	require.False(t, ShareOf(0, 0).Agrees(none), "of nothing nothing is known")
	require.False(t, none.Agrees(ShareOf(0, 0)))
}
