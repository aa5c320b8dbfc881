package vmm

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"
)

// KVM's own interface, where the structures of gokvm's package kvm do not reach.
// Requests are numbered as the macros _IO, _IOR, _IOW and _IOWR of asm-generic/ioctl.h
// do it; names are those of linux/kvm.h in Go's spelling. All calls are made here
// rather than by gokvm's helpers, which treat an interrupted KVM_RUN as success,
// marshal MSRs by reflection and pass pointers as integers through Go calls.
const (
	iocWrite = 1 << 30
	iocRead  = 2 << 30
	kvmio    = 0xae << 8

	kvmGetAPIVersion     = kvmio
	kvmCreateVM          = kvmio | 0x01
	kvmGetMSRIndexList   = iocRead | iocWrite | 4<<16 | kvmio | 0x02 // of an unsized struct kvm_msr_list
	kvmCheckExtension    = kvmio | 0x03
	kvmGetVCPUMmapSize   = kvmio | 0x04
	kvmGetSupportedCPUID = iocRead | iocWrite | 8<<16 | kvmio | 0x05 // of an unsized struct kvm_cpuid2

	kvmCreateVCPU          = kvmio | 0x41
	kvmSetUserMemoryRegion = iocWrite | unsafe.Sizeof(kvm.UserspaceMemoryRegion{})<<16 | kvmio | 0x46
	kvmSetTSSAddr          = kvmio | 0x47
	kvmSetIdentityMapAddr  = iocWrite | 8<<16 | kvmio | 0x48
	kvmCreateIRQChip       = kvmio | 0x60
	kvmIRQLine             = iocWrite | unsafe.Sizeof(irqLevel{})<<16 | kvmio | 0x61
	kvmGetIRQChip          = iocRead | iocWrite | unsafe.Sizeof(kvm.IRQChip{})<<16 | kvmio | 0x62
	kvmSetIRQChip          = iocRead | unsafe.Sizeof(kvm.IRQChip{})<<16 | kvmio | 0x63
	kvmCreatePIT2          = iocWrite | unsafe.Sizeof(pitConfig{})<<16 | kvmio | 0x77
	kvmSetClock            = iocWrite | unsafe.Sizeof(clockData{})<<16 | kvmio | 0x7b
	kvmGetClock            = iocRead | unsafe.Sizeof(clockData{})<<16 | kvmio | 0x7c
	kvmGetPIT2             = iocRead | unsafe.Sizeof(kvm.PITState2{})<<16 | kvmio | 0x9f
	kvmSetPIT2             = iocWrite | unsafe.Sizeof(kvm.PITState2{})<<16 | kvmio | 0xa0

	kvmRun           = kvmio | 0x80
	kvmGetRegs       = iocRead | unsafe.Sizeof(kvm.Regs{})<<16 | kvmio | 0x81
	kvmSetRegs       = iocWrite | unsafe.Sizeof(kvm.Regs{})<<16 | kvmio | 0x82
	kvmGetSregs      = iocRead | unsafe.Sizeof(kvm.Sregs{})<<16 | kvmio | 0x83
	kvmSetSregs      = iocWrite | unsafe.Sizeof(kvm.Sregs{})<<16 | kvmio | 0x84
	kvmTranslate     = iocRead | iocWrite | unsafe.Sizeof(kvm.Translation{})<<16 | kvmio | 0x85
	kvmGetMSRs       = iocRead | iocWrite | 8<<16 | kvmio | 0x88 // of an unsized struct kvm_msrs
	kvmSetMSRs       = iocWrite | 8<<16 | kvmio | 0x89
	kvmGetLAPIC      = iocRead | unsafe.Sizeof(kvm.LAPICState{})<<16 | kvmio | 0x8e
	kvmSetLAPIC      = iocWrite | unsafe.Sizeof(kvm.LAPICState{})<<16 | kvmio | 0x8f
	kvmSetCPUID2     = iocWrite | 8<<16 | kvmio | 0x90
	kvmGetMPState    = iocRead | unsafe.Sizeof(kvm.MPState{})<<16 | kvmio | 0x98
	kvmSetMPState    = iocWrite | unsafe.Sizeof(kvm.MPState{})<<16 | kvmio | 0x99
	kvmGetVCPUEvents = iocRead | unsafe.Sizeof(kvm.VCPUEvents{})<<16 | kvmio | 0x9f
	kvmSetVCPUEvents = iocWrite | unsafe.Sizeof(kvm.VCPUEvents{})<<16 | kvmio | 0xa0
	kvmGetDebugRegs  = iocRead | unsafe.Sizeof(kvm.DebugRegs{})<<16 | kvmio | 0xa1
	kvmSetDebugRegs  = iocWrite | unsafe.Sizeof(kvm.DebugRegs{})<<16 | kvmio | 0xa2
	kvmSetTSCKHz     = kvmio | 0xa2
	kvmGetTSCKHz     = kvmio | 0xa3
	kvmGetXSave      = iocRead | 4096<<16 | kvmio | 0xa4
	kvmSetXSave      = iocWrite | 4096<<16 | kvmio | 0xa5
	kvmGetXCRS       = iocRead | unsafe.Sizeof(kvm.XCRS{})<<16 | kvmio | 0xa6
	kvmSetXCRS       = iocWrite | unsafe.Sizeof(kvm.XCRS{})<<16 | kvmio | 0xa7
	kvmKVMClockCtrl  = kvmio | 0xad
	kvmGetXSave2     = iocRead | 4096<<16 | kvmio | 0xcf
	kvmSetDeviceAttr = iocWrite | unsafe.Sizeof(deviceAttr{})<<16 | kvmio | 0xe1
	kvmGetDeviceAttr = iocWrite | unsafe.Sizeof(deviceAttr{})<<16 | kvmio | 0xe2
	kvmHasDeviceAttr = iocWrite | unsafe.Sizeof(deviceAttr{})<<16 | kvmio | 0xe3
)

