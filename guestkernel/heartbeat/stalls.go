package heartbeat

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Stalls is a histogram of pauses by powers of two of a microsecond. The key is the least length in
// a bucket, in us, and the value is how many pauses were at least that long and less than twice as
// long. The bucket of LongestStall has all that were longer, too.
type Stalls map[int64]uint64

// LongestStall is the key of the last bucket, about 67 s.
const LongestStall = 1 << 26

// bucketOf is the key for a pause, 0 for one that is too short to count.
func bucketOf(pause time.Duration) int64 {
	us := pause.Microseconds()
	if us < 1 {
		return 0
	}
	return min(int64(1)<<(bits.Len64(uint64(us))-1), LongestStall)
}

// Count counts a pause, unless it is too short.
func (s Stalls) Count(pause time.Duration) {
	if bucket := bucketOf(pause); bucket > 0 {
		s[bucket]++
	}
}

// Add adds the pauses of another histogram.
func (s Stalls) Add(other Stalls) {
	for bucket, n := range other {
		s[bucket] += n
	}
}

// AtLeast counts the pauses in the buckets from that of a length on.
func (s Stalls) AtLeast(pause time.Duration) (n uint64) {
	for bucket, count := range s {
		if bucket >= bucketOf(pause) {
			n += count
		}
	}
	return n
}

// Buckets are the keys that have pauses, in order.
func (s Stalls) Buckets() []int64 { return slices.Sorted(maps.Keys(s)) }

// StallsBetween is the histogram of the times between neighbours.
func StallsBetween(times []time.Time) Stalls {
	s := Stalls{}
	for i := 1; i < len(times); i++ {
		s.Count(times[i].Sub(times[i-1]))
	}
	return s
}

// String writes the histogram as a heartbeat has it.
func (s Stalls) String() string {
	if len(s) == 0 {
		return "-"
	}
	var parts []string
	for _, bucket := range s.Buckets() {
		parts = append(parts, fmt.Sprintf("%d:%d", bucket, s[bucket]))
	}
	return strings.Join(parts, ",")
}

// Stalls are the pauses between steps since the heartbeat before, as the guest counts them. It
// returns false for an older guest, which does not count.
func (b Beat) Stalls() (Stalls, bool) {
	text, told := b.Fields["stalls"]
	if !told {
		return nil, false
	}
	s := Stalls{}
	if text == "-" {
		return s, true
	}
	for part := range strings.SplitSeq(text, ",") {
		from, count, _ := strings.Cut(part, ":")
		bucket, errBucket := strconv.ParseInt(from, 10, 64)
		n, errCount := strconv.ParseUint(count, 10, 32)
		power := bucket > 0 && bucket&(bucket-1) == 0 && bucket <= LongestStall
		if errBucket != nil || errCount != nil || !power || n == 0 || s[bucket] != 0 {
			return nil, false
		}
		s[bucket] = n
	}
	return s, true
}
