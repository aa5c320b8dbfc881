package vmm

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/vmm/device/virtio"
)

// hanging is storage whose operations of one kind hang until a test lets them go on.
type hanging struct {
	begun chan struct{} // closed once one hangs
	once  sync.Once
	free  chan struct{}
	goOn  func()
}

// hang makes a disk's operations of one kind hang, and then fail if err is not nil.
func hang(t *testing.T, d *virtio.Disk, what virtio.Op, err error) *hanging {
	h := &hanging{begun: make(chan struct{}), free: make(chan struct{})}
	h.goOn = sync.OnceFunc(func() { close(h.free) })
	t.Cleanup(h.goOn)
	d.Intercept(func(op virtio.Op) error {
		if op != what {
			return nil
		}
		h.once.Do(func() { close(h.begun) })
		<-h.free
		return err
	})
	return h
}

// soon is a context for what must hang.
func soon() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), 50*time.Millisecond,
		errors.New("no more time"))
}

// newHangingVM makes a machine whose guest writes to a disk that hangs, and waits for that.
func newHangingVM(t *testing.T) (*VM, *hanging, Disk) {
	disk := newImage(t)
	vm := newDiskVM(t, disk)
	h := hang(t, vm.disks[0], virtio.OpWrite, nil)
	t.Cleanup(h.goOn) // before the machine is closed
	require.NoError(t, vm.Resume())
	<-h.begun
	return vm, h, disk
}

// TestDrainLeavesTheGuestRunning: storage that hangs holds up nothing but the drain. The vCPUs run
// on, and the write is done once the storage goes on.
func TestDrainLeavesTheGuestRunning(t *testing.T) {
	vm, h, disk := newHangingVM(t)
	ctx, stop := soon()
	defer stop()
	err := vm.Drain(ctx)
	require.ErrorIs(t, err, ErrHostBusy)
	require.ErrorContains(t, err, "disk "+disk.Path+": no more time")
	require.Equal(t, "disk "+disk.Path, vm.Busy())
	require.True(t, vm.Running())
	vm.Undrain()
	h.goOn()
	requireWritten(t, vm, disk)
}

// TestPauseOfAMachineThatHangs ends after a while, with the guest running.
func TestPauseOfAMachineThatHangs(t *testing.T) {
	vm, h, disk := newHangingVM(t)
	err := vm.Pause()
	require.ErrorIs(t, err, ErrHostBusy)
	require.ErrorContains(t, err, "waited for 5s")
	require.True(t, vm.Running())
	h.goOn()
	requireWritten(t, vm, disk)
}

// TestPauseThatFailsLeavesTheDiskAtWork: a guest that could not be paused goes on with its disk: it
// begins with a request that it had before the pause was given up, and ends with the next one.
func TestPauseThatFailsLeavesTheDiskAtWork(t *testing.T) {
	disk := newImage(t)
	vm := newDiskVMWith(t, code(
		0x66, 0xc7, 0x05, imm32(notifyOf(slotDisk)), 0, 0, // mov word [notify], 0
		0x66, 0x83, 0x3d, imm32(mayEnd), 1, // 1: cmp word [may end], 1
		0x75, 0xf6, // jne 1b
		0x66, 0xc7, 0x05, imm32(testRings+0x1002), 2, 0, // mov word [available index], 2
		0x66, 0xc7, 0x05, imm32(notifyOf(slotDisk)), 0, 0, // mov word [notify], 0
		0x66, 0x83, 0x3d, imm32(testUsed+2), 2, // 2: cmp word [used index], 2
		0x75, 0xf6, // jne 2b
		exitWith(9),
	), disk)
	vm.patience = time.Millisecond
	h := hang(t, vm.disks[0], virtio.OpWrite, nil)
	t.Cleanup(h.goOn) // before the machine is closed
	require.NoError(t, vm.Resume())
	<-h.begun
	require.ErrorIs(t, vm.Pause(), ErrHostBusy)
	require.True(t, vm.Running())
	h.goOn()
	vm.guest.StoreUint16(mayEnd, 1)
	requireWritten(t, vm, disk)
}

// TestQuiesceThatHangs: a machine whose vCPUs stand still already, as at an EXIT, can be resumed
// while its storage hangs; and once it does not, the machine stands still with the write done.
func TestQuiesceThatHangs(t *testing.T) {
	vm, h, disk := newHangingVM(t)
	vm.RequestPause()
	require.NoError(t, vm.Park())
	ctx, stop := soon()
	defer stop()
	require.ErrorIs(t, vm.Quiesce(ctx), ErrHostBusy)
	require.False(t, vm.Running())
	require.NoError(t, vm.Resume())
	require.True(t, vm.Running())
	vm.RequestPause()
	quiesced := make(chan error, 1)
	go func() { quiesced <- vm.Quiesce(context.Background()) }()
	h.goOn()
	require.NoError(t, <-quiesced)
	require.Empty(t, vm.Busy())
	answer, _ := vm.guest.Slice(diskAnswer, 1)
	require.Zero(t, answer[0])
	require.NoError(t, vm.Resume())
	requireWritten(t, vm, disk)
}

// TestResumeEndsAQuiesce: whoever waits for the devices learns that the machine was resumed.
func TestResumeEndsAQuiesce(t *testing.T) {
	vm, h, disk := newHangingVM(t)
	vm.RequestPause()
	quiesced := make(chan error, 1)
	go func() { quiesced <- vm.Quiesce(context.Background()) }()
	require.NoError(t, vm.Park())
	require.Eventually(t, func() bool {
		require.NoError(t, vm.Resume())
		select {
		case err := <-quiesced:
			require.ErrorIs(t, err, ErrRunning)
			return true
		default:
			return false
		}
	}, testTimeout, time.Millisecond)
	h.goOn()
	requireWritten(t, vm, disk)
}

