package stats

// Share is how many of N independent tries were hits, with the interval of Clopper and Pearson for
// the share that the tries are drawn from. The interval is exact: it misses that share with a
// probability of at most 2.5 % on either side, also where there are few hits or none.
type Share struct {
	Hits int      `json:"hits"`
	N    int      `json:"n"`
	CI   Interval `json:"ci95"`
}

// ShareOf returns the share of hits among n tries. Of no tries, the interval is from 0 to 1.
func ShareOf(hits, n int) Share {
	s := Share{Hits: hits, N: n, CI: Interval{0, 1}}
	const tail = (1 - confidence) / 2
	if hits > 0 {
		// The smallest share that does not make so many hits a surprise.
		s.CI.Low = bisect(func(q float64) bool { return 1-atMost(n, hits-1, q) >= tail })
	}
	if hits < n {
		// The largest share that does not make so few hits a surprise.
		s.CI.High = bisect(func(q float64) bool { return atMost(n, hits, q) < tail })
	}
	return s
}

// Value is the share, or 0 of no tries.
func (s Share) Value() float64 {
	if s.N == 0 {
		return 0
	}
	return float64(s.Hits) / float64(s.N)
}

// Agrees tells whether another share lies in the interval of this one. So s is the measured share,
// and the other one is what a model says of the same tries. Without a try nothing agrees.
func (s Share) Agrees(other Share) bool {
	return s.N > 0 && other.N > 0 &&
		s.CI.Low <= other.Value() && other.Value() <= s.CI.High
}

// SignTest is the probability of a split as uneven as this one, or more so, where both sides are as
// likely: the exact sign test, with both tails. Of pairs of tries, only those count that differ.
func SignTest(one, other int) float64 {
	return min(2*atMost(one+other, min(one, other), 0.5), 1)
}

// atMost is the probability of at most k hits in n tries, each of probability q.
func atMost(n, k int, q float64) float64 {
	sum := 0.0
	for i := 0; i <= k; i++ {
		sum += binomial(n, i, q)
	}
	return min(sum, 1)
}

// bisect returns the least probability for which above holds, which must hold from there on.
func bisect(above func(float64) bool) float64 {
	low, high := 0.0, 1.0
	for range 60 {
		if q := (low + high) / 2; above(q) {
			high = q
		} else {
			low = q
		}
	}
	return (low + high) / 2
}
