package cli

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestList: a value that is there twice would count twice, however it is written.
func TestList(t *testing.T) {
	l := ListOf("N", "1", strconv.Atoi)
	require.NoError(t, l.Set("3,2"))
	require.Equal(t, []int{3, 2}, l.Values)
	require.EqualError(t, l.Set("3,2,03"), `"03" is there twice`)
	require.Error(t, l.Set("1,,2"))
	require.Equal(t, []int{3, 2}, l.Values)
	require.Equal(t, "3,2", l.String())
}
