package vmm

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"github.com/bobuhiro11/gokvm/kvm"
)

// ErrCPUFeatures is returned when this host's processor or KVM lacks something that
// a guest from elsewhere was told it has.
var ErrCPUFeatures = errors.New("this host's CPU cannot carry the guest on")

// register is one of the registers that CPUID answers in.
type register int

const (
	regEAX register = iota
	regEBX
	regECX
	regEDX
)

func (r register) String() string { return [...]string{"EAX", "EBX", "ECX", "EDX"}[r] }

func (r register) of(e *kvm.CPUIDEntry2) uint32 {
	if e == nil {
		return 0
	}
	return [...]uint32{e.Eax, e.Ebx, e.Ecx, e.Edx}[r]
}

// featureWord is a register of which every bit is something that a processor can do.
// Names are Linux's, from bit 0 up, separated by spaces; "." has none.
type featureWord struct {
	function, index uint32
	reg             register
	names           string
}

// Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; Linux,
// Documentation/virt/kvm/x86/cpuid.rst.
var featureWords = []featureWord{
	{leafBasic, 0, regECX, "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cnxt_id sdbg fma cx16 xtpr pdcm " +
		". pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c rdrand hypervisor"},
	{leafBasic, 0, regEDX, "fpu vme de pse tsc msr pae mce cx8 apic . sep mtrr pge mca cmov " +
		"pat pse36 pn clflush . dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe"},
	{leafFeatures, 0, regEBX, "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm zero_fcs_fds mpx rdt_a " +
		"avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl"},
	{leafFeatures, 0, regECX, "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq . " +
		"la57 . . . . . rdpid kl bus_lock_detect cldemote . movdiri movdir64b enqcmd sgx_lc pks"},
	{leafFeatures, 0, regEDX, ". sgx_keys avx512_4vnniw avx512_4fmaps fsrm uintr . . avx512_vp2intersect srbds_ctrl md_clear rtm_always_abort . tsx_force_abort serialize hybrid " +
		"tsxldtrk . pconfig arch_lbr ibt . amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d arch_capabilities core_capabilities spec_ctrl_ssbd"},
	{leafFeatures, 1, regEAX, "sha512 sm3 sm4 rao_int avx_vnni avx512_bf16 lass cmpccxadd arch_perfmon_ext . fzrm fsrs fsrc . . . " +
		". fred lkgs wrmsrns nmi_src amx_fp16 hreset avx_ifma . . lam msrlist"},
	{leafFeatures, 1, regEDX, ". . . . avx_vnni_int8 avx_ne_convert . . amx_complex . avx_vnni_int16 . . . prefetchiti user_msr . . . avx10"},
	{leafFeatures, 2, regEDX, "intel_psfd ipred_ctrl rrsba_ctrl ddp_ctrl bhi_ctrl mcdt_no"},
	{leafXSave, 0, regEAX, "xcr0_x87 xcr0_sse xcr0_avx xcr0_bndregs xcr0_bndcsr xcr0_opmask xcr0_zmm_hi256 xcr0_hi16_zmm . xcr0_pkru . . . . . . . xcr0_tilecfg xcr0_tiledata"},
	{leafXSave, 0, regEDX, ""},
	{leafXSave, 1, regEAX, "xsaveopt xsavec xgetbv1 xsaves xfd"},
	{leafXSave, 1, regECX, ". . . . . . . . xss_pt . xss_pasid xss_cet_u xss_cet_s xss_hdc xss_uintr xss_lbr xss_hwp"},
	{leafXSave, 1, regEDX, ""},
	{leafExtended, 0, regECX, "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt . lwp " +
		"fma4 tce . nodeid_msr . tbm topoext perfctr_core perfctr_nb . bpext ptsc perfctr_llc mwaitx"},
	{leafExtended, 0, regEDX, ". . . . . . . . . . . syscall . . . . . . . mp nx . mmxext . . fxsr_opt pdpe1gb rdtscp . lm 3dnowext 3dnow"},
	{leafPower, 0, regEDX, ". . . . . . . . invtsc"},
	{leafSizes, 0, regEBX, "clzero irperf xsaveerptr . rdpru . . . . wbnoinvd . . amd_ibpb . amd_ibrs amd_stibp " +
		"ibrs_always_on stibp_always_on . . . . . amd_ppin amd_ssbd virt_ssbd amd_ssb_no cppc amd_psfd btc_no ibpb_ret"},
	{leafAMD21, 0, regEAX, "no_nested_data_bp . lfence_rdtsc . . . null_sel_clr_base . autoibrs no_smm_ctl_msr . . . . . . . . . . prefetchi . . . . . . sbpb ibpb_brtype srso_no"},
	{leafKVM, 0, regEAX, "kvmclock kvm_nopiodelay kvm_mmu kvmclock2 kvm_asyncpf kvm_steal_time kvm_pv_eoi kvm_pv_unhalt . kvm_pv_tlb_flush kvm_asyncpf_vmexit kvm_pv_ipi " +
		"kvm_poll_control kvm_pv_sched_yield kvm_asyncpf_int kvm_msi_ext_dest_id kvm_hc_map_gpa_range kvm_migration_control . . . . . . kvmclock_stable"},
}

