package cpu

import (
	"fmt"
	"math/bits"
	"strings"
)

// Leaves that the code names.
const (
	leafMax         = 0x0
	leafBasic       = 0x1
	leafCache       = 0x4
	leafFeatures    = 0x7
	leafTopology    = 0xb
	leafXSave       = 0xd
	leafTopology2   = 0x1f
	leafAVX10       = 0x24
	leafHypervisor  = 0x40000000
	leafKVM         = 0x40000001
	leafTiming      = 0x40000010
	leafExtendedMax = 0x80000000
	leafExtended    = 0x80000001
	leafPower       = 0x80000007
	leafSizes       = 0x80000008
	leafAMDCache    = 0x8000001d
	leafAMDNode     = 0x8000001e
	leafAMD21       = 0x80000021
)

// rule says what becomes of some bits of a register.
type rule int

const (
	// features are promises, one per bit. A guest sees what its host has, and another host must
	// have it too. Hosts have in common what all of them have.
	features rule = iota
	// atMost is a number that may be smaller for a guest than what its host has.
	atMost
	// level is a number like atMost, but a host need not reach it: it says which leaves there are,
	// and KVM answers that from the guest's table.
	level
	// equal is a value that must be the same on every host of a guest.
	equal
	// told is a description that nothing depends on. The guest keeps that of its first host for
	// life.
	told
	// own is a value that this program sets or, while the guest runs, KVM: topology, APIC ids, what
	// a vCPU has turned on. A host's value is not passed on.
	own
)

// word is an entry of the allow-list: bits of one register of a leaf, or of a range of subleaves.
// Bits that no word names do not pass.
type word struct {
	function    uint32
	index, last uint32 // subleaves, last included
	reg         Register
	rule        rule
	mask        uint32 // the bits that the word covers
	// name says what a number is. For features it has a name for every bit, from bit 0 up,
	// separated by spaces. Names are Linux's where it has one. "." is a bit without a name, which
	// does not pass. "-name" is a known bit that does not pass. "~name" is a bit with the rule own.
	name string
	bits []string
	own  uint32 // of features: bits with ~
}

const all = 0xffffffff

