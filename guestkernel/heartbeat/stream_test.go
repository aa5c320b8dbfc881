package heartbeat

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const someBeat = "hb task=1 ms=2000 passes=3 writes=4 gap_us=5\n"

func feed(s *Stream, pieces ...string) []Beat {
	var beats []Beat
	for _, p := range pieces {
		s.Feed([]byte(p), func(b Beat) { beats = append(beats, b) })
	}
	return beats
}

func TestStream(t *testing.T) {
	beats := feed(&Stream{}, "PVH guest\nhb task=1 ms=20", "00 passes=3 writes=4 ", "gap_us=5\r\n",
		someBeat+"hb task=")
	require.Len(t, beats, 2)
	require.Equal(t, 1, beats[0].Task)
	require.False(t, beats[1].At.Before(beats[0].At))

	var s Stream
	s.SkipLine()
	require.Len(t, feed(&s, someBeat+someBeat), 1, "not the rest of a line under way")
	long := strings.Repeat("x", 3*longestLine)
	require.Len(t, feed(&s, long, long, "\n"+someBeat), 1)
	for range 3 {
		require.Empty(t, feed(&s, long[:longestLine-1]))
	}
	require.LessOrEqual(t, cap(s.line), 2*longestLine, "the line was not kept")
}

// FuzzStream: a guest may print anything, in any pieces. What is found are its whole lines that are
// heartbeats, and what is kept is bounded.
func FuzzStream(f *testing.F) {
	f.Add([]byte("boot\n"+someBeat+"hb task="), 7)
	f.Add([]byte(someBeat+"\x00\xff\r\n\n\n"+someBeat), 1)
	f.Fuzz(func(t *testing.T, text []byte, size int) {
		size = max(1, size%64)
		var pieces []string
		for at := 0; at < len(text); at += size {
			pieces = append(pieces, string(text[at:min(len(text), at+size)]))
		}
		var s Stream
		found := feed(&s, pieces...)
		want := 0
		for line := range strings.Lines(string(text)) {
			if _, ok := Parse(line); ok && strings.HasSuffix(line, "\n") &&
				len(line) <= longestLine {
				want++
			}
		}
		if len(text) < longestLine {
			require.Len(t, found, want)
		}
		require.LessOrEqual(t, len(s.line), longestLine)
	})
}
