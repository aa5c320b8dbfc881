package vmm

import (
	"math/bits"
	"slices"

	"github.com/bobuhiro11/gokvm/kvm"
)

// CPUID is how a guest learns what its processor can do. KVM lists what it can
// offer on this host (KVM_GET_SUPPORTED_CPUID); a machine's table is that list less
// what could not move to another host, with the topology of its own vCPUs. The table
// belongs to the machine for its whole life: a guest asks once, at boot, and relies
// on the answer ever after, so a destination gives it exactly the same table or
// refuses.

// Leaves and bits that the table touches.
const (
	leafBasic      = 0x1
	leafCache      = 0x4
	leafFeatures   = 0x7
	leafPMU        = 0xa
	leafTopology   = 0xb
	leafXSave      = 0xd
	leafSGX        = 0x12
	leafPT         = 0x14
	leafAMX        = 0x1d
	leafAMXTMUL    = 0x1e
	leafTopology2  = 0x1f
	leafHypervisor = 0x40000000
	leafKVM        = 0x40000001
	leafTiming     = 0x40000010
	leafExtended   = 0x80000001
	leafPower      = 0x80000007
	leafSizes      = 0x80000008
	leafSVM        = 0x8000000a
	leafAMDCache   = 0x8000001d
	leafAMDNode    = 0x8000001e
	leafAMD21      = 0x80000021
	leafAMDPMU     = 0x80000022

	ecx1VMX         = 1 << 5
	ecx1PDCM        = 1 << 15
	ecx1X2APIC      = 1 << 21
	ecx1TSCDeadline = 1 << 24
	ecx1OSXSAVE     = 1 << 27
	ecx1Hypervisor  = 1 << 31
	edx1HTT         = 1 << 28
	ebx7SGX         = 1 << 2
	ebx7PT          = 1 << 25
	ecx7SGXLC       = 1 << 30
	ecx7OSPKE       = 1 << 4
	edx7ArchCaps    = 1 << 29
	edx7AMX         = 1<<22 | 1<<24 | 1<<25
	ecxExtSVM       = 1 << 2
	ecxExtPerfCore  = 1 << 23
	ecxExtCmpLegacy = 1 << 1
	ecxExtTopology  = 1 << 22
	flagIndex       = 1 << 0 // KVM_CPUID_FLAG_SIGNIFCANT_INDEX
	apicBusKHz      = 1000000
)

// supportedCPUID asks KVM for its table.
func supportedCPUID(kvmFD int) ([]kvm.CPUIDEntry2, error) {
	t := &cpuidTable{nent: maxCPUID}
	if err := get(kvmFD, kvmGetSupportedCPUID, "KVM_GET_SUPPORTED_CPUID", t); err != nil {
		return nil, err
	}
	return slices.Clone(t.entries[:t.nent]), nil
}

// setCPUID gives a vCPU its table.
func setCPUID(vcpuFD int, entries []kvm.CPUIDEntry2) error {
	t := &cpuidTable{nent: uint32(len(entries))}
	copy(t.entries[:], entries)
	return set(vcpuFD, kvmSetCPUID2, "KVM_SET_CPUID2", t)
}

// findLeaf returns the entry of a leaf, nil if the table has none.
func findLeaf(table []kvm.CPUIDEntry2, function, index uint32) *kvm.CPUIDEntry2 {
	for i := range table {
		if table[i].Function == function && table[i].Index == index {
			return &table[i]
		}
	}
	return nil
}

// machineCPUID makes a machine's table, that of vCPU 0, out of KVM's.
func machineCPUID(supported []kvm.CPUIDEntry2, cpus int, tscKHz uint32, tscDeadline bool) []kvm.CPUIDEntry2 {
	table := make([]kvm.CPUIDEntry2, 0, len(supported)+4)
	for _, e := range supported {
		if keepLeaf(e.Function) {
			hideUnmovable(&e)
			table = append(table, e)
		}
	}
	if e := findLeaf(table, leafBasic, 0); e != nil {
		e.Ecx |= ecx1Hypervisor
		if tscDeadline {
			// The in-kernel APIC has the mode, but older KVMs leave it to the VMM to say so.
			e.Ecx |= ecx1TSCDeadline
		}
	}
	table = addTimingLeaf(table, tscKHz)
	return setTopology(table, cpus)
}

// keepLeaf tells whether a machine has a leaf. Performance counters, processor
// trace, enclaves, tiles and nested virtualization have state that is not saved, so
// a guest must not use them. The topology leaves are made anew.
func keepLeaf(function uint32) bool {
	switch function {
	case leafPMU, leafTopology, leafTopology2, leafSGX, leafPT, leafAMX, leafAMXTMUL, leafSVM, leafAMDPMU:
		return false
	}
	return true
}

