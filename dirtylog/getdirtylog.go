package dirtylog

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"taskguide/memory"
	"taskguide/vmm/kvm"
)

// GetDirtyLog tracks with KVM_GET_DIRTY_LOG, which every KVM has: one call per slot returns its
// bitmap and write-protects the pages in it. Its cost grows with the size of RAM, at one bit per
// page, and with the pages that it protects again.
type GetDirtyLog struct {
	slots []Slot
	log   kvmLog
	flat  [][]uint64 // a bitmap as long as the longest slot's, for each harvester
}

// kvmLog is what KVM does for a tracker; tests replace it.
type kvmLog interface {
	// setLogging turns dirty logging of a slot on or off.
	setLogging(s Slot, on bool) error
	// get fills flat with the whole bitmap of a slot.
	get(s Slot, flat []uint64) error
	// clear protects the pages of bitmap, which begins with page first of the slot.
	clear(s Slot, first int, bitmap []uint64) error
}

// NewGetDirtyLog returns a tracker for the slots of a VM. It panics if a slot is not made of whole
// words of a bitmap.
func NewGetDirtyLog(vm kvm.FD, slots []Slot) *GetDirtyLog {
	return newGetDirtyLog(vmLog{vm}, slots)
}

func newGetDirtyLog(log kvmLog, slots []Slot) *GetDirtyLog {
	if err := checkSlots(slots); err != nil {
		panic(err)
	}
	longest := 0
	for _, s := range slots {
		longest = max(longest, s.Pages)
	}
	g := &GetDirtyLog{slots: slots, log: log}
	for range harvesters(pagesOf(slots)) {
		g.flat = append(g.flat, make([]uint64, longest/64))
	}
	return g
}

// Start turns logging on for all slots. Before it KVM may map them writable; the call that turns
// logging on also protects every page.
func (g *GetDirtyLog) Start() error {
	for _, s := range g.slots {
		if err := g.log.setLogging(s, true); err != nil {
			return errors.Join(fmt.Errorf("start dirty logging of memory slot %d: %w", s.ID, err),
				g.Stop())
		}
	}
	return nil
}

// OnDemand implements [Tracker].
func (g *GetDirtyLog) OnDemand() bool { return false }

// Protect implements [Tracker]. It does nothing, because Harvest protects.
func (g *GetDirtyLog) Protect(*memory.Bitmap, int, int) error { return nil }

// pagesPerHarvester is how much RAM makes another goroutine worth its start: 64 GiB, with a bitmap
// of 2 MiB.
const pagesPerHarvester = 64 << 30 / memory.PageSize

// harvesters returns how many goroutines harvest a RAM of the given number of pages.
func harvesters(pages int) int {
	return max(1, min(pages/pagesPerHarvester, runtime.GOMAXPROCS(0)))
}

// Harvest implements [Tracker]. KVM lets one thread at a time look at a VM's slots. So with several
// harvesters one reads a slot's bitmap, while each of the others looks through the bitmap that it
// read, which is still in its processor's cache.
func (g *GetDirtyLog) Harvest(dirty *memory.Bitmap) (int, error) {
	if len(g.flat) == 1 {
		return g.harvestSlots(dirty, g.flat[0], new(atomic.Int64))
	}
	var next, pages atomic.Int64
	var harvesting errgroup.Group
	for _, flat := range g.flat {
		harvesting.Go(func() error {
			n, err := g.harvestSlots(dirty, flat, &next)
			pages.Add(int64(n))
			return err
		})
	}
	err := harvesting.Wait()
	return int(pages.Load()), err
}

// harvestSlots harvests the slots that no harvester has taken yet; next numbers the first. After an
// error it goes on with the others, because KVM forgets what it has handed out.
func (g *GetDirtyLog) harvestSlots(
	dirty *memory.Bitmap, flat []uint64, next *atomic.Int64,
) (n int, failed error) {
	for {
		i := int(next.Add(1)) - 1
		if i >= len(g.slots) {
			return n, failed
		}
		s := g.slots[i]
		if err := g.log.get(s, flat[:s.Pages/64]); err != nil {
			failed = errors.Join(failed,
				fmt.Errorf("get dirty log of memory slot %d: %w", s.ID, err))
			continue
		}
		n += dirty.AddFlat(s.First, flat[:s.Pages/64])
	}
}

// Stop turns logging off for all slots.
func (g *GetDirtyLog) Stop() error {
	var failed error
	for _, s := range g.slots {
		if err := g.log.setLogging(s, false); err != nil {
			failed = errors.Join(failed,
				fmt.Errorf("stop dirty logging of memory slot %d: %w", s.ID, err))
		}
	}
	return failed
}
