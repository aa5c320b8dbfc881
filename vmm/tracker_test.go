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

// Start implements [dirtylog.Tracker].
func (l *guestLog) Start() error { return nil }

// TestStartDropsOlderMarks: what was written before a migration is sent with all of RAM, and not
// once more because of its mark.
func TestStartDropsOlderMarks(t *testing.T) {
	ram, err := memory.New(memory.MinSize)
	require.NoError(t, err)
	defer ram.Close()
	guest := memory.NewGuest(ram)
	tr := &tracker{&guestLog{}, guest}
	guest.Write(5*memory.PageSize, []byte{1})
	require.NoError(t, guest.Release(64*memory.PageSize, memory.PageSize))
	require.NoError(t, tr.Start())
	guest.Write(6*memory.PageSize, []byte{1})
	require.NoError(t, guest.Release(65*memory.PageSize, memory.PageSize))
	dirty := memory.NewBitmap(ram.Pages())
	_, err = tr.Harvest(dirty)
	require.NoError(t, err)
	require.Equal(t, 2, dirty.Count())
	require.True(t, dirty.Test(6))
	require.True(t, dirty.Test(65))
}
