package dirtylog

import (
	"errors"
	"fmt"

	"taskguide/memory"
	"taskguide/vmm/kvm"
)

// ManualProtect tracks with KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: KVM_GET_DIRTY_LOG
// only copies the bitmap, and KVM_CLEAR_DIRTY_LOG protects what it is told to.
//
// It begins with every page reported as dirty and none protected (KVM_DIRTY_LOG_INITIALLY_SET). So
// Start costs nothing, and the first copy of all RAM protects pages as it reaches them.
type ManualProtect struct {
	GetDirtyLog
	vm    kvm.FD
	clear []uint64 // the words that a Protect is about
}

// NewManualProtect returns a tracker for the slots of a VM. It panics if a slot is not made of
// whole words of a bitmap.
func NewManualProtect(vm kvm.FD, slots []Slot) *ManualProtect {
	return &ManualProtect{GetDirtyLog: *NewGetDirtyLog(vm, slots), vm: vm}
}

// manualProtect are the flags with which CapManualProtect2 is enabled.
const manualProtect = kvm.ManualProtectEnable | kvm.ManualProtectInitiallySet

// Start turns logging on.
func (m *ManualProtect) Start() error {
	// The mode can be changed at any time, but applies to a slot only from when its logging is
	// turned on.
	err := m.vm.Enable(kvm.CapManualProtect2, manualProtect)
	if err != nil {
		return fmt.Errorf("enable manual dirty log protection: %w", err)
	}
	return m.GetDirtyLog.Start()
}

// OnDemand implements [Tracker].
func (m *ManualProtect) OnDemand() bool { return true }

// Protect implements [Tracker].
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

// protect handles the pages from (inclusive) to to (exclusive), all of one slot. KVM takes whole
// words, and only the bits that are set in them count.
func (m *ManualProtect) protect(s Slot, pages *memory.Bitmap, from, to int) error {
	base := from &^ 63
	words := (to - base + 63) / 64
	if cap(m.clear) < words {
		m.clear = make([]uint64, words)
	}
	bitmap := m.clear[:words]
	for i := range bitmap {
		bitmap[i] = pages.Word(base/64+i) & wordMask(from-base-64*i, to-base-64*i)
	}
	return m.log.clear(s, base-s.First, bitmap)
}

// wordMask returns a word with the bits from (inclusive) to to (exclusive), as far as they are in
// that word.
func wordMask(from, to int) uint64 {
	from, to = max(from, 0), min(to, 64)
	if from >= to {
		return 0
	}
	return ^uint64(0) >> (64 - (to - from)) << from
}

// Stop turns logging and the mode off.
func (m *ManualProtect) Stop() error {
	err := m.GetDirtyLog.Stop()
	if e := m.vm.Enable(kvm.CapManualProtect2, 0); e != nil {
		err = errors.Join(err, fmt.Errorf("disable manual dirty log protection: %w", e))
	}
	return err
}

var (
	_ Tracker = (*GetDirtyLog)(nil)
	_ Tracker = (*ManualProtect)(nil)
	_ Tracker = (*Ring)(nil)
)
