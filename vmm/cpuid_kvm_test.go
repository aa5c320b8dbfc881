package vmm

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/cpu"
	"taskguide/vmm/probe"
)

// newForHosts makes a machine that hosts must be able to carry, and returns its configuration.
func newForHosts(t *testing.T, hosts ...*cpu.Processor) (*machineConfig, []byte, error) {
	t.Helper()
	vm, err := New(Config{MemoryBytes: 16 << 20, CPUs: 2, CPU: hosts})
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { vm.Close() })
	data, err := vm.Config()
	require.NoError(t, err)
	c, err := parseConfig(data, reads(vm.devices.Catalog()))
	require.NoError(t, err)
	return c, data, nil
}

func TestGuestSeesTheAllowListOnly(t *testing.T) {
	here, err := probe.CPU()
	require.NoError(t, err)
	c, _, err := newForHosts(t)
	require.NoError(t, err)
	require.Empty(t, cpu.Beyond(c.CPUID))
	require.NoError(t, cpu.Check(c.CPUID, cpu.Guest(here.Leaves)))
	require.Equal(t, max(c.CPUID.XSaveBytes(), xsaveMinBytes), c.XSaveBytes)
}

func TestMachineForSeveralHosts(t *testing.T) {
	here, err := probe.CPU()
	require.NoError(t, err)
	require.True(t, cpu.Guest(here.Leaves).Has("kvm_pv_unhalt"))
	lesser := &cpu.Processor{Name: "lesser", Leaves: slices.Clone(here.Leaves)}
	lesser.Leaves.Find(0x40000001, 0).EAX &^= 1 << 7

	c, data, err := newForHosts(t, nil, lesser)
	require.NoError(t, err)
	require.False(t, c.CPUID.Has("kvm_pv_unhalt"), "the other host lacks it")
	require.True(t, c.CPUID.Has("kvmclock"))
	dst, err := NewFromConfig(data, Options{})
	require.NoError(t, err)
	require.NoError(t, dst.Close())

	more := &cpu.Processor{Name: "more", Leaves: slices.Clone(here.Leaves)}
	more.Leaves.Find(7, 0).EBX |= 1 << 26 // avx512pf, of Xeon Phi only
	more.Leaves.Find(7, 0).ECX |= 1 << 27 // movdiri
	c, _, err = newForHosts(t, more, nil)
	require.NoError(t, err)
	has := cpu.Guest(here.Leaves).Has("movdiri")
	require.Equal(t, has, c.CPUID.Has("movdiri"), "as this host")
	_, _, err = newForHosts(t, more)
	if !has {
		require.ErrorIs(t, err, ErrCPUFeatures)
		require.ErrorContains(t, err, "missing here: movdiri")
	}

	foreign := &cpu.Processor{Name: "foreign", Leaves: slices.Clone(here.Leaves)}
	foreign.Leaves.Find(0, 0).EBX ^= 1
	_, _, err = newForHosts(t, nil, foreign)
	require.ErrorIs(t, err, cpu.ErrNothingInCommon)
	require.ErrorContains(t, err, "this host is")
}