// list is the allow-list.
//
// Sources: Intel SDM volume 2A, CPUID, and the Architecture Instruction Set Extensions
// reference; AMD APM volume 3, appendix E; Linux, Documentation/virt/kvm/x86/cpuid.rst and
// arch/x86/kvm/cpuid.c for what KVM can pass.
//
// Not passed, though KVM may offer it, with the reason:
//
//   - vmx, svm: nested state is not saved.
//   - pdcm, ds, dtes64, arch_lbr, perfctr_*, arch_perfmon_ext and the leaves 0xa, 0x80000022:
//     performance counters are not saved.
//   - intel_pt, sgx*: trace and enclaves are not saved. mpx: Linux no longer saves it.
//   - shstk, ibt, xss_cet_*: shadow stack pointers and CET's MSRs are not saved.
//   - amx_*, xfd, xcr0_tile*: tiles need a permission that this process does not ask for, and
//     room in the XSAVE area.
//   - bus_lock_detect: IA32_DEBUGCTL is not in KVM's list of MSRs to save.
//   - fred, lkgs: FRED's stack MSRs are not saved. lass, pks, uintr, kl, enqcmd, apx_f: KVM has
//     no state of theirs to save.
//   - osvw, nodeid_msr, cppc, irperf, arch_capabilities, core_capabilities, srso_bp_spec_reduce:
//     they announce MSRs that describe one host.
//   - kvm_asyncpf*: the destination would have to announce a page that the source was asked for.
//   - kvm_msi_ext_dest_id, kvm_hc_map_gpa_range, kvm_migration_control: promises of a VMM, which
//     this one does not make.
var list = []word{
	{function: leafMax, reg: EAX, rule: level, mask: all, name: "highest basic leaf"},
	{function: leafMax, reg: EBX, rule: equal, mask: all, name: "vendor"},
	{function: leafMax, reg: ECX, rule: equal, mask: all, name: "vendor"},
	{function: leafMax, reg: EDX, rule: equal, mask: all, name: "vendor"},

	{function: leafBasic, reg: EAX, rule: told, mask: all, name: "family, model, stepping"},
	{function: leafBasic, reg: EBX, rule: told, mask: 0xff, name: "brand index"},
	{function: leafBasic, reg: EBX, rule: equal, mask: 0xff00, name: "CLFLUSH line size"},
	{function: leafBasic, reg: EBX, rule: own, mask: 0xffff0000,
		name: "APIC id, logical processors"},
	{function: leafBasic, reg: ECX,
		name: "sse3 pclmulqdq -dtes64 -monitor -ds_cpl -vmx -smx -est -tm2 ssse3 -cnxt_id " +
			"-sdbg fma cx16 -xtpr -pdcm . pcid -dca sse4_1 sse4_2 x2apic movbe popcnt " +
			"tsc_deadline_timer aes xsave ~osxsave avx f16c rdrand hypervisor"},
	{function: leafBasic, reg: EDX,
		name: "fpu vme de pse tsc msr pae mce cx8 apic . sep mtrr pge mca cmov pat pse36 -pn " +
			"clflush . -ds -acpi mmx fxsr sse sse2 ss ~ht -tm -ia64 -pbe"},

	{function: 0x2, reg: EAX, rule: told, mask: all, name: "cache descriptors"},
	{function: 0x2, reg: EBX, rule: told, mask: all, name: "cache descriptors"},
	{function: 0x2, reg: ECX, rule: told, mask: all, name: "cache descriptors"},
	{function: 0x2, reg: EDX, rule: told, mask: all, name: "cache descriptors"},

	{function: leafCache, last: 15, reg: EAX, rule: told, mask: 0x3fff, name: "cache type, level"},
	{function: leafCache, last: 15, reg: EAX, rule: own, mask: 0xffffc000, name: "sharing, cores"},
	{function: leafCache, last: 15, reg: EBX, rule: told, mask: all,
		name: "ways, partitions, line size"},
	{function: leafCache, last: 15, reg: ECX, rule: told, mask: all, name: "sets"},
	{function: leafCache, last: 15, reg: EDX, rule: told, mask: 7, name: "inclusiveness, indexing"},

	{function: 0x6, reg: EAX, name: "-dtherm -turbo arat"},

	{function: leafFeatures, reg: EAX, rule: level, mask: all, name: "highest subleaf of leaf 7"},
	{function: leafFeatures, reg: EBX,
		name: "fsgsbase tsc_adjust -sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid " +
			"rtm -cqm zero_fcs_fds -mpx -rdt_a avx512f avx512dq rdseed adx smap avx512ifma " +
			"-pcommit clflushopt clwb -intel_pt avx512pf avx512er avx512cd sha_ni avx512bw " +
			"avx512vl"},
	{function: leafFeatures, reg: ECX,
		name: "prefetchwt1 avx512vbmi umip pku ~ospke waitpkg avx512_vbmi2 -shstk gfni vaes " +
			"vpclmulqdq avx512_vnni avx512_bitalg -tme avx512_vpopcntdq . la57 . . . . . " +
			"rdpid -kl -bus_lock_detect cldemote . movdiri movdir64b -enqcmd -sgx_lc -pks"},
	{function: leafFeatures, reg: EDX,
		name: ". -sgx_keys avx512_4vnniw avx512_4fmaps fsrm -uintr . . avx512_vp2intersect " +
			"-srbds_ctrl md_clear -rtm_always_abort . -tsx_force_abort serialize -hybrid " +
			"tsxldtrk . -pconfig -arch_lbr -ibt . -amx_bf16 avx512_fp16 -amx_tile -amx_int8 " +
			"spec_ctrl intel_stibp flush_l1d -arch_capabilities -core_capabilities " +
			"spec_ctrl_ssbd"},
	{function: leafFeatures, index: 1, last: 1, reg: EAX,
		name: "sha512 sm3 sm4 -rao_int avx_vnni avx512_bf16 -lass cmpccxadd -arch_perfmon_ext " +
			". fzrm fsrs fsrc . . . . -fred -lkgs wrmsrns -nmi_src -amx_fp16 -hreset " +
			"avx_ifma . . lam -msrlist . . -invd_disable_post_bios_done -movrs"},
	{function: leafFeatures, index: 1, last: 1, reg: EBX,
		name: "-ppin -tse . -cpuid_maxval_lim_rmv"},
	{function: leafFeatures, index: 1, last: 1, reg: ECX, name: ". . . . . msr_imm"},
	{function: leafFeatures, index: 1, last: 1, reg: EDX,
		name: ". . . . avx_vnni_int8 avx_ne_convert . . -amx_complex . avx_vnni_int16 . . " +
			"-utmr prefetchiti -user_msr . -uiret_uif -cet_sss avx10 . -apx_f"},
	{function: leafFeatures, index: 2, last: 2, reg: EDX,
		name: "intel_psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no -uc_lock_dis " +
			"-monitor_mitg_no"},

	{function: leafTopology, last: 15, reg: EAX, rule: own, mask: all, name: "topology"},
	{function: leafTopology, last: 15, reg: EBX, rule: own, mask: all, name: "topology"},
	{function: leafTopology, last: 15, reg: ECX, rule: own, mask: all, name: "topology"},
	{function: leafTopology, last: 15, reg: EDX, rule: own, mask: all, name: "x2APIC id"},

	{function: leafXSave, reg: EAX,
		name: "xcr0_x87 xcr0_sse xcr0_avx -xcr0_bndregs -xcr0_bndcsr xcr0_opmask " +
			"xcr0_zmm_hi256 xcr0_hi16_zmm . xcr0_pkru . . . . . . . -xcr0_tilecfg " +
			"-xcr0_tiledata -xcr0_apx"},
	{function: leafXSave, reg: EBX, rule: own, mask: all, name: "size of the XSAVE area now"},
	{function: leafXSave, reg: ECX, rule: own, mask: all, name: "size of the XSAVE area"},
	{function: leafXSave, index: 1, last: 1, reg: EAX, name: "xsaveopt xsavec xgetbv1 xsaves -xfd"},
	{function: leafXSave, index: 1, last: 1, reg: EBX, rule: own, mask: all,
		name: "size of the XSAVES area"},
	{function: leafXSave, index: 1, last: 1, reg: ECX,
		name: ". . . . . . . . -xss_pt . -xss_pasid -xss_cet_u -xss_cet_s -xss_hdc -xss_uintr " +
			"-xss_lbr -xss_hwp"},
	{function: leafXSave, index: 2, last: 2, reg: EAX, rule: equal, mask: all,
		name: "AVX state, size"},
	{function: leafXSave, index: 2, last: 2, reg: EBX, rule: equal, mask: all,
		name: "AVX state, offset"},
	{function: leafXSave, index: 2, last: 2, reg: ECX, rule: equal, mask: 2,
		name: "AVX state, alignment"},
	{function: leafXSave, index: 5, last: 7, reg: EAX, rule: equal, mask: all,
		name: "AVX-512 state, size"},
	{function: leafXSave, index: 5, last: 7, reg: EBX, rule: equal, mask: all,
		name: "AVX-512 state, offset"},
	{function: leafXSave, index: 5, last: 7, reg: ECX, rule: equal, mask: 2,
		name: "AVX-512 state, alignment"},
	{function: leafXSave, index: 9, last: 9, reg: EAX, rule: equal, mask: all,
		name: "PKRU state, size"},
	{function: leafXSave, index: 9, last: 9, reg: EBX, rule: equal, mask: all,
		name: "PKRU state, offset"},
	{function: leafXSave, index: 9, last: 9, reg: ECX, rule: equal, mask: 2,
		name: "PKRU state, alignment"},

	{function: leafTopology2, last: 15, reg: EAX, rule: own, mask: all, name: "topology"},
	{function: leafTopology2, last: 15, reg: EBX, rule: own, mask: all, name: "topology"},
	{function: leafTopology2, last: 15, reg: ECX, rule: own, mask: all, name: "topology"},
	{function: leafTopology2, last: 15, reg: EDX, rule: own, mask: all, name: "x2APIC id"},

	// AVX10 has no state but that of AVX-512.
	{function: leafAVX10, reg: EAX, rule: level, mask: all, name: "highest subleaf of leaf 0x24"},
	{function: leafAVX10, reg: EBX, rule: atMost, mask: 0xff, name: "AVX10 version"},
	{function: leafAVX10, reg: EBX, mask: 0xffffff00,
		name: ". . . . . . . . . . . . . . . . avx10_128 avx10_256 avx10_512"},

	{function: leafHypervisor, reg: EAX, rule: level, mask: all, name: "highest hypervisor leaf"},
	{function: leafHypervisor, reg: EBX, rule: equal, mask: all, name: "hypervisor"},
	{function: leafHypervisor, reg: ECX, rule: equal, mask: all, name: "hypervisor"},
	{function: leafHypervisor, reg: EDX, rule: equal, mask: all, name: "hypervisor"},
	// Features with state keep it in guest RAM and in MSRs that KVM lists. An EOI by memory
	// (kvm_pv_eoi) is settled at each exit, and a kick (kvm_pv_unhalt) shows in the MP state.
	{function: leafKVM, reg: EAX,
		name: "kvmclock kvm_nopiodelay -kvm_mmu kvmclock2 -kvm_asyncpf kvm_steal_time " +
			"kvm_pv_eoi kvm_pv_unhalt . kvm_pv_tlb_flush -kvm_asyncpf_vmexit kvm_pv_ipi " +
			"kvm_poll_control kvm_pv_sched_yield -kvm_asyncpf_int -kvm_msi_ext_dest_id " +
			"-kvm_hc_map_gpa_range -kvm_migration_control . . . . . . kvmclock_stable"},
	{function: leafKVM, reg: EDX, name: "-kvm_hints_realtime"},
	{function: leafTiming, reg: EAX, rule: own, mask: all, name: "TSC frequency"},
	{function: leafTiming, reg: EBX, rule: own, mask: all, name: "APIC timer frequency"},

	{function: leafExtendedMax, reg: EAX, rule: level, mask: all, name: "highest extended leaf"},
	{function: leafExtendedMax, reg: EBX, rule: equal, mask: all, name: "vendor"},
	{function: leafExtendedMax, reg: ECX, rule: equal, mask: all, name: "vendor"},
	{function: leafExtendedMax, reg: EDX, rule: equal, mask: all, name: "vendor"},
	{function: leafExtended, reg: EAX, rule: told, mask: all, name: "family, model, stepping"},
	{function: leafExtended, reg: EBX, rule: told, mask: all, name: "brand id, package"},
	{function: leafExtended, reg: ECX,
		name: "lahf_lm ~cmp_legacy -svm -extapic cr8_legacy abm sse4a misalignsse " +
			"3dnowprefetch -osvw -ibs xop -skinit -wdt . -lwp fma4 -tce . -nodeid_msr . tbm " +
			"topoext -perfctr_core -perfctr_nb . -bpext -ptsc -perfctr_llc -mwaitx " +
			"-addr_mask_ext"},
	// AMD repeats most of leaf 1 here.
	{function: leafExtended, reg: EDX,
		name: "ext_fpu ext_vme ext_de ext_pse ext_tsc ext_msr ext_pae ext_mce ext_cx8 " +
			"ext_apic . syscall ext_mtrr ext_pge ext_mca ext_cmov ext_pat ext_pse36 . -mp " +
			"nx . mmxext ext_mmx ext_fxsr fxsr_opt pdpe1gb rdtscp . lm 3dnowext 3dnow"},

	{function: 0x80000002, reg: EAX, rule: told, mask: all, name: "processor's name"},
	{function: 0x80000002, reg: EBX, rule: told, mask: all, name: "processor's name"},
	{function: 0x80000002, reg: ECX, rule: told, mask: all, name: "processor's name"},
	{function: 0x80000002, reg: EDX, rule: told, mask: all, name: "processor's name"},
	{function: 0x80000003, reg: EAX, rule: told, mask: all, name: "processor's name"},
	{function: 0x80000003, reg: EBX, rule: told, mask: all, name: "processor's name"},
	{function: 0x80000003, reg: ECX, rule: told, mask: all, name: "processor's name"},
	{function: 0x80000003, reg: EDX, rule: told, mask: all, name: "processor's name"},
	{function: 0x80000004, reg: EAX, rule: told, mask: all, name: "processor's name"},
	{function: 0x80000004, reg: EBX, rule: told, mask: all, name: "processor's name"},
	{function: 0x80000004, reg: ECX, rule: told, mask: all, name: "processor's name"},
	{function: 0x80000004, reg: EDX, rule: told, mask: all, name: "processor's name"},
	{function: 0x80000005, reg: EAX, rule: told, mask: all, name: "first level TLB, large pages"},
	{function: 0x80000005, reg: EBX, rule: told, mask: all, name: "first level TLB"},
	{function: 0x80000005, reg: ECX, rule: told, mask: all, name: "first level data cache"},
	{function: 0x80000005, reg: EDX, rule: told, mask: all, name: "first level code cache"},
	{function: 0x80000006, reg: EAX, rule: told, mask: all, name: "second level TLB, large pages"},
	{function: 0x80000006, reg: EBX, rule: told, mask: all, name: "second level TLB"},
	{function: 0x80000006, reg: ECX, rule: told, mask: all, name: "second level cache"},
	{function: 0x80000006, reg: EDX, rule: told, mask: all, name: "third level cache"},

	{function: leafPower, reg: EDX, name: ". . . . . . . . invtsc"},
	{function: leafSizes, reg: EAX, rule: atMost, mask: 0xff, name: "bits of physical address"},
	{function: leafSizes, reg: EAX, rule: atMost, mask: 0xff00, name: "bits of linear address"},
	{function: leafSizes, reg: EAX, rule: level, mask: 0xff0000,
		name: "bits of guest-physical address"},
	{function: leafSizes, reg: EBX,
		name: "clzero -irperf xsaveerptr -invlpgb -rdpru . -mbe . -mcommit wbnoinvd . . " +
			"amd_ibpb -int_wbinvd amd_ibrs amd_stibp ibrs_always_on stibp_always_on " +
			"ibrs_preferred ibrs_same_mode -no_efer_lmsle -invlpgb_nested . -amd_ppin " +
			"amd_ssbd virt_ssbd amd_ssb_no -cppc amd_psfd btc_no ibpb_ret"},
	{function: leafSizes, reg: ECX, rule: own, mask: 0xf0ff, name: "cores, APIC id size"},
	{function: 0x80000019, reg: EAX, rule: told, mask: all, name: "first level TLB, 1 GiB pages"},
	{function: 0x80000019, reg: EBX, rule: told, mask: all, name: "second level TLB, 1 GiB pages"},
	{function: 0x8000001a, reg: EAX, rule: told, mask: 7, name: "how wide vector units are"},
	{function: leafAMDCache, last: 15, reg: EAX, rule: told, mask: 0x3fff,
		name: "cache type, level"},
	{function: leafAMDCache, last: 15, reg: EAX, rule: own, mask: 0xffffc000, name: "sharing"},
	{function: leafAMDCache, last: 15, reg: EBX, rule: told, mask: all,
		name: "ways, partitions, line size"},
	{function: leafAMDCache, last: 15, reg: ECX, rule: told, mask: all, name: "sets"},
	{function: leafAMDCache, last: 15, reg: EDX, rule: told, mask: 7,
		name: "inclusiveness, indexing"},
	{function: leafAMDNode, reg: EAX, rule: own, mask: all, name: "x2APIC id"},
	{function: leafAMDNode, reg: EBX, rule: own, mask: all, name: "core"},
	{function: leafAMDNode, reg: ECX, rule: own, mask: all, name: "node"},
	{function: leafAMD21, reg: EAX,
		name: "no_nested_data_bp fs_gs_base_ns lfence_rdtsc . . verw_clear null_sel_clr_base " +
			"-upper_address_ignore autoibrs no_smm_ctl_msr amd_fsrs amd_fsrc . " +
			"-pmc2_precise . . . gp_on_user_cpuid . . prefetchi . . . -eraps . . sbpb " +
			"ibpb_brtype srso_no srso_user_kernel_no -srso_bp_spec_reduce"},
	{function: leafAMD21, reg: ECX, name: ". tsa_sq_no tsa_l1_no"},
}

