package kvm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// FD is a file descriptor of KVM: of the system, of a VM or of a vCPU.
type FD int

// Closed stands for no file descriptor.
const Closed FD = -1

// Errors of [Open].
var (
	ErrNoKVM      = errors.New("no KVM on this host")
	ErrPermission = errors.New("no permission for KVM")
)

const (
	device = "/dev/kvm"

	// APIVersion is the version of KVM's interface, the only one since 2007.
	APIVersion = 12
)

// Open opens the system's file descriptor and checks that a machine can be made with this KVM. The
// error is [ErrNoKVM] or [ErrPermission], and says what to do.
func Open() (FD, error) {
	raw, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
	case errors.Is(err, os.ErrPermission):
		return Closed, fmt.Errorf("%w: %s may not be opened by this user: "+
			"join the group that owns it, for instance with `sudo usermod -aG kvm $USER` "+
			"and a new login", ErrPermission, device)
	default:
		return Closed, fmt.Errorf("%w: open %s: %w: load kvm_intel or kvm_amd, and enable "+
			"virtualization in the firmware or, in a virtual machine, nested virtualization",
			ErrNoKVM, device, err)
	}
	fd := FD(raw)
	if err := fd.checkVersion(); err != nil {
		fd.Close()
		return Closed, fmt.Errorf("%w: %s: %w", ErrNoKVM, device, err)
	}
	return fd, nil
}

func (fd FD) checkVersion() error {
	version, err := GetAPIVersion.Do(fd, 0)
	switch {
	case err != nil:
		return err
	case version != APIVersion:
		return fmt.Errorf("version %d of its interface, want %d", version, APIVersion)
	case fd.Check(CapImmediateExit) == 0:
		return errors.New("it lacks KVM_CAP_IMMEDIATE_EXIT, use Linux 4.13 or newer")
	}
	return nil
}

// Close closes the file descriptor. Memory that was mapped from it stays mapped.
func (fd FD) Close() error { return unix.Close(int(fd)) }

// Check asks the system or a VM for the value of a capability; 0 means absent.
func (fd FD) Check(c Capability) int {
	n, err := CheckExtension.Do(fd, uintptr(c))
	if err != nil {
		return 0
	}
	return n
}

// Enable turns a capability of a VM on, or changes its argument.
func (fd FD) Enable(c Capability, arg uint64) error {
	return EnableCap.Do(fd, &Enabling{Capability: uint32(c), Args: [4]uint64{arg}})
}

// CreateVM makes a VM.
func (fd FD) CreateVM() (FD, error) { return create(CreateVM, fd, 0) }

// CreateVCPU makes a vCPU of a VM.
func (fd FD) CreateVCPU(id int) (FD, error) { return create(CreateVCPU, fd, uintptr(id)) }

func create(r NumberRequest, fd FD, arg uintptr) (FD, error) {
	made, err := r.Do(fd, arg)
	if err != nil {
		return Closed, err
	}
	unix.CloseOnExec(made)
	return FD(made), nil
}

// Run lets a vCPU run, once. The error is unix.EINTR after any signal to the thread (the Go runtime
// sends many), and with immediate_exit set.
func (fd FD) Run() error {
	if _, errno := once(fd, kvmRun, 0); errno != 0 {
		return errno
	}
	return nil
}

// DisablePMU takes the performance counters from a new VM's guest if KVM can do that. CPUID does
// not show them, but AMD's first four need no CPUID bit, and their state is not saved.
func (fd FD) DisablePMU() error {
	if fd.Check(CapPMUCapability)&PMUDisable == 0 {
		return nil
	}
	if err := fd.Enable(CapPMUCapability, PMUDisable); err != nil {
		return fmt.Errorf("take the performance counters away: %w", err)
	}
	return nil
}

// theHosts is the frequency for KVM_SET_TSC_KHZ that stands for what the kernel has measured.
const theHosts = 0

// GoByHostTSC lets the TSCs of a new VM's vCPUs run at the pace of the host's.
//
// KVM gives them the frequency that the kernel took the host's TSC for when KVM was loaded. The
// kernel may measure it better later. If the two differ by more than [TSCTolerancePPM] and the
// processor cannot scale, KVM fails to set the old one, leaves the vCPU without a ratio, and its
// guest's kvmclock is off by the host's uptime (kvm_set_tsc_khz, arch/x86/kvm/x86.c).
//
// A kernel before 5.18 has no frequency of VMs and refuses. There, [FD.RunAtHostTSC] does it.
func (fd FD) GoByHostTSC() { _, _ = SetTSCKHz.Do(fd, theHosts) }

// RunAtHostTSC lets a new vCPU's TSC run at the pace of the host's, and returns its frequency in
// kHz. A kernel before 5.8 refuses it where the processor cannot scale, and needs it least: there a
// vCPU without a ratio is not slower.
func (fd FD) RunAtHostTSC() (uint32, error) {
	_, _ = SetTSCKHz.Do(fd, theHosts)
	kHz, err := GetTSCKHz.Do(fd, 0)
	return uint32(kHz), err
}

// Attributes of a vCPU: a group, and a number in it.
const (
	tscControl = 0 // KVM_VCPU_TSC_CTRL
	tscOffset  = 0 // KVM_VCPU_TSC_OFFSET
)

// HasTSCOffset tells whether a vCPU's TSC can be set exactly, by its offset from the host's.
func (fd FD) HasTSCOffset() bool {
	return HasDeviceAttr.Do(fd, &DeviceAttr{Group: tscControl, Attr: tscOffset}) == nil
}

// TSCOffset returns by how much a vCPU's TSC differs from the host's, in ticks. It returns an error
// on a KVM without offsets.
func (fd FD) TSCOffset() (uint64, error) {
	offset := new(uint64)
	err := GetDeviceAttr.Do(fd, &DeviceAttr{Group: tscControl, Attr: tscOffset, Addr: offset})
	if err != nil {
		return 0, fmt.Errorf("TSC offset: %w", err)
	}
	return *offset, nil
}

// SetTSCOffset sets the offset that [FD.TSCOffset] returns.
func (fd FD) SetTSCOffset(offset uint64) error {
	p := new(uint64)
	*p = offset
	err := SetDeviceAttr.Do(fd, &DeviceAttr{Group: tscControl, Attr: tscOffset, Addr: p})
	if err != nil {
		return fmt.Errorf("TSC offset: %w", err)
	}
	return nil
}
