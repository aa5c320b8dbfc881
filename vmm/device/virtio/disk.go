package virtio

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/memory"
)

// Cache says whether a disk's content goes through the host's page cache.
type Cache string

const (
	CacheAuto   Cache = "auto"   // CacheDirect where the file system can do that, else CacheHost
	CacheDirect Cache = "direct" // no (O_DIRECT)
	CacheHost   Cache = "host"   // yes
)

// Lock says how other processes are kept from a disk.
type Lock string

const (
	LockOFD  Lock = "ofd"  // by a lock on the file's first byte, which other programs respect
	LockNone Lock = "none" // not at all; the user must keep others away
)

// DiskConfig says which file is a disk: a raw image, or a block device.
type DiskConfig struct {
	Path     string
	ReadOnly bool
	Cache    Cache
	Lock     Lock
}

const sectorBytes = 512

// Disk is a file that a guest uses as its disk. It is read and written only while it is owned, see
// [Disk.Own].
type Disk struct {
	DiskConfig
	fd     int
	bytes  int64 // its size
	block  int   // the size of the smallest access, in bytes
	direct bool
	proof  int64 // see DiskIdentity; 0 without locks
	log    *slog.Logger

	// before comes before everything that a request, a sync or Own asks of the host, see Intercept.
	before func(Op) error
	// turn is held by whoever takes, releases or closes the disk, or syncs it for a release. Since
	// the host may hang, nobody waits for it without an end.
	turn chan struct{}
	left *imprint // the disk when it was released; nil: never released; guarded by turn
	// unsynced says that something was written since the last sync began. It is set once a write is
	// done, whether or not it failed. syncing counts the syncs under way.
	unsynced atomic.Bool
	syncing  atomic.Int32
	// reports is held by a sync that the guest did not order, until its error is in owed; before
	// mu.
	reports sync.Mutex

	mu      sync.Mutex // guards what follows; never held while the host is asked
	owned   bool
	owed    error       // error of lost data that the guest has not been told of, see flush
	flushes []*flushing // whose syncs go on
	closed  bool
	failed  int64     // requests since errors began; 0: there are none
	lastBad time.Time // when the last request failed
}

// OpenDisk opens a disk that is not owned yet.
func OpenDisk(c DiskConfig, log *slog.Logger) (*Disk, error) {
	d := &Disk{
		DiskConfig: c, log: log, block: sectorBytes, turn: make(chan struct{}, 1),
		before: func(Op) error { return nil },
	}
	d.unsynced.Store(true) // who had the file before may not have synced it
	if err := d.open(); err != nil {
		return nil, d.wrap(err)
	}
	err := d.measure()
	if err == nil {
		err = d.prove()
	}
	if err != nil {
		unix.Close(d.fd)
		return nil, d.wrap(err)
	}
	return d, nil
}

func (d *Disk) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("disk %s: %w", d.Path, err)
}

// Op is something that a disk asks of the host.
type Op string

// The operations that Intercept sees.
const (
	OpRead  Op = "read"
	OpWrite Op = "write"
	OpClear Op = "clear" // discard, or write zeros
	OpSync  Op = "sync"
	OpOwn   Op = "own" // lock the file, and see whether it changed
)

// Intercept makes f come before all that requests, syncs and Own ask of the host from now on, so
// that a test can make the host slow, fail or hang. An error of f counts as the host's. No request
// is in flight.
func (d *Disk) Intercept(f func(Op) error) { d.before = f }

// hostPatience is how long the host has for what a disk asks of it when nobody says how long.
const hostPatience = 5 * time.Second

