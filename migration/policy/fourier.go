package policy

import "math"

const (
	// leastCycles is how often a cycle must have been seen to count as one.
	leastCycles = 2
	// clearCycle is the least share of the power that the strongest frequency has in a cycle. Noise
	// has about a tenth there, a rate that is low for a fifth of the time has half.
	clearCycle = 0.2
	// aboutAsGood is how much the samples must resemble themselves after a period, compared with
	// the best one.
	aboutAsGood = 0.8
)

// periodOf returns the length of the cycle of evenly spaced samples, in samples, or 0 if they have
// none. Their number must be a power of two.
func periodOf(samples []float64) int {
	n := len(samples)
	re, im := make([]float64, n), make([]float64, n)
	mean := meanOf(samples)
	for i, v := range samples {
		re[i] = v - mean
	}
	fft(re, im)
	power := make([]float64, n/2)
	total, best := 0.0, 0
	for k := 1; k < n/2; k++ {
		power[k] = re[k]*re[k] + im[k]*im[k]
		if total += power[k]; power[k] > power[best] {
			best = k
		}
	}
	if best < leastCycles || !isClear(power, best, total) {
		return 0
	}
	return likest(samples, mean, best)
}

// isClear tells whether a frequency stands out. Where it falls between two, it shares its power
// with its neighbours.
func isClear(power []float64, frequency int, total float64) bool {
	own := 0.0
	for k := max(frequency-1, 1); k <= min(frequency+1, len(power)-1); k++ {
		own += power[k]
	}
	return own >= clearCycle*total
}

// likest returns the period that a frequency stands for. A transform is only as fine as the samples
// are long, and the harmonics of a cycle can be stronger than itself. So of all periods that are
// not clearly shorter than the frequency's, the one is taken after which the samples resemble
// themselves most; of those that are about as good, the shortest.
func likest(samples []float64, mean float64, frequency int) int {
	n := len(samples)
	from, to := max(n/(frequency+1), 2), n/leastCycles+1
	likeness := make([]float64, to+1)
	most := 0.0
	for lag := from; lag <= to; lag++ {
		for i := lag; i < n; i++ {
			likeness[lag] += (samples[i] - mean) * (samples[i-lag] - mean)
		}
		likeness[lag] /= float64(n - lag)
		most = max(most, likeness[lag])
	}
	if most <= 0 {
		return 0
	}
	period := from
	for likeness[period] < aboutAsGood*most {
		period++
	}
	for lag := period; lag <= min(to, period+period/4); lag++ {
		if likeness[lag] > likeness[period] {
			period = lag
		}
	}
	return period
}

// fft is the discrete Fourier transform of Cooley and Tukey, in place. The length must be a power
// of two.
func fft(re, im []float64) {
	n := len(re)
	for i, j := 1, 0; i < n; i++ {
		bit := n >> 1
		for ; j&bit != 0; bit >>= 1 {
			j ^= bit
		}
		if j ^= bit; i < j {
			re[i], re[j] = re[j], re[i]
			im[i], im[j] = im[j], im[i]
		}
	}
	for size := 2; size <= n; size *= 2 {
		for first := 0; first < n; first += size {
			butterfly(re[first:first+size], im[first:first+size])
		}
	}
}

// butterfly joins the transforms of the two halves.
func butterfly(re, im []float64) {
	half := len(re) / 2
	for k := range half {
		sin, cos := math.Sincos(-math.Pi * float64(k) / float64(half))
		r := re[half+k]*cos - im[half+k]*sin
		i := re[half+k]*sin + im[half+k]*cos
		re[half+k], im[half+k] = re[k]-r, im[k]-i
		re[k], im[k] = re[k]+r, im[k]+i
	}
}
