package vmm

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/kvm"
	"taskguide/vmm/probe"
)

// guestMSRs are MSRs that a guest has by its CPUID table, with a value that KVM takes.
func guestMSRs() map[uint32]uint64 {
	values := map[uint32]uint64{0x2ff: 0xc06, 0x250: 0x0606060606060606}
	for i := range uint32(8) { // variable memory types: base and mask
		values[0x200+2*i] = uint64(i+1)<<28 | 6
		values[0x201+2*i] = 0xff0000800
		values[0x268+i] = 0x0404040404040404
	}
	for i := range uint32(32) { // machine check banks: CTL, STATUS, ADDR, MISC
		values[0x400+4*i] = ^uint64(0)
		values[0x401+4*i] = 1<<63 | uint64(i)
		values[0x402+4*i] = 0x1000 + uint64(i)
		values[0x403+4*i] = 0x2000 + uint64(i)
	}
	values[0x258], values[0x259] = 0x0505050505050505, 0x0606060606060606
	return values
}

// TestEveryMSROfAGuestMoves gives each of them a value of its own, moves, and reads them.
func TestEveryMSROfAGuestMoves(t *testing.T) {
	vm := newTestVM(t, 2, nil)
	require.NoError(t, vm.Boot(testKernel(code(0xeb, 0xfe)), nil, "")) // jmp .
	values := guestMSRs()
	fresh, err := vm.StateDigest()
	require.NoError(t, err)
	for index, v := range values {
		require.NoError(t, vm.vcpus[1].setMSR(index, v))
		digest, err := vm.StateDigest()
		require.NoError(t, err)
		require.NotEqual(t, fresh, digest, "the digest covers MSR %#x", index)
		fresh = digest
	}
	for range 2 {
		vm = moveVM(t, vm, func(*VM) {})
		for index, v := range values {
			got, err := vm.vcpus[1].readMSRs([]uint32{index})
			require.NoError(t, err)
			require.Len(t, got, 1, "MSR %#x", index)
			require.Equal(t, v, got[0].Data, "MSR %#x", index)
			other, err := vm.vcpus[0].readMSRs([]uint32{index})
			require.NoError(t, err)
			require.NotEqual(t, v, other[0].Data, "MSR %#x is a vCPU's own", index)
		}
	}
}

// TestAnMSRThatCannotBeLoadedIsFoundAtSetup: it is found at setup, not when the guest already
// stands still.
func TestAnMSRThatCannotBeLoadedIsFoundAtSetup(t *testing.T) {
	const unknown = 0xbad
	src := newTestVM(t, 1, nil)
	src.config.MSRs = append(src.config.MSRs, unknown)
	config, err := src.Config()
	require.NoError(t, err)
	_, err = NewFromConfig(config, Options{})
	require.ErrorIs(t, err, ErrCPUFeatures)
	require.ErrorContains(t, err, "MSR 0xbad")
}

// TestAnUnannouncedMSRIsRefused loads an MSR that was not in the configuration.
func TestAnUnannouncedMSRIsRefused(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	state, err := vm.SaveState()
	require.NoError(t, err)
	vm.config.MSRs = vm.config.MSRs[1:]
	require.ErrorIs(t, vm.LoadState(state), ErrState)
}

// TestGuestsHaveNoPerformanceCounters: if KVM can take them away they are gone, and vmm doctor
// names a host on which a guest has them nevertheless.
func TestGuestsHaveNoPerformanceCounters(t *testing.T) {
	h, err := probe.Ask()
	require.NoError(t, err)
	named := strings.Contains(strings.Join(h.Notes, "\n"), "performance counters")
	vm := newTestVM(t, 1, nil)
	has := probe.HasLegacyCounters(vm.vcpus[0].fd)
	t.Logf("counters: %t; KVM_CAP_PMU_CAPABILITY: %d", has, vm.fd.Check(kvm.CapPMUCapability))
	require.Equal(t, has, named)
	if vm.fd.Check(kvm.CapPMUCapability)&kvm.PMUDisable != 0 {
		require.False(t, has, "KVM was told to take them away")
	}
}

// TestEveryPartOfAVCPUIsLoaded: parts that a fresh vCPU has as well as the guests of other tests.
func TestEveryPartOfAVCPUIsLoaded(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	s := stateOf(t, vm)
	v := &s.vcpus[0]
	v.debug.DB[0], v.debug.DR7 = 0x1234, v.debug.DR7|1
	v.xcrs.Registers[0].Value = 3 // x87 and SSE
	v.events.N.Pending = 1
	want := *v
	require.NoError(t, vm.LoadState(s.encode()))
	got := stateOf(t, vm).vcpus[0]
	require.Equal(t, want.debug, got.debug)
	require.Equal(t, want.xcrs, got.xcrs)
	require.Equal(t, want.events.N, got.events.N)
}
