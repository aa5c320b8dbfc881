package heartbeat

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stalling parses a heartbeat with that field.
func stalling(stalls string) (Stalls, bool) {
	b, ok := Parse("hb task=0 ms=1 passes=1 writes=1 gap_us=1 stalls=" + stalls + " phase=busy")
	if !ok {
		return nil, false
	}
	return b.Stalls()
}

func TestStallsOfABeat(t *testing.T) {
	s, ok := stalling("1:52,64:3,67108864:1")
	require.True(t, ok)
	require.Equal(t, Stalls{1: 52, 64: 3, LongestStall: 1}, s)
	s, ok = stalling("-")
	require.True(t, ok)
	require.Empty(t, s)
	for _, bad := range []string{
		"", "1", "1:", ":1", "1:0", "3:1", "0:1", "-1:1", "1:1,", "1:1,1:1", "134217728:1",
		"1:5000000000", "1:-1", "x:1",
	} {
		_, ok := stalling(bad)
		require.False(t, ok, bad)
	}
	b, ok := Parse("hb task=0 ms=1 passes=1 writes=1 gap_us=1")
	require.True(t, ok)
	_, ok = b.Stalls()
	require.False(t, ok, "an older guest")
}

func TestStallsByPowersOfTwo(t *testing.T) {
	for pause, want := range map[time.Duration]int64{
		0: 0, 999: 0, -time.Hour: 0, time.Microsecond: 1, 1999: 1, 2 * time.Microsecond: 2,
		time.Millisecond: 512, 1024 * time.Microsecond: 1024, time.Hour: LongestStall,
		LongestStall*time.Microsecond - 1: LongestStall / 2,
	} {
		require.Equal(t, want, bucketOf(pause), "%v", pause)
	}
	at := time.Now()
	var times []time.Time
	for _, us := range []time.Duration{0, 0, 10, 20, 5000, 6100} {
		times = append(times, at.Add(us*time.Microsecond))
	}
	s := StallsBetween(times)
	require.Equal(t, Stalls{8: 2, 4096: 1, 1024: 1}, s)
	require.EqualValues(t, 2, s.AtLeast(1024*time.Microsecond))
	require.EqualValues(t, 4, s.AtLeast(0))
	require.Equal(t, []int64{8, 1024, 4096}, s.Buckets())
	s.Add(Stalls{8: 1, 2: 7})
	require.Equal(t, Stalls{2: 7, 8: 3, 4096: 1, 1024: 1}, s)
	require.Empty(t, StallsBetween(nil))
}

// TestStallsAreWrittenAsTheyAreRead: a guest in Go writes what a guest in C does.
func TestStallsAreWrittenAsTheyAreRead(t *testing.T) {
	s := Stalls{}
	require.Equal(t, "-", s.String())
	for _, us := range []time.Duration{0, 70, 1, 100, 1 << 30} {
		s.Count(us * time.Microsecond)
	}
	require.Equal(t, "1:1,64:2,67108864:1", s.String())
	again, ok := stalling(s.String())
	require.True(t, ok)
	require.Equal(t, s, again)
}

func FuzzStalls(f *testing.F) {
	f.Add("1:52,64:3")
	f.Add("-")
	f.Fuzz(func(t *testing.T, text string) {
		s, ok := Beat{Fields: map[string]string{"stalls": text}}.Stalls()
		if !ok {
			return
		}
		require.Equal(t, s.AtLeast(time.Microsecond), s.AtLeast(0))
		again, ok := Beat{Fields: map[string]string{"stalls": s.String()}}.Stalls()
		require.True(t, ok)
		require.Equal(t, s, again)
		for bucket, n := range s {
			require.Equal(t, bucket, bucketOf(time.Duration(bucket)*time.Microsecond))
			require.Positive(t, n)
		}
	})
}
