package vmm

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patient is a context for what takes microseconds.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// TestDebugLooksAtEachVCPU: Debug looks at each vCPU, whether or not the machine runs, and changes
// nothing.
func TestDebugLooksAtEachVCPU(t *testing.T) {
	const vector, deadline = 0x51, 1 << 62
	vm := newTestVM(t, 2, nil)
	require.NoError(t, vm.Boot(testKernel(code(
		0x90,       // nop
		0xeb, 0xfe, // jmp .
	)), nil, ""))
	s := stateOf(t, vm)
	lapic := lapicTimer(s.vcpus[1].lapic.Regs[:])
	lapic.set(apicSpurious, apicEnabled)
	lapic.set(apicLVTTimer, 2<<lvtModeShift|vector)
	lapic[apicIRR+vector/32*16+vector%32/8] |= 1 << (vector % 8)
	lapic[apicISR+0x31/32*16+0x31%32/8] |= 1 << (0x31 % 8)
	for i, m := range s.vcpus[1].msrs {
		if m.Index == msrTSCDeadline {
			s.vcpus[1].msrs[i].Data = deadline
		}
	}
	require.NoError(t, vm.LoadState(s.encode()))
	check := func() []VCPUInfo {
		infos, err := vm.Debug(patient(t))
		require.NoError(t, err)
		require.Len(t, infos, 2)
		for id, info := range infos {
			require.NoError(t, info.Err)
			require.Equal(t, id, info.ID)
			require.NotZero(t, info.TSC)
		}
		require.Equal(t, "runnable", infos[0].MPState)
		require.Equal(t, "uninitialized", infos[1].MPState)
		require.Equal(t, uint32(2<<lvtModeShift|vector), infos[1].LVTT)
		require.Equal(t, uint64(deadline), infos[1].TSCDeadline)
		require.Equal(t, []int{vector}, infos[1].IRR)
		require.Equal(t, []int{0x31}, infos[1].ISR)
		require.Empty(t, infos[0].IRR)
		return infos
	}
	require.Equal(t, uint64(testEntry), check()[0].RIP)
	require.NoError(t, vm.Resume())
	require.Eventually(t, func() bool { return check()[0].RIP == testEntry+1 }, testTimeout,
		time.Millisecond)
	require.True(t, vm.Running())
	require.NoError(t, vm.Pause())
	require.Equal(t, uint64(testEntry+1), check()[0].RIP)
	require.False(t, vm.Running())
	require.NoError(t, vm.Close())
	_, err := vm.Debug(patient(t))
	require.ErrorIs(t, err, ErrEnded)
}

// TestDebugLosesNoAccess asks again and again while the guest counts, is paused and resumed.
func TestDebugLosesNoAccess(t *testing.T) {
	for _, g := range counters {
		t.Run(g.name, func(t *testing.T) {
			r := newRecorder()
			vm := newTestVM(t, 2, nil)
			attach(vm, r)
			require.NoError(t, vm.Boot(testKernel(g.code), nil, ""))
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range 100 {
					if vm.Pause() != nil || vm.Resume() != nil {
						return
					}
				}
			}()
			require.NoError(t, vm.Resume())
			for range 300 {
				infos, err := vm.Debug(patient(t))
				require.NoError(t, err)
				for _, info := range infos {
					require.NoError(t, info.Err)
				}
			}
			<-done
			require.NoError(t, vm.Resume())
			r.waitFor(t, len(r.numbers())+10)
			require.NoError(t, vm.Pause())
			requireConsecutive(t, g.first, r.numbers())
		})
	}
}

// TestDebugOfAHeldVCPU: a vCPU that is held in an access has an error, and the others are shown.
func TestDebugOfAHeldVCPU(t *testing.T) {
	r := newRecorder()
	vm := newTestVM(t, 2, nil)
	attach(vm, r)
	held, release := make(chan struct{}), make(chan struct{})
	r.hook = func(n int) {
		if n == 1 {
			close(held)
			<-release
		}
	}
	require.NoError(t, vm.Boot(testKernel(mmioCounter), nil, ""))
	require.NoError(t, vm.Resume())
	<-held
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// The other vCPU may not have answered yet either: it is asked until it has.
	require.Eventually(t, func() bool {
		infos, err := vm.Debug(ctx)
		require.NoError(t, err)
		require.ErrorIs(t, infos[0].Err, ErrBusy)
		return infos[1].Err == nil
	}, testTimeout, time.Millisecond)
	close(release)
	infos, err := vm.Debug(patient(t))
	require.NoError(t, err)
	require.NoError(t, infos[0].Err)
	r.waitFor(t, len(r.numbers())+10)
	require.NoError(t, vm.Pause())
	requireConsecutive(t, 0, r.numbers())
}

// TestDebugOfAMachineThatEnds: Debug returns when the machine ends.
func TestDebugOfAMachineThatEnds(t *testing.T) {
	for range 20 {
		vm := newTestVM(t, 2, nil)
		require.NoError(t, vm.Boot(testKernel(code(0xeb, 0xfe)), nil, "")) // jmp .
		require.NoError(t, vm.Resume())
		go vm.Stop()
		for {
			if _, err := vm.Debug(patient(t)); err != nil {
				require.ErrorIs(t, err, ErrEnded)
				break
			}
		}
	}
}

// TestDevices: the queues of a machine's devices are shown while it runs and while it is paused,
// and no longer once it has ended.
func TestDevices(t *testing.T) {
	vm := newDiskVMWith(t, code(0xeb, 0xfe), newImage(t)) // jmp .
	require.NoError(t, vm.Resume())
	for _, paused := range []bool{false, true} {
		if paused {
			require.NoError(t, vm.Pause())
		}
		devices, err := vm.Devices()
		require.NoError(t, err)
		disk := devices[slices.IndexFunc(devices, func(d DeviceInfo) bool {
			return d.Name == "blk0"
		})]
		require.Equal(t, "working", disk.State)
		require.True(t, disk.Queues[0].Ready)
	}
	require.NoError(t, vm.Close())
	_, err := vm.Devices()
	require.ErrorIs(t, err, ErrEnded)
}
