package memory

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// PageSize is the unit of dirty tracking and of the wire, in bytes.
	PageSize = 4096
	// LowEnd is the guest-physical end of low RAM, where the MMIO hole begins.
	LowEnd = 3 << 30
	// HighStart is the guest-physical address of the RAM that did not fit below
	// the hole.
	HighStart = 4 << 30

	// MinSize and MaxSize bound the RAM of a guest, in bytes.
	MinSize = 16 << 20
	MaxSize = 1 << 40
	// SizeUnit divides every RAM size; it keeps slot bitmaps whole words.
	SizeUnit = 1 << 20
)

// ErrSize is returned for an invalid RAM size.
var ErrSize = errors.New("invalid memory size")

// RAM is a guest's memory.
type RAM struct {
	fd  int
	mem []byte

	// maybeHoles has every page that was released and not found backed since. It may have others.
	maybeHoles []atomic.Uint64 // bit i of word i/64 is page i

	mu       sync.Mutex // guards what follows
	releases int        // calls of Release
	// populated says that all of RAM is backed and mapped.
	populated bool
}

// Region is a contiguous guest-physical part of RAM.
type Region struct {
	GPA   uint64 // guest-physical address of the first byte
	First int    // number of the first page
	Pages int
}

// CheckSize tells whether a RAM of size bytes can exist.
func CheckSize(size int64) error {
	switch {
	case size < MinSize:
		return fmt.Errorf("%w: %d bytes is less than the minimum of 16M", ErrSize, size)
	case size > MaxSize:
		return fmt.Errorf("%w: %d bytes is more than the maximum of 1024G", ErrSize, size)
	case size%SizeUnit != 0:
		return fmt.Errorf("%w: %d bytes is not a multiple of 1M", ErrSize, size)
	}
	return nil
}

// New makes RAM of size bytes, all zero and not yet backed by host memory. It asks for huge pages,
// which hosts may give to shared memory.
func New(size int64) (*RAM, error) {
	if err := CheckSize(size); err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("guest-ram", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create memfd for guest RAM: %w", err)
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("size guest RAM to %d bytes: %w", size, err)
	}
	mem, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("map %d bytes of guest RAM: %w", size, err)
	}
	// Both are advice only: a host whose shmem_enabled is "never" refuses the first, and a core
	// dump that includes the guest is merely larger.
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP)
	pages := int(size / PageSize)
	return &RAM{fd: fd, mem: mem, maybeHoles: make([]atomic.Uint64, (pages+63)/64)}, nil
}

// Close unmaps RAM. Its slices must not be used afterwards.
func (r *RAM) Close() error {
	if r.mem == nil {
		return nil
	}
	err := errors.Join(unix.Munmap(r.mem), unix.Close(r.fd))
	r.mem, r.fd = nil, -1
	return err
}

// Size is the amount of RAM in bytes.
func (r *RAM) Size() int64 { return int64(len(r.mem)) }

// Pages is the amount of RAM in pages.
func (r *RAM) Pages() int { return len(r.mem) / PageSize }

// FD is the memfd behind RAM.
func (r *RAM) FD() int { return r.fd }

// Bytes returns all RAM, by page number, without the MMIO hole.
func (r *RAM) Bytes() []byte { return r.mem }

// Page returns page n, 4096 bytes of live guest memory.
func (r *RAM) Page(n int) []byte {
	return r.mem[n*PageSize : (n+1)*PageSize : (n+1)*PageSize]
}

// Range returns count pages from page first on.
func (r *RAM) Range(first, count int) []byte {
	return r.mem[first*PageSize : (first+count)*PageSize : (first+count)*PageSize]
}

// Regions lists RAM by guest-physical address, in ascending order.
func (r *RAM) Regions() []Region { return Layout(r.Size()) }

// Layout says where a machine with size bytes of RAM has it.
func Layout(size int64) []Region {
	low := min(size, LowEnd)
	regions := []Region{{GPA: 0, First: 0, Pages: int(low / PageSize)}}
	if size > low {
		regions = append(regions,
			Region{GPA: HighStart, First: int(low / PageSize), Pages: int((size - low) / PageSize)})
	}
	return regions
}

// Slice returns the n bytes at a guest-physical address, or false if any of them is not RAM.
func (r *RAM) Slice(gpa uint64, n int) ([]byte, bool) {
	off, room, ok := r.offset(gpa)
	if !ok || n < 0 || uint64(n) > room {
		return nil, false
	}
	return r.mem[off : off+uint64(n) : off+uint64(n)], true
}

// PageOf returns the number of the page that holds a guest-physical address, or false if the
// address is not RAM.
func (r *RAM) PageOf(gpa uint64) (int, bool) {
	off, _, ok := r.offset(gpa)
	return int(off / PageSize), ok
}

