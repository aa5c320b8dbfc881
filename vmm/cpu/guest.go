package cpu

import (
	"math/bits"
	"slices"
)

// Offer returns a host's table: what its KVM supports, and what KVM leaves to the VMM to announce.
// That is the hypervisor bit and, with KVM_CAP_TSC_DEADLINE_TIMER, the APIC timer's deadline mode.
func Offer(supported Table, tscDeadline bool) Table {
	t := slices.Clone(supported)
	if l := t.Find(leafBasic, 0); l != nil {
		l.ECX |= featureBits["hypervisor"].mask
		if tscDeadline {
			l.ECX |= featureBits["tsc_deadline_timer"].mask
		}
	}
	return t
}

// Guest returns what a guest may see of a host's table: what the allow-list names, except features
// that need something that is not there.
func Guest(host Table) Table {
	t := make(Table, 0, len(host))
	for i := range host {
		h := &host[i]
		l := Leaf{Function: h.Function, Index: h.Index, Flags: h.Flags & FlagIndex}
		listed := false
		for _, w := range words[l.Function] {
			if l.Index < w.index || l.Index > w.last {
				continue
			}
			listed = true
			if w.rule != own {
				*l.Reg(w.reg) |= *h.Reg(w.reg) & w.mask
			}
		}
		if listed {
			t = append(t, l)
		}
	}
	return settle(t)
}

// needs says what each feature depends on, transitively: instructions need the registers that they
// work on, which XCR0 turns on, and registers need other registers. The reverse does not hold:
// registers may be there and travel although no feature uses them.
var needs = []struct{ feature, on string }{
	{"xcr0_avx", "xcr0_sse"},
	{"xcr0_opmask", "xcr0_avx"}, {"xcr0_opmask", "xcr0_zmm_hi256"},
	{"xcr0_opmask", "xcr0_hi16_zmm"},
	{"xcr0_zmm_hi256", "xcr0_opmask"}, {"xcr0_hi16_zmm", "xcr0_opmask"},
	{"xsaveopt", "xsave"}, {"xsavec", "xsave"}, {"xgetbv1", "xsave"}, {"xsaves", "xsavec"},
	{"pku", "xcr0_pkru"}, {"pku", "xsave"},
	{"avx", "xsave"}, {"avx", "xcr0_avx"}, {"f16c", "avx"}, {"fma", "avx"}, {"avx2", "avx"},
	{"xop", "avx"}, {"fma4", "avx"}, {"vaes", "avx"}, {"vpclmulqdq", "avx"}, {"avx_vnni", "avx2"},
	{"avx_ifma", "avx2"}, {"avx_vnni_int8", "avx2"}, {"avx_vnni_int16", "avx2"},
	{"avx_ne_convert", "avx2"}, {"sha512", "avx2"}, {"sm3", "avx"}, {"sm4", "avx2"},
	{"avx512f", "avx2"}, {"avx512f", "xcr0_opmask"}, {"avx512dq", "avx512f"},
	{"avx512ifma", "avx512f"},
	{"avx512pf", "avx512f"}, {"avx512er", "avx512f"}, {"avx512cd", "avx512f"},
	{"avx512bw", "avx512f"},
	{"avx512vl", "avx512f"}, {"avx512vbmi", "avx512bw"}, {"avx512_vbmi2", "avx512bw"},
	{"avx512_vnni", "avx512f"}, {"avx512_bitalg", "avx512bw"}, {"avx512_vpopcntdq", "avx512f"},
	{"avx512_4vnniw", "avx512f"}, {"avx512_4fmaps", "avx512f"}, {"avx512_vp2intersect", "avx512f"},
	{"avx512_fp16", "avx512bw"}, {"avx512_bf16", "avx512bw"},
	{"avx10", "avx2"}, {"avx10", "xcr0_opmask"},
	{"kvm_pv_tlb_flush", "kvm_steal_time"},
}

// settle makes a table consistent after bits were taken out of it.
func settle(t Table) Table {
	if t.value(leafAVX10, 0, EBX)&0xff == 0 {
		t.clear("avx10") // it says nothing without a version
	}
	for changed := true; changed; {
		changed = false
		for _, n := range needs {
			if t.Has(n.feature) && !t.Has(n.on) {
				t.clear(n.feature)
				changed = true
			}
		}
	}
	xcr0, avx10 := t.value(leafXSave, 0, EAX), t.Has("avx10")
	t = t.without(func(l *Leaf) bool {
		switch l.Function {
		case leafTopology, leafTopology2, leafTiming: // Machine sets these
			return true
		case leafXSave:
			return l.Index >= 2 && (l.Index >= 32 || xcr0>>l.Index&1 == 0)
		case leafAVX10:
			return !avx10
		}
		return false
	})
	t.settleXSave()
	t.settleLevels()
	return t
}

// xsaveLegacy is the size in bytes of the part of an XSAVE area that is always there: x87 and SSE
// state and the header.
const xsaveLegacy = 576

