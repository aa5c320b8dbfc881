package virtio

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/memory"
)

// storage is a host that a test stops and makes fail. It keeps what was asked for.
type storage struct {
	mu   sync.Mutex
	free chan struct{} // closed while it works
	stop Op            // what hangs
	fail error         // for what is asked next, once it is not stopped
	ops  []Op
}

// behindStorage puts a disk on a storage that works.
func behindStorage(t *testing.T, disk *Disk) *storage {
	s := &storage{free: make(chan struct{})}
	close(s.free)
	disk.Intercept(s.ask)
	t.Cleanup(s.goOn)
	return s
}

func (s *storage) ask(op Op) error {
	s.mu.Lock()
	s.ops = append(s.ops, op)
	free, stop := s.free, s.stop
	s.mu.Unlock()
	if op == stop {
		<-free
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if op != stop {
		return nil
	}
	return s.fail
}

// hang makes an operation hang until goOn, and then fail if err is not nil.
func (s *storage) hang(op Op, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free, s.stop, s.fail = make(chan struct{}), op, err
}

func (s *storage) goOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.free:
	default:
		close(s.free)
	}
}

// asked returns what was asked for since the last call.
func (s *storage) asked() []Op {
	s.mu.Lock()
	defer s.mu.Unlock()
	ops := s.ops
	s.ops = nil
	return ops
}

// await waits until something was asked for.
func (s *storage) await(t *testing.T, op Op) {
	t.Helper()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.Contains(s.ops, op)
	}, patience, time.Millisecond)
}

// ownedDisk returns a disk on a storage, and the disk's configuration.
func ownedDisk(t *testing.T) (*Disk, *storage, DiskConfig) {
	path, _ := newFile(t)
	c := DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD}
	disk := openDisk(t, c)
	return disk, behindStorage(t, disk), c
}

// offerRequest makes a request available, and rings for it. Its answer is the n-th byte there.
func (d *driver) offerRequest(n uint64, kind uint32, data ...desc) {
	parts := append([]desc{d.header(kind, 8)}, data...)
	d.ram.Write(answerAt+n, []byte{0xee})
	parts = append(parts, desc{gpa: answerAt + n, bytes: 1, flags: flagWrite})
	d.queues[0].offer(d.queues[0].chain(parts...))
	d.queues[0].ring()
}

func (d *driver) block() *Block { return &Block{Device: d.dev, name: "the disk"} }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestDrain: a drained disk finishes what it has begun and begins nothing, while its guest goes on
// asking. It is idle only once the host has done everything, and then it wakes up with what waited.
func TestDrain(t *testing.T) {
	disk, s, _ := ownedDisk(t)
	s.hang(OpRead, nil)
	d := startBlock(t, disk, 0)
	t.Cleanup(s.goOn) // before the device is closed
	d.offerRequest(0, blockIn, desc{gpa: dataAt, bytes: 512, flags: flagWrite})
	s.await(t, OpRead)
	idle := d.block().Drain()
	require.Equal(t, idle, d.block().Drain(), "once more")
	require.False(t, isClosed(idle))
	require.Equal(t, "the disk", d.block().Busy())
	d.offerRequest(1, blockIn, desc{gpa: dataAt + 4096, bytes: 512, flags: flagWrite})
	d.dev.mu.Lock()
	serves := d.dev.serves(0)
	d.dev.mu.Unlock()
	require.False(t, serves, "whoever looks at the queue takes nothing")
	d.ram.TakeMarked(marksOf(d))
	s.goOn()
	<-idle
	marks := marksOf(d)
	d.ram.TakeMarked(marks)
	require.True(t, marks.Test(dataAt/4096), "what was read is marked by then")
	require.Empty(t, d.block().Busy())
	require.EqualValues(t, 1, d.queues[0].given())
	require.True(t, isClosed(d.block().Drain()), "nothing is under way")
	d.dev.Quiesce()
	require.Equal(t, []Op{OpRead}, s.asked(), "nothing was begun")
	require.EqualValues(t, 0xee, d.bytes(answerAt+1, 1)[0])
	d.dev.Resume()
	d.queues[0].await(2)
}

// TestDrainIsUndone: a drain that its storage holds up is undone, and nothing is lost.
func TestDrainIsUndone(t *testing.T) {
	disk, s, _ := ownedDisk(t)
	s.hang(OpWrite, nil)
	d := startBlock(t, disk, 0)
	t.Cleanup(s.goOn) // before the device is closed
	data := desc{gpa: dataAt, bytes: 512}
	d.offerRequest(0, blockOut, data)
	s.await(t, OpWrite)
	idle := d.block().Drain()
	d.offerRequest(1, blockFlushAll)
	d.dev.Resume()
	require.True(t, isClosed(idle), "nobody waits for ever")
	d.queues[0].await(1) // the flush has passed the write that hangs
	again := d.block().Drain()
	require.False(t, isClosed(again))
	s.goOn()
	<-again
	require.EqualValues(t, 2, d.queues[0].given())
}

