package vmm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bobuhiro11/gokvm/kvm"
	"github.com/stretchr/testify/require"
)

// amdTable is a small table as KVM gives it for an AMD processor.
func amdTable() []kvm.CPUIDEntry2 {
	return []kvm.CPUIDEntry2{
		{Function: 0, Eax: 0x10, Ebx: 0x68747541, Ecx: 0x444d4163, Edx: 0x69746e65},
		{Function: 1, Eax: 0xa10f11, Ebx: 0x05800800, Ecx: 1<<31 | 1<<27 | 1<<26 | 1<<5 | 1, Edx: 1<<28 | 1<<4},
		{Function: 7, Flags: flagIndex, Eax: 2, Ebx: 1<<5 | 1<<2, Ecx: 1<<4 | 1<<3, Edx: 1 << 29},
		{Function: 7, Index: 1, Flags: flagIndex, Eax: 1 << 5},
		{Function: 0xa, Eax: 0x07300802},
		{Function: 0xb, Flags: flagIndex, Edx: 9},
		{Function: 0xd, Flags: flagIndex, Eax: 7, Ebx: 0x340, Ecx: 0x340},
		{Function: 0xd, Index: 1, Flags: flagIndex, Eax: 1},
		{Function: 0xd, Index: 2, Flags: flagIndex, Eax: 0x100, Ebx: 0x240},
		{Function: leafHypervisor, Eax: leafKVM, Ebx: 0x4b4d564b},
		{Function: leafKVM, Eax: 1<<24 | 9},
		{Function: 0x80000001, Ecx: 1<<22 | 1<<2 | 1, Edx: 1 << 29},
		{Function: 0x80000007, Edx: 1 << 8},
		{Function: 0x80000008, Eax: 48, Ebx: 1, Ecx: 0x7007},
		{Function: 0x8000000a, Eax: 1},
		{Function: 0x8000001d, Index: 3, Flags: flagIndex, Eax: 0x4000 | 3<<5 | 3},
		{Function: 0x8000001e, Eax: 9, Ebx: 9, Ecx: 9},
	}
}

func TestMachineCPUIDHidesWhatCannotMove(t *testing.T) {
	table := machineCPUID(amdTable(), 1, 2_000_000, true)
	require.Nil(t, findLeaf(table, 0xa, 0), "performance counters")
	require.Nil(t, findLeaf(table, 0x8000000a, 0), "nested virtualization")
	one := findLeaf(table, 1, 0)
	require.Equal(t, uint32(1<<31|1<<26|1<<24|1), one.Ecx, "no VMX, no OSXSAVE, deadline timer")
	require.Zero(t, one.Edx&edx1HTT, "one vCPU")
	seven := findLeaf(table, 7, 0)
	require.Equal(t, []uint32{1 << 5, 1 << 3, 0}, []uint32{seven.Ebx, seven.Ecx, seven.Edx})
	require.Equal(t, uint32(1<<22|1), findLeaf(table, 0x80000001, 0).Ecx, "no SVM")
	require.Equal(t, uint32(leafTiming), findLeaf(table, leafHypervisor, 0).Eax)
	timing := findLeaf(table, leafTiming, 0)
	require.Equal(t, []uint32{2_000_000, apicBusKHz}, []uint32{timing.Eax, timing.Ebx})
}

func TestTopology(t *testing.T) {
	for _, c := range []struct{ cpus, bits uint32 }{{1, 0}, {2, 1}, {3, 2}, {4, 2}, {5, 3}, {8, 3}} {
		t.Run(fmt.Sprintf("%d vCPUs", c.cpus), func(t *testing.T) {
			table := machineCPUID(amdTable(), int(c.cpus), 0, false)
			one := findLeaf(table, 1, 0)
			require.Equal(t, c.cpus, one.Ebx>>16&0xff)
			require.Equal(t, c.cpus > 1, one.Edx&edx1HTT != 0)
			thread, core := findLeaf(table, 0xb, 0), findLeaf(table, 0xb, 1)
			require.Equal(t, []uint32{0, 1, 1 << 8}, []uint32{thread.Eax, thread.Ebx, thread.Ecx})
			require.Equal(t, []uint32{c.bits, c.cpus, 2<<8 | 1}, []uint32{core.Eax, core.Ebx, core.Ecx})
			require.Equal(t, (c.cpus-1)|c.bits<<12, findLeaf(table, 0x80000008, 0).Ecx)
			require.Equal(t, c.cpus-1, findLeaf(table, 0x8000001d, 3).Eax>>14&0xfff, "the last level is shared")
			for id := range c.cpus {
				own := vcpuCPUID(table, id)
				require.Equal(t, id, findLeaf(own, 1, 0).Ebx>>24)
				require.Equal(t, id, findLeaf(own, 0xb, 0).Edx)
				require.Equal(t, id, findLeaf(own, 0xb, 1).Edx)
				require.Equal(t, id, findLeaf(own, 0x8000001e, 0).Eax)
			}
			require.Zero(t, findLeaf(table, 1, 0).Ebx>>24, "the machine's own table stays that of vCPU 0")
		})
	}
}

