package cpu

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// recorded reads the tables of testdata. Each says in itself where it comes from.
func recorded(t testing.TB) map[string]*Processor {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	require.NoError(t, err)
	hosts := make(map[string]*Processor)
	for _, f := range files {
		data, err := os.ReadFile(f)
		require.NoError(t, err)
		h, err := Decode(filepath.Base(f), data)
		require.NoError(t, err)
		hosts[strings.TrimSuffix(h.Name, ".json")] = h
	}
	require.GreaterOrEqual(t, len(hosts), 8)
	return hosts
}

// absent returns leaves that KVM may answer now or later and that a table does not have.
func absent(t Table) Table {
	var all Table
	add := func(first, last, subleaves uint32) {
		for function := first; function <= last; function++ {
			for index := range subleaves {
				if t.Find(function, index) == nil && all.Find(function, index) == nil {
					all = append(all, Leaf{Function: function, Index: index, Flags: FlagIndex})
				}
			}
		}
	}
	add(0, 0x2a, 4)
	add(leafXSave, leafXSave, 64)
	add(0x40000000, 0x40000011, 1)
	add(0x80000000, 0x80000028, 2)
	add(0xc0000000, 0xc0000004, 1)
	return all
}

// passes are the bits of a register that the list lets through or makes anew.
func passes(function, index uint32, r Register) (mask uint32) {
	for _, w := range wordsOf(function, index, r) {
		mask |= w.mask | w.own
	}
	return mask
}

// TestEveryBit turns over every bit that a host could answer with. The guest sees it only if
// the list has it, else it is named as beyond; and a host that lacks a feature which a guest was
// shown is refused by its name.
func TestEveryBit(t *testing.T) {
	for name, h := range recorded(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := slices.Clone(h.Leaves)
			guest := Guest(host)
			for i := range host {
				turnAll(t, host, guest, i)
			}
			for _, l := range absent(host) {
				turnAll(t, append(host, l), guest, len(host))
			}
		})
	}
}

// turnAll turns over every bit of leaf i, one after the other. In registers that are not listed
// nothing distinguishes them: they are turned over together.
func turnAll(t *testing.T, host, guest Table, i int) {
	l := &host[i]
	for r := EAX; r <= EDX; r++ {
		reg := l.Reg(r)
		was := *reg
		if passes(l.Function, l.Index, r) == 0 {
			*reg = all
			turned(t, host, guest, l, r, 31)
			*reg = was
			continue
		}
		for bit := range 32 {
			*reg ^= 1 << bit
			turned(t, host, guest, l, r, bit)
			*reg = was
		}
	}
}

// turned looks at a host after one of its bits was turned over, and at what a guest saw before.
func turned(t *testing.T, host, before Table, l *Leaf, r Register, bit int) {
	what := func() string { return fmt.Sprintf("%s[%d]", place(l.Function, l.Index, r), bit) }
	after := Guest(host)
	machine := Machine(after, 2, 1_000_000)
	for i := range machine {
		m := &machine[i]
		for s := EAX; s <= EDX; s++ {
			if extra := *m.Reg(s) &^ passes(m.Function, m.Index, s); extra != 0 {
				t.Fatalf("%s: the guest sees %#x of %s",
					what(), extra, place(m.Function, m.Index, s))
			}
		}
	}
	set := *l.Reg(r)>>bit&1 != 0
	listed := passes(l.Function, l.Index, r)>>bit&1 != 0
	if set && !listed && len(Beyond(host)) == 0 {
		t.Fatalf("%s: it does not pass and is not named", what())
	}
	sees := func(t Table) bool { return t.value(l.Function, l.Index, r)>>bit&1 != 0 }
	for _, w := range wordsOf(l.Function, l.Index, r) {
		if w.own>>bit&1 != 0 || w.rule == own && w.mask>>bit&1 != 0 {
			unchanged(t, what, before, after)
		}
		if w.rule != features || w.mask>>bit&1 == 0 || !sees(before) || set {
			continue
		}
		err := Check(Machine(before, 2, 1_000_000), after)
		if err == nil || !strings.Contains(err.Error(), w.bitName(bit)) {
			t.Fatalf("%s: a host without it must be refused by the name %s: %v",
				what(), w.bitName(bit), err)
		}
	}
}

// unchanged checks that what Machine sets is the same, whatever the host says.
func unchanged(t *testing.T, what func() string, before, after Table) {
	for _, a := range after {
		b := Leaf{Function: a.Function, Index: a.Index, Flags: a.Flags}
		if l := before.Find(a.Function, a.Index); l != nil {
			b = *l
		}
		if a != b {
			t.Fatalf("%s: the host's own shows: %#v, before %#v", what(), a, b)
		}
	}
}

