package virtio

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
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

	// datasync is fdatasync(2), or a test's replacement.
	datasync func(fd int) error

	mu      sync.Mutex // guards what follows
	owned   bool
	owed    error    // error of lost data that the guest has not been told of, see flush
	left    *imprint // the disk when it was released; nil: never released
	closed  bool
	failed  int64     // requests since errors began; 0: there are none
	lastBad time.Time // when the last request failed
}

// OpenDisk opens a disk that is not owned yet.
func OpenDisk(c DiskConfig, log *slog.Logger) (*Disk, error) {
	d := &Disk{DiskConfig: c, log: log, block: sectorBytes, datasync: unix.Fdatasync}
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

func (d *Disk) wrap(err error) error { return fmt.Errorf("disk %s: %w", d.Path, err) }

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
	if d.direct && st.Mask&unix.STATX_DIOALIGN != 0 {
		d.block = max(d.block, int(st.Dio_offset_align), int(st.Dio_mem_align))
	}
	if d.bytes, err = unix.Seek(d.fd, 0, io.SeekEnd); err != nil {
		return err
	}
	if d.bytes == 0 || d.bytes%int64(d.block) != 0 {
		return fmt.Errorf("%d bytes: want a multiple of its block size, %d", d.bytes, d.block)
	}
	return nil
}

// Close closes the disk, which ends its locks.
func (d *Disk) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.closed, d.owned = true, false
	d.troubleOver("it is closed")
	unix.Close(d.fd)
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
	for {
		if err := d.datasync(d.fd); err != unix.EINTR {
			return err
		}
	}
}

// flush is sync on the guest's order. The host drops what it cannot write and reports that only
// once. If it reports it while the disk is being released, the guest learns of it at its next
// flush.
func (d *Disk) flush() error {
	err := d.sync()
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
		if err := d.transfer(unix.Pwritev, [][]byte{zeros[:part]}, offset); err != nil {
			return err
		}
		offset, n = offset+part, n-part
	}
	return nil
}

func (d *Disk) allocate(mode uint32, offset, n int64) error {
	for {
		if err := unix.Fallocate(d.fd, mode, offset, n); err != unix.EINTR {
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
