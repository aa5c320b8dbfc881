package vmm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/kvm"
)

// TestMemorySlots: for a machine of any size the slots cover its RAM in order, each page once, at
// the guest's address, and in pieces that can be harvested quickly.
func TestMemorySlots(t *testing.T) {
	for _, size := range []int64{16 << 20, 3 << 30, 3<<30 + 1<<20, 67 << 30, 1 << 40} {
		ram, err := memory.New(size)
		require.NoError(t, err)
		next := 0
		for i, s := range memorySlots(ram) {
			require.EqualValues(t, i, s.ID)
			require.Equal(t, next, s.First)
			require.Positive(t, s.Pages)
			require.LessOrEqual(t, s.Pages, maxSlotPages)
			for _, p := range []int{0, s.Pages - 1} {
				page, ok := ram.PageOf(s.GPA + uint64(p)*memory.PageSize)
				require.True(t, ok)
				require.Equal(t, s.First+p, page)
			}
			require.Equal(t, kvm.Address(ram.Page(s.First)), s.Host)
			next += s.Pages
		}
		require.Equal(t, ram.Pages(), next)
		require.NoError(t, ram.Close())
	}
}
