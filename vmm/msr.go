package vmm

import (
	"fmt"
	"slices"

	"taskguide/vmm/cpu"
	"taskguide/vmm/kvm"
)

// maxMSRs bounds the MSRs of a machine and of a saved state.
const maxMSRs = kvm.MaxMSRs

const (
	msrTSC         = cpu.MSRTSC
	msrTSCDeadline = cpu.MSRTSCDeadline

	msrMiscEnable = 0x1a0 // IA32_MISC_ENABLE
	fastStrings   = 1 << 0
	msrMTRRDefine = 0x2ff       // IA32_MTRR_DEF_TYPE
	mtrrWriteBack = 1<<11 | 0x6 // enabled; memory without a range of its own is write-back
)

// settleMSRs finds out which MSRs a new machine has: the candidates that KVM reads and takes back.
// A machine from elsewhere comes with its list. It is refused here if any of them cannot be loaded,
// and not later, when its guest already stands still.
func (vm *VM) settleMSRs() error {
	c := vm.vcpus[0]
	if vm.config.MSRs != nil {
		for _, index := range vm.config.MSRs {
			if !c.msrs.CanLoad(c.fd, index) {
				return fmt.Errorf("%w: the guest has MSR %#x, which KVM here does not load: "+
					"choose a host with a kernel as new as the source's", ErrCPUFeatures, index)
			}
		}
		return nil
	}
	list := &kvm.MSRList{N: maxMSRs}
	if err := kvm.GetMSRIndexList.Do(vm.kvmFD, list); err != nil {
		return err
	}
	candidates := cpu.MSRs(vm.config.CPUID, list.Indices[:min(list.N, maxMSRs)])
	vm.config.MSRs = slices.DeleteFunc(candidates, func(i uint32) bool {
		return !c.msrs.CanLoad(c.fd, i)
	})
	for _, c := range vm.vcpus {
		if err := c.setUpMSRs(); err != nil {
			return fmt.Errorf("vCPU %d: %w", c.id, err)
		}
	}
	return nil
}

// setUpMSRs gives a new machine's MSRs the values that firmware leaves in them. With the values of
// a reset a Linux kernel would treat all memory as uncached, and use neither the PAT nor, on Intel,
// fast string instructions.
func (c *vcpu) setUpMSRs() error {
	for _, m := range []kvm.MSREntry{
		{Index: msrMTRRDefine, Data: mtrrWriteBack}, {Index: msrMiscEnable, Data: fastStrings},
	} {
		if !slices.Contains(c.vm.config.MSRs, m.Index) {
			continue
		}
		reset, err := c.readMSRs([]uint32{m.Index})
		if err != nil {
			return err
		}
		for _, r := range reset {
			m.Data |= r.Data
		}
		if err := c.setMSR(m.Index, m.Data); err != nil {
			return err
		}
	}
	return nil
}

// readMSRs reads MSRs. It leaves out those that KVM can no longer read.
func (c *vcpu) readMSRs(indices []uint32) ([]kvm.MSREntry, error) {
	return c.msrs.Read(c.fd, indices)
}

// writeMSRs loads all MSRs except the TSC deadline, which writeDeadline loads later.
func (c *vcpu) writeMSRs(values []kvm.MSREntry) error {
	todo := make([]kvm.MSREntry, 0, len(values))
	announced := c.vm.config.MSRs
	for _, v := range values {
		// The values come in the configuration's order, and each MSR was tried at setup.
		i := slices.Index(announced, v.Index)
		if i < 0 {
			return fmt.Errorf("%w: MSR %#x does not belong to it", ErrState, v.Index)
		}
		announced = announced[i+1:]
		if v.Index != msrTSCDeadline {
			todo = append(todo, kvm.MSREntry{Index: v.Index, Data: v.Data})
		}
	}
	return c.msrs.Write(c.fd, todo, c.checkMSR)
}

// checkMSR decides about an MSR that KVM refused to load. It returns nil if the MSR has that value
// anyway, or if this KVM does not know it and it had its initial value 0.
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

// writeDeadline loads the TSC deadline of the APIC timer. It comes after the LAPIC, whose timer
// must be in that mode for the write to take effect, and after the TSC, with which it is compared.
func (c *vcpu) writeDeadline(s *vcpuState) error {
	for _, v := range s.msrs {
		if v.Index == msrTSCDeadline && v.Data != 0 {
			return c.setMSR(v.Index, v.Data)
		}
	}
	return nil
}

func (c *vcpu) setMSR(index uint32, value uint64) error {
	return c.msrs.Set(c.fd, index, value)
}