// Capabilities that gokvm does not name or names differently.
const (
	capAdjustClock    = 39
	capTSCControl     = 60
	capImmediateExit  = 136
	capVCPUAttributes = 127
	capManualProtect2 = 168
	capXSave2         = 208
	capDirtyLogRing   = 223 // KVM_CAP_DIRTY_LOG_RING_ACQ_REL

	manualProtectEnable       = 1 << 0 // KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
	manualProtectInitiallySet = 1 << 1 // KVM_DIRTY_LOG_INITIALLY_SET
)

// exitDirtyRingFull is KVM_EXIT_DIRTY_RING_FULL, which gokvm's list ends before.
const exitDirtyRingFull kvm.ExitType = 31

const (
	clockRealtime = 1 << 2 // KVM_CLOCK_REALTIME
	clockHostTSC  = 1 << 3 // KVM_CLOCK_HOST_TSC

	tscControlGroup = 0 // KVM_VCPU_TSC_CTRL
	tscOffsetAttr   = 0 // KVM_VCPU_TSC_OFFSET
)

// irqLevel is struct kvm_irq_level.
type irqLevel struct {
	irq   uint32
	level uint32
}

// pitConfig is struct kvm_pit_config.
type pitConfig struct {
	_ uint32 // flags: KVM_PIT_SPEAKER_DUMMY
	_ [15]uint32
}

// clockData is struct kvm_clock_data. realtime and hostTSC are valid with their
// flags only.
type clockData struct {
	clock    uint64 // ns
	flags    uint32
	_        uint32
	realtime uint64 // ns, CLOCK_REALTIME
	_        uint64 // host_tsc
	_        [4]uint32
}

// deviceAttr is struct kvm_device_attr.
type deviceAttr struct {
	_     uint32 // flags, none defined
	group uint32
	attr  uint64
	addr  *uint64
}

// maxCPUID bounds a CPUID table; KVM's own bound is 256 (KVM_MAX_CPUID_ENTRIES).
const maxCPUID = 256

// cpuidTable is struct kvm_cpuid2 with room for entries.
type cpuidTable struct {
	nent    uint32
	_       uint32
	entries [maxCPUID]kvm.CPUIDEntry2
}

