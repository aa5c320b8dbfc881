package vmm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/cpu"
	"taskguide/vmm/kvm"
	"taskguide/vmm/state"
)

// amd and intel are tables of the two vendors' processors.
var (
	amd   = cpu.Table{{Function: 0, EBX: 0x68747541, EDX: 0x69746e65, ECX: 0x444d4163}}
	intel = cpu.Table{{Function: 0, EBX: 0x756e6547, EDX: 0x49656e69, ECX: 0x6c65746e}}
)

// withMSRs is a state whose second vCPU has these MSRs.
func withMSRs(msrs ...kvm.MSREntry) []byte {
	s := sampleState(2)
	s.vcpus[1].msrs = msrs
	return s.encode()
}

func TestCompareStates(t *testing.T) {
	const esp, eip, lstar = 0x175, 0x176, 0xc0000082
	good := sampleState(2).encode()
	change := func(f func(s *machineState)) []byte {
		s := sampleState(2)
		f(s)
		return s.encode()
	}
	for _, c := range []struct {
		name        string
		cpu         cpu.Table
		source      []byte
		destination []byte
		want        string // "": they are the same
	}{
		{"equal", amd, good, good, ""},
		{
			"what an AMD processor has not", amd,
			withMSRs(kvm.MSREntry{Index: esp, Data: 0xfffffe0000003000}),
			withMSRs(kvm.MSREntry{Index: esp, Data: 0x3000}), "",
		},
		{
			"what it has", amd,
			withMSRs(kvm.MSREntry{Index: esp, Data: 0xfffffe0000003000}),
			withMSRs(kvm.MSREntry{Index: esp, Data: 0x2000}),
			"the states differ: MSR 0x175 of vCPU 1 is 0xfffffe0000003000 at the source " +
				"and 0x2000 at the destination",
		},
		{
			"what an Intel processor has", intel,
			withMSRs(kvm.MSREntry{Index: eip, Data: 0xffffffff81000000}),
			withMSRs(kvm.MSREntry{Index: eip, Data: 0x81000000}), "MSR 0x176 of vCPU 1",
		},
		{
			"another MSR", amd,
			withMSRs(kvm.MSREntry{Index: lstar, Data: 0xffffffff81000000}),
			withMSRs(kvm.MSREntry{Index: lstar, Data: 0x81000000}), "MSR 0xc0000082 of vCPU 1",
		},
		{
			"one that is lost", amd, withMSRs(kvm.MSREntry{Index: lstar, Data: 5}), withMSRs(),
			"MSR 0xc0000082 of vCPU 1 is 0x5 at the source and 0x0 at the destination",
		},
		{
			"one that has come", amd, withMSRs(), withMSRs(kvm.MSREntry{Index: lstar, Data: 5}),
			"MSR 0xc0000082 of vCPU 1 is 0x0 at the source and 0x5 at the destination",
		},
		{
			"two", amd, withMSRs(kvm.MSREntry{Index: 1, Data: 5}, kvm.MSREntry{Index: 2, Data: 6}),
			withMSRs(), "; MSR 0x2 of vCPU 1",
		},
		{
			"a register", amd, good, change(func(s *machineState) { s.vcpus[1].regs.RIP = 0x77 }),
			"regs of vCPU 1 from byte 128 on is 0x0000000000001001 at the source " +
				"and 0x0000000000000077 at the destination",
		},
		{
			"a controller", amd, good, change(func(s *machineState) { s.pic[1].Chip[4] = 9 }),
			"pic1 from byte",
		},
		{
			"a device", amd, good,
			change(func(s *machineState) { sectionOf(s, "serial").Data[2] = 9 }),
			"serial from byte 0 on is 0x030201 at the source and 0x090201 at the destination",
		},
		{
			"a device's size", amd, good,
			change(func(s *machineState) { sectionOf(s, "serial").Data = nil }),
			"serial has 3 bytes at the source and 0 at the destination",
		},
		{
			"a section missing", amd, good,
			editSections(t, good, func(s *state.Section) bool { return s.Name != "pit" }),
			"pit is missing at the destination",
		},
		{
			"a section more", amd,
			editSections(t, good, func(s *state.Section) bool { return s.Name != "pit" }), good,
			"pit is at the destination only",
		},
		{"no state", amd, good, []byte("none"), "fingerprint of the destination"},
		{
			"half an MSR", amd, good, editSections(t, good, func(s *state.Section) bool {
				s.Data = s.Data[:len(s.Data)-1]
				return s.Name == "msrs"
			}), "msrs of vCPU 0 is damaged",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			vm := &VM{config: machineConfig{CPUID: c.cpu}}
			err := vm.CompareStates(c.source, c.destination)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

// TestManyDifferencesAreCounted: with many differences the error stays readable.
func TestManyDifferencesAreCounted(t *testing.T) {
	var msrs []kvm.MSREntry
	for i := range uint32(maxDifferences + 3) {
		msrs = append(msrs, kvm.MSREntry{Index: i, Data: 1})
	}
	err := (&VM{}).CompareStates(withMSRs(msrs...), withMSRs())
	require.ErrorIs(t, err, ErrDiffer)
	require.ErrorContains(t, err, "MSR 0x7 ")
	require.NotContains(t, err.Error(), "MSR 0x8 ")
	require.ErrorContains(t, err, "; and 3 more")
}

func FuzzCompareStates(f *testing.F) {
	good := sampleState(2).encode()
	f.Add(good)
	f.Add(withMSRs(kvm.MSREntry{Index: 0x175, Data: 1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		vm := &VM{config: machineConfig{CPUID: amd}}
		err := vm.CompareStates(good, data)
		if err == nil {
			back := vm.CompareStates(data, good)
			require.NoError(t, back, "both ways")
		}
	})
}
