package memory

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTurnEnds: bulk work yields when its turn is over, not sooner, and then has a whole turn
// again.
func TestTurnEnds(t *testing.T) {
	var turn Turn
	require.True(t, turn.over(time.Now()))
	before := time.Now()
	turn.Yield()
	require.False(t, turn.began.Before(before), "the next turn begins where the others' ended")
	require.False(t, turn.over(turn.began.Add(turnLength-1)))
	require.True(t, turn.over(turn.began.Add(turnLength)))

	began := time.Now().Add(time.Hour)
	turn.began = began
	turn.Yield()
	require.Equal(t, began, turn.began, "it yielded before its turn was over")
}
