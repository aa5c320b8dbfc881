package vmm

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/guestkernel"
	"taskguide/migration"
	"taskguide/vmm/device/virtio"
)

// destination makes the machine that a guest arrives in.
type destination struct {
	disk Disk
	vm   atomic.Pointer[VM]
}

// Build implements [migration.Builder].
func (d *destination) Build(config []byte) (migration.Incoming, error) {
	vm, err := NewFromConfig(config, Options{Disks: []Disk{d.disk}})
	if err == nil {
		d.vm.Store(vm)
	}
	return vm, err
}

// moveWhileStorageHangs moves a guest whose write hangs, or the fdatasync after it. The storage
// goes on once a switchover was taken back goOnAfter times, each after the limit of a standstill.
func moveWhileStorageHangs(
	t *testing.T, what virtio.Op, limit time.Duration, goOnAfter, retries int,
) (src, dst *VM, disk Disk, r migration.Report) {
	disk = newImage(t)
	src = newDiskVM(t, disk)
	require.NoError(t, src.Boot(testKernel(writeAndWait()), nil, ""))
	h := hang(t, src.disks[0], what, nil)
	t.Cleanup(h.goOn)
	require.NoError(t, src.Resume())
	<-h.begun

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	to := &destination{disk: disk}
	d := migration.Destination{Builder: to}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		_, err := d.Serve(ctx, ln)
		served <- err
	}()
	t.Cleanup(func() {
		cancel()
		<-served
		if vm := to.vm.Load(); vm != nil {
			require.NoError(t, vm.Close())
		}
	})
	p, err := migration.Params{
		Destination: "tcp:" + ln.Addr().String(), StandstillLimit: limit,
		StandstillRetries: retries,
	}.WithDefaults()
	require.NoError(t, err)
	var s *migration.Source
	s, err = migration.NewSource(src, p, func(n migration.Notice) {
		// A notice comes several times a second.
		if n.Kind == migration.NoticeProgress && len(s.Report().DrainsTakenBack) >= goOnAfter {
			h.goOn()
		}
	})
	require.NoError(t, err)
	running := make(chan struct{})
	go func() { // the guest is never stopped while its storage hangs
		defer close(running)
		for {
			stopped := !src.Running() // before the look whether the storage still hangs
			select {
			case <-h.free:
				return
			case <-ctx.Done():
				return
			default:
				if stopped {
					t.Error("the guest stands still while its storage hangs")
					return
				}
				time.Sleep(time.Millisecond)
			}
		}
	}()
	r = s.Run(t.Context())
	if goOnAfter > retries {
		require.True(t, src.Running())
		h.goOn()
	}
	<-running
	return src, to.vm.Load(), disk, r
}

// mayEnd is where the guest looks whether it may end.
const mayEnd = testBuffer + 0x3000

// writeAndWait is code that rings for the request to write, waits until it was used, and then until
// it may end.
func writeAndWait() []byte {
	return code(
		0x66, 0xc7, 0x05, imm32(notifyOf(slotDisk)), 0, 0, // mov word [notify], 0
		0x66, 0x83, 0x3d, imm32(testUsed+2), 1, // 1: cmp word [used index], 1
		0x75, 0xf6, // jne 1b
		0x66, 0x83, 0x3d, imm32(mayEnd), 1, // 2: cmp word [may end], 1
		0x75, 0xf6, // jne 2b
		exitWith(9),
	)
}

// requireWrittenOnce lets the guest end, and checks what it wrote.
func requireWrittenOnce(t *testing.T, vm *VM, disk Disk) {
	vm.guest.StoreUint16(mayEnd, 1)
	requireWritten(t, vm, disk)
	used, _ := vm.guest.LoadUint16(testUsed + 2)
	require.EqualValues(t, 1, used)
}

// TestMoveAfterStorageThatHung: the switchover is taken back while the storage hangs. Once it goes
// on, the guest moves, and its write is done once and for all.
func TestMoveAfterStorageThatHung(t *testing.T) {
	for _, what := range []virtio.Op{virtio.OpWrite, virtio.OpSync} {
		t.Run(string(what), func(t *testing.T) {
			// A busy host must save and load the state within the limit, which is not tried again.
			_, dst, disk, r := moveWhileStorageHangs(t, what, 5*time.Second, 1, 1000)
			require.Equal(t, migration.StatusCompleted, r.Status, r.Error)
			require.NotEmpty(t, r.DrainsTakenBack)
			require.Contains(t, r.DrainsTakenBack[0].Ended, "disk "+disk.Path)
			require.NotEmpty(t, r.Standstills)
			requireWrittenOnce(t, dst, disk)
		})
	}
}

