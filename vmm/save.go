package vmm

import (
	"fmt"
	"time"

	"taskguide/vmm/kvm"
)

// IRQ chips by KVM's numbers.
const (
	chipPICMaster = 0
	chipPICSlave  = 1
	chipIOAPIC    = 2
)

// SaveState returns the state of all vCPUs and devices of a paused machine, without RAM. Before a
// machine that the state is loaded into runs, this one must let go of its disks, see
// [VM.ReleaseDisks]. A running machine gets ErrRunning.
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

// readState reads all state back from KVM and the devices.
func (vm *VM) readState() (*machineState, error) {
	s := &machineState{
		vcpus:   make([]vcpuState, vm.CPUs()),
		devices: vm.devices.Save(),
	}
	for i, c := range vm.vcpus {
		if err := c.readState(&s.vcpus[i]); err != nil {
			return nil, fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	if err := vm.readPlatform(s); err != nil {
		return nil, err
	}
	return s, vm.readTime(s)
}

// readTime reads kvmclock and the time-stamp counters, all at one moment. It comes after the
// timers, which count down. So a timer may expire late by the time between the two readings, but
// not early.
func (vm *VM) readTime(s *machineState) error {
	at, err := vm.readMoment()
	if err != nil {
		return err
	}
	s.clock = clockState{Nanoseconds: at.clock, Realtime: at.realtime}
	for i, c := range vm.vcpus {
		if s.vcpus[i].tsc, err = c.readTSC(at); err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	return nil
}

// readPlatform reads the state that belongs to the machine rather than to one vCPU.
func (vm *VM) readPlatform(s *machineState) error {
	s.pic[0].ChipID, s.pic[1].ChipID, s.ioapic.ChipID = chipPICMaster, chipPICSlave, chipIOAPIC
	for _, chip := range []*kvm.IRQChip{&s.pic[0], &s.pic[1], &s.ioapic} {
		if err := kvm.GetIRQChip.Do(vm.fd, chip); err != nil {
			return err
		}
	}
	if vm.hasPIT {
		s.pit = new(kvm.PITState2)
		if err := kvm.GetPIT2.Do(vm.fd, s.pit); err != nil {
			return err
		}
	}
	return nil
}

// moment is one moment on several clocks.
type moment struct {
	clock    uint64 // kvmclock, ns
	realtime uint64 // the host's CLOCK_REALTIME, ns
	hostTSC  uint64 // the host's time-stamp counter
	exact    bool   // all three are of one moment; otherwise hostTSC is unknown
}

// readMoment reads kvmclock and the host's clocks at the same moment. KVM returns all of them if
// its clock is driven by the TSC (the master clock). Otherwise the host's time is read right after
// kvmclock.
func (vm *VM) readMoment() (moment, error) {
	var d kvm.ClockData
	if err := kvm.GetClock.Do(vm.fd, &d); err != nil {
		return moment{}, err
	}
	at := moment{clock: d.Clock, realtime: d.Realtime, hostTSC: d.HostTSC}
	at.exact = d.Flags&kvm.ClockRealtime != 0 && d.Flags&kvm.ClockHostTSC != 0
	if d.Flags&kvm.ClockRealtime == 0 {
		at.realtime = uint64(time.Now().UnixNano())
	}
	return at, nil
}

// readState reads a vCPU's state back from KVM.
//
// MP state comes first, because reading it makes KVM act on an INIT or SIPI that has arrived, which
// changes the rest.
func (c *vcpu) readState(s *vcpuState) error {
	if err := kvm.GetMPState.Do(c.fd, &s.mp); err != nil {
		return err
	}
	if err := kvm.GetRegs.Do(c.fd, &s.regs); err != nil {
		return err
	}
	if err := kvm.GetSregs.Do(c.fd, &s.sregs); err != nil {
		return err
	}
	if err := c.readXSave(s); err != nil {
		return err
	}
	if err := kvm.GetXCRS.Do(c.fd, &s.xcrs); err != nil {
		return err
	}
	if err := kvm.GetDebugRegs.Do(c.fd, &s.debug); err != nil {
		return err
	}
	if err := kvm.GetLAPIC.Do(c.fd, &s.lapic); err != nil {
		return err
	}
	msrs, err := c.readMSRs(c.vm.config.MSRs)
	if err != nil {
		return err
	}
	s.msrs = msrs
	return kvm.GetVCPUEvents.Do(c.fd, &s.events)
}

// LoadState loads what SaveState of another machine with the same configuration returned. After an
// error the machine can only be closed.
func (vm *VM) LoadState(data []byte) error {
	err := vm.still(func() error {
		s, err := decodeState(data, vm.CPUs(), vm.devices.Catalog())
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
			return fmt.Errorf("%w: XSAVE area of %d bytes, the configuration says %d", ErrState, n,
				vm.config.XSaveBytes)
		}
	}
	// The clock comes first, so that TSC and timers of the vCPUs are loaded as shortly before their
	// start as possible.
	if err := vm.writeClock(s.clock); err != nil {
		return err
	}
	stood := standstill(s.clock.Realtime, uint64(time.Now().UnixNano()))
	for i, c := range vm.vcpus {
		lapicTimer(s.vcpus[i].lapic.Regs[:]).advance(stood)
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

// writePlatform loads the state that belongs to the machine rather than to one vCPU. The interrupt
// controllers come after the APICs, because KVM asks the APICs where interrupts go when it loads
// the controllers.
func (vm *VM) writePlatform(s *machineState) error {
	s.pic[0].ChipID, s.pic[1].ChipID, s.ioapic.ChipID = chipPICMaster, chipPICSlave, chipIOAPIC
	for _, chip := range []*kvm.IRQChip{&s.pic[0], &s.pic[1], &s.ioapic} {
		if err := kvm.SetIRQChip.Do(vm.fd, chip); err != nil {
			return err
		}
	}
	if vm.hasPIT {
		if err := kvm.SetPIT2.Do(vm.fd, s.pit); err != nil {
			return err
		}
	}
	// The devices' input lines are not driven here. The controllers' state already has the effect
	// of a line's level. Raising the line again would add a second edge to one that was delivered.
	if err := vm.devices.Load(s.devices); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	// Here, so that the first interrupt of each device does not wait for a call of its own.
	if err := vm.routes.settle(); err != nil {
		return fmt.Errorf("route interrupts: %w", err)
	}
	return nil
}

// writeClock sets kvmclock to what it would be had it gone on running.
func (vm *VM) writeClock(s clockState) error {
	return s.settle(func() error { return vm.setClock(s) }, vm.readMoment)
}

// setClock sets kvmclock once.
func (vm *VM) setClock(s clockState) error {
	d := kvm.ClockData{Clock: s.Nanoseconds}
	now := uint64(time.Now().UnixNano())
	if elapsed := standstill(s.Realtime, now); elapsed > 0 {
		if vm.kvmFD.Check(kvm.CapAdjustClock)&kvm.ClockRealtime != 0 {
			// KVM itself adds the time since then, about when it sets the clock.
			d.Flags, d.Realtime = kvm.ClockRealtime, s.Realtime
		} else {
			d.Clock += uint64(elapsed)
		}
	}
	return kvm.SetClock.Do(vm.fd, &d)
}

const (
	// clockTolerance is how far kvmclock may be off after a move, in ns. A step of it between
	// kvmclock and the TSC is what a guest may notice.
	clockTolerance = 100_000
	// clockTries bounds the attempts on a host that is interrupted each time.
	clockTries = 5
)

// settle sets kvmclock, and sets it again while it is off. KVM_SET_CLOCK reads the host's time and
// the host's TSC one after the other, and a host that is interrupted in between leaves a guest
// whose kvmclock is ahead of its TSC by that time for good. After the last attempt it stays as it
// is, because a clock that is off by milliseconds is no reason to lose a guest.
func (s clockState) settle(set func() error, read func() (moment, error)) error {
	for range clockTries {
		if err := set(); err != nil {
			return err
		}
		at, err := read()
		if err != nil || !at.exact {
			return err // nothing to compare with
		}
		want := s.Nanoseconds + uint64(standstill(s.Realtime, at.realtime))
		if at.clock-want+clockTolerance <= 2*clockTolerance {
			return nil
		}
	}
	return nil
}

// writeState loads a vCPU's state, except its time-stamp counter. The order matters:
//
//   - SREGS before REGS and everything else: they set the mode in which the rest is interpreted,
//     and APIC_BASE, without which there is no LAPIC to load.
//   - XCRS before XSAVE: XCR0 says which of its components the guest has.
//   - LAPIC before MSRs: writing its registers resets some of what MSRs set.
//   - MP state after SREGS and REGS, because KVM takes a vCPU whose registers are those
//     of a reset as a request to run.
//   - Events last: REGS and SREGS drop exceptions that are pending.
func (c *vcpu) writeState(s *vcpuState) error {
	if err := kvm.SetSregs.Do(c.fd, &s.sregs); err != nil {
		return err
	}
	if err := kvm.SetRegs.Do(c.fd, &s.regs); err != nil {
		return err
	}
	if err := kvm.SetXCRS.Do(c.fd, &s.xcrs); err != nil {
		return err
	}
	if err := c.writeXSave(s); err != nil {
		return err
	}
	if err := kvm.SetDebugRegs.Do(c.fd, &s.debug); err != nil {
		return err
	}
	if err := kvm.SetLAPIC.Do(c.fd, &s.lapic); err != nil {
		return err
	}
	if err := c.writeMSRs(s.msrs); err != nil {
		return err
	}
	if err := kvm.SetMPState.Do(c.fd, &s.mp); err != nil {
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

// writeEvents loads pending events. It sets the flags for the pending NMI and the SIPI vector,
// because KVM returns these without a flag. KVM sets the flag of the interrupt shadow and, if it
// has SMM, of SMM.
func (c *vcpu) writeEvents(e *kvm.VCPUEvents) error {
	events := *e
	events.Flags |= eventNMIPending | eventSIPI
	return kvm.SetVCPUEvents.Do(c.fd, &events)
}