// leafNames names leaves that the list does not have.
var leafNames = map[uint32]string{
	0x3: "serial number", 0x5: "MONITOR", 0x9: "direct cache access", 0xa: "performance counters",
	0xf: "cache monitoring", 0x10: "cache allocation", 0x12: "SGX", 0x14: "processor trace",
	0x15: "crystal clock", 0x16: "frequencies", 0x17: "SoC", 0x18: "TLB", 0x19: "key locker",
	0x1a: "hybrid",
	0x1b: "PCONFIG", 0x1c: "last branch records", 0x1d: "AMX tiles", 0x1e: "AMX multiplication",
	0x20: "HRESET", 0x23: "performance counters", 0x29: "APX", 0x8000000a: "SVM", 0x8000001b: "IBS",
	0x8000001c: "LWP", 0x8000001f: "memory encryption", 0x80000020: "bandwidth enforcement",
	0x80000022: "performance counters", 0x80000023: "multi-key memory encryption",
}

// featureBit is where a feature is.
type featureBit struct {
	function, index uint32
	reg             Register
	mask            uint32
}

// featureBits finds features by name, and words finds the list's entries by leaf. Both are made
// from the list once and never change.
var (
	featureBits = make(map[string]featureBit)
	words       = make(map[uint32][]*word)
)