// TestEndOfAMachineThatHangs: a machine ends whatever its storage does, says what it did not wait
// for, and keeps RAM and disk until the storage is done with them.
func TestEndOfAMachineThatHangs(t *testing.T) {
	vm, h, disk := newHangingVM(t)
	var log strings.Builder
	vm.log = slog.New(slog.NewTextHandler(&log, nil))
	quiesced := make(chan error, 1)
	go func() { quiesced <- vm.Drain(context.Background()) }()
	vm.Stop()
	require.ErrorIs(t, <-quiesced, ErrEnded)
	exit, err := vm.Wait()
	require.NoError(t, err)
	require.Equal(t, ExitStopped, exit.Reason)
	require.NoError(t, vm.Close())
	require.Contains(t, log.String(), "disk "+disk.Path)
	_, there := vm.guest.Slice(diskData, 512)
	require.True(t, there, "RAM, which the write may still read")
	require.False(t, takes(t, disk), "the write that hangs may still reach the file")
	h.goOn()
	require.Eventually(t, func() bool { return takes(t, disk) }, testTimeout, time.Millisecond)
}

// TestReleaseOfDisksThatHang: it ends with its context, and leaves all disks here. The guest goes
// on at once, although the storage still hangs.
func TestReleaseOfDisksThatHang(t *testing.T) {
	disk, other := newImage(t), newImage(t)
	vm := newDiskVM(t, disk, other)
	h := hang(t, vm.disks[1], virtio.OpSync, unix.EIO)
	ctx, stop := soon()
	defer stop()
	err := vm.ReleaseDisks(ctx)
	// On a busy host, the first disk may not be durable in time, either, but soon is.
	require.ErrorContains(t, err, ": make it durable")
	require.Eventually(t, func() bool { return vm.Busy() == "fdatasync of disk "+other.Path },
		testTimeout, time.Millisecond)
	require.ErrorContains(t, err, "no more time")
	require.False(t, takes(t, disk))
	require.False(t, takes(t, other))
	require.NoError(t, vm.Resume())
	requireWritten(t, vm, disk)
	h.goOn()
}

// newReleasedVM makes a machine that stands still without its disk, and whose host hangs when the
// disk is to be taken back.
func newReleasedVM(t *testing.T) (*VM, *hanging, Disk) {
	disk := newImage(t)
	vm := newDiskVM(t, disk)
	require.NoError(t, vm.ReleaseDisks(t.Context()))
	vm.patience = time.Hour
	h := hang(t, vm.disks[0], virtio.OpOwn, nil)
	t.Cleanup(h.goOn) // before the machine is closed
	return vm, h, disk
}

// TestResumeThatHangs: while the host does not give a disk back, the machine can be looked at, and
// once it does, the guest goes on.
func TestResumeThatHangs(t *testing.T) {
	vm, h, disk := newReleasedVM(t)
	resumed := make(chan error, 1)
	go func() { resumed <- vm.Resume() }()
	<-h.begun
	infos, err := vm.Debug(t.Context())
	require.NoError(t, err)
	require.NoError(t, infos[0].Err)
	_, err = vm.Devices()
	require.NoError(t, err)
	require.False(t, vm.Running())
	require.Empty(t, resumed)
	h.goOn()
	require.NoError(t, <-resumed)
	requireWritten(t, vm, disk)
}

// TestEndOfAResumeThatHangs: the machine can be ended meanwhile, and does not keep the disk.
func TestEndOfAResumeThatHangs(t *testing.T) {
	for name, take := range map[string]func(*VM) error{
		"resume": (*VM).Resume,
		"take":   func(vm *VM) error { return vm.TakeDisks(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			vm, h, disk := newReleasedVM(t)
			taken := make(chan error, 1)
			go func() { taken <- take(vm) }()
			<-h.begun
			vm.Stop()
			require.ErrorIs(t, <-taken, ErrEnded)
			h.goOn()
			exit, err := vm.Wait()
			require.NoError(t, err)
			require.Equal(t, ExitStopped, exit.Reason)
			require.NoError(t, vm.Close())
			require.True(t, takes(t, disk))
		})
	}
}

// TestResumeGivesUp: the machine stays paused without its disk if the host hangs for too long, and
// does not take the disk later, when another machine may have it.
func TestResumeGivesUp(t *testing.T) {
	vm, h, disk := newReleasedVM(t)
	vm.patience = time.Millisecond
	require.ErrorContains(t, vm.Resume(), "disk "+disk.Path+": the host has not answered: waited")
	require.False(t, vm.Running())
	h.goOn()
	vm.patience = time.Hour
	// In its turn, so behind the attempt that hung.
	require.NoError(t, vm.Resume())
	requireWritten(t, vm, disk)
}

// TestSyncBeforeTheRelease leaves nothing to do for it.
func TestSyncBeforeTheRelease(t *testing.T) {
	disk := newImage(t)
	vm := newDiskVM(t, disk)
	require.NoError(t, vm.SyncDisks(t.Context()))
	h := hang(t, vm.disks[0], virtio.OpSync, nil)
	require.NoError(t, vm.ReleaseDisks(t.Context()))
	require.True(t, takes(t, disk))
	h.goOn()
	require.NoError(t, vm.Resume())
	requireWritten(t, vm, disk)
}
