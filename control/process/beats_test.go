package process

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
)

// TestBeats: each follower gets what is printed while it follows, and a line that was under way
// before counts for nobody.
func TestBeats(t *testing.T) {
	const line = "hb task=2 ms=3000 passes=4 writes=5 gap_us=6\n"
	var b beats
	print := func(text string) {
		n, err := b.Write([]byte(text))
		require.NoError(t, err)
		require.Equal(t, len(text), n)
	}
	print(line + "hb ta")
	var first, second []control.Beat
	unfollowFirst := b.follow(func(c control.Beat) { first = append(first, c) })
	print(line)
	require.Empty(t, first)
	unfollowSecond := b.follow(func(c control.Beat) { second = append(second, c) })
	print(line)
	unfollowFirst()
	print(line)
	unfollowSecond()
	require.False(t, b.followed.Load(), "nobody looks any more")
	print(line)
	require.Len(t, first, 1)
	require.Len(t, second, 2)
	require.False(t, first[0].Time.IsZero())
	first[0].Time = second[0].Time
	require.Equal(t, control.Beat{
		Time: second[0].Time, Task: 2, ElapsedMS: 3000, Passes: 4, Writes: 5, GapUS: 6,
	}, first[0])
}
