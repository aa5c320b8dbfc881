package kvm

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Request is a request whose argument is a T, which the kernel reads or fills during the call.
type Request[T any] struct {
	name   string // as in linux/kvm.h
	number uintptr
}

// NumberRequest is a request whose argument is a number.
type NumberRequest struct {
	name   string
	number uintptr
}

// Requests are numbered as the macros _IO, _IOR, _IOW and _IOWR of asm-generic/ioctl.h do it:
// direction, size of the structure, type 0xae, number.
const (
	iocWrite = 1 << 30
	iocRead  = 2 << 30
	iocBoth  = iocRead | iocWrite
	kvmio    = 0xae << 8

	kvmRun             = kvmio | 0x80
	kvmResetDirtyRings = kvmio | 0xc7
)

// number makes a request without a structure.
func number(name string, nr uintptr) NumberRequest { return NumberRequest{name, kvmio | nr} }

// request makes a request with a structure: direction and the size of T go into its number.
func request[T any](name string, direction, nr uintptr) Request[T] {
	var t T
	return sized[T](name, direction, nr, unsafe.Sizeof(t))
}

// sized makes a request whose number has another size than T's, because linux/kvm.h leaves the
// structure's end open.
func sized[T any](name string, direction, nr, size uintptr) Request[T] {
	return Request[T]{name, direction | size<<16 | kvmio | nr}
}

// Requests of the system.
var (
	GetAPIVersion     = number("KVM_GET_API_VERSION", 0x00)
	CreateVM          = number("KVM_CREATE_VM", 0x01)
	CheckExtension    = number("KVM_CHECK_EXTENSION", 0x03) // of a VM, too
	GetVCPUMmapSize   = number("KVM_GET_VCPU_MMAP_SIZE", 0x04)
	GetMSRIndexList   = sized[MSRList]("KVM_GET_MSR_INDEX_LIST", iocBoth, 0x02, 4)
	GetSupportedCPUID = sized[CPUID]("KVM_GET_SUPPORTED_CPUID", iocBoth, 0x05, 8)
)

// Requests of a VM.
var (
	CreateVCPU         = number("KVM_CREATE_VCPU", 0x41)
	GetDirtyLog        = request[DirtyLog]("KVM_GET_DIRTY_LOG", iocWrite, 0x42)
	SetMemoryRegion    = request[MemoryRegion]("KVM_SET_USER_MEMORY_REGION", iocWrite, 0x46)
	SetTSSAddr         = number("KVM_SET_TSS_ADDR", 0x47)
	SetIdentityMapAddr = request[uint64]("KVM_SET_IDENTITY_MAP_ADDR", iocWrite, 0x48)
	CreateIRQChip      = number("KVM_CREATE_IRQCHIP", 0x60)
	SetIRQLine         = request[IRQLevel]("KVM_IRQ_LINE", iocWrite, 0x61)
	GetIRQChip         = request[IRQChip]("KVM_GET_IRQCHIP", iocBoth, 0x62)
	SetIRQChip         = request[IRQChip]("KVM_SET_IRQCHIP", iocRead, 0x63)
	setRouting         = sized[routing]("KVM_SET_GSI_ROUTING", iocWrite, 0x6a, 8)
	setIRQFD           = request[irqEvent]("KVM_IRQFD", iocWrite, 0x76)
	CreatePIT2         = request[PITConfig]("KVM_CREATE_PIT2", iocWrite, 0x77)
	setIOEventFD       = request[storeEvent]("KVM_IOEVENTFD", iocWrite, 0x79)
	SetClock           = request[ClockData]("KVM_SET_CLOCK", iocWrite, 0x7b)
	GetClock           = request[ClockData]("KVM_GET_CLOCK", iocRead, 0x7c)
	GetPIT2            = request[PITState2]("KVM_GET_PIT2", iocRead, 0x9f)
	SetPIT2            = request[PITState2]("KVM_SET_PIT2", iocWrite, 0xa0)
	EnableCap          = request[Enabling]("KVM_ENABLE_CAP", iocWrite, 0xa3)
	ClearDirtyLog      = request[DirtyLogPart]("KVM_CLEAR_DIRTY_LOG", iocBoth, 0xc0)
)