// TestReleaseThatHangs: storage that hangs keeps the disk where it is, and its guest may go on with
// it at once. Nothing that was begun for the release lets the disk go later.
func TestReleaseThatHangs(t *testing.T) {
	disk, s, c := ownedDisk(t)
	s.hang(OpSync, nil)
	ctx, stop := context.WithCancelCause(t.Context())
	released := make(chan error, 1)
	go func() { released <- disk.Release(ctx) }()
	s.await(t, OpSync)
	stop(errors.New("no more time"))
	require.EqualError(t, <-released, "disk "+c.Path+
		": make it durable: the host has not answered: no more time")
	require.NoError(t, disk.Own(t.Context()), "at once")
	require.True(t, disk.owned)
	s.goOn()
	disk.turn <- struct{}{} // once the old sync is over
	require.True(t, disk.owned)
	<-disk.turn
	_, err := own(c)
	require.ErrorIs(t, err, errInUse)
	require.NoError(t, disk.Release(t.Context()))
	openDisk(t, c)
}

// TestReleaseTooLate: a release whose time was over before it took its first step never lets the
// disk go, because the guest may go on with the disk by then.
func TestReleaseTooLate(t *testing.T) {
	disk, _, c := ownedDisk(t)
	ctx, stop := context.WithCancelCause(t.Context())
	stop(errors.New("no more time"))
	require.NoError(t, disk.Own(t.Context()), "the guest goes on")
	require.EqualError(t, disk.release(ctx), "no more time")
	require.True(t, disk.Owned())
	_, err := own(c)
	require.ErrorIs(t, err, errInUse)
	require.NoError(t, disk.release(t.Context()))
	require.False(t, disk.Owned())
	require.NoError(t, disk.release(t.Context()), "once more")
}

// TestErrorOfASyncBesideAFlush: the host reports an error to one of two syncs at the same time. If
// that is not the guest's, the guest's flush fails nevertheless: nothing is flushed that was lost.
func TestErrorOfASyncBesideAFlush(t *testing.T) {
	disk, _, _ := ownedDisk(t)
	var syncs atomic.Int32
	flushing, flushed := make(chan struct{}), make(chan error, 1)
	disk.Intercept(func(op Op) error {
		if op != OpSync {
			return nil
		}
		if syncs.Add(1) > 1 {
			close(flushing)
			return nil
		}
		go func() { flushed <- disk.flush() }()
		<-flushing
		select {
		case err := <-flushed: // it did not wait
			flushed <- err
		case <-time.After(500 * time.Millisecond): // a sync takes long on a busy host
		}
		return unix.EIO
	})
	require.ErrorIs(t, disk.Sync(t.Context()), unix.EIO)
	require.ErrorIs(t, <-flushed, unix.EIO)
}

// TestErrorOfAFlushBesideAnother: the host reports an error to one of two flushes at the same time,
// whichever ends first. Both fail, because both have lost what it could not write.
func TestErrorOfAFlushBesideAnother(t *testing.T) {
	for _, failsFirst := range []bool{true, false} {
		disk, _, _ := ownedDisk(t)
		var syncs atomic.Int32
		second, both := make(chan error, 1), make(chan struct{})
		firstEnded := make(chan struct{})
		disk.Intercept(func(op Op) error {
			if op != OpSync {
				return nil
			}
			if syncs.Add(1) == 1 {
				go func() { second <- disk.flush() }()
				<-both
				if !failsFirst {
					return nil
				}
				return unix.EIO
			}
			close(both)
			if failsFirst {
				<-firstEnded
				return nil
			}
			time.Sleep(20 * time.Millisecond) // the first one most likely ends before
			return unix.EIO
		})
		first := make(chan error, 1)
		go func() { first <- disk.flush() }()
		if failsFirst {
			<-both
			time.Sleep(20 * time.Millisecond)
			close(firstEnded)
		}
		require.ErrorIs(t, <-first, unix.EIO)
		require.ErrorIs(t, <-second, unix.EIO)
		disk.Intercept(func(Op) error { return nil })
		require.NoError(t, disk.flush(), "told once")
	}
}

// TestLateErrorIsOwed: a sync that fails after nobody waits for it any more has used up the host's
// report. The disk is not released before a flush has told the guest.
func TestLateErrorIsOwed(t *testing.T) {
	disk, s, _ := ownedDisk(t)
	s.hang(OpSync, unix.EIO)
	ctx, stop := context.WithCancel(t.Context())
	synced := make(chan error, 1)
	go func() { synced <- disk.Sync(ctx) }()
	s.await(t, OpSync)
	stop()
	require.ErrorIs(t, <-synced, context.Canceled)
	s.goOn()
	disk.turn <- struct{}{}
	s.hang("", nil) // it works from here on
	<-disk.turn
	require.ErrorIs(t, disk.Release(t.Context()), unix.EIO)
	require.ErrorIs(t, disk.flush(), unix.EIO)
	require.NoError(t, disk.Release(t.Context()))
}