// ask carries out f, which asks the host and so may hang, in its turn. If ctx ends before f does, f
// goes on in the background, and keeps its turn until it is done. If ctx ends before f's turn has
// come, f is not called.
func (d *Disk) ask(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() {
		select {
		case d.turn <- struct{}{}:
		case <-ctx.Done():
			return
		}
		defer func() { <-d.turn }()
		if ctx.Err() == nil {
			done <- f()
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the host has not answered: %w", context.Cause(ctx))
	}
}

func (d *Disk) open() error {
	info, err := os.Stat(d.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("there is no such file: make one, for instance with truncate -s 1G")
	case err != nil:
		return errors.Unwrap(err)
	case !info.Mode().IsRegular() && info.Mode().Type() != os.ModeDevice:
		return errors.New("neither a file nor a block device")
	}
	mode := unix.O_RDWR | unix.O_CLOEXEC
	if d.ReadOnly {
		mode = unix.O_RDONLY | unix.O_CLOEXEC
	}
	if d.Cache != CacheHost {
		d.fd, err = unix.Open(d.Path, mode|unix.O_DIRECT, 0)
		if d.direct = err == nil; d.direct {
			return nil
		}
		if !errors.Is(err, unix.EINVAL) || d.Cache == CacheDirect {
			return d.explain(err)
		}
		d.log.Warn("disk " + d.Path + ": its file system has no O_DIRECT, so what the guest " +
			"writes goes through the host's page cache (cache=host)")
	}
	d.fd, err = unix.Open(d.Path, mode, 0)
	return d.explain(err)
}

func (d *Disk) explain(err error) error {
	switch {
	case errors.Is(err, unix.EINVAL) && d.Cache == CacheDirect:
		return errors.New("its file system has no O_DIRECT: use cache=host")
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EROFS):
		if !d.ReadOnly {
			return fmt.Errorf("%w: give it with readonly if it is not to be written", err)
		}
	}
	return err
}

// measure finds out the disk's size and the size of its blocks.
func (d *Disk) measure() error {
	st, err := d.stat()
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		n, err := unix.IoctlGetInt(d.fd, unix.BLKSSZGET)
		if err != nil {
			return err
		}
		d.block = n
	}
	switch {
	case d.direct && st.Mask&unix.STATX_DIOALIGN != 0: // since Linux 6.1
		d.block = max(d.block, int(st.Dio_offset_align), int(st.Dio_mem_align))
	case d.direct && st.Mode&unix.S_IFMT == unix.S_IFREG:
		d.block = blockBy(d.tryRead)
	}
	if d.bytes, err = unix.Seek(d.fd, 0, io.SeekEnd); err != nil {
		return err
	}
	if d.bytes == 0 || d.bytes%int64(d.block) != 0 {
		return fmt.Errorf("%d bytes: want a multiple of its block size, %d", d.bytes, d.block)
	}
	return nil
}

// blockBy finds out the size of blocks by reading: an older kernel does not say it for a file, and
// refuses what is not aligned to the blocks of the device below.
func blockBy(try func(n int) error) int {
	if !errors.Is(try(sectorBytes), unix.EINVAL) || try(memory.PageSize) != nil {
		return sectorBytes
	}
	return memory.PageSize
}

// tryRead reads n bytes at offset n into memory that is aligned to n and not to more.
func (d *Disk) tryRead(n int) error {
	mem, err := unix.Mmap(-1, 0, 2*memory.PageSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer unix.Munmap(mem) //nolint:errcheck // of what was just mapped
	_, err = unix.Pread(d.fd, mem[n:2*n], int64(n))
	return err
}

// Close closes the disk, which ends its locks. If the host hangs, it returns after a while, and the
// disk is closed once the host answers.
func (d *Disk) Close() {
	d.mu.Lock()
	was := d.closed
	d.closed, d.owned = true, false
	d.troubleOver("it is closed")
	d.mu.Unlock()
	if was {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.turn <- struct{}{} // never given back: the descriptor may soon be another file's
		unix.Close(d.fd)
	}()
	select {
	case <-done:
	case <-time.After(hostPatience):
	}
}

// calm is the time without a failure after which errors count as over, so that a disk that fails in
// one part does not fill the log.
const calm = 10 * time.Second

// note tells the log when errors begin, and how many there were when they are over.
func (d *Disk) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	switch {
	case err != nil:
		if d.failed == 0 {
			d.log.Warn("disk "+d.Path+": requests fail, as the guest is told", "error", err)
		}
		d.failed++
		d.lastBad = now
	case d.failed > 0 && now.Sub(d.lastBad) >= calm:
		d.troubleOver("it works again")
	}
}

func (d *Disk) troubleOver(how string) {
	if d.failed > 0 {
		d.log.Warn("disk "+d.Path+": "+how, "failed_requests", d.failed)
		d.failed = 0
	}
}

// preadv and pwritev are the system calls.
func (d *Disk) preadv(fd int, parts [][]byte, offset int64) (int, error) {
	if err := d.before(OpRead); err != nil {
		return 0, err
	}
	return unix.Preadv(fd, parts, offset)
}

