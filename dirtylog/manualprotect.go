package dirtylog

import (
	"errors"
	"fmt"

	"taskguide/memory"
)

// Protector is a [Tracker] whose Harvest leaves pages as they are: they stay
// writable, and keep being reported, until Protect takes them off the list.
//
// That lets the protection wait until a page is about to be read. A page that is
// written between harvest and protection, while others are being sent, is then sent
// once, with its latest content, where a tracker that protects at the harvest reports
// it again for the next round.
type Protector interface {
	Tracker
	// Protect takes those of count pages from first on that are in pages off the list
	// and protects them. Call it before reading them: what is written afterwards is
	// reported anew. A page that was never harvested must not be protected unless it is
	// read afterwards, for its mark is lost.
	Protect(pages *memory.Bitmap, first, count int) error
}

// ManualProtect tracks with KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: KVM_GET_DIRTY_LOG
// only copies the bitmap, and KVM_CLEAR_DIRTY_LOG protects what it is told to.
//
// It begins with every page reported as dirty and none protected
// (KVM_DIRTY_LOG_INITIALLY_SET), so that Start costs nothing and the first copy of
// all RAM protects pages as it gets to them.
type ManualProtect struct {
	GetDirtyLog
	clear []uint64 // the words that a Protect is about
}

// NewManualProtect returns a tracker for the slots of the VM behind a KVM VM file
// descriptor. It panics if a slot is not made of whole words of a bitmap.
func NewManualProtect(vmFD int, slots []Slot) *ManualProtect {
	return &ManualProtect{GetDirtyLog: *NewGetDirtyLog(vmFD, slots)}
}

// Start turns logging on.
func (m *ManualProtect) Start() error {
	// The mode can be changed at any time, but counts for a slot from when its logging is
	// turned on.
	err := enableCap(m.vmFD, capManualProtect2, manualProtectEnable|manualProtectInitiallySet)
	if err != nil {
		return fmt.Errorf("enable manual dirty log protection: %w", err)
	}
	return m.GetDirtyLog.Start()
}

// Protect implements [Protector].
func (m *ManualProtect) Protect(pages *memory.Bitmap, first, count int) error {
	for _, s := range m.slots {
		from, to := max(first, s.First), min(first+count, s.First+s.Pages)
		if from < to {
			if err := m.protect(s, pages, from, to); err != nil {
				return fmt.Errorf("protect %d pages at %d: %w", to-from, from, err)
			}
		}
	}
	return nil
}

// protect handles pages from, inclusive, to to, exclusive, all of one slot. KVM wants
// whole words, of whose bits only those that are set count.
func (m *ManualProtect) protect(s Slot, pages *memory.Bitmap, from, to int) error {
	base := from &^ 63
	words := (to - base + 63) / 64
	if cap(m.clear) < words {
		m.clear = make([]uint64, words)
	}
	bitmap := m.clear[:words]
	for i := range bitmap {
		bitmap[i] = pages.Words()[base/64+i] & wordMask(from-base-64*i, to-base-64*i)
	}
	return ioctl(m.vmFD, kvmClearDirtyLog, &clearDirtyLog{
		slot:      s.ID,
		firstPage: uint64(base - s.First),
		numPages:  uint32(words * 64),
		bitmap:    &bitmap[0],
	})
}

// wordMask has the bits from, inclusive, to to, exclusive, as far as they are in one
// word.
func wordMask(from, to int) uint64 {
	from, to = max(from, 0), min(to, 64)
	if from >= to {
		return 0
	}
	return ^uint64(0) >> (64 - (to - from)) << from
}

// Stop turns logging off and the mode with it.
func (m *ManualProtect) Stop() error {
	err := m.GetDirtyLog.Stop()
	if e := enableCap(m.vmFD, capManualProtect2, 0); e != nil {
		err = errors.Join(err, fmt.Errorf("disable manual dirty log protection: %w", e))
	}
	return err
}

var (
	_ Tracker   = (*GetDirtyLog)(nil)
	_ Protector = (*ManualProtect)(nil)
	_ Tracker   = (*Ring)(nil)
)
