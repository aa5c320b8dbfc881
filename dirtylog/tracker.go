package dirtylog

import (
	"fmt"

	"taskguide/memory"
)

// Tracker reports the pages that a guest writes. It may be started again after it
// was stopped. Its methods are called by one goroutine at a time, while vCPUs run or
// while they stand still.
type Tracker interface {
	// Start turns logging on. Every write that begins after Start was called is
	// reported by a later Harvest; some from before may be too.
	Start() error
	// Harvest adds the pages written since the last harvest to dirty, which ranges
	// over all pages of the guest, and protects them again. It returns how many pages
	// it reports, whether or not dirty had them already. Read a page only after the
	// harvest that reported it.
	Harvest(dirty *memory.Bitmap) (int, error)
	// Stop turns logging off. To stop a tracker that is not started is no error.
	Stop() error
}

// Slot is one KVM memory slot, as the machine registered it.
type Slot struct {
	ID    uint32  // KVM's number of it
	GPA   uint64  // guest-physical address of the first byte
	First int     // number of its first page, a multiple of 64
	Pages int     // a multiple of 64
	Host  uintptr // where the first byte is mapped in this process
}

// checkSlots tells whether slots can be harvested word by word into one bitmap.
func checkSlots(slots []Slot) error {
	for _, s := range slots {
		if s.First < 0 || s.Pages <= 0 || s.First%64 != 0 || s.Pages%64 != 0 {
			return fmt.Errorf("dirtylog: slot %d has pages %d+%d, not whole words of a bitmap", s.ID, s.First, s.Pages)
		}
	}
	return nil
}

// pagesOf is how many pages a bitmap needs to hold all slots.
func pagesOf(slots []Slot) int {
	n := 0
	for _, s := range slots {
		n = max(n, s.First+s.Pages)
	}
	return n
}