func init() {
	for i := range list {
		w := &list[i]
		w.last = max(w.last, w.index)
		words[w.function] = append(words[w.function], w)
		if w.rule == features {
			w.parseNames()
		}
	}
}

// parseNames fills in the masks of a word of features.
func (w *word) parseNames() {
	w.mask = 0
	for bit, name := range strings.Fields(w.name) {
		plain := strings.TrimLeft(name, "-~")
		if name == "." {
			plain = ""
		}
		w.bits = append(w.bits, plain)
		switch {
		case plain == "" || name[0] == '-':
			continue
		case name[0] == '~':
			w.own |= 1 << bit
		default:
			w.mask |= 1 << bit
		}
		featureBits[plain] = featureBit{w.function, w.index, w.reg, 1 << bit}
	}
}

// bitName returns the name of a bit of features.
func (w *word) bitName(bit int) string {
	if bit < len(w.bits) && w.bits[bit] != "" {
		return w.bits[bit]
	}
	return place(w.function, w.index, w.reg) + fmt.Sprintf("[%d]", bit)
}

// place names a register of a leaf as the manuals do.
func place(function, index uint32, r Register) string {
	return fmt.Sprintf("CPUID.%XH.%d:%s", function, index, r)
}

// wordsOf returns the list's entries for a register.
func wordsOf(function, index uint32, r Register) []*word {
	var found []*word
	for _, w := range words[function] {
		if w.reg == r && index >= w.index && index <= w.last {
			found = append(found, w)
		}
	}
	return found
}