// TestGuestOfStorageThatHangsStays, with its disk, and its write is done once the storage goes on.
func TestGuestOfStorageThatHangsStays(t *testing.T) {
	src, _, disk, r := moveWhileStorageHangs(t, virtio.OpWrite, 300*time.Millisecond, 100, 3)
	require.Equal(t, migration.StatusFailed, r.Status)
	require.Contains(t, r.Error, migration.ErrStorage.Error())
	require.Contains(t, r.Error, "disk "+disk.Path)
	require.Len(t, r.DrainsTakenBack, 3)
	require.Empty(t, r.Standstills)
	requireWrittenOnce(t, src, disk)
}

// slowReads holds a disk's reads back while it is closed.
type slowReads struct {
	mu    sync.Mutex
	free  chan struct{} // closed to let them go on; nil: none is held back
	begun chan struct{} // closed once one is held back
	held  bool
}

func (s *slowReads) ask(op virtio.Op) error {
	s.mu.Lock()
	free := s.free
	if op != virtio.OpRead || free == nil {
		s.mu.Unlock()
		return nil
	}
	if !s.held {
		s.held = true
		close(s.begun)
	}
	s.mu.Unlock()
	<-free
	return nil
}

// close returns once a read is held back.
func (s *slowReads) close() {
	s.mu.Lock()
	if s.free == nil {
		s.free, s.begun, s.held = make(chan struct{}), make(chan struct{}), false
	}
	begun := s.begun
	s.mu.Unlock()
	<-begun
}

func (s *slowReads) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free != nil {
		close(s.free)
		s.free = nil
	}
}

// slowMachine is a machine whose reads are held back when it is drained. It lets them go on once
// the drain is seen to wait for them.
type slowMachine struct {
	*VM
	reads *slowReads
}

func (m slowMachine) Drain(ctx context.Context) error {
	m.reads.close()
	if !allClosed(m.devices.Drain()) {
		m.reads.open()
	}
	return m.VM.Drain(ctx)
}

// arriving is a machine that is looked at just before it runs.
type arriving struct {
	*VM
	look func(*VM)
}

func (a arriving) Run(paused bool) error {
	a.look(a.VM)
	return a.VM.Run(paused)
}

// builder makes arriving machines.
type builder struct {
	opts Options
	look func(*VM)
}

func (b builder) Build(config []byte) (migration.Incoming, error) {
	vm, err := NewFromConfig(config, b.opts)
	if err != nil {
		return nil, err
	}
	return arriving{vm, b.look}, nil
}

// TestBusyDiskMovesWithItsReads: the embedded guest has reads in flight when it is moved, and the
// host is slow with them. No request is in flight any more when the guest arrives, and the guest,
// which verifies much later what it has read, has all of it.
func TestBusyDiskMovesWithItsReads(t *testing.T) {
	disk := newImage(t)
	src, err := New(Config{MemoryBytes: 32 << 20, CPUs: 1, Options: Options{Disks: []Disk{disk}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, src.Close()) })
	reads := &slowReads{}
	t.Cleanup(reads.open) // before the machine is closed
	src.disks[0].Intercept(reads.ask)
	require.NoError(t, src.Boot(guestkernel.ELF, nil,
		"workload=disk ws=1M block=4K depth=4 keep=64 writes=50"))
	require.NoError(t, src.Resume())

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var console syncBuffer
	var dst *VM
	var errLook error
	inFlight := -1
	d := migration.Destination{Builder: builder{
		Options{Disks: []Disk{disk}, Console: &console},
		func(vm *VM) {
			var infos []DeviceInfo
			dst, inFlight = vm, 0
			infos, errLook = vm.Devices()
			for _, info := range infos {
				for _, q := range info.Queues {
					inFlight += q.InFlight
				}
			}
		},
	}}
	served := make(chan error, 1)
	go func() {
		_, err := d.Serve(t.Context(), ln)
		served <- err
	}()
	p, err := migration.Params{
		Destination: "tcp:" + ln.Addr().String(), Verify: true,
	}.WithDefaults()
	require.NoError(t, err)
	s, err := migration.NewSource(slowMachine{src, reads}, p, nil)
	require.NoError(t, err)
	r := s.Run(t.Context())
	reads.open() // whatever was not waited for
	require.Equal(t, migration.StatusCompleted, r.Status, r.Error)
	require.NoError(t, <-served)
	t.Cleanup(func() { require.NoError(t, dst.Close()) })
	require.NoError(t, errLook)
	require.Zero(t, inFlight)
	require.Eventually(t, func() bool {
		return strings.Count(console.String(), "phase=busy") > 2
	}, testTimeout, 10*time.Millisecond)
	require.NotContains(t, console.String(), "CORRUPT")
}