// TestNeverShown checks that the list does not have bits whose state does not travel.
func TestNeverShown(t *testing.T) {
	for name, h := range recorded(t) {
		for _, c := range []struct {
			what            string
			function, index uint32
			reg             Register
			bit             int
		}{
			{"vmx", 1, 0, ECX, 5}, {"pdcm", 1, 0, ECX, 15}, {"osxsave", 1, 0, ECX, 27},
			{"ds", 1, 0, EDX, 21},
			{"sgx", 7, 0, EBX, 2}, {"mpx", 7, 0, EBX, 14}, {"intel_pt", 7, 0, EBX, 25},
			{"ospke", 7, 0, ECX, 4}, {"shstk", 7, 0, ECX, 7}, {"bus_lock_detect", 7, 0, ECX, 24},
			{"pks", 7, 0, ECX, 31}, {"arch_lbr", 7, 0, EDX, 19}, {"ibt", 7, 0, EDX, 20},
			{"amx_bf16", 7, 0, EDX, 22},
			{"amx_tile", 7, 0, EDX, 24}, {"amx_int8", 7, 0, EDX, 25},
			{"arch_capabilities", 7, 0, EDX, 29},
			{"fred", 7, 1, EAX, 17}, {"amx_fp16", 7, 1, EAX, 21}, {"amx_complex", 7, 1, EDX, 8},
			{"apx_f", 7, 1, EDX, 21},
			{"tile configuration", 0xd, 0, EAX, 17}, {"tile data", 0xd, 0, EAX, 18},
			{"MPX state", 0xd, 0, EAX, 3},
			{"xfd", 0xd, 1, EAX, 4}, {"CET user state", 0xd, 1, ECX, 11},
			{"CET supervisor state", 0xd, 1, ECX, 12},
			{"asynchronous page faults", 0x40000001, 0, EAX, 4}, {"svm", 0x80000001, 0, ECX, 2},
			{"core counters", 0x80000001, 0, ECX, 23}, {"SEV", 0x8000001f, 0, EAX, 1},
			{"PerfMonV2", 0x80000022, 0, EAX, 0},
		} {
			host := slices.Clone(h.Leaves)
			if host.Find(c.function, c.index) == nil {
				host = append(host, Leaf{Function: c.function, Index: c.index, Flags: FlagIndex})
			}
			*host.Find(c.function, c.index).Reg(c.reg) |= 1 << c.bit
			m := Machine(Guest(host), 1, 1_000_000)
			require.Zero(t, m.value(c.function, c.index, c.reg)>>c.bit&1, "%s: %s", name, c.what)
		}
		for _, leaf := range []uint32{
			0xa, 0x12, 0x14, 0x1d, 0x1e, 0x29, 0x8000000a, 0x8000001f, 0x80000022,
		} {
			require.Nil(t, Guest(h.Leaves).Find(leaf, 0), "%s: leaf %#x", name, leaf)
		}
		for index := uint32(10); index < 64; index++ {
			require.Nil(t, Guest(h.Leaves).Find(leafXSave, index), "%s: component %d", name, index)
		}
	}
}

