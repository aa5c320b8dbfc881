// Package cpu says which processor a guest sees, and whether a host can stand for it.
//
// A guest asks CPUID once, at boot, and relies on the answers ever after. So its table stays the
// same for life, and every host that it moves to must keep every promise in it. KVM lists what it
// can offer on a host (KVM_GET_SUPPORTED_CPUID), and the list grows with every kernel and
// processor. This program cannot keep a promise that it does not know, because an unknown feature
// may have state that nobody saves.
//
// So there is one allow-list (list.go), used for both questions:
//
//   - What does a guest see? [Guest] takes a host's table and passes only what the list names.
//     [Machine] adds topology and timing, and [ForVCPU] the APIC id.
//   - Can this host carry that guest? [Check] takes the guest's table and what [Guest] makes of the
//     host, word by word of the same list, and names every bit that is missing. A bit of the
//     guest's table that the list does not name is refused too, because a newer program promised
//     it.
//
// A feature is in the list only if its state travels: in registers, in the XSAVE area or in MSRs
// that are saved. [Beyond] names what a host offers and the list leaves out. [MSRs] returns the
// MSRs that follow from a table (msr.go).
//
// [Common] makes the table of a machine that each of several hosts can carry. Hosts are described
// by files ([Processor]), which `vmm doctor --cpu` prints.
//
// This package does not compare what processors promise in MSRs (IA32_ARCH_CAPABILITIES,
// IA32_CORE_CAPABILITIES, IA32_PERF_CAPABILITIES). The list leaves out the CPUID bits that announce
// these MSRs, so no guest reads them, and a guest assumes a processor with none of these
// immunities. Linux then mitigates more than it would have to, and never less.
//
// The package is pure: no KVM, no files, no clock.
package cpu
