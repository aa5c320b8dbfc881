package vmm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/memory"
)

// guestLog is a dirty log with a few pages in it.
type guestLog struct {
	dirtylog.Tracker
	pages []int
}

func (l *guestLog) Harvest(dirty *memory.Bitmap) (int, error) {
	for _, p := range l.pages {
		dirty.Set(p)
	}
	n := len(l.pages)
	l.pages = nil
	return n, nil
}

// TestHarvestAddsHostMarks: a harvest reports what this process wrote together with what the guest
// wrote, in low and high RAM, and counts each page once.
func TestHarvestAddsHostMarks(t *testing.T) {
	ram, err := memory.New(4 << 30)
	require.NoError(t, err)
	defer ram.Close()
	log := &guestLog{pages: []int{5, 300}}
	guest := memory.NewGuest(ram)
	tr := &tracker{log, guest}
	for _, w := range []struct {
		gpa  uint64
		n    int
		done bool
	}{
		{5*memory.PageSize + 100, 8, true},              // the guest's, too
		{7*memory.PageSize - 1, 2, true},                // two pages
		{memory.HighStart + 9*memory.PageSize, 1, true}, // behind the hole
		{memory.LowEnd, 4, false},                       // no RAM
		{3 * memory.PageSize, 0, true},                  // nothing
		{memory.HighStart + (1 << 30) - 1, 2, false},    // beyond the end
	} {
		require.Equal(t, w.done, guest.Write(w.gpa, make([]byte, w.n)))
	}
	high := memory.LowEnd/memory.PageSize + 9 // the page behind the hole
	want := memory.NewBitmap(ram.Pages())
	for _, p := range []int{5, 6, 7, 300, high} {
		want.Set(p)
	}
	dirty := memory.NewBitmap(ram.Pages())
	n, err := tr.Harvest(dirty)
	require.NoError(t, err)
	require.Equal(t, 5, n)
	require.True(t, want.Equal(dirty))
	n, err = tr.Harvest(dirty)
	require.NoError(t, err)
	require.Zero(t, n, "reported once")
}