// Requests of a vCPU.
var (
	GetRegs       = request[Regs]("KVM_GET_REGS", iocRead, 0x81)
	SetRegs       = request[Regs]("KVM_SET_REGS", iocWrite, 0x82)
	GetSregs      = request[Sregs]("KVM_GET_SREGS", iocRead, 0x83)
	SetSregs      = request[Sregs]("KVM_SET_SREGS", iocWrite, 0x84)
	Translate     = request[Translation]("KVM_TRANSLATE", iocBoth, 0x85)
	GetMSRs       = sized[MSRTable]("KVM_GET_MSRS", iocBoth, 0x88, 8)
	SetMSRs       = sized[MSRTable]("KVM_SET_MSRS", iocWrite, 0x89, 8)
	GetLAPIC      = request[LAPICState]("KVM_GET_LAPIC", iocRead, 0x8e)
	SetLAPIC      = request[LAPICState]("KVM_SET_LAPIC", iocWrite, 0x8f)
	SetCPUID2     = sized[CPUID]("KVM_SET_CPUID2", iocWrite, 0x90, 8)
	GetMPState    = request[MPState]("KVM_GET_MP_STATE", iocRead, 0x98)
	SetMPState    = request[MPState]("KVM_SET_MP_STATE", iocWrite, 0x99)
	GetVCPUEvents = request[VCPUEvents]("KVM_GET_VCPU_EVENTS", iocRead, 0x9f)
	SetVCPUEvents = request[VCPUEvents]("KVM_SET_VCPU_EVENTS", iocWrite, 0xa0)
	GetDebugRegs  = request[DebugRegs]("KVM_GET_DEBUGREGS", iocRead, 0xa1)
	SetDebugRegs  = request[DebugRegs]("KVM_SET_DEBUGREGS", iocWrite, 0xa2)
	SetTSCKHz     = number("KVM_SET_TSC_KHZ", 0xa2)
	GetTSCKHz     = number("KVM_GET_TSC_KHZ", 0xa3)
	getXSave      = request[xsaveHead]("KVM_GET_XSAVE", iocRead, 0xa4)
	setXSave      = request[xsaveHead]("KVM_SET_XSAVE", iocWrite, 0xa5)
	GetXCRS       = request[XCRS]("KVM_GET_XCRS", iocRead, 0xa6)
	SetXCRS       = request[XCRS]("KVM_SET_XCRS", iocWrite, 0xa7)
	KVMClockCtrl  = number("KVM_KVMCLOCK_CTRL", 0xad)
	getXSave2     = request[xsaveHead]("KVM_GET_XSAVE2", iocRead, 0xcf)
	SetDeviceAttr = request[DeviceAttr]("KVM_SET_DEVICE_ATTR", iocWrite, 0xe1)
	GetDeviceAttr = request[DeviceAttr]("KVM_GET_DEVICE_ATTR", iocWrite, 0xe2)
	HasDeviceAttr = request[DeviceAttr]("KVM_HAS_DEVICE_ATTR", iocWrite, 0xe3)
)

// Error is the error of a request that KVM refused. Its text is made only when it is asked for,
// because some requests only try out whether KVM takes them.
type Error struct {
	Request string
	Errno   unix.Errno
}

func (e *Error) Error() string { return e.Request + ": " + e.Errno.Error() }

// Unwrap returns the kernel's error number, for errors.Is.
func (e *Error) Unwrap() error { return e.Errno }

// Do issues the request. It repeats an interrupted request, because the Go runtime preempts
// goroutines by signals at any time, and none of these requests has had an effect when it is
// interrupted.
func (r NumberRequest) Do(fd FD, arg uintptr) (int, error) {
	for {
		n, errno := once(fd, r.number, arg)
		switch errno {
		case 0:
			return n, nil
		case unix.EINTR:
		default:
			return 0, &Error{r.name, errno}
		}
	}
}

// Do issues the request.
func (r Request[T]) Do(fd FD, arg *T) error {
	_, err := r.Call(fd, arg)
	return err
}

// Call issues the request and also returns the number that KVM answers. It repeats an interrupted
// request, as [NumberRequest.Do] does.
//
// Sound: arg is converted in the call itself, which keeps its target alive and in place. T is the
// structure that the request was made for, or one that begins with it and has the room that it
// announces. What the structure points to lives as long as arg, because every field that holds an
// address has a pointer type.
func (r Request[T]) Call(fd FD, arg *T) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL,
			uintptr(fd), r.number, uintptr(unsafe.Pointer(arg)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, &Error{r.name, errno}
		}
	}
}

// once issues a request whose argument is a number, and does not repeat it.
func once(fd FD, number, arg uintptr) (int, unix.Errno) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), number, arg)
	return int(n), errno
}
