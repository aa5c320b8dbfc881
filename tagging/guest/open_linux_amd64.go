package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"taskguide/tagging/abi"
)

// Open finds the tag port: by its registers in /dev/mem, or else by I/O ports. It returns ErrNoPort
// if the machine has none, or if this program may not use it.
func Open() (*Tags, error) {
	tags, errMMIO := openMMIO("/dev/mem", abi.MMIOBase)
	if errMMIO == nil {
		return tags, nil
	}
	tags, errPorts := openPorts()
	if errPorts == nil {
		return tags, nil
	}
	return nil, fmt.Errorf("%w: by memory: %w; by I/O ports: %w", ErrNoPort, errMMIO, errPorts)
}

// mmio is the registers' page, mapped.
type mmio []byte

func openMMIO(file string, base int64) (*Tags, error) {
	f, err := os.OpenFile(file, os.O_RDWR|unix.O_SYNC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), base, abi.MMIOBytes, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s at %#x: %w", file, base, err)
	}
	tags, err := newTags(mmio(mem))
	if err != nil {
		return nil, errors.Join(err, unix.Munmap(mem))
	}
	return tags, nil
}

// register returns the register at offset.
//
// Sound because the bounds are checked, registers are 4 bytes apart in a mapping,
// so aligned, and the mapping lasts until close, which Tags delays until no task
// is left.
func (m mmio) register(offset uint32) *uint32 {
	return (*uint32)(unsafe.Pointer(&m[offset : offset+4][0]))
}

func (m mmio) read(offset uint32) uint32     { return load(m.register(offset)) }
func (m mmio) write(offset uint32, v uint32) { store(m.register(offset), v) }
func (m mmio) close() error                  { return unix.Munmap(m) }

// load and store are one plain 32-bit access each, which the compiler can neither leave out nor
// merge across the call. An atomic store would be an exchange, which also reads the register.

//go:noinline
func load(p *uint32) uint32 { return *p }

//go:noinline
func store(p *uint32, v uint32) { *p = v }

// ports are the registers by the instructions in and out. (The file /dev/port splits accesses into
// single bytes, which the tag port refuses.)
type ports struct{}

func openPorts() (*Tags, error) {
	if err := permit(); err != nil {
		return nil, fmt.Errorf("ask for I/O ports: %w", err)
	}
	return newTags(ports{})
}

// permit lets the calling thread use the tag port's I/O ports: ioperm(2).
func permit() error {
	_, _, errno := unix.RawSyscall(unix.SYS_IOPERM, abi.PortBase, abi.PortBytes, 1)
	if errno != 0 {
		return errno
	}
	return nil
}

// access runs f on a thread that may use the ports, because the permission is a thread's and
// goroutines change threads. Without permission, f would end the program.
func (ports) access(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if permit() == nil {
		f()
	}
}

func (p ports) read(offset uint32) (v uint32) {
	p.access(func() { v = in32(abi.PortBase + uint16(offset)) })
	return v
}

func (p ports) write(offset uint32, v uint32) {
	p.access(func() { out32(abi.PortBase+uint16(offset), v) })
}

func (ports) close() error { return nil }

// in32 and out32 are the instructions in and out. The calling thread must be permitted.
func in32(port uint16) uint32
func out32(port uint16, v uint32)

// FastTags gives fast tags to tasks that begin from now on. A machine has one tag page: a second
// program that asks for it takes it from the first, whose tasks are no longer seen then. It needs
// CAP_SYS_ADMIN and io_uring.
func (t *Tags) FastTags() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.page != nil {
		return nil
	}
	mem, gpa, free, err := pinnedPage()
	if err != nil {
		return fmt.Errorf("fast tags: %w", err)
	}
	t.usePage(mem, gpa, free)
	return nil
}

// pinnedPage returns a page of memory that keeps its physical address gpa until free. The memory is
// shared, so that a fork of the program does not copy it.
func pinnedPage() (mem []byte, gpa uint64, free func() error, err error) {
	mem, err = unix.Mmap(-1, 0, abi.PageSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("allocate the tag page: %w", err)
	}
	ring, err := pin(mem)
	if err != nil {
		return nil, 0, nil, errors.Join(err, unix.Munmap(mem))
	}
	free = func() error { return errors.Join(unix.Close(ring), unix.Munmap(mem)) }
	if gpa, err = physical(mem); err != nil {
		return nil, 0, nil, errors.Join(err, free())
	}
	return mem, gpa, free, nil
}

// pin keeps the kernel from moving the page to another physical address (compaction, NUMA
// balancing), which mlock does not prevent. Buffers registered with io_uring are pinned until its
// file is closed. pin returns that file.
func pin(mem []byte) (ring int, err error) {
	// Both system calls read or write only the memory given to them, during the call.
	var params [120]byte // struct io_uring_params, all zero
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return -1, fmt.Errorf("pin the tag page: io_uring: %w (is the sysctl "+
			"kernel.io_uring_disabled set?)", errno)
	}
	const registerBuffers = 0 // IORING_REGISTER_BUFFERS
	buffer := unix.Iovec{Base: &mem[0], Len: uint64(len(mem))}
	_, _, errno = unix.Syscall6(unix.SYS_IO_URING_REGISTER, fd, registerBuffers,
		uintptr(unsafe.Pointer(&buffer)), 1, 0, 0)
	if errno != 0 {
		return -1, errors.Join(fmt.Errorf("pin the tag page: %w", errno), unix.Close(int(fd)))
	}
	return int(fd), nil
}

// physical returns the guest-physical address of a resident page, by
// /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst).
func physical(mem []byte) (uint64, error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0, fmt.Errorf("find the tag page: %w", err)
	}
	defer f.Close()
	var entry [8]byte
	page := uintptr(unsafe.Pointer(&mem[0])) / abi.PageSize // only its number is used
	if _, err := f.ReadAt(entry[:], int64(page)*8); err != nil {
		return 0, fmt.Errorf("find the tag page: %w", err)
	}
	const present, frameMask = 1 << 63, 1<<55 - 1
	bits := binary.LittleEndian.Uint64(entry[:])
	if bits&present == 0 || bits&frameMask == 0 {
		return 0, errors.New("find the tag page: the kernel does not tell its address, which " +
			"takes CAP_SYS_ADMIN")
	}
	return bits & frameMask * abi.PageSize, nil
}