// hideUnmovable clears the feature bits of the leaves that keepLeaf drops, and bits
// that show a vCPU's current state rather than what it can do.
func hideUnmovable(e *kvm.CPUIDEntry2) {
	switch {
	case e.Function == leafBasic:
		e.Ecx &^= ecx1VMX | ecx1PDCM | ecx1OSXSAVE
	case e.Function == leafFeatures && e.Index == 0:
		e.Ebx &^= ebx7SGX | ebx7PT
		e.Ecx &^= ecx7SGXLC | ecx7OSPKE
		// What IA32_ARCH_CAPABILITIES promises is a property of one host.
		e.Edx &^= edx7ArchCaps | edx7AMX
	case e.Function == leafExtended:
		e.Ecx &^= ecxExtSVM | ecxExtPerfCore
	}
}

// addTimingLeaf tells the guest its TSC and APIC timer frequencies in the leaf that
// VMware began and that guests of KVM know too.
func addTimingLeaf(table []kvm.CPUIDEntry2, tscKHz uint32) []kvm.CPUIDEntry2 {
	sig := findLeaf(table, leafHypervisor, 0)
	if sig == nil || tscKHz == 0 || findLeaf(table, leafTiming, 0) != nil {
		return table
	}
	sig.Eax = max(sig.Eax, leafTiming)
	return append(table, kvm.CPUIDEntry2{Function: leafTiming, Eax: tscKHz, Ebx: apicBusKHz})
}

// setTopology describes cpus cores of one thread each in one package, whose APIC
// ids are 0 to cpus-1.
func setTopology(table []kvm.CPUIDEntry2, cpus int) []kvm.CPUIDEntry2 {
	n := uint32(cpus)
	for i := range table {
		e := &table[i]
		switch e.Function {
		case leafBasic:
			// EBX: initial APIC id (31:24), logical processors (23:16).
			e.Ebx = e.Ebx&0xffff | n<<16
			e.Edx &^= edx1HTT
			if n > 1 {
				e.Edx |= edx1HTT
			}
		case leafCache:
			if e.Eax&0x1f != 0 {
				// EAX: cores in the package less 1 (31:26), threads that share the cache less
				// 1 (25:14): the last level is shared by all.
				e.Eax = e.Eax&0x3fff | (n-1)<<26 | sharing(e.Eax, n)<<14
			}
		case leafExtended:
			e.Ecx &^= ecxExtCmpLegacy
			if n > 1 && e.Ecx&ecxExtTopology != 0 {
				e.Ecx |= ecxExtCmpLegacy
			}
		case leafSizes:
			// ECX: cores less 1 (7:0), bits of an APIC id that number cores (15:12).
			e.Ecx = e.Ecx&^0xf0ff | n - 1 | idBits(n)<<12
		case leafAMDCache:
			if e.Eax&0x1f != 0 {
				e.Eax = e.Eax&0x3fff | sharing(e.Eax, n)<<14
			}
		case leafAMDNode:
			e.Eax, e.Ebx, e.Ecx = 0, 0, 0
		}
	}
	for _, leaf := range []uint32{leafTopology, leafTopology2} {
		if max := findLeaf(table, 0, 0); max == nil || max.Eax < leaf {
			break
		}
		table = append(table,
			// Level 0: threads of a core. ECX: level, type (1 thread, 2 core).
			kvm.CPUIDEntry2{Function: leaf, Index: 0, Flags: flagIndex, Eax: 0, Ebx: 1, Ecx: 1 << 8},
			kvm.CPUIDEntry2{Function: leaf, Index: 1, Flags: flagIndex, Eax: idBits(n), Ebx: n, Ecx: 2<<8 | 1},
			kvm.CPUIDEntry2{Function: leaf, Index: 2, Flags: flagIndex, Ecx: 2},
		)
	}
	return table
}

// sharing is how many threads less 1 share a cache described by EAX of a cache
// leaf, whose bits 7:5 are its level.
func sharing(eax, cpus uint32) uint32 {
	if eax>>5&7 >= 3 {
		return cpus - 1
	}
	return 0
}

// idBits is how many bits number n cores.
func idBits(n uint32) uint32 { return uint32(bits.Len32(n - 1)) }

// vcpuCPUID is the table of one vCPU: that of the machine with its own APIC id.
func vcpuCPUID(table []kvm.CPUIDEntry2, id uint32) []kvm.CPUIDEntry2 {
	own := slices.Clone(table)
	for i := range own {
		e := &own[i]
		switch e.Function {
		case leafBasic:
			e.Ebx = e.Ebx&0x00ffffff | id<<24
		case leafTopology, leafTopology2:
			e.Edx = id
		case leafAMDNode:
			e.Eax, e.Ebx = id, id
		}
	}
	return own
}

// fromConfig converts the table of a configuration.
func fromConfig(entries []cpuidEntry) []kvm.CPUIDEntry2 {
	table := make([]kvm.CPUIDEntry2, len(entries))
	for i, e := range entries {
		table[i] = e.kvm()
	}
	return table
}

func toConfig(table []kvm.CPUIDEntry2) []cpuidEntry {
	entries := make([]cpuidEntry, len(table))
	for i, e := range table {
		entries[i] = cpuidEntry{
			Function: e.Function, Index: e.Index, Flags: e.Flags,
			EAX: e.Eax, EBX: e.Ebx, ECX: e.Ecx, EDX: e.Edx,
		}
	}
	return entries
}