// TestChangesAreNoticed checks what happens if a guest was told more, or a destination lacks
// something.
func TestChangesAreNoticed(t *testing.T) {
	base := Guest(recorded(t)["intel-avx10-2"].Leaves)
	for _, c := range []struct {
		name            string
		function, index uint32
		reg             Register
		told            uint32 // to the guest, more than the host has
		lacks           uint32 // at the host
		want            string
	}{
		{"7.1:ECX", 7, 1, ECX, 0, 1 << 5, "missing here: msr_imm"},
		{"7.1:EAX", 7, 1, EAX, 0, 1 << 26, "missing here: lam"},
		{"7.1:EDX", 7, 1, EDX, 0, 1 << 4, "missing here: avx_vnni_int8"},
		{"7.1:EBX, unknown", 7, 1, EBX, 1 << 9, 0, "does not carry: CPUID.7H.1:EBX[9]"},
		{"7.2:EDX", 7, 2, EDX, 0, 1 << 4, "missing here: bhi_ctrl"},
		{"AVX10 lengths", 0x24, 0, EBX, 0, 1 << 18, "missing here: avx10_512"},
		{"AVX10 version", 0x24, 0, EBX, 1, 0, "AVX10 version: the guest was told 3, here it is 2"},
		{"arat", 6, 0, EAX, 0, 1 << 2, "missing here: arat"},
		{"AMD TSA", 0x80000021, 0, ECX, 1 << 1, 0, "missing here: tsa_sq_no"},
		{"AMD 21", 0x80000021, 0, EAX, 1 << 29, 0, "missing here: srso_no"},
		{"SEV", 0x8000001f, 0, EAX, 1 << 1, 0, "leaf 0x8000001f.0 (memory encryption)"},
		{"shadow stacks", 7, 0, ECX, 1 << 7, 0, "does not carry: shstk"},
		{"XSS", 0xd, 1, ECX, 1 << 11, 0, "does not carry: xss_cet_u"},
		{"XSAVE layout", 0xd, 5, EBX, 64, 0, "AVX-512 state, offset: the guest was told"},
		{"KVM", 0x40000001, 0, EAX, 0, 1, "missing here: kvmclock"},
		{"CLFLUSH", 1, 0, EBX, 1 << 8, 0, "CLFLUSH line size"},
		{"addresses", 0x80000008, 0, EAX, 1, 0, "physical address: the guest was told 53, here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, have := slices.Clone(base), slices.Clone(base)
			if want.Find(c.function, c.index) == nil {
				want = append(want, Leaf{Function: c.function, Index: c.index, Flags: FlagIndex})
			}
			*want.Find(c.function, c.index).Reg(c.reg) += c.told
			*have.Find(c.function, c.index).Reg(c.reg) &^= c.lacks
			err := Check(want, have)
			require.ErrorIs(t, err, ErrFeatures)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n")
		})
	}
	require.NoError(t, Check(base, base))
	require.ErrorContains(t, Check(base, Guest(recorded(t)["amd-turin"].Leaves)),
		`its processor is "GenuineIntel", here it is "AuthenticAMD"`)
	older := Guest(recorded(t)["intel-granite-rapids"].Leaves)
	require.ErrorContains(t, Check(base, older), "vmm doctor --cpu")
}

// consistent checks what holds for every table that a guest sees.
func consistent(t *testing.T, g Table) {
	t.Helper()
	require.Equal(t, g, Guest(g), "once is enough")
	for _, n := range needs {
		if g.Has(n.feature) {
			require.True(t, g.Has(n.on), "%s without %s", n.feature, n.on)
		}
	}
	size := uint32(xsaveLegacy)
	for index := uint32(2); index < 64; index++ {
		on := index < 32 && g.value(leafXSave, 0, EAX)>>index&1 != 0
		l := g.Find(leafXSave, index)
		require.Equal(t, on, l != nil, "component %d of XCR0 and its leaf", index)
		if on {
			size = max(size, l.EAX+l.EBX)
		}
	}
	if g.Find(leafXSave, 0) != nil {
		require.EqualValues(t, size, g.XSaveBytes())
	}
	require.Equal(t, g.Has("avx10"), g.Find(leafAVX10, 0) != nil)
	last := g.value(leafFeatures, 0, EAX)
	require.NotNil(t, g.Find(leafFeatures, last), "the highest subleaf of leaf 7")
	require.Empty(t, Beyond(g))
}

func TestGuestsAreConsistent(t *testing.T) {
	for name, h := range recorded(t) {
		t.Run(name, func(t *testing.T) { consistent(t, Guest(h.Leaves)) })
	}
}

// TestCommon makes machines for every two hosts, as they are and with bits missing at random.
func TestCommon(t *testing.T) {
	hosts := recorded(t)
	random := rand.New(rand.NewPCG(1, 2))
	for _, a := range hosts {
		for _, b := range hosts {
			for round := range 20 {
				one, two := lesser(random, a, round), lesser(random, b, round)
				table, err := Common(one, two)
				if a.Leaves.Vendor() != b.Leaves.Vendor() {
					require.ErrorIs(t, err, ErrNothingInCommon)
					require.ErrorContains(t, err, b.Name)
					continue
				}
				require.NoError(t, err)
				consistent(t, table)
				for _, h := range []*Processor{one, two} {
					err := Check(Machine(table, 3, 1), Guest(h.Leaves))
					require.NoError(t, err, "%s and %s", a.Name, b.Name)
				}
				again, err := Common(two, one)
				require.NoError(t, err)
				require.Empty(t, Missing(table, again), "the order counts for descriptions only")
				require.Empty(t, Missing(again, table))
			}
		}
	}
}

// lesser is a host with some feature bits less; round 0 leaves it alone.
func lesser(random *rand.Rand, h *Processor, round int) *Processor {
	less := *h
	less.Leaves = slices.Clone(h.Leaves)
	for range round {
		w := &list[random.IntN(len(list))]
		if l := less.Leaves.Find(w.function, w.index); l != nil && w.rule == features {
			*l.Reg(w.reg) &^= 1 << random.IntN(32)
		}
	}
	return &less
}