// beyond names the bits of a register that the list does not have.
func beyond(l *Leaf, r Register) []string {
	rest := *l.Reg(r)
	var feature *word
	for _, w := range wordsOf(l.Function, l.Index, r) {
		rest &^= w.mask | w.own
		if w.rule == features {
			feature = w
		}
	}
	var names []string
	switch {
	case rest == 0:
	case feature == nil:
		names = append(names, place(l.Function, l.Index, r))
	default:
		for ; rest != 0; rest &= rest - 1 {
			names = append(names, feature.bitName(bits.TrailingZeros32(rest)))
		}
	}
	return names
}

// Beyond names what a table has and the list does not. It names single bits, and a register or leaf
// as a whole if the list has nothing of it.
func Beyond(t Table) []string {
	var names []string
	for i := range t {
		l := &t[i]
		if _, listed := words[l.Function]; !listed {
			if l.EAX|l.EBX|l.ECX|l.EDX != 0 {
				names = append(names, leafName(l))
			}
			continue
		}
		for r := EAX; r <= EDX; r++ {
			names = append(names, beyond(l, r)...)
		}
	}
	return names
}

func leafName(l *Leaf) string {
	if name := leafNames[l.Function]; name != "" {
		return fmt.Sprintf("leaf %#x.%d (%s)", l.Function, l.Index, name)
	}
	return fmt.Sprintf("leaf %#x.%d", l.Function, l.Index)
}
