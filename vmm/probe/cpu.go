package probe

import (
	"fmt"

	"taskguide/vmm/cpu"
	"taskguide/vmm/kvm"
)

// CPU describes this host's processor as its KVM offers it, for a CPU file.
func CPU() (*cpu.Processor, error) {
	system, err := kvm.Open()
	if err != nil {
		return nil, err
	}
	defer system.Close()
	return CPUOf(system)
}

// CPUOf is CPU for a KVM that is open already.
func CPUOf(system kvm.FD) (*cpu.Processor, error) {
	table, err := Offer(system)
	if err != nil {
		return nil, err
	}
	h := readHost()
	return &cpu.Processor{
		Name: "this host", CPU: h.cpu, Kernel: h.kernel, Leaves: table,
		Source: fmt.Sprintf("recorded by vmm doctor --cpu from KVM (%s)", h.kind),
	}, nil
}

// Offer returns the table of all that this host can offer to a guest.
func Offer(system kvm.FD) (cpu.Table, error) {
	t := &kvm.CPUID{N: kvm.MaxCPUID}
	if err := kvm.GetSupportedCPUID.Do(system, t); err != nil {
		return nil, err
	}
	supported := make(cpu.Table, 0, t.N)
	for _, e := range t.Entries[:min(t.N, kvm.MaxCPUID)] {
		supported = append(supported, cpu.Leaf{
			Function: e.Function, Index: e.Index, Flags: e.Flags,
			EAX: e.Eax, EBX: e.Ebx, ECX: e.Ecx, EDX: e.Edx,
		})
	}
	// The in-kernel APIC has the deadline mode, but older KVMs leave it to the VMM to say so.
	return cpu.Offer(supported, system.Check(kvm.CapTSCDeadlineTimer) > 0), nil
}

// Entries returns a table of at most kvm.MaxCPUID leaves in the form that KVM takes for a vCPU.
func Entries(table cpu.Table) *kvm.CPUID {
	t := &kvm.CPUID{N: uint32(len(table))}
	for i, l := range table {
		t.Entries[i] = kvm.CPUIDEntry{
			Function: l.Function, Index: l.Index, Flags: l.Flags,
			Eax: l.EAX, Ebx: l.EBX, Ecx: l.ECX, Edx: l.EDX,
		}
	}
	return t
}
