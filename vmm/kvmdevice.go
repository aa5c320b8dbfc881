package vmm

import (
	"errors"
	"fmt"
	"os"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"
)

// Errors of opening KVM.
var (
	ErrNoKVM         = errors.New("no KVM on this host")
	ErrKVMPermission = errors.New("no permission for KVM")
)

const (
	kvmDevice     = "/dev/kvm"
	kvmAPIVersion = 12 // the only one since 2007
)

// openKVM opens the device and checks the version of its interface.
func openKVM() (int, error) {
	fd, err := unix.Open(kvmDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
	case errors.Is(err, os.ErrPermission):
		return -1, fmt.Errorf("%w: %s may not be opened by this user: join the group that owns it, for instance with `sudo usermod -aG kvm $USER` and a new login", ErrKVMPermission, kvmDevice)
	default:
		return -1, fmt.Errorf("%w: open %s: %w: load kvm_intel or kvm_amd, and enable virtualization in the firmware or, in a virtual machine, nested virtualization", ErrNoKVM, kvmDevice, err)
	}
	version, err := ioctl(fd, kvmGetAPIVersion, 0)
	if err == nil && version != kvmAPIVersion {
		err = fmt.Errorf("version %d of its interface, want %d", version, kvmAPIVersion)
	}
	if err == nil && checkExtension(fd, capImmediateExit) == 0 {
		err = errors.New("it lacks KVM_CAP_IMMEDIATE_EXIT, use Linux 4.13 or newer")
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%w: %s: %w", ErrNoKVM, kvmDevice, err)
	}
	return fd, nil
}

// checkHost tells whether KVM here can run a machine from another host.
func checkHost(kvmFD int, c *machineConfig) error {
	supported, err := supportedCPUID(kvmFD)
	if err != nil {
		return err
	}
	deadline := checkExtension(kvmFD, uintptr(kvm.CapTSCDeadlineTimer)) > 0
	have := machineCPUID(supported, c.CPUs, c.TSCKHz, deadline)
	if err := checkCPUID(fromConfig(c.CPUID), have); err != nil {
		return err
	}
	if size := xsaveSize(kvmFD); c.XSaveBytes > size {
		return fmt.Errorf("%w: its XSAVE area has %d bytes, here %d", ErrCPUFeatures, c.XSaveBytes, size)
	}
	return nil
}
