package cpu

import "slices"

// MSRs that are loaded at a time of their own, by index.
const (
	MSRTSC         = 0x10
	MSRTSCDeadline = 0x6e0
)

const (
	msrSysenterCS  = 0x174
	msrSysenterEIP = 0x176
)

// unsavedMSRs are ranges of MSRs, first and last, that are not part of a machine's
// state although KVM lists them.
var unsavedMSRs = msrRanges{
	{MSRTSC, MSRTSC}, // depends on the time that passes; package vmm loads it
	// Wall clock of kvmclock. Writing it makes KVM write to guest RAM. KVM did that when the guest
	// wrote the MSR, and the MSR has no other effect.
	{0x11, 0x11}, {0x4b564d00, 0x4b564d00},
	// Hyper-V's interface, which CPUID does not announce to guests; some of these are clocks.
	{0x40000000, 0x400001ff},
	// MSRs of features that CPUID hides: capabilities of one host, performance counters, processor
	// trace, nested virtualization, enclaves.
	{0x10a, 0x10a}, {0x345, 0x345},
	{0xc1, 0xc8}, {0x186, 0x18d}, {0x309, 0x30c}, {0x329, 0x329},
	{0x38d, 0x390}, {0x3f1, 0x3f1}, {0x4c1, 0x4c8},
	{0x600, 0x600}, {0xc0010000, 0xc0010007}, {0xc0010200, 0xc001020b}, {0xc0000300, 0xc0000302},
	{0x560, 0x58f}, {0x480, 0x493}, {0x3a, 0x3a}, {0x8c, 0x8f}, {0xc0010117, 0xc0010117},
}

// MSRMoves tells whether an MSR can be part of a machine's state.
func MSRMoves(index uint32) bool { return !unsavedMSRs.has(index) }

// msrRanges are ranges of MSRs by their first and last.
type msrRanges [][2]uint32

func (ranges msrRanges) has(index uint32) bool {
	for _, r := range ranges {
		if index >= r[0] && index <= r[1] {
			return true
		}
	}
	return false
}

// MSRBits returns the bits of an MSR that a guest with this table can use. A move may lose the
// others, because KVM returns what the guest wrote, and keeps what the processor has.
//
// On AMD's processors SYSENTER is invalid in 64-bit code, and takes 32 bits of address in other
// code (APM volume 2, 6.1). A 64-bit Linux writes 64 bits, and kvm_amd keeps 32.
func MSRBits(t Table, index uint32) uint64 {
	switch t.Vendor() {
	case "AuthenticAMD", "HygonGenuine":
		if index >= msrSysenterCS && index <= msrSysenterEIP {
			return 1<<32 - 1
		}
	}
	return ^uint64(0)
}

// msrGroup are MSRs that a guest has only with certain features. KVM's list does not follow the
// guest's CPUID table: it leaves out some MSRs that the guest has, and names others that the guest
// can never write and that another host's KVM may not know.
type msrGroup struct {
	msrs  msrRanges
	needs []tableBit // any of them
}

// tableBit is one bit of a CPUID table.
type tableBit struct {
	function, index uint32
	register        Register
	bit             int
}

// in tells whether a table has it.
func (b tableBit) in(t Table) bool { return t.value(b.function, b.index, b.register)>>b.bit&1 != 0 }

// Intel SDM volume 4; AMD APM volume 2, appendix A. Features by Linux's names.
var msrGroups = []msrGroup{
	// mtrr: variable and fixed ranges of memory types, and the default.
	{
		msrRanges{{0x200, 0x20f}, {0x250, 0x250}, {0x258, 0x259}, {0x268, 0x26f}, {0x2ff, 0x2ff}},
		[]tableBit{{0x1, 0, EDX, 12}},
	},
	// mca: MCG_STATUS and MCG_CTL, and CTL, STATUS, ADDR and MISC of 32 banks. MCi_CTL2 (from
	// 0x280) are 0 without MCG_CMCI_P, which machines do not have.
	{msrRanges{{0x17a, 0x17b}, {0x400, 0x47f}}, []tableBit{{0x1, 0, EDX, 14}}},
	// tsc_adjust
	{msrRanges{{0x3b, 0x3b}}, []tableBit{{0x7, 0, EBX, 1}}},
	// spec_ctrl, intel_stibp, spec_ctrl_ssbd; amd_ibrs, amd_stibp, amd_ssbd, amd_psfd
	{msrRanges{{0x48, 0x48}}, []tableBit{
		{0x7, 0, EDX, 26}, {0x7, 0, EDX, 27}, {0x7, 0, EDX, 31},
		{0x80000008, 0, EBX, 14}, {0x80000008, 0, EBX, 15},
		{0x80000008, 0, EBX, 24}, {0x80000008, 0, EBX, 28},
	}},
	// waitpkg
	{msrRanges{{0xe1, 0xe1}}, []tableBit{{0x7, 0, ECX, 5}}},
	// arch_capabilities, which machines do not have: TSX_CTRL
	{msrRanges{{0x122, 0x122}}, []tableBit{{0x7, 0, EDX, 29}}},
	// xfd
	{msrRanges{{0x1c4, 0x1c5}}, []tableBit{{0xd, 1, EAX, 4}}},
	// shstk, ibt
	{
		msrRanges{{0x6a0, 0x6a0}, {0x6a2, 0x6a2}, {0x6a4, 0x6a8}},
		[]tableBit{{0x7, 0, ECX, 7}, {0x7, 0, EDX, 20}},
	},
	// tsc_deadline_timer
	{msrRanges{{MSRTSCDeadline, MSRTSCDeadline}}, []tableBit{{0x1, 0, ECX, 24}}},
	// mpx
	{msrRanges{{0xd90, 0xd90}}, []tableBit{{0x7, 0, EBX, 14}}},
	// xsaves
	{msrRanges{{0xda0, 0xda0}}, []tableBit{{0xd, 1, EAX, 3}}},
	// rdtscp, rdpid
	{
		msrRanges{{0xc0000103, 0xc0000103}},
		[]tableBit{{0x80000001, 0, EDX, 27}, {0x7, 0, ECX, 22}},
	},
	// tscratemsr, of nested virtualization
	{msrRanges{{0xc0000104, 0xc0000104}}, []tableBit{{0x8000000a, 0, EDX, 4}}},
	// virt_ssbd
	{msrRanges{{0xc001011f, 0xc001011f}}, []tableBit{{0x80000008, 0, EBX, 25}}},
}

// MSRs returns the MSRs that a guest with this table may have: those of KVM's list and those that
// the table implies, without those that the table rules out or that do not move.
func MSRs(t Table, listed []uint32) []uint32 {
	candidates := slices.Clone(listed)
	for _, g := range msrGroups {
		has := slices.ContainsFunc(g.needs, func(b tableBit) bool { return b.in(t) })
		if !has {
			candidates = slices.DeleteFunc(candidates, g.msrs.has)
			continue
		}
		for _, r := range g.msrs {
			for i := r[0]; i <= r[1]; i++ {
				candidates = append(candidates, i)
			}
		}
	}
	candidates = slices.DeleteFunc(candidates, unsavedMSRs.has)
	slices.Sort(candidates)
	return slices.Compact(candidates)
}