// settleXSave computes the size of the XSAVE area. While the guest runs, KVM updates EBX with the
// size for the components that are turned on.
func (t Table) settleXSave() {
	l := t.Find(leafXSave, 0)
	if l == nil {
		return
	}
	size := uint32(xsaveLegacy)
	for i := range t {
		if c := &t[i]; c.Function == leafXSave && c.Index >= 2 {
			size = max(size, c.EAX+c.EBX)
		}
	}
	l.EBX, l.ECX = size, size
}

// settleLevels lowers the highest leaf numbers to those of the list, and the highest subleaf number
// to the subleaves that are there.
func (t Table) settleLevels() {
	for _, max := range []struct{ function, last uint32 }{
		{leafMax, leafAVX10}, {leafHypervisor, leafKVM}, {leafExtendedMax, leafAMD21},
	} {
		if l := t.Find(max.function, 0); l != nil {
			l.EAX = min(l.EAX, max.last)
		}
	}
	for _, function := range []uint32{leafFeatures, leafAVX10} {
		last := uint32(0)
		for t.Find(function, last+1) != nil {
			last++
		}
		if l := t.Find(function, 0); l != nil {
			l.EAX = min(l.EAX, last)
		}
	}
}

// MaxVCPUs is how many vCPUs a machine can have.
const MaxVCPUs = 8

// apicBusKHz is the frequency of KVM's APIC timers.
const apicBusKHz = 1000000

// Machine returns the table of vCPU 0 of a machine with cpus vCPUs whose TSC runs at tscKHz (0: the
// guest is not told). guest is what [Guest] or [Common] returned.
func Machine(guest Table, cpus int, tscKHz uint32) Table {
	return setTopology(addTiming(slices.Clone(guest), tscKHz), uint32(cpus))
}

// addTiming tells the guest its TSC and APIC timer frequencies, in a leaf that VMware introduced
// and that guests of KVM also read.
func addTiming(t Table, tscKHz uint32) Table {
	signature := t.Find(leafHypervisor, 0)
	if signature == nil || tscKHz == 0 {
		return t
	}
	signature.EAX = max(signature.EAX, leafTiming)
	return append(t, Leaf{Function: leafTiming, EAX: tscKHz, EBX: apicBusKHz})
}

// setTopology describes n cores of one thread each in one package, whose APIC ids are 0 to n-1.
func setTopology(t Table, n uint32) Table {
	for i := range t {
		l := &t[i]
		switch l.Function {
		case leafBasic:
			// EBX: initial APIC id (31:24), logical processors (23:16).
			l.EBX = l.EBX&0xffff | n<<16
			l.EDX &^= featureBits["ht"].mask
			if n > 1 {
				l.EDX |= featureBits["ht"].mask
			}
		case leafCache:
			if l.EAX&0x1f != 0 {
				// EAX: cores in the package less 1 (31:26), threads that share the cache less 1
				// (25:14): the last level is shared by all.
				l.EAX = l.EAX&0x3fff | (n-1)<<26 | sharing(l.EAX, n)<<14
			}
		case leafExtended:
			l.ECX &^= featureBits["cmp_legacy"].mask
			if n > 1 && l.ECX&featureBits["topoext"].mask != 0 {
				l.ECX |= featureBits["cmp_legacy"].mask
			}
		case leafSizes:
			// ECX: cores less 1 (7:0), bits of an APIC id that number cores (15:12).
			l.ECX = n - 1 | idBits(n)<<12
		case leafAMDCache:
			if l.EAX&0x1f != 0 {
				l.EAX = l.EAX&0x3fff | sharing(l.EAX, n)<<14
			}
		}
	}
	for _, leaf := range []uint32{leafTopology, leafTopology2} {
		if t.value(leafMax, 0, EAX) < leaf {
			break
		}
		t = append(t,
			// Level 0: threads of a core. ECX: level, type (1 thread, 2 core).
			Leaf{Function: leaf, Index: 0, Flags: FlagIndex, EAX: 0, EBX: 1, ECX: 1 << 8},
			Leaf{Function: leaf, Index: 1, Flags: FlagIndex, EAX: idBits(n), EBX: n, ECX: 2<<8 | 1},
			Leaf{Function: leaf, Index: 2, Flags: FlagIndex, ECX: 2},
		)
	}
	return t
}

// sharing returns how many threads, less 1, share the cache that EAX of a cache leaf describes; its
// bits 7:5 are the cache's level.
func sharing(eax, cpus uint32) uint32 {
	if eax>>5&7 >= 3 {
		return cpus - 1
	}
	return 0
}

// idBits is how many bits number n cores.
func idBits(n uint32) uint32 { return uint32(bits.Len32(n - 1)) }

// ForVCPU returns the table of one vCPU: the machine's table with the vCPU's APIC id.
func ForVCPU(machine Table, id uint32) Table {
	t := slices.Clone(machine)
	for i := range t {
		l := &t[i]
		switch l.Function {
		case leafBasic:
			l.EBX = l.EBX&0x00ffffff | id<<24
		case leafTopology, leafTopology2:
			l.EDX = id
		case leafAMDNode:
			l.EAX, l.EBX = id, id
		}
	}
	return t
}
