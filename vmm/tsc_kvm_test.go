package vmm

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
	s, err := decodeState(data, 2)
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

	now, err := vm.readClock()
	require.NoError(t, err)
	requireBetween(t, uint64(clock+ago), uint64(clock+atMost), now.Nanoseconds)
	if emulatesRing0() {
		return // there a guest's counter is the host's, whatever is loaded
	}
	kHz := vm.config.TSCKHz
	var offsets [2]uint64
	for i, c := range vm.vcpus {
		tsc, err := c.readTSC()
		require.NoError(t, err)
		requireBetween(t, ahead+ticks(ago, kHz), ahead+apart+ticks(atMost, kHz), tsc.Value)
		offsets[i], err = c.tscOffset()
		if err != nil {
			return // a KVM without the attribute
		}
	}
	require.Equal(t, uint64(apart), offsets[1]-offsets[0], "the vCPUs keep their distance")
}

// TestNobodyBelievesInLongStandstills loads a state whose host's clock is far off.
func TestNobodyBelievesInLongStandstills(t *testing.T) {
	const clock = 5 * time.Hour
	for _, off := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		vm := newTestVM(t, 1, nil)
		data, err := vm.SaveState()
		require.NoError(t, err)
		s, err := decodeState(data, 1)
		require.NoError(t, err)
		s.clock = clockState{Nanoseconds: uint64(clock), Realtime: uint64(time.Now().Add(off).UnixNano())}
		require.NoError(t, vm.LoadState(s.encode()))
		now, err := vm.readClock()
		require.NoError(t, err)
		requireBetween(t, uint64(clock), uint64(clock+testTimeout), now.Nanoseconds)
	}
}

func requireBetween(t testing.TB, low, high, got uint64) {
	t.Helper()
	require.GreaterOrEqual(t, got, low)
	require.LessOrEqual(t, got, high)
}
