package vmm

import (
	"fmt"
	"time"

	"github.com/bobuhiro11/gokvm/kvm"
)

// IRQ chips by KVM's numbers.
const (
	chipPICMaster = 0
	chipPICSlave  = 1
	chipIOAPIC    = 2
)

// SaveState returns the state of all vCPUs and devices of a paused machine. RAM is
// not part of it.
func (vm *VM) SaveState() ([]byte, error) {
	var data []byte
	err := vm.still(func() error {
		s, err := vm.readState()
		if err == nil {
			data = s.encode()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("save machine state: %w", err)
	}
	return data, nil
}

// readState reads all state back from where it lives.
func (vm *VM) readState() (*machineState, error) {
	s := &machineState{
		vcpus:  make([]vcpuState, vm.CPUs()),
		serial: vm.serial.save(),
		tags:   vm.tags.Save(),
	}
	for i, c := range vm.vcpus {
		if err := c.readState(&s.vcpus[i]); err != nil {
			return nil, fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	return s, vm.readPlatform(s)
}

// readPlatform reads what is not of one vCPU.
func (vm *VM) readPlatform(s *machineState) error {
	s.pic[0].ChipID, s.pic[1].ChipID, s.ioapic.ChipID = chipPICMaster, chipPICSlave, chipIOAPIC
	for _, chip := range []*kvm.IRQChip{&s.pic[0], &s.pic[1], &s.ioapic} {
		if err := get(vm.fd, kvmGetIRQChip, "KVM_GET_IRQCHIP", chip); err != nil {
			return err
		}
	}
	if vm.hasPIT {
		s.pit = new(kvm.PITState2)
		if err := get(vm.fd, kvmGetPIT2, "KVM_GET_PIT2", s.pit); err != nil {
			return err
		}
	}
	clock, err := vm.readClock()
	s.clock = clock
	return err
}

// readClock reads kvmclock and the host's time at the same moment: KVM gives both
// where its clock is driven by the TSC; elsewhere the host's time is taken right
// after.
func (vm *VM) readClock() (clockState, error) {
	var d clockData
	if err := get(vm.fd, kvmGetClock, "KVM_GET_CLOCK", &d); err != nil {
		return clockState{}, err
	}
	if d.flags&clockRealtime == 0 {
		d.realtime = uint64(time.Now().UnixNano())
	}
	return clockState{Nanoseconds: d.clock, Realtime: d.realtime}, nil
}

// readState reads a vCPU's state back from KVM.
//
// MP state comes first: reading it makes KVM act on an INIT or SIPI that has arrived
// and not been acted on, which changes the rest.
func (c *vcpu) readState(s *vcpuState) error {
	if err := get(c.fd, kvmGetMPState, "KVM_GET_MP_STATE", &s.mp); err != nil {
		return err
	}
	if err := get(c.fd, kvmGetRegs, "KVM_GET_REGS", &s.regs); err != nil {
		return err
	}
	if err := get(c.fd, kvmGetSregs, "KVM_GET_SREGS", &s.sregs); err != nil {
		return err
	}
	if err := c.readXSave(s); err != nil {
		return err
	}
	if err := get(c.fd, kvmGetXCRS, "KVM_GET_XCRS", &s.xcrs); err != nil {
		return err
	}
	if err := get(c.fd, kvmGetDebugRegs, "KVM_GET_DEBUGREGS", &s.debug); err != nil {
		return err
	}
	if err := get(c.fd, kvmGetLAPIC, "KVM_GET_LAPIC", &s.lapic); err != nil {
		return err
	}
	msrs, err := c.readMSRs(c.vm.config.MSRs)
	if err != nil {
		return err
	}
	s.msrs = msrs
	if s.tsc, err = c.readTSC(); err != nil {
		return err
	}
	return get(c.fd, kvmGetVCPUEvents, "KVM_GET_VCPU_EVENTS", &s.events)
}

// LoadState loads what SaveState of another machine with the same configuration
// returned. A machine that was refused a state is good for nothing but Close.
func (vm *VM) LoadState(data []byte) error {
	err := vm.still(func() error {
		s, err := decodeState(data, vm.CPUs())
		if err != nil {
			return err
		}
		return vm.writeState(s)
	})
	if err != nil {
		return fmt.Errorf("load machine state: %w", err)
	}
	return nil
}

func (vm *VM) writeState(s *machineState) error {
	if (s.pit != nil) != vm.hasPIT {
		return fmt.Errorf("%w: only one of the hosts' KVMs has a PIT (KVM_CAP_PIT2)", ErrState)
	}
	for i := range s.vcpus {
		if n := len(s.vcpus[i].xsave); n != vm.config.XSaveBytes {
			return fmt.Errorf("%w: XSAVE area of %d bytes, the configuration says %d", ErrState, n, vm.config.XSaveBytes)
		}
	}
	// The clock comes first: TSC and timers of the vCPUs are loaded for a moment as
	// close to their start as possible.
	if err := vm.writeClock(s.clock); err != nil {
		return err
	}
	for i, c := range vm.vcpus {
		if err := c.writeState(&s.vcpus[i]); err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	if err := vm.writeTSCs(s); err != nil {
		return err
	}
	for i, c := range vm.vcpus {
		if err := c.writeDeadline(&s.vcpus[i]); err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	return vm.writePlatform(s)
}

// writePlatform loads what is not of one vCPU. The interrupt controllers come after
// the APICs: KVM asks the APICs where their interrupts go when it loads them.
func (vm *VM) writePlatform(s *machineState) error {
	s.pic[0].ChipID, s.pic[1].ChipID, s.ioapic.ChipID = chipPICMaster, chipPICSlave, chipIOAPIC
	for _, chip := range []*kvm.IRQChip{&s.pic[0], &s.pic[1], &s.ioapic} {
		if err := set(vm.fd, kvmSetIRQChip, "KVM_SET_IRQCHIP", chip); err != nil {
			return err
		}
	}
	if vm.hasPIT {
		if err := set(vm.fd, kvmSetPIT2, "KVM_SET_PIT2", s.pit); err != nil {
			return err
		}
	}
	if err := vm.serial.load(s.serial); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	if err := vm.tags.Load(s.tags); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	// The levels of input lines are not in the controllers' state.
	vm.serial.drive()
	return nil
}

// writeClock sets kvmclock to what it would be had it gone on running.
func (vm *VM) writeClock(s clockState) error {
	d := clockData{clock: s.Nanoseconds}
	now := uint64(time.Now().UnixNano())
	if elapsed := standstill(s.Realtime, now); elapsed > 0 {
		if checkExtension(vm.kvmFD, capAdjustClock)&clockRealtime != 0 {
			// KVM adds the time since then itself, at the moment that it sets the clock.
			d.flags, d.realtime = clockRealtime, s.Realtime
		} else {
			d.clock += uint64(elapsed)
		}
	}
	return set(vm.fd, kvmSetClock, "KVM_SET_CLOCK", &d)
}

// writeState loads a vCPU's state, but for its time-stamp counter. The order matters:
//
//   - SREGS before REGS and everything else: they set the mode that the rest is
//     understood in, and APIC_BASE, without which there is no LAPIC to load.
//   - XCRS before XSAVE: XCR0 says which of its components the guest has.
//   - LAPIC before MSRs: writing its registers resets some of what MSRs set.
//   - MP state after SREGS and REGS, for KVM takes a vCPU whose registers are those
//     of a reset as a request to run.
//   - Events last: REGS and SREGS drop exceptions that are pending.
func (c *vcpu) writeState(s *vcpuState) error {
	if err := set(c.fd, kvmSetSregs, "KVM_SET_SREGS", &s.sregs); err != nil {
		return err
	}
	if err := set(c.fd, kvmSetRegs, "KVM_SET_REGS", &s.regs); err != nil {
		return err
	}
	if err := set(c.fd, kvmSetXCRS, "KVM_SET_XCRS", &s.xcrs); err != nil {
		return err
	}
	if err := c.writeXSave(s); err != nil {
		return err
	}
	if err := set(c.fd, kvmSetDebugRegs, "KVM_SET_DEBUGREGS", &s.debug); err != nil {
		return err
	}
	if err := set(c.fd, kvmSetLAPIC, "KVM_SET_LAPIC", &s.lapic); err != nil {
		return err
	}
	if err := c.writeMSRs(s.msrs); err != nil {
		return err
	}
	if err := set(c.fd, kvmSetMPState, "KVM_SET_MP_STATE", &s.mp); err != nil {
		return err
	}
	return c.writeEvents(&s.events)
}

// Parts of struct kvm_vcpu_events that count only if a flag says so.
const (
	eventNMIPending  = 1 << 0 // KVM_VCPUEVENT_VALID_NMI_PENDING
	eventSIPI        = 1 << 1 // KVM_VCPUEVENT_VALID_SIPI_VECTOR
	eventShadow      = 1 << 2 // KVM_VCPUEVENT_VALID_SHADOW
	eventSMM         = 1 << 3 // KVM_VCPUEVENT_VALID_SMM
	eventPayload     = 1 << 4 // KVM_VCPUEVENT_VALID_PAYLOAD
	eventTripleFault = 1 << 5 // KVM_VCPUEVENT_VALID_TRIPLE_FAULT
)

// writeEvents loads pending events. KVM gives the interrupt shadow and, where it has
// it, SMM with a flag, but pending NMI and SIPI vector without one.
func (c *vcpu) writeEvents(e *kvm.VCPUEvents) error {
	events := *e
	events.Flags |= eventNMIPending | eventSIPI
	return set(c.fd, kvmSetVCPUEvents, "KVM_SET_VCPU_EVENTS", &events)
}
