package dirtylog

import (
	"fmt"

	"taskguide/memory"
)

// Tracker reports the pages that a guest writes. It may be started again after it was stopped. One
// goroutine at a time calls Start, Harvest and Stop, while vCPUs run or stand still. One goroutine
// at a time calls Protect, which may run during a Harvest.
type Tracker interface {
	// Start turns logging on. A later Harvest reports every write that begins after Start has
	// returned, and perhaps some from before.
	Start() error
	// Harvest adds the pages written since the last harvest to dirty, which ranges
	// over all pages of the guest. It returns how many pages it reports, whether or not
	// dirty had them already. Read a page only after the harvest that reported it and,
	// on demand, after its Protect.
	Harvest(dirty *memory.Bitmap) (int, error)
	// OnDemand tells who protects pages again. If it is false, Harvest does, and Protect does
	// nothing. If it is true, Harvest leaves pages writable and reports them again until
	// Protect takes them off the list, and Start begins with all of them reported.
	//
	// So the protection can wait until a page is about to be read. A page that is written between
	// harvest and protection, while others are being sent, is then sent once, with its latest
	// content. A tracker that protects at the harvest would report it again for the next round.
	OnDemand() bool
	// Protect takes pages off the list and protects them: those of the count pages from first on
	// that are in the bitmap pages. Call it before reading them; later writes are reported again. A
	// page that was never harvested must be read after its protection, because its mark is lost.
	Protect(pages *memory.Bitmap, first, count int) error
	// Stop turns logging off. Stopping a tracker that is not started is no error.
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
			return fmt.Errorf("dirtylog: slot %d has pages %d+%d, not whole words of a bitmap",
				s.ID, s.First, s.Pages)
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