func (d *Disk) pwritev(fd int, parts [][]byte, offset int64) (int, error) {
	defer d.unsynced.Store(true)
	if err := d.before(OpWrite); err != nil {
		return 0, err
	}
	return unix.Pwritev(fd, parts, offset)
}

// transfer reads or writes slices from an offset on, by preadv or pwritev.
func (d *Disk) transfer(
	how func(fd int, parts [][]byte, offset int64) (int, error), parts [][]byte, offset int64,
) error {
	for len(parts) > 0 {
		n, err := how(d.fd, parts, offset)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF // somebody has shortened the file
		}
		offset += int64(n)
		parts = behind(parts, n)
	}
	return nil
}

// behind returns what follows the first n bytes of slices.
func behind(parts [][]byte, n int) [][]byte {
	for len(parts) > 0 && n >= len(parts[0]) {
		n -= len(parts[0])
		parts = parts[1:]
	}
	if n > 0 {
		rest := append([][]byte{parts[0][n:]}, parts[1:]...)
		return rest
	}
	return parts
}

// sync makes what was written durable.
func (d *Disk) sync() error {
	d.syncing.Add(1)
	defer d.syncing.Add(-1)
	d.unsynced.Store(false) // a write that is done from here on may miss this sync
	for {
		err := d.before(OpSync)
		if err == nil {
			err = unix.Fdatasync(d.fd)
		}
		switch err {
		case nil:
			return nil
		case unix.EINTR:
			continue
		}
		d.unsynced.Store(true)
		return err
	}
}

// flushing is a flush whose sync goes on. Disk.mu guards it until done is closed.
type flushing struct {
	done chan struct{}
	err  error // its own, or that of another that ended meanwhile
}

// flushTogether is sync beside other flushes. Of several at the same time, each fails if one does,
// because the host tells one of them alone of what all of them have lost.
func (d *Disk) flushTogether() error {
	f := &flushing{done: make(chan struct{})}
	d.mu.Lock()
	d.flushes = append(d.flushes, f)
	d.mu.Unlock()
	err := d.sync()
	d.mu.Lock()
	d.flushes = slices.DeleteFunc(d.flushes, func(o *flushing) bool { return o == f })
	others := slices.Clone(d.flushes)
	if err != nil {
		for _, o := range others {
			o.err = cmp.Or(o.err, err)
		}
	}
	f.err = cmp.Or(err, f.err)
	err = f.err
	close(f.done)
	d.mu.Unlock()
	for _, o := range others {
		<-o.done
		err = cmp.Or(err, o.err)
	}
	return err
}

// flush is sync on the guest's order. The host drops what it cannot write and reports that only
// once. If it reports it to another sync, as that of a release, the guest learns of it at its next
// flush. That may be this one: of two syncs at the same time either may get the report, so a flush
// waits for the other's.
func (d *Disk) flush() error {
	err := d.flushTogether()
	d.reports.Lock()
	defer d.reports.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.owed != nil {
		err, d.owed = d.owed, nil
	}
	return err
}

// discard frees a part of the disk. If the host cannot do that, the data stays, which is allowed.
func (d *Disk) discard(offset, n int64) error {
	err := d.allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// zero makes a part of the disk read as zeros. With unmap the host may free its storage.
func (d *Disk) zero(offset, n int64, unmap bool) error {
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE)
	if unmap {
		mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	err := d.allocate(mode, offset, n)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	zeros, err := newBounce()
	if err != nil {
		return err
	}
	defer zeros.free()
	for n > 0 {
		part := min(n, bounceBytes)
		if err := d.transfer(d.pwritev, [][]byte{zeros[:part]}, offset); err != nil {
			return err
		}
		offset, n = offset+part, n-part
	}
	return nil
}

func (d *Disk) allocate(mode uint32, offset, n int64) error {
	defer d.unsynced.Store(true)
	for {
		err := d.before(OpClear)
		if err == nil {
			err = unix.Fallocate(d.fd, mode, offset, n)
		}
		if err != unix.EINTR {
			return err
		}
	}
}

// bounce is the host's memory for data that cannot go directly to or from RAM. It begins on a page.
type bounce []byte

const bounceBytes = 1 << 20

func newBounce() (bounce, error) {
	return unix.Mmap(-1, 0, bounceBytes, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

func (b bounce) free() { _ = unix.Munmap(b) }
