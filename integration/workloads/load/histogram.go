package main

import (
	"math/bits"
	"time"

	"taskguide/guestkernel/heartbeat"
)

// fine is the binary logarithm of how many buckets there are for each power of two.
const fine = 5

// histogram counts times in buckets whose width grows with the time. Each is within 3 % of what it
// stands for, as in the embedded guest (guestkernel/src/cpl3/histogram.h).
type histogram struct {
	count   uint64
	max     time.Duration
	buckets [60 << fine]uint64
}

func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	shift := max(bits.Len64(v)-fine-1, 0)
	return shift<<fine + int(v>>shift)
}

// longestIn is the longest time that a bucket counts.
func longestIn(bucket int) time.Duration {
	shift := max((bucket>>fine)-1, 0)
	return time.Duration(bucket-(shift<<fine)+1)<<shift - 1
}

// add counts a time n times.
func (h *histogram) add(d time.Duration, n uint64) {
	h.buckets[bucketOf(d)] += n
	h.count += n
	h.max = max(h.max, d)
}

// permille is what so many of 1000 times do not exceed, rounded up to the end of its bucket; 0 if
// there are no times.
func (h *histogram) permille(share uint64) time.Duration {
	rank := (h.count*share + 999) / 1000
	for bucket, n := range h.buckets[:] {
		if rank <= n {
			return min(longestIn(bucket), h.max)
		}
		rank -= n
	}
	return h.max
}

// mostWaited bounds the work of addWaiting: a longer gap counts as one of that length.
const mostWaited = heartbeat.LongestStall * time.Microsecond

// addWaiting adds to latencies those of clients that do not wait for each other. The load asks
// again once it has an answer, so it asks nothing in a pause: of the pause it has one slow answer
// among thousands, or none. Other clients would go on to ask, one every so often, and each would
// wait for what is left of the pause.
func (h *histogram) addWaiting(gaps *histogram, every time.Duration) {
	every = max(every, time.Microsecond)
	for bucket, n := range gaps.buckets[:] {
		if n == 0 {
			continue
		}
		gap := min(longestIn(bucket), gaps.max, mostWaited)
		for left := gap - every; left >= every; left -= every {
			h.add(left, n)
		}
	}
}