func TestCommonOfGenerations(t *testing.T) {
	hosts := recorded(t)
	table, err := Common(hosts["intel-granite-rapids"], hosts["intel-skylake-server"])
	require.NoError(t, err)
	require.True(t, table.Has("avx512f"))
	for _, gone := range []string{"avx10", "gfni", "la57", "avx512_fp16"} {
		require.False(t, table.Has(gone), gone)
	}
	require.Equal(t, 46, table.AddressBits(), "the fewest bits")
	require.Equal(t, uint32(48), table.value(leafSizes, 0, EAX)>>8&0xff)
	require.Equal(t, uint32(0x16), table.value(leafMax, 0, EAX), "the lowest maximum")
	require.Equal(t, uint32(0xa06d0), table.value(leafBasic, 0, EAX), "the first one's model")

	// PKRU has another place in the XSAVE area of a processor with AVX-512.
	milan := &Processor{Name: "milan", Leaves: slices.Clone(hosts["amd-genoa"].Leaves)}
	milan.Leaves.Find(leafXSave, 0).EAX = 0x207
	milan.Leaves.Find(leafXSave, 9).EBX = 832
	table, err = Common(hosts["amd-genoa"], milan)
	require.NoError(t, err)
	require.False(t, table.Has("pku"))
	require.False(t, table.Has("avx512f"))
	require.Equal(t, uint32(7), table.value(leafXSave, 0, EAX))
	require.Equal(t, 832, table.XSaveBytes())
	require.True(t, Guest(milan.Leaves).Has("pku"), "alone it has it")

	odd := &Processor{Name: "odd", Leaves: slices.Clone(milan.Leaves)}
	odd.Leaves.Find(leafBasic, 0).EBX = 4 << 8
	_, err = Common(milan, odd)
	require.ErrorIs(t, err, ErrNothingInCommon)
	require.ErrorContains(t, err, "milan and odd differ: CLFLUSH line size")
}

func TestBeyondNamesWhatIsLeftOut(t *testing.T) {
	hosts := recorded(t)
	beyond := Beyond(hosts["intel-avx10-2"].Leaves)
	for _, name := range []string{
		"shstk", "ibt", "amx_tile", "xcr0_tiledata", "xfd", "apx_f", "fred", "arch_capabilities",
		"kvm_asyncpf", "vmx",
		"leaf 0xa.0 (performance counters)", "leaf 0x29.0 (APX)", "CPUID.24H.1:ECX", "xss_cet_s",
	} {
		require.Contains(t, beyond, name)
	}
	for _, name := range []string{"avx10", "msr_imm", "osxsave", "ht", "fpu"} {
		require.NotContains(t, beyond, name)
	}
	require.Contains(t, Beyond(hosts["amd-turin"].Leaves), "leaf 0x8000000a.0 (SVM)")
	require.Equal(t, []string{"CPUID.7H.1:EBX[31]"},
		Beyond(Table{{Function: 7, Index: 1, EBX: 1 << 31}}))
}

// TestSourcesAreSaid: a table from a manual must not look like one recorded from a machine.
func TestSourcesAreSaid(t *testing.T) {
	for name, h := range recorded(t) {
		is := strings.HasPrefix(h.Source, "recorded by vmm doctor --cpu") ||
			strings.Contains(h.Source, "not recorded: written from")
		require.True(t, is, "%s: %q", name, h.Source)
	}
}

