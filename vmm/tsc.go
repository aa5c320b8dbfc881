package vmm

import (
	"errors"
	"fmt"
	"math/bits"
	"time"
)

// The time-stamp counter of a guest is that of the host plus an offset, and times a
// ratio where the processor can do that. A guest that moved wants it to have gone on
// at its pace: by as much as it stood still, in all vCPUs alike.
//
// KVM's vCPU attribute KVM_VCPU_TSC_OFFSET (Documentation/virt/kvm/devices/vcpu.rst)
// gives and takes the offset exactly, so that vCPUs keep their distance from each
// other. Without it the counter itself is written, and KVM recognizes writes to
// several vCPUs shortly after each other as meant for one moment.
//
// On a KVM without hardware virtualization a guest's RDTSC reads the host's counter
// whatever is set here.

// ErrTSC is returned when this host cannot give a guest the TSC frequency that it
// relies on.
var ErrTSC = errors.New("TSC frequency mismatch")

// tscTolerancePPM is by how much KVM lets frequencies differ before it scales.
const tscTolerancePPM = 250

// settleTSC finds out the frequency of a new machine's TSC and sets that of one
// which comes from elsewhere.
func (vm *VM) settleTSC() error {
	here, err := ioctl(vm.vcpus[0].fd, kvmGetTSCKHz, 0)
	if err != nil {
		return fmt.Errorf("KVM_GET_TSC_KHZ: %w", err)
	}
	if vm.config.TSCKHz == 0 {
		vm.config.TSCKHz = uint32(here)
		return nil
	}
	if sameFrequency(vm.config.TSCKHz, uint32(here)) {
		return nil
	}
	if checkExtension(vm.kvmFD, capTSCControl) == 0 {
		return fmt.Errorf("%w: the guest's runs at %d kHz, this host's at %d kHz and cannot be scaled (no KVM_CAP_TSC_CONTROL): choose another host",
			ErrTSC, vm.config.TSCKHz, here)
	}
	for _, c := range vm.vcpus {
		if _, err := ioctl(c.fd, kvmSetTSCKHz, uintptr(vm.config.TSCKHz)); err != nil {
			return fmt.Errorf("%w: KVM_SET_TSC_KHZ to %d kHz: %w", ErrTSC, vm.config.TSCKHz, err)
		}
	}
	return nil
}

// sameFrequency tells whether KVM would treat two frequencies as one.
func sameFrequency(a, b uint32) bool {
	diff := uint64(max(a, b) - min(a, b))
	return diff*1e6 <= uint64(b)*tscTolerancePPM
}

// readTSC reads a vCPU's counter and the time of that.
func (c *vcpu) readTSC() (tscState, error) {
	v, err := c.readMSRs([]uint32{msrTSC})
	if err == nil && len(v) != 1 {
		err = errors.New("KVM_GET_MSRS: no TSC")
	}
	if err != nil {
		return tscState{}, err
	}
	s := tscState{Value: v[0].Data, Realtime: uint64(time.Now().UnixNano()), KHz: c.vm.config.TSCKHz}
	if offset, err := c.tscOffset(); err == nil {
		s.Offset = offset
	}
	return s, nil
}

// writeTSCs sets all counters to what they would be had they gone on running.
func (vm *VM) writeTSCs(s *machineState) error {
	first := &s.vcpus[0].tsc
	for i, c := range vm.vcpus {
		if err := c.writeTSC(&s.vcpus[i].tsc); err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	// With offsets, vCPUs get the very distance from the first that they had.
	base, err := vm.vcpus[0].tscOffset()
	if err != nil {
		return nil
	}
	for i, c := range vm.vcpus[1:] {
		if err := c.setTSCOffset(base + s.vcpus[i+1].tsc.Offset - first.Offset); err != nil {
			return fmt.Errorf("vCPU %d: %w", i+1, err)
		}
	}
	return nil
}

func (c *vcpu) writeTSC(s *tscState) error {
	elapsed := standstill(s.Realtime, uint64(time.Now().UnixNano()))
	want := s.Value + ticks(elapsed, c.vm.config.TSCKHz)
	offset, err := c.tscOffset()
	if err != nil {
		return c.setMSR(msrTSC, want)
	}
	now, err := c.readMSRs([]uint32{msrTSC})
	if err != nil {
		return err
	}
	if len(now) != 1 {
		return errors.New("KVM_GET_MSRS: no TSC")
	}
	return c.setTSCOffset(offset + want - now[0].Data)
}

// ticks is how often a counter of a frequency ticks in a time of at most
// maxStandstill.
func ticks(d time.Duration, kHz uint32) uint64 {
	hi, lo := bits.Mul64(uint64(d), uint64(kHz))
	q, _ := bits.Div64(hi, lo, 1e6)
	return q
}

func (c *vcpu) tscOffset() (uint64, error) {
	offset := new(uint64)
	err := get(c.fd, kvmGetDeviceAttr, "KVM_GET_DEVICE_ATTR of the TSC offset",
		&deviceAttr{group: tscControlGroup, attr: tscOffsetAttr, addr: offset})
	return *offset, err
}

func (c *vcpu) setTSCOffset(offset uint64) error {
	p := new(uint64)
	*p = offset
	return set(c.fd, kvmSetDeviceAttr, "KVM_SET_DEVICE_ATTR of the TSC offset",
		&deviceAttr{group: tscControlGroup, attr: tscOffsetAttr, addr: p})
}