func TestMissingFeatures(t *testing.T) {
	edit := func(function, index uint32, change func(e *kvm.CPUIDEntry2)) []kvm.CPUIDEntry2 {
		table := amdTable()
		change(findLeaf(table, function, index))
		return table
	}
	for _, c := range []struct {
		name string
		have []kvm.CPUIDEntry2
		want []string
	}{
		{"the same", amdTable(), nil},
		{"more", edit(7, 0, func(e *kvm.CPUIDEntry2) { e.Ebx |= 1 << 16 }), nil},
		{"1 ECX", edit(1, 0, func(e *kvm.CPUIDEntry2) { e.Ecx &^= 1<<26 | 1 }), []string{"sse3", "xsave"}},
		{"1 EDX", edit(1, 0, func(e *kvm.CPUIDEntry2) { e.Edx = 0 }), []string{"tsc", "ht"}},
		{"7.0 EBX", edit(7, 0, func(e *kvm.CPUIDEntry2) { e.Ebx &^= 1 << 5 }), []string{"avx2"}},
		{"7.0 ECX", edit(7, 0, func(e *kvm.CPUIDEntry2) { e.Ecx &^= 1 << 3 }), []string{"pku"}},
		{"7.0 EDX", edit(7, 0, func(e *kvm.CPUIDEntry2) { e.Edx = 0 }), []string{"arch_capabilities"}},
		{"7.1", edit(7, 1, func(e *kvm.CPUIDEntry2) { e.Eax = 0 }), []string{"avx512_bf16"}},
		{"no leaf 7.1", amdTable()[:3], []string{"avx512_bf16", "xcr0_x87", "xcr0_sse", "xcr0_avx", "xsaveopt",
			"lahf_lm", "svm", "topoext", "lm", "invtsc", "clzero", "kvmclock", "kvmclock2", "kvmclock_stable"}},
		{"XCR0", edit(0xd, 0, func(e *kvm.CPUIDEntry2) { e.Eax = 3 }), []string{"xcr0_avx"}},
		{"0xd.1", edit(0xd, 1, func(e *kvm.CPUIDEntry2) { e.Eax = 0 }), []string{"xsaveopt"}},
		{"extended", edit(0x80000001, 0, func(e *kvm.CPUIDEntry2) { e.Edx = 0 }), []string{"lm"}},
		{"power", edit(0x80000007, 0, func(e *kvm.CPUIDEntry2) { e.Edx = 0 }), []string{"invtsc"}},
		{"sizes", edit(0x80000008, 0, func(e *kvm.CPUIDEntry2) { e.Ebx = 0 }), []string{"clzero"}},
		{"KVM", edit(leafKVM, 0, func(e *kvm.CPUIDEntry2) { e.Eax &^= 1 }), []string{"kvmclock"}},
	} {
		require.Equal(t, c.want, missingFeatures(amdTable(), c.have), c.name)
	}
}

func TestCheckCPUID(t *testing.T) {
	require.NoError(t, checkCPUID(amdTable(), amdTable()))
	for _, c := range []struct {
		name   string
		change func(have []kvm.CPUIDEntry2)
		want   string
	}{
		{"feature", func(h []kvm.CPUIDEntry2) { findLeaf(h, 7, 0).Ebx = 0 }, "missing here: sgx, avx2"},
		{"vendor", func(h []kvm.CPUIDEntry2) { h[0].Ebx = 0x756e6547 }, `its processor is "AuthenticAMD", here it is "GenuenticAMD"`},
		{"address bits", func(h []kvm.CPUIDEntry2) { findLeaf(h, 0x80000008, 0).Eax = 40 }, "48 bits of physical address, here are 40"},
		{"XSAVE layout", func(h []kvm.CPUIDEntry2) { findLeaf(h, 0xd, 2).Ebx += 64 }, "component 2"},
	} {
		have := amdTable()
		c.change(have)
		err := checkCPUID(amdTable(), have)
		require.ErrorIs(t, err, ErrCPUFeatures, c.name)
		require.ErrorContains(t, err, c.want, c.name)
		require.NotContains(t, err.Error(), "\n")
	}
}

func TestFeatureNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, w := range featureWords {
		names := strings.Fields(w.names)
		require.LessOrEqual(t, len(names), 32, "leaf %#x.%d", w.function, w.index)
		for _, n := range names {
			if n != "." {
				require.False(t, seen[n], "name %s twice", n)
				seen[n] = true
			}
		}
	}
	// A few whose place everybody knows, so that no word has slipped by a bit.
	for _, c := range []struct {
		function, index uint32
		reg             register
		bit             int
		want            string
	}{
		{1, 0, regECX, 31, "hypervisor"}, {1, 0, regEDX, 31, "pbe"}, {1, 0, regECX, 28, "avx"},
		{7, 0, regEBX, 31, "avx512vl"}, {7, 0, regECX, 31, "pks"}, {7, 0, regECX, 22, "rdpid"}, {7, 0, regEDX, 31, "spec_ctrl_ssbd"},
		{7, 1, regEAX, 26, "lam"}, {7, 1, regEDX, 19, "avx10"}, {0xd, 0, regEAX, 18, "xcr0_tiledata"}, {0xd, 0, regEAX, 9, "xcr0_pkru"},
		{0xd, 1, regECX, 12, "xss_cet_s"}, {0x80000001, 0, regECX, 29, "mwaitx"}, {0x80000001, 0, regEDX, 29, "lm"}, {0x80000001, 0, regEDX, 20, "nx"},
		{0x80000008, 0, regEBX, 30, "ibpb_ret"}, {0x80000021, 0, regEAX, 29, "srso_no"}, {0x40000001, 0, regEAX, 24, "kvmclock_stable"},
		{7, 0, regECX, 15, "CPUID.7H.0:ECX[15]"}, {7, 2, regEDX, 31, "CPUID.7H.2:EDX[31]"},
	} {
		found := false
		for i := range featureWords {
			if w := &featureWords[i]; w.function == c.function && w.index == c.index && w.reg == c.reg {
				require.Equal(t, c.want, w.bitName(c.bit))
				found = true
			}
		}
		require.True(t, found, c.want)
	}
}