// maxMSRs bounds the MSRs of one call and of one saved state.
const maxMSRs = 1024

// msrTable is struct kvm_msrs with room for entries.
type msrTable struct {
	nmsrs   uint32
	_       uint32
	entries [maxMSRs]kvm.MSREntry
}

// msrList is struct kvm_msr_list with room for indices.
type msrList struct {
	nmsrs   uint32
	indices [maxMSRs]uint32
}

// ioctl issues a request whose argument is a number. An interrupted request is
// issued again: the Go runtime preempts goroutines by signals, at any time.
func ioctl(fd int, req, arg uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, arg)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// ioctlPtr issues a request whose argument is a structure that the kernel reads or
// fills during the call.
//
// Sound: p is converted in the call itself, which keeps its target alive and in
// place, and T is the structure that req was made for, or one that begins with it
// and has the room that it announces.
func ioctlPtr[T any](fd int, req uintptr, p *T) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(p)))
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// get fills a T by a request named name; set hands one over.
func get[T any](fd int, req uintptr, name string, p *T) error {
	if _, err := ioctlPtr(fd, req, p); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func set[T any](fd int, req uintptr, name string, p *T) error {
	return get(fd, req, name, p)
}

// checkExtension asks the VM or the system what a capability amounts to, 0 for
// absent.
func checkExtension(fd int, capability uintptr) int {
	n, err := ioctl(fd, kvmCheckExtension, capability)
	if err != nil {
		return 0
	}
	return n
}

// runArea is the memory that KVM shares with the owner of a vCPU: struct kvm_run,
// followed by the page of port I/O data. Only the vCPU's own thread reads it,
// between two KVM_RUN calls; immediate_exit alone is written by others.
type runArea struct {
	mem []byte
}

const (
	runImmediateExit = 1 << 8 // as the second byte of the first word
	runExitReason    = 8
	runUnion         = 32 // offset of the anonymous union
)

// head is the word of struct kvm_run that has immediate_exit in it. Its other
// bytes are request_interrupt_window, which is not used with an in-kernel
// interrupt controller, and padding.
//
// Sound: mem is a page-aligned mapping of at least a page.
func (r runArea) head() *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&r.mem[0]))
}

func (r runArea) setImmediateExit()   { r.head().Store(runImmediateExit) }
func (r runArea) clearImmediateExit() { r.head().Store(0) }

func (r runArea) u32(off int) uint32 { return le.Uint32(r.mem[off:]) }

func (r runArea) exitReason() kvm.ExitType { return kvm.ExitType(r.u32(runExitReason)) }

// portIO is a KVM_EXIT_IO: count accesses of size bytes each to one port, their
// data one after the other.
type portIO struct {
	out  bool
	size int
	port uint16
	data []byte // count*size bytes, within the run area
}

func (r runArea) portIO() (portIO, error) {
	u := r.mem[runUnion:]
	size, count, offset := int(u[1]), uint64(le.Uint32(u[4:])), le.Uint64(u[8:])
	length := count * uint64(size)
	if offset > uint64(len(r.mem)) || length > uint64(len(r.mem))-offset {
		return portIO{}, fmt.Errorf("KVM_EXIT_IO has %d bytes of data at %d in a run area of %d", length, offset, len(r.mem))
	}
	return portIO{
		out:  u[0] == kvm.EXITIOOUT,
		size: size,
		port: le.Uint16(u[2:]),
		data: r.mem[offset : offset+length],
	}, nil
}

// mmio is a KVM_EXIT_MMIO, one access of up to 8 bytes.
type mmio struct {
	write bool
	gpa   uint64
	data  []byte // within the run area
}

func (r runArea) mmio() (mmio, error) {
	u := r.mem[runUnion:]
	length := le.Uint32(u[16:])
	if length > 8 {
		return mmio{}, fmt.Errorf("KVM_EXIT_MMIO of %d bytes", length)
	}
	return mmio{write: u[20] != 0, gpa: le.Uint64(u), data: u[8 : 8+length]}, nil
}
