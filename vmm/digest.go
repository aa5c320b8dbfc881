package vmm

import (
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"

	"taskguide/vmm/kvm"
)

// StateDigest returns a checksum of the state of a paused machine, read back from KVM and the
// devices, without what passes with time. It is equal for a machine that was saved and the one that
// its state was loaded into.
func (vm *VM) StateDigest() (uint64, error) {
	print, err := vm.Fingerprint()
	return xxhash.Sum64(print), err
}

// Fingerprint returns the bytes that StateDigest sums up, for [VM.CompareStates].
func (vm *VM) Fingerprint() ([]byte, error) {
	var print []byte
	err := vm.still(func() error {
		s, err := vm.readState()
		if err != nil {
			return err
		}
		s.devices = vm.devices.Fingerprint()
		s.withoutTime()
		print = s.encode()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("digest machine state: %w", err)
	}
	return print, nil
}

// withoutTime removes what differs between two readings of one state.
//
// KVM's timers go on while vCPUs stand still. Depending on the KVM, a timer that expires then
// raises its interrupt at once or as soon as its vCPU runs. So pending timer interrupts are left
// out together with the timers' counts.
func (s *machineState) withoutTime() {
	s.clock = clockState{}
	timers := []uint8{s.ioapicVector(ioapicPITPin)}
	for i := range s.vcpus {
		s.vcpus[i].withoutTime(timers)
	}
	if s.pit != nil {
		for i := range s.pit.Channels {
			s.pit.Channels[i].CountLoadTime = 0
		}
	}
	s.pic[0].Chip[picLastIRR] &^= 1 << pitIRQ
	s.pic[0].Chip[picIRR] &^= 1 << pitIRQ
	s.ioapic.Chip[ioapicIRR] &^= 1 << ioapicPITPin
}

// Offsets in struct kvm_pic_state and struct kvm_ioapic_state, and the inputs that
// the PIT is wired to by KVM's default routing.
const (
	pitIRQ       = 0
	picLastIRR   = 0
	picIRR       = 1
	ioapicIRR    = 16
	ioapicTable  = 24
	ioapicPITPin = 0
)

// ioapicVector is the interrupt vector of an IOAPIC pin.
func (s *machineState) ioapicVector(pin int) uint8 { return s.ioapic.Chip[ioapicTable+8*pin] }

// Registers of the local APIC by offset.
const (
	apicProcessorPriority = 0xa0
	apicISR               = 0x100 // 8 registers of 32 bits, 16 bytes apart
	apicIRR               = 0x200 // the same
	apicLVTTimer          = 0x320
	apicCurrentCount      = 0x390
)

// Header of an XSAVE area, by offset. It says which components are not in their initial state. KVM
// writes out the initial state of the others, so the header adds nothing, and loading alone may
// change it.
const (
	xsaveHeader    = 512
	xsaveHeaderEnd = 576
)

func (s *vcpuState) withoutTime(timers []uint8) {
	s.tsc = tscState{}
	clear(s.xsave[xsaveHeader:xsaveHeaderEnd])
	// A KVM may not know an MSR that has the value 0, see checkMSR.
	s.msrs = slices.DeleteFunc(s.msrs, func(m kvm.MSREntry) bool {
		return m.Index == msrTSCDeadline || m.Data == 0
	})
	regs := s.lapic.Regs[:]
	clear(regs[apicCurrentCount : apicCurrentCount+4])
	if lapicTimer(regs).mode() == timerOneShot {
		// The count of an expired timer is not loaded, see lapicTimer.
		clear(regs[apicInitialCount : apicInitialCount+4])
	}
	// The processor priority follows from the task priority and the interrupts in service, which
	// are compared. KVM updates it when it uses it, and when it is loaded.
	clear(regs[apicProcessorPriority : apicProcessorPriority+4])
	for _, v := range append(timers, regs[apicLVTTimer]) {
		regs[apicIRR+int(v)/32*16+int(v)%32/8] &^= 1 << (v % 8)
	}
}
