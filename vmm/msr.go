package vmm

import (
	"fmt"

	"github.com/bobuhiro11/gokvm/kvm"
)

const (
	msrTSC         = 0x10
	msrTSCDeadline = 0x6e0

	eferLME = 1 << 8
	eferLMA = 1 << 10
)

// msrBatch is how many MSRs go into one call; KVM takes fewer than 256.
const msrBatch = 255

// unsavedMSRs are ranges of MSRs, first and last, that are not part of a machine's
// state although KVM lists them.
var unsavedMSRs = [][2]uint32{
	{msrTSC, msrTSC}, // goes with the time that passes, see tsc.go
	// Wall clock of kvmclock: writing it makes KVM write to guest RAM, which it did
	// when the guest wrote it, and all that counts is that.
	{0x11, 0x11}, {0x4b564d00, 0x4b564d00},
	// Hyper-V's interface, which guests are not told of; some of these are clocks.
	{0x40000000, 0x400001ff},
	// What the hidden parts of CPUID would need: capabilities of one host, performance
	// counters, processor trace, nested virtualization, enclaves.
	{0x10a, 0x10a}, {0x345, 0x345},
	{0xc1, 0xc8}, {0x186, 0x18d}, {0x309, 0x30c}, {0x329, 0x329}, {0x38d, 0x390}, {0x3f1, 0x3f1}, {0x4c1, 0x4c8},
	{0x600, 0x600}, {0xc0010000, 0xc0010007}, {0xc0010200, 0xc001020b}, {0xc0000300, 0xc0000302},
	{0x560, 0x58f}, {0x480, 0x493}, {0x3a, 0x3a}, {0x8c, 0x8f}, {0xc0010117, 0xc0010117},
}

func isSaved(index uint32) bool {
	for _, r := range unsavedMSRs {
		if index >= r[0] && index <= r[1] {
			return false
		}
	}
	return true
}

// savedMSRs asks KVM for its MSRs and returns those that a fresh vCPU can both read
// and write back: KVM lists some that the guest's CPUID does not have.
func savedMSRs(kvmFD, vcpuFD int) ([]uint32, error) {
	list := &msrList{nmsrs: maxMSRs}
	if err := get(kvmFD, kvmGetMSRIndexList, "KVM_GET_MSR_INDEX_LIST", list); err != nil {
		return nil, err
	}
	saved := []uint32{}
	t := new(msrTable)
	for _, index := range list.indices[:min(list.nmsrs, maxMSRs)] {
		if !isSaved(index) {
			continue
		}
		t.nmsrs, t.entries[0] = 1, kvm.MSREntry{Index: index}
		if n, err := ioctlPtr(vcpuFD, kvmGetMSRs, t); err != nil || n != 1 {
			continue
		}
		if n, err := ioctlPtr(vcpuFD, kvmSetMSRs, t); err != nil || n != 1 {
			continue
		}
		saved = append(saved, index)
	}
	return saved, nil
}

// readMSRs reads MSRs. One that does not read any more is left out.
func (c *vcpu) readMSRs(indices []uint32) ([]kvm.MSREntry, error) {
	values := make([]kvm.MSREntry, 0, len(indices))
	for len(indices) > 0 {
		batch := indices[:min(len(indices), msrBatch)]
		c.msrs.nmsrs = uint32(len(batch))
		for i, index := range batch {
			c.msrs.entries[i] = kvm.MSREntry{Index: index}
		}
		// KVM stops at the first that it cannot read and returns how many came before.
		n, err := ioctlPtr(c.fd, kvmGetMSRs, c.msrs)
		if err != nil {
			return nil, fmt.Errorf("KVM_GET_MSRS: %w", err)
		}
		values = append(values, c.msrs.entries[:n]...)
		if n < len(batch) {
			n++
		}
		indices = indices[n:]
	}
	return values, nil
}

// writeMSRs loads MSRs, all but the TSC deadline, which has its own time.
func (c *vcpu) writeMSRs(values []kvm.MSREntry) error {
	todo := make([]kvm.MSREntry, 0, len(values))
	for _, v := range values {
		if !isSaved(v.Index) {
			return fmt.Errorf("%w: MSR %#x does not belong to it", ErrState, v.Index)
		}
		if v.Index != msrTSCDeadline {
			todo = append(todo, kvm.MSREntry{Index: v.Index, Data: v.Data})
		}
	}
	for len(todo) > 0 {
		batch := todo[:min(len(todo), msrBatch)]
		c.msrs.nmsrs = uint32(len(batch))
		copy(c.msrs.entries[:], batch)
		n, err := ioctlPtr(c.fd, kvmSetMSRs, c.msrs)
		if err != nil {
			return fmt.Errorf("KVM_SET_MSRS: %w", err)
		}
		if n < len(batch) {
			if err := c.checkMSR(batch[n]); err != nil {
				return err
			}
			n++
		}
		todo = todo[n:]
	}
	return nil
}

// checkMSR decides about an MSR that KVM refused to load: no harm is done if it has
// that value anyway, or if it is unknown here and had its initial value.
func (c *vcpu) checkMSR(want kvm.MSREntry) error {
	got, err := c.readMSRs([]uint32{want.Index})
	if err != nil {
		return err
	}
	switch {
	case len(got) == 1 && got[0].Data == want.Data:
		return nil
	case len(got) == 0 && want.Data == 0:
		return nil
	}
	return fmt.Errorf("%w: KVM here refuses to set MSR %#x to %#x", ErrState, want.Index, want.Data)
}

// writeDeadline loads the TSC deadline of the APIC timer. It comes after the LAPIC,
// whose timer must be in that mode for the write to count, and after the TSC, which
// it is compared with.
func (c *vcpu) writeDeadline(s *vcpuState) error {
	for _, v := range s.msrs {
		if v.Index == msrTSCDeadline && v.Data != 0 {
			return c.setMSR(v.Index, v.Data)
		}
	}
	return nil
}

func (c *vcpu) setMSR(index uint32, value uint64) error {
	c.msrs.nmsrs, c.msrs.entries[0] = 1, kvm.MSREntry{Index: index, Data: value}
	n, err := ioctlPtr(c.fd, kvmSetMSRs, c.msrs)
	if err == nil && n != 1 {
		err = fmt.Errorf("refused")
	}
	if err != nil {
		return fmt.Errorf("KVM_SET_MSRS of %#x to %#x: %w", index, value, err)
	}
	return nil
}