// bitName is what people call a bit.
func (w *featureWord) bitName(bit int) string {
	if names := strings.Fields(w.names); bit < len(names) && names[bit] != "." {
		return names[bit]
	}
	return fmt.Sprintf("CPUID.%XH.%d:%s[%d]", w.function, w.index, w.reg, bit)
}

// missingFeatures names what a guest with table want would miss on a host that can
// offer table have.
func missingFeatures(want, have []kvm.CPUIDEntry2) []string {
	var missing []string
	for i := range featureWords {
		w := &featureWords[i]
		lost := w.reg.of(findLeaf(want, w.function, w.index)) &^ w.reg.of(findLeaf(have, w.function, w.index))
		for ; lost != 0; lost &= lost - 1 {
			missing = append(missing, w.bitName(bits.TrailingZeros32(lost)))
		}
	}
	return missing
}

// checkCPUID tells whether a host that can offer table have can run a guest with
// table want.
func checkCPUID(want, have []kvm.CPUIDEntry2) error {
	if w, h := vendor(want), vendor(have); w != h {
		return fmt.Errorf("%w: the guest was told that its processor is %s, here it is %s", ErrCPUFeatures, w, h)
	}
	if missing := missingFeatures(want, have); len(missing) > 0 {
		return fmt.Errorf("%w: missing here: %s", ErrCPUFeatures, strings.Join(missing, ", "))
	}
	if w, h := addressBits(want), addressBits(have); w > h {
		return fmt.Errorf("%w: the guest was told of %d bits of physical address, here are %d", ErrCPUFeatures, w, h)
	}
	return checkXSaveLayout(want, have)
}

// vendor is the processor's name for its maker, from leaf 0.
func vendor(table []kvm.CPUIDEntry2) string {
	var b [12]byte
	if e := findLeaf(table, 0, 0); e != nil {
		le.PutUint32(b[0:], e.Ebx)
		le.PutUint32(b[4:], e.Edx)
		le.PutUint32(b[8:], e.Ecx)
	}
	return fmt.Sprintf("%q", b[:])
}

// addressBits is how wide physical addresses are.
func addressBits(table []kvm.CPUIDEntry2) uint32 {
	return regEAX.of(findLeaf(table, leafSizes, 0)) & 0xff
}

// checkXSaveLayout compares where the components of an XSAVE area are. They are where
// the processor puts them, and saved areas are loaded as they are.
func checkXSaveLayout(want, have []kvm.CPUIDEntry2) error {
	for index := uint32(2); index < 63; index++ {
		w, h := findLeaf(want, leafXSave, index), findLeaf(have, leafXSave, index)
		if w == nil || w.Eax == 0 || !hasComponent(want, index) {
			continue
		}
		if h == nil || h.Eax != w.Eax || h.Ebx != w.Ebx {
			return fmt.Errorf("%w: component %d of the XSAVE area has another size or place here", ErrCPUFeatures, index)
		}
	}
	return nil
}

// hasComponent tells whether user state component index of XSAVE is offered (leaf
// 0xd.0, EDX:EAX).
func hasComponent(table []kvm.CPUIDEntry2, index uint32) bool {
	e := findLeaf(table, leafXSave, 0)
	return e != nil && (uint64(e.Edx)<<32|uint64(e.Eax))>>index&1 != 0
}
