package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	s, err := Parse("2/8")
	require.NoError(t, err)
	require.Equal(t, Shard{2, 8}, s)
	require.Equal(t, "2/8", s.String())
	require.True(t, s.Valid())
	for _, text := range []string{"", "2", "0/3", "4/3", "-1/3", "1/0", "1/10001", "a/b", "1/2/3"} {
		_, err := Parse(text)
		require.Error(t, err, text)
	}
}

// TestEachPieceIsInOneShard, and a zero Shard has them all.
func TestEachPieceIsInOneShard(t *testing.T) {
	for piece := range 20 {
		n := 0
		for i := range 3 {
			if (Shard{i + 1, 3}).Has(piece) {
				n++
			}
		}
		require.Equal(t, 1, n)
		require.True(t, Shard{}.Has(piece))
	}
	require.True(t, Shard{}.Valid())
	require.False(t, Shard{3, 2}.Valid())
	require.False(t, Shard{0, 2}.Valid())
}
