package dirtylog

import (
	"errors"
	"fmt"
	"math/bits"

	"taskguide/memory"
)

// GetDirtyLog tracks with KVM_GET_DIRTY_LOG, which every KVM has: one call a slot
// returns its bitmap and write-protects the pages in it. Its cost grows with the
// size of RAM, one bit a page, and with the pages that it protects again.
type GetDirtyLog struct {
	vmFD    int
	slots   []Slot
	scratch *memory.Bitmap
}

// NewGetDirtyLog returns a tracker for the slots of the VM behind a KVM VM file
// descriptor. It panics if a slot is not made of whole words of a bitmap.
func NewGetDirtyLog(vmFD int, slots []Slot) *GetDirtyLog {
	if err := checkSlots(slots); err != nil {
		panic(err)
	}
	return &GetDirtyLog{vmFD: vmFD, slots: slots, scratch: memory.NewBitmap(pagesOf(slots))}
}

// Start turns logging on for all slots. Until then KVM may map them writable; the
// same call protects every page.
func (g *GetDirtyLog) Start() error {
	for _, s := range g.slots {
		if err := setLogging(g.vmFD, s, memLogDirtyPages); err != nil {
			return errors.Join(fmt.Errorf("start dirty logging of memory slot %d: %w", s.ID, err), g.Stop())
		}
	}
	return nil
}

// Harvest implements [Tracker].
func (g *GetDirtyLog) Harvest(dirty *memory.Bitmap) (int, error) {
	// On an error, slots that were already read keep their bits in scratch; they are
	// merged all the same, for KVM has forgotten them.
	var failed error
	for _, s := range g.slots {
		words := g.scratch.Words()[s.First/64 : (s.First+s.Pages)/64]
		if err := ioctl(g.vmFD, kvmGetDirtyLog, &dirtyLog{slot: s.ID, bitmap: &words[0]}); err != nil {
			failed = errors.Join(failed, fmt.Errorf("get dirty log of memory slot %d: %w", s.ID, err))
		}
	}
	n := take(dirty, g.scratch)
	return n, failed
}

// Stop turns logging off for all slots.
func (g *GetDirtyLog) Stop() error {
	var failed error
	for _, s := range g.slots {
		if err := setLogging(g.vmFD, s, 0); err != nil {
			failed = errors.Join(failed, fmt.Errorf("stop dirty logging of memory slot %d: %w", s.ID, err))
		}
	}
	return failed
}

// take moves the pages of from into to and returns how many there were.
func take(to, from *memory.Bitmap) int {
	n := 0
	dst := to.Words()[:len(from.Words())]
	for i, w := range from.Words() {
		if w == 0 {
			continue
		}
		n += bits.OnesCount64(w)
		dst[i] |= w
		from.Words()[i] = 0
	}
	return n
}
