package dirtylog

import (
	"taskguide/memory"
	"taskguide/vmm/kvm"
)

// vmLog is the dirty log of a VM.
type vmLog struct{ vm kvm.FD }

// setLogging turns dirty logging of a live slot on or off. Only the flags differ
// from what is registered, which KVM applies without unmapping the slot.
func (v vmLog) setLogging(s Slot, on bool) error {
	flags := uint32(0)
	if on {
		flags = kvm.MemLogDirtyPages
	}
	return kvm.SetMemoryRegion.Do(v.vm, &kvm.MemoryRegion{
		Slot:          s.ID,
		Flags:         flags,
		GuestPhysAddr: s.GPA,
		MemorySize:    uint64(s.Pages) * memory.PageSize,
		UserspaceAddr: uint64(s.Host),
	})
}

func (v vmLog) get(s Slot, flat []uint64) error {
	return kvm.GetDirtyLog.Do(v.vm, &kvm.DirtyLog{Slot: s.ID, Bitmap: &flat[0]})
}

func (v vmLog) clear(s Slot, first int, bitmap []uint64) error {
	return kvm.ClearDirtyLog.Do(v.vm, &kvm.DirtyLogPart{
		Slot:      s.ID,
		FirstPage: uint64(first),
		NumPages:  uint32(len(bitmap) * 64),
		Bitmap:    &bitmap[0],
	})
}
