package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"taskguide/memory"
)

// ErrKernel is returned for a kernel file that cannot be booted.
var ErrKernel = errors.New("cannot boot this kernel")

// maxCmdline bounds a kernel command line, in bytes without its end.
const maxCmdline = 4095

// Boot loads a kernel, and sets the first vCPU to start it as soon as the machine is
// resumed. The kernel file says itself how it wants to be booted: an ELF file with a
// PVH note, or a Linux bzImage. initrd may be empty.
func (vm *VM) Boot(kernel, initrd []byte, cmdline string) error {
	var load func(kernel, initrd []byte, cmdline string) error
	switch {
	case len(cmdline) > maxCmdline:
		return fmt.Errorf("%w: a command line of %d bytes is too long, want at most %d", ErrKernel, len(cmdline), maxCmdline)
	case bytes.IndexByte([]byte(cmdline), 0) >= 0:
		return fmt.Errorf("%w: the command line has a NUL byte in it", ErrKernel)
	case isELF(kernel):
		load = vm.bootPVH
	case isBzImage(kernel):
		load = vm.bootLinux
	default:
		return fmt.Errorf("%w: it is neither an ELF file nor a Linux bzImage", ErrKernel)
	}
	return vm.still(func() error {
		if err := vm.placeTables(); err != nil {
			return err
		}
		return load(kernel, initrd, cmdline)
	})
}

// Types of memory in a memory map, as E820 and PVH number them.
const (
	memoryRAM      = 1
	memoryReserved = 2
)

// memoryRange is an entry of a memory map.
type memoryRange struct {
	addr, size uint64
	kind       uint32
}

// Where a PC has video memory and firmware rather than RAM. This machine has RAM
// there too, but kernels look for tables in it and keep their own data out of it.
const (
	legacyStart = 0xa0000
	legacyEnd   = 0x100000
)

// memoryMap describes RAM to a kernel.
func memoryMap(regions []memory.Region) []memoryRange {
	var m []memoryRange
	for _, r := range regions {
		size := uint64(r.Pages) * memory.PageSize
		if r.GPA != 0 {
			m = append(m, memoryRange{r.GPA, size, memoryRAM})
			continue
		}
		m = append(m,
			memoryRange{0, legacyStart, memoryRAM},
			memoryRange{legacyStart, legacyEnd - legacyStart, memoryReserved},
			memoryRange{legacyEnd, size - legacyEnd, memoryRAM})
	}
	return m
}

// span is a range of guest-physical addresses.
type span struct{ start, end uint64 }

// layout finds room in the RAM below the MMIO hole for what a kernel is given.
type layout struct {
	end  uint64 // of the RAM
	used []span
}

// newLayout keeps clear of the first page, where a null pointer points to, and of
// what a PC has below 1 MiB.
func newLayout(regions []memory.Region) *layout {
	return &layout{
		end:  uint64(regions[0].Pages) * memory.PageSize,
		used: []span{{0, memory.PageSize}, {legacyStart, legacyEnd}},
	}
}

// reserve marks a range as used. It may overlap others.
func (l *layout) reserve(start, end uint64) {
	l.used = append(l.used, span{start, end})
}

// lowest takes the lowest free range of size bytes that begins on a page from floor
// on; highest takes the highest one.
func (l *layout) lowest(size, floor uint64) (uint64, bool) {
	slices.SortFunc(l.used, func(a, b span) int { return compare(a.start, b.start) })
	at := floor
	for _, u := range l.used {
		if u.start >= at && u.start-at >= size {
			break
		}
		at = max(at, pageUp(u.end))
	}
	if at > l.end || l.end-at < size {
		return 0, false
	}
	l.reserve(at, at+size)
	return at, true
}

func (l *layout) highest(size uint64) (uint64, bool) {
	slices.SortFunc(l.used, func(a, b span) int { return compare(b.end, a.end) })
	top := l.end
	for _, u := range l.used {
		if u.end <= top && top-u.end >= pageUp(size) {
			break
		}
		top = min(top, u.start&^(memory.PageSize-1))
	}
	if top < pageUp(size) {
		return 0, false
	}
	at := top - pageUp(size)
	l.reserve(at, top)
	return at, true
}

func pageUp(n uint64) uint64 { return (n + memory.PageSize - 1) &^ (memory.PageSize - 1) }

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// place copies p into guest RAM, as the host's own write.
func (vm *VM) place(gpa uint64, p []byte) error {
	dst, ok := vm.ram.Slice(gpa, len(p))
	if !ok {
		return fmt.Errorf("%w: %d bytes at %#x are outside of RAM", ErrKernel, len(p), gpa)
	}
	copy(dst, p)
	vm.MarkDirty(gpa, len(p))
	return nil
}

// placeTables puts the tables that tell a kernel of processors and interrupt
// controllers where a PC's firmware has them.
func (vm *VM) placeTables() error {
	if err := vm.place(mpTable, encodeMPTable(mpTable, vm.CPUs())); err != nil {
		return err
	}
	return vm.place(acpiTables, encodeACPI(vm.CPUs()))
}

// placeInitrd puts an initrd as high in low RAM as it goes, out of the way of a
// kernel that unpacks itself.
func (vm *VM) placeInitrd(l *layout, initrd []byte) (uint64, error) {
	if len(initrd) == 0 {
		return 0, nil
	}
	at, ok := l.highest(uint64(len(initrd)))
	if !ok {
		return 0, fmt.Errorf("%w: an initrd of %d bytes does not fit RAM beside the kernel: give the machine more memory", ErrKernel, len(initrd))
	}
	return at, vm.place(at, initrd)
}
