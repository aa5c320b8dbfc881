package policy

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSegment(t *testing.T) {
	s := segment{floor: -1}
	require.True(t, s.near(49), "so few are always near enough")
	require.False(t, s.near(50), "nothing is known of this segment yet")
	s.roundDone(100)
	require.True(t, s.near(200))
	require.False(t, s.near(201))
	s.roundDone(60)
	s.roundDone(500)
	require.True(t, s.near(120))
	require.False(t, s.near(121))
	s.reset()
	require.False(t, s.near(60))

	require.True(t, shrinks(1000, 750))
	require.False(t, shrinks(1000, 751))
	require.True(t, shrinks(1000, 50))
	require.False(t, shrinks(1000, 49), "fewer are not worth a round")
}