// TestSyncOnlyWhatIsNew: a sync that has nothing to do does not ask the host. All that changes the
// disk makes the next one necessary, and so does a sync that failed or is still under way.
func TestSyncOnlyWhatIsNew(t *testing.T) {
	disk, s, _ := ownedDisk(t)
	d := startBlock(t, disk, 0)
	t.Cleanup(s.goOn) // before the device is closed
	synced := func() bool {
		s.asked()
		require.NoError(t, disk.Sync(t.Context()))
		return slices.Contains(s.asked(), OpSync)
	}
	require.True(t, synced(), "who had the file before may not have synced it")
	require.False(t, synced())
	part := le.AppendUint32(le.AppendUint64(nil, 8), 8)
	d.ram.Write(dataAt, le.AppendUint32(part, 0))
	for _, kind := range []uint32{blockOut, blockDrop, blockZero} {
		n := uint32(512)
		if kind != blockOut {
			n = partBytes
		}
		answer, _ := d.disk(kind, 8, desc{gpa: dataAt, bytes: n})
		require.EqualValues(t, blockOK, answer)
		require.True(t, synced(), kind)
		require.False(t, synced(), kind)
	}
	answer, _ := d.disk(blockIn, 8, desc{gpa: dataAt, bytes: 512, flags: flagWrite})
	require.EqualValues(t, blockOK, answer)
	require.False(t, synced(), "a read changes nothing")
	s.hang(OpSync, nil)
	disk.unsynced.Store(true)
	d.offerRequest(0, blockFlushAll)
	s.await(t, OpSync)
	require.False(t, disk.unsynced.Load())
	ctx, stop := context.WithCancel(t.Context())
	stop()
	require.ErrorIs(t, disk.Sync(ctx), context.Canceled)
	done := make(chan error, 1)
	go func() { done <- disk.Sync(t.Context()) }()
	require.Eventually(t, func() bool { return disk.syncing.Load() == 2 }, patience,
		time.Millisecond, "it does not count on the guest's flush, which may fail")
	s.goOn()
	require.NoError(t, <-done)
}

// TestReleaseSyncsWhatWasWritten: the last thing before the lock is let go is a sync that began
// after the last write was done.
func TestReleaseSyncsWhatWasWritten(t *testing.T) {
	disk, s, _ := ownedDisk(t)
	d := startBlock(t, disk, 0)
	t.Cleanup(s.goOn) // before the device is closed
	s.hang(OpWrite, nil)
	d.offerRequest(0, blockOut, desc{gpa: dataAt, bytes: 512})
	s.await(t, OpWrite)
	require.NoError(t, disk.Sync(t.Context()), "the write is not part of it")
	s.goOn()
	<-d.block().Drain()
	s.asked()
	require.NoError(t, disk.Release(t.Context()))
	require.Equal(t, []Op{OpSync}, s.asked())
}

// TestCloseOfADiskThatHangs ends in the background.
func TestCloseOfADiskThatHangs(t *testing.T) {
	disk, s, c := ownedDisk(t)
	s.hang(OpSync, nil)
	ctx, stop := context.WithCancel(t.Context())
	synced := make(chan error, 1)
	go func() { synced <- disk.Sync(ctx) }()
	s.await(t, OpSync)
	stop()
	require.Error(t, <-synced)
	disk.Close() // after a while
	_, err := own(c)
	require.ErrorIs(t, err, errInUse, "the host may still write")
	s.goOn()
	require.Eventually(t, func() bool {
		d, err := own(c)
		if err == nil {
			d.Close()
		}
		return err == nil
	}, patience, time.Millisecond)
}

func marksOf(*driver) *memory.Bitmap {
	return memory.NewBitmap(memory.MinSize / memory.PageSize)
}

// TestOwnThatHangs: whoever gave up on a disk does not have it, also when the host answers later.
func TestOwnThatHangs(t *testing.T) {
	disk, s, c := ownedDisk(t)
	require.NoError(t, disk.Release(t.Context()))
	s.hang(OpOwn, nil)
	ctx, stop := context.WithCancelCause(t.Context())
	taken := make(chan error, 1)
	go func() { taken <- disk.Own(ctx) }()
	s.await(t, OpOwn)
	stop(errors.New("no more time"))
	require.EqualError(t, <-taken, "disk "+c.Path+": the host has not answered: no more time")
	s.goOn()
	disk.turn <- struct{}{} // once the host has answered
	require.False(t, disk.Owned())
	<-disk.turn
	other, err := own(c)
	require.NoError(t, err, "nor is it locked")
	other.Close()
	require.NoError(t, disk.Own(t.Context()))
}

// TestBlocksByReading: a kernel that does not say how O_DIRECT must be aligned says it by refusing.
func TestBlocksByReading(t *testing.T) {
	least := func(n int) func(int) error {
		return func(tried int) error {
			if tried < n {
				return unix.EINVAL
			}
			return nil
		}
	}
	require.Equal(t, 512, blockBy(least(512)))
	require.Equal(t, 4096, blockBy(least(4096)))
	require.Equal(t, 512, blockBy(least(1<<20)), "it is not the alignment")
	require.Equal(t, 512, blockBy(func(int) error { return unix.EIO }))
}
