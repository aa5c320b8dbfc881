package vmm

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/kvm"
	"taskguide/vmm/probe"
)

// TestTimeGoesOnAcrossAMove loads a state that looks as if it came from a host whose
// counters are elsewhere and that was saved a while ago: TSC and kvmclock must have
// gone on from there by the time since, in all vCPUs alike.
func TestTimeGoesOnAcrossAMove(t *testing.T) {
	const (
		ahead  = 1 << 44 // ticks
		apart  = 123456  // ticks between the vCPUs
		ago    = 100 * time.Second
		clock  = 5 * time.Hour // kvmclock at the source
		atMost = ago + testTimeout
	)
	vm := newTestVM(t, 2, nil)
	data, err := vm.SaveState()
	require.NoError(t, err)
	s, err := decodeState(data, 2, vm.devices.Catalog())
	require.NoError(t, err)
	saved := uint64(time.Now().Add(-ago).UnixNano())
	s.clock = clockState{Nanoseconds: uint64(clock), Realtime: saved}
	for i := range s.vcpus {
		tsc := &s.vcpus[i].tsc
		tsc.Value = ahead + uint64(i)*apart
		tsc.Offset = 777 + uint64(i)*apart
		tsc.Realtime = saved
	}
	require.NoError(t, vm.LoadState(s.encode()))

	now, err := vm.readMoment()
	require.NoError(t, err)
	requireBetween(t, uint64(clock+ago), uint64(clock+atMost), now.clock)
	kHz := vm.config.TSCKHz
	var tsc [2]uint64
	for i, c := range vm.vcpus {
		tsc[i], err = c.counter()
		require.NoError(t, err)
	}
	if probe.EmulatesRing0() { // a guest's counter is the host's, whatever is loaded
		require.True(t, now.exact)
		for _, v := range tsc {
			requireBetween(t, now.hostTSC, now.hostTSC+ticks(testTimeout, kHz), v)
		}
		return
	}
	for _, v := range tsc {
		requireBetween(t, ahead+ticks(ago, kHz), ahead+apart+ticks(atMost, kHz), v)
	}
	first, err := vm.vcpus[0].fd.TSCOffset()
	if err != nil { // a KVM without offsets: the second counter was read a little later
		requireBetween(t, tsc[0]+apart, tsc[0]+apart+ticks(testTimeout, kHz), tsc[1])
		return
	}
	second, err := vm.vcpus[1].fd.TSCOffset()
	require.NoError(t, err)
	require.Equal(t, uint64(apart), second-first, "the vCPUs keep their distance")
}

// TestNobodyBelievesInLongStandstills loads a state whose host's clock is far off.
func TestNobodyBelievesInLongStandstills(t *testing.T) {
	const clock = 5 * time.Hour
	for _, off := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		vm := newTestVM(t, 1, nil)
		data, err := vm.SaveState()
		require.NoError(t, err)
		s, err := decodeState(data, 1, vm.devices.Catalog())
		require.NoError(t, err)
		s.clock = clockState{
			Nanoseconds: uint64(clock), Realtime: uint64(time.Now().Add(off).UnixNano()),
		}
		require.NoError(t, vm.LoadState(s.encode()))
		now, err := vm.readMoment()
		require.NoError(t, err)
		requireBetween(t, uint64(clock), uint64(clock+testTimeout), now.clock)
	}
}

func requireBetween(t testing.TB, low, high, got uint64) {
	t.Helper()
	require.GreaterOrEqual(t, got, low)
	require.LessOrEqual(t, got, high)
}

// clockFlags are the flags of KVM_GET_CLOCK, which say what KVM makes of the vCPUs'
// offsets: KVM_CLOCK_TSC_STABLE, KVM_CLOCK_REALTIME and KVM_CLOCK_HOST_TSC are there
// while all vCPUs' counters are synchronized (the master clock).
func clockFlags(t testing.TB, vm *VM) uint32 {
	t.Helper()
	var d kvm.ClockData
	require.NoError(t, kvm.GetClock.Do(vm.fd, &d))
	return d.Flags
}

// TestMovesKeepTheMasterClock compares what KVM makes of the counters that we set, before
// and after two moves: without the master clock Linux's kvmclock leaves the vDSO.
func TestMovesKeepTheMasterClock(t *testing.T) {
	for cpus := 1; cpus <= MaxCPUs; cpus++ {
		t.Run(fmt.Sprint(cpus), func(t *testing.T) {
			r := newRecorder()
			vm := newTestVM(t, cpus, nil)
			attach(vm, r)
			require.NoError(t, vm.Boot(testKernel(portCounter), nil, ""))
			var flags []uint32
			for hop := range 3 {
				if hop > 0 {
					vm = moveVM(t, vm, func(dst *VM) { attach(dst, r) })
				}
				// KVM brings the master clock up to date when it enters a vCPU.
				require.NoError(t, vm.Resume())
				r.waitFor(t, len(r.numbers())+10)
				require.NoError(t, vm.Pause())
				flags = append(flags, clockFlags(t, vm))
			}
			require.Equal(t, []uint32{flags[0], flags[0], flags[0]}, flags)
			require.NotZero(t, flags[0]&kvm.ClockHostTSC, "this host's own clock is not the TSC")
			requireConsecutive(t, 0, r.numbers())
		})
	}
}

// TestCountersGoOnExactly moves a machine on a KVM that gives exact moments. Each counter must have
// gone on as kvmclock did, to within a few ticks.
func TestCountersGoOnExactly(t *testing.T) {
	vm := newTestVM(t, 3, nil)
	r := newRecorder()
	attach(vm, r)
	require.NoError(t, vm.Boot(testKernel(portCounter), nil, ""))
	require.NoError(t, vm.Resume())
	r.waitFor(t, 10)
	require.NoError(t, vm.Pause())
	before, err := vm.readState()
	require.NoError(t, err)
	dst := moveVM(t, vm, func(dst *VM) { attach(dst, r) })
	after, err := dst.readState()
	require.NoError(t, err)
	kHz := vm.config.TSCKHz
	for i := range after.vcpus {
		was, is := before.vcpus[i].tsc, after.vcpus[i].tsc
		wall := ticks(time.Duration(after.clock.Nanoseconds-before.clock.Nanoseconds), kHz)
		apart := int64(is.Value - was.Value - wall)
		// The kernel's own conversions between ns and ticks are good to a millionth or so.
		require.InDelta(t, 0, apart, float64(ticks(20*time.Microsecond, kHz)), "vCPU %d", i)
	}
}
