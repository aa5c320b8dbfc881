package vmm

import (
	"errors"
	"fmt"
	"math/bits"
	"time"

	"taskguide/vmm/kvm"
)

// The time-stamp counter of a guest is that of the host plus an offset, and times a ratio if the
// processor can do that. In a guest that moved it must have gone on at its pace for the time that
// the guest stood still, by the same amount in all vCPUs.
//
// KVM's vCPU attribute KVM_VCPU_TSC_OFFSET (Documentation/virt/kvm/devices/vcpu.rst) reads and sets
// the offset exactly, so that vCPUs keep their distance from each other. Without it the counter
// itself is written, and KVM takes writes to several vCPUs in quick succession as meant for the
// same moment.
//
// On a KVM without hardware virtualization a guest's RDTSC reads the host's counter, whatever is
// set here.

// ErrTSC is returned when this host cannot give a guest the TSC frequency that it
// relies on.
var ErrTSC = errors.New("TSC frequency mismatch")

// settleTSC finds out the frequency of a new machine's TSC. For a machine from elsewhere it sets
// the frequency, or returns ErrTSC.
func (vm *VM) settleTSC() error {
	var here uint32
	for _, c := range vm.vcpus {
		var err error
		if here, err = c.fd.RunAtHostTSC(); err != nil {
			return err
		}
	}
	if vm.config.TSCKHz == 0 {
		vm.config.TSCKHz = here
		return nil
	}
	if sameFrequency(vm.config.TSCKHz, here) {
		return nil
	}
	if vm.kvmFD.Check(kvm.CapTSCControl) == 0 {
		return fmt.Errorf("%w: the guest's runs at %d kHz, this host's at %d kHz and cannot be "+
			"scaled (no KVM_CAP_TSC_CONTROL): choose another host",
			ErrTSC, vm.config.TSCKHz, here)
	}
	for _, c := range vm.vcpus {
		if _, err := kvm.SetTSCKHz.Do(c.fd, uintptr(vm.config.TSCKHz)); err != nil {
			return fmt.Errorf("%w: %d kHz: %w", ErrTSC, vm.config.TSCKHz, err)
		}
	}
	vm.tscScaled = true
	return nil
}

// sameFrequency tells whether KVM would treat two frequencies as one.
func sameFrequency(a, b uint32) bool {
	diff := uint64(max(a, b) - min(a, b))
	return diff*1e6 <= uint64(b)*kvm.TSCTolerancePPM
}

// readTSC reads a vCPU's counter at a moment that was just read from KVM. It reads the counter
// shortly after that moment instead if KVM does not say which value of the host's counter belongs
// to the moment, or if the two counters differ by a ratio, which only the processor knows exactly.
func (c *vcpu) readTSC(at moment) (tscState, error) {
	s := tscState{KHz: c.vm.config.TSCKHz}
	offset, err := c.fd.TSCOffset()
	if err == nil {
		s.Offset = offset
		if at.exact && !c.vm.tscScaled {
			s.Value, s.Realtime = at.hostTSC+offset, at.realtime
			return s, nil
		}
	}
	s.Value, err = c.counter()
	s.Realtime = uint64(time.Now().UnixNano())
	return s, err
}

// counter reads a vCPU's counter now.
func (c *vcpu) counter() (uint64, error) {
	v, err := c.readMSRs([]uint32{msrTSC})
	if err != nil {
		return 0, err
	}
	if len(v) != 1 {
		return 0, errors.New("KVM_GET_MSRS: no TSC")
	}
	return v[0].Data, nil
}

// writeTSCs sets all counters to what they would be had they gone on running. kvmclock must be set
// already.
//
// It follows the algorithm of Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET: the
// first vCPU's offset comes from one moment of {kvmclock, host's TSC, realtime}, and the others
// keep their distance to it. Each offset is written once. KVM treats vCPUs as synchronized, and
// keeps its master clock, only while each offset written equals the one written before. Two passes,
// or a different offset for each vCPU, lose the master clock for good, and with it the guest's
// kvmclock in the vDSO.
func (vm *VM) writeTSCs(s *machineState) error {
	first := &s.vcpus[0].tsc
	base, err := vm.vcpus[0].wantedOffset(first)
	if err != nil {
		return vm.writeCounters(s)
	}
	for i, c := range vm.vcpus {
		if err := c.fd.SetTSCOffset(base + s.vcpus[i].tsc.Offset - first.Offset); err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	return nil
}

// writeCounters sets the counters by their values, on a KVM without offsets.
func (vm *VM) writeCounters(s *machineState) error {
	for i, c := range vm.vcpus {
		t := &s.vcpus[i].tsc
		value := t.after(uint64(time.Now().UnixNano()), vm.config.TSCKHz)
		if err := c.setMSR(msrTSC, value); err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	return nil
}

// wantedOffset returns the offset with which a vCPU's counter has gone on since it was saved. It
// returns an error on a KVM without offsets.
func (c *vcpu) wantedOffset(s *tscState) (uint64, error) {
	offset, err := c.fd.TSCOffset()
	if err != nil {
		return 0, err
	}
	at, err := c.vm.readMoment()
	if err != nil {
		return 0, err
	}
	if at.exact && !c.vm.tscScaled {
		return s.after(at.realtime, c.vm.config.TSCKHz) - at.hostTSC, nil
	}
	now, err := c.counter()
	if err != nil {
		return 0, err
	}
	return offset + s.after(uint64(time.Now().UnixNano()), c.vm.config.TSCKHz) - now, nil
}

// after returns the counter's value at a later time on the hosts' clocks, in ns.
func (s *tscState) after(realtime uint64, kHz uint32) uint64 {
	return s.Value + ticks(standstill(s.Realtime, realtime), kHz)
}

// ticks is how often a counter of the given frequency ticks in d, which is at most maxStandstill.
func ticks(d time.Duration, kHz uint32) uint64 {
	hi, lo := bits.Mul64(uint64(d), uint64(kHz))
	q, _ := bits.Div64(hi, lo, 1e6)
	return q
}