func TestTopology(t *testing.T) {
	for name, h := range recorded(t) {
		for cpus := range uint32(8) {
			n := cpus + 1
			m := Machine(Guest(h.Leaves), int(n), 2_000_000)
			idSize := uint32(bits.Len32(n - 1))
			require.Equal(t, n, m.Find(1, 0).EBX>>16&0xff, name)
			require.Equal(t, n > 1, m.Has("ht"))
			require.Equal(t, (n-1)|idSize<<12, m.Find(0x80000008, 0).ECX)
			if m.Find(0, 0).EAX >= 0xb {
				require.Equal(t, Leaf{0xb, 0, FlagIndex, 0, 1, 1 << 8, 0}, *m.Find(0xb, 0))
				require.Equal(t, Leaf{0xb, 1, FlagIndex, idSize, n, 2<<8 | 1, 0}, *m.Find(0xb, 1))
			}
			if l := m.Find(0x8000001d, 3); l != nil {
				require.Equal(t, n-1, l.EAX>>14&0xfff, "the last level is shared")
			}
			if l := m.Find(4, 3); l != nil {
				require.Equal(t, n-1, l.EAX>>14&0xfff, "the last level is shared")
				require.Equal(t, n-1, l.EAX>>26)
			}
			require.Equal(t, uint32(2_000_000), m.Find(leafTiming, 0).EAX)
			require.Equal(t, uint32(apicBusKHz), m.Find(leafTiming, 0).EBX)
			require.Equal(t, uint32(leafTiming), m.Find(leafHypervisor, 0).EAX)
			for id := range n {
				own := ForVCPU(m, id)
				require.Equal(t, id, own.Find(1, 0).EBX>>24)
				require.Equal(t, id, own.Find(0xb, 0).EDX)
				require.Equal(t, id, own.Find(0xb, 1).EDX)
				if l := own.Find(0x8000001e, 0); l != nil {
					require.Equal(t, id, l.EAX)
				}
				require.NoError(t, Check(own, Guest(h.Leaves)), "ids are no business of a host")
			}
			require.Zero(t, m.Find(1, 0).EBX>>24, "the machine's own table stays that of vCPU 0")
		}
	}
}

// TestOffer checks what KVM leaves to the VMM to announce.
func TestOffer(t *testing.T) {
	bare := Table{{Function: 0, EAX: 1}, {Function: 1}}
	require.True(t, Guest(Offer(bare, true)).Has("tsc_deadline_timer"))
	require.False(t, Guest(Offer(bare, false)).Has("tsc_deadline_timer"))
	require.True(t, Guest(Offer(bare, false)).Has("hypervisor"))
	require.Zero(t, bare[1].ECX)
}

func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for i := range list {
		w := &list[i]
		require.LessOrEqual(t, len(w.bits), 32, w.name)
		require.NotEmpty(t, w.name)
		for _, n := range w.bits {
			require.False(t, n != "" && seen[n], "name %s twice", n)
			seen[n] = true
		}
		// No bit has two rules.
		for j := range list[:i] {
			o := &list[j]
			same := o.function == w.function && o.reg == w.reg
			if same && o.index <= w.last && w.index <= o.last {
				require.Zero(t, (o.mask|o.own)&(w.mask|w.own), "%s and %s", o.name, w.name)
			}
		}
	}
	// These are a few bits with well-known places, to find a word that has slipped by a bit.
	for _, c := range []struct {
		function, index uint32
		reg             Register
		bit             int
		want            string
	}{
		{1, 0, ECX, 31, "hypervisor"}, {1, 0, EDX, 31, "pbe"}, {1, 0, ECX, 28, "avx"},
		{7, 0, EBX, 31, "avx512vl"},
		{7, 0, ECX, 31, "pks"}, {7, 0, ECX, 22, "rdpid"}, {7, 0, EDX, 31, "spec_ctrl_ssbd"},
		{7, 1, EAX, 26, "lam"},
		{7, 1, EAX, 19, "wrmsrns"}, {7, 1, EDX, 19, "avx10"}, {7, 1, EDX, 21, "apx_f"},
		{7, 1, ECX, 5, "msr_imm"},
		{0xd, 0, EAX, 18, "xcr0_tiledata"}, {0xd, 0, EAX, 9, "xcr0_pkru"},
		{0xd, 1, ECX, 12, "xss_cet_s"},
		{0x24, 0, EBX, 18, "avx10_512"}, {0x80000001, 0, ECX, 29, "mwaitx"},
		{0x80000001, 0, EDX, 29, "lm"},
		{0x80000001, 0, EDX, 20, "nx"}, {0x80000007, 0, EDX, 8, "invtsc"},
		{0x80000008, 0, EBX, 30, "ibpb_ret"},
		{0x80000008, 0, EBX, 24, "amd_ssbd"}, {0x80000021, 0, EAX, 29, "srso_no"},
		{0x80000021, 0, EAX, 8, "autoibrs"},
		{0x80000021, 0, ECX, 2, "tsa_l1_no"}, {0x40000001, 0, EAX, 24, "kvmclock_stable"},
		{7, 0, ECX, 15, "CPUID.7H.0:ECX[15]"}, {7, 2, EDX, 31, "CPUID.7H.2:EDX[31]"},
	} {
		found := false
		for _, w := range wordsOf(c.function, c.index, c.reg) {
			if w.rule == features {
				require.Equal(t, c.want, w.bitName(c.bit))
				found = true
			}
		}
		require.True(t, found, c.want)
	}
	require.Panics(t, func() { Table{}.Has("no such feature") })
}