// offset translates a guest-physical address. room is how many bytes of its region begin there.
func (r *RAM) offset(gpa uint64) (off, room uint64, ok bool) {
	size := uint64(len(r.mem))
	low := min(size, LowEnd)
	switch {
	case gpa < low:
		return gpa, low - gpa, true
	case gpa >= HighStart && gpa-HighStart < size-low:
		return low + (gpa - HighStart), size - low - (gpa - HighStart), true
	}
	return 0, 0, false
}

// populateChunk is how many bytes one madvise call populates: enough to amortize the call, and few
// enough to report progress and to cancel.
const populateChunk = 8 << 20

// Populate backs all RAM with host memory, so that no first touch costs a fault later. It keeps the
// content, even if others write at the same time. Several goroutines call progress, if it is not
// nil, with the bytes done so far. What is released afterwards loses its memory again.
func (r *RAM) Populate(ctx context.Context, workers int, progress func(doneBytes int64)) error {
	r.mu.Lock()
	releases := r.releases
	r.mu.Unlock()
	var next, done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range max(workers, 1) {
		g.Go(func() error {
			for ctx.Err() == nil {
				from := next.Add(populateChunk) - populateChunk
				if from >= r.Size() {
					return nil
				}
				chunk := r.mem[from:min(from+populateChunk, r.Size())]
				if err := populate(chunk); err != nil {
					return fmt.Errorf("populate guest RAM at %d MiB: %w", from>>20, err)
				}
				if n := done.Add(int64(len(chunk))); progress != nil {
					progress(n)
				}
			}
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.populated = r.releases == releases
	return nil
}

// Populated tells whether all of RAM was populated and nothing was released since.
func (r *RAM) Populated() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.populated
}

// PopulateRange backs count pages from first on, as Populate does.
func (r *RAM) PopulateRange(first, count int) error {
	if r.Populated() {
		return nil // finding that out would take some 50 ns a page
	}
	if err := populate(r.Range(first, count)); err != nil {
		return fmt.Errorf("populate guest RAM at page %d: %w", first, err)
	}
	return nil
}

func populate(chunk []byte) error {
	for {
		// MADV_POPULATE_WRITE (Linux 5.14) prefaults writable without changing content.
		err := unix.Madvise(chunk, unix.MADV_POPULATE_WRITE)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			runtime.Gosched()
		case err == unix.EINVAL:
			// On an older kernel, an atomic add of 0 causes a write fault and keeps the content.
			touch(chunk)
			return nil
		default:
			return err
		}
	}
}

// Backed is how many pages the host backs with memory (stat(2), st_blocks). It is a count, not a
// set: RAM loses pages by Release and gets others. A page counts as soon as the host allocates it,
// before Allocated finds it, so an equal count does not mean equal content.
func (r *RAM) Backed() (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(r.fd, &st); err != nil {
		return 0, fmt.Errorf("ask how much memory backs guest RAM: %w", err)
	}
	const blockBytes = 512 // stat(2)
	return int(st.Blocks * blockBytes / PageSize), nil
}

// Allocated adds to pages every page that the host backs with memory. It does not read the others:
// they were never written, or released, so they are holes of the memfd and read as zero (lseek(2),
// SEEK_DATA).
//
// Before Linux 6.4, pages look like holes for a moment when the host makes a huge page of them
// (khugepaged; mended by "mm/khugepaged: maintain page cache uptodate flag"). The host counts them
// all the same. So while it counts more pages than it shows, Allocated looks again, for a while. It
// does not wait for long, because a page that is allocated and was never written looks the same.
func (r *RAM) Allocated(pages *Bitmap) error {
	return r.allocated(pages, patiently())
}

// patientLooks is how often Allocated looks at most, a millisecond apart.
const patientLooks = 64

// patiently returns what is true for as long as another look is worth it.
func patiently() (again func() bool) {
	looks := 1
	return func() bool {
		_ = unix.Nanosleep(&unix.Timespec{Nsec: int64(time.Millisecond)}, nil)
		looks++
		return looks <= patientLooks
	}
}

// allocated is Allocated, which looks again for as long as again says so.
func (r *RAM) allocated(pages *Bitmap, again func() bool) error {
	// A huge page at the end of RAM may go beyond it, and is counted as a whole.
	const hugePages = 2 << 20 / PageSize
	beyond := (hugePages - r.Pages()%hugePages) % hugePages
	for {
		backed, err := r.Backed()
		if err != nil {
			return err
		}
		found := NewBitmap(r.Pages())
		if err := r.shown(found); err != nil {
			return err
		}
		pages.Or(found)
		if found.Count()+beyond >= backed || !again() {
			return nil
		}
	}
}

// shown adds to pages every page that the host shows as backed with memory.
func (r *RAM) shown(pages *Bitmap) error {
	for off := int64(0); off < r.Size(); {
		data, err := unix.Seek(r.fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find allocated guest RAM: %w", err)
		}
		hole, err := unix.Seek(r.fd, data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("find allocated guest RAM: %w", err)
		}
		first := int(data / PageSize)
		end := int((hole + PageSize - 1) / PageSize)
		pages.SetRange(first, end-first)
		off = hole
	}
	return nil
}
