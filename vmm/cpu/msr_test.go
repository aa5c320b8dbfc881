package cpu

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMSRsFollowTheTable(t *testing.T) {
	listed := []uint32{MSRTSC, 0x3b, 0x48, 0x174, 0x1c4, 0x6a0, 0xc0000081}
	require.Equal(t, []uint32{0x174, 0xc0000081}, MSRs(nil, listed),
		"of features that the guest does not have")
	for _, g := range msrGroups {
		for _, b := range g.needs {
			name := fmt.Sprintf("%#x by bit %d of %#x", g.msrs[0][0], b.bit, b.function)
			t.Run(name, func(t *testing.T) {
				leaf := Leaf{Function: b.function, Index: b.index}
				*leaf.Reg(b.register) = 1 << b.bit
				got := MSRs(Table{leaf}, listed)
				for _, r := range g.msrs {
					require.Contains(t, got, r[0])
					require.Contains(t, got, r[1])
				}
				require.NotContains(t, got, uint32(MSRTSC))
				require.IsIncreasing(t, got)
			})
		}
	}
}

func TestMSRsThatDoNotMove(t *testing.T) {
	require.True(t, MSRMoves(0x174))
	require.False(t, MSRMoves(MSRTSC))
	require.False(t, MSRMoves(0x10a), "IA32_ARCH_CAPABILITIES are the host's")
}
