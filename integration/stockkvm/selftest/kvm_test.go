package selftest

import (
	"errors"
	"os"
	"testing"
	"unsafe"

	"github.com/bobuhiro11/gokvm/kvm"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	ioctlRun = 0xae80 // KVM_RUN

	exitIO  = 2
	exitHlt = 5

	ramBytes  = 64 << 10
	entry     = 0x1000 // where the code lies and the virtual CPU begins
	writtenTo = 0x3000 // the page that the code writes
	port      = 0x10
)

// machine is a virtual machine with 64 KiB of RAM and one CPU in real mode.
type machine struct {
	vm, cpu uintptr
	ram     []byte
	run     *kvm.RunData
}

// newMachine returns a machine about to execute code.
func newMachine(t *testing.T, code []byte) *machine {
	t.Helper()
	dev, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { dev.Close() })
	vm, err := kvm.CreateVM(dev.Fd())
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(int(vm)) })
	ram, err := unix.Mmap(-1, 0, ramBytes, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Munmap(ram)) })
	copy(ram[entry:], code)
	region := kvm.UserspaceMemoryRegion{
		MemorySize: ramBytes, UserspaceAddr: uint64(uintptr(unsafe.Pointer(&ram[0]))),
	}
	region.SetMemLogDirtyPages()
	require.NoError(t, kvm.SetUserMemoryRegion(vm, &region))

	cpu, err := kvm.CreateVCPU(vm, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(int(cpu)) })
	size, err := kvm.GetVCPUMMmapSize(dev.Fd())
	require.NoError(t, err)
	shared, err := unix.Mmap(int(cpu), 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Munmap(shared)) })

	sregs, err := kvm.GetSregs(cpu)
	require.NoError(t, err)
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	require.NoError(t, kvm.SetSregs(cpu, sregs))
	require.NoError(t, kvm.SetRegs(cpu, &kvm.Regs{RIP: entry, RFLAGS: 2}))
	return &machine{vm: vm, cpu: cpu, ram: ram, run: (*kvm.RunData)(unsafe.Pointer(&shared[0]))}
}

// exit runs the CPU until it leaves KVM_RUN and returns the reason.
func (m *machine) exit(t *testing.T) int {
	t.Helper()
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, m.cpu, ioctlRun, 0)
		if errors.Is(errno, unix.EINTR) {
			continue // the runtime's signals end KVM_RUN
		}
		require.Zero(t, errno, "KVM_RUN: %v", errno)
		return int(m.run.ExitReason)
	}
}

// code adds 2 and 3, stores the sum, writes it to a port, and halts.
var code = []byte{
	0xb0, 2, // mov al, 2
	0x04, 3, // add al, 3
	0xa2, writtenTo & 0xff, writtenTo >> 8, // mov [writtenTo], al
	0xe6, port, // out port, al
	0xf4, // hlt
}

func TestGuestExecutesCode(t *testing.T) {
	m := newMachine(t, code)
	require.Equal(t, exitIO, m.exit(t))
	direction, size, number, count, offset := m.run.IO()
	require.EqualValues(t, 1, direction, "1 is out")
	require.EqualValues(t, []uint64{1, port, 1}, []uint64{size, number, count})
	data := (*byte)(unsafe.Add(unsafe.Pointer(m.run), offset))
	require.EqualValues(t, 5, *data)
	require.EqualValues(t, 5, m.ram[writtenTo])
	require.Equal(t, exitHlt, m.exit(t))
}

func TestDirtyLogNamesThePageWritten(t *testing.T) {
	m := newMachine(t, code)
	require.Equal(t, exitIO, m.exit(t))
	var bitmap uint64
	log := kvm.DirtyLog{BitMap: uint64(uintptr(unsafe.Pointer(&bitmap)))}
	require.NoError(t, kvm.GetDirtyLog(m.vm, &log))
	const written, executed = uint64(1 << (writtenTo >> 12)), uint64(1 << (entry >> 12))
	require.NotZero(t, bitmap&written, "dirty pages are %#x", bitmap)
	// A page that was only read may be reported, too: if host memory allows, KVM maps it writable
	// on the first access, and marks it.
	require.Zero(t, bitmap&^(written|executed), "dirty pages are %#x", bitmap)
}
