package vmm

import (
	"context"
	"errors"
	"fmt"

	"taskguide/vmm/device"
	"taskguide/vmm/kvm"
)

// VCPUInfo is the state of a vCPU that helps to find out why a guest hangs.
type VCPUInfo struct {
	ID      int
	Err     error  // why the other fields are unknown; nil: they are set
	MPState string // "runnable", "halted", ...: what KVM waits for before it runs the vCPU
	RIP     uint64
	// LVTT is the timer's entry in the LAPIC. TSCDeadline is the TSC value that the timer waits for
	// in that mode (0: none).
	LVTT        uint32
	TSCDeadline uint64
	TSC         uint64
	IRR, ISR    []int // vectors that are requested, and those in service
	// Exits counts how often the vCPU came out of the guest to this process, for an access to a
	// device for instance.
	Exits uint64
}

// ErrBusy is returned for a vCPU that is still in an access to a device.
var ErrBusy = errors.New("it is held in an access to a device")

// Debug looks at each vCPU. A machine that runs goes on: each vCPU's thread comes out of the guest
// for some microseconds. A vCPU that does not before ctx ends gets ErrBusy.
func (vm *VM) Debug(ctx context.Context) ([]VCPUInfo, error) {
	vm.errands.Lock()
	defer vm.errands.Unlock()
	infos := make([]VCPUInfo, vm.CPUs())
	sent := make([]*errand, len(infos))
	if err := vm.send(sent, func(c *vcpu) {
		infos[c.id].Err = c.look(&infos[c.id])
	}); err != nil {
		return nil, err
	}
	for id, e := range sent {
		infos[id].ID = id
		if err := vm.await(ctx, id, e); errors.Is(err, ErrEnded) {
			return nil, err
		} else if err != nil {
			infos[id].Err = err
		}
	}
	return infos, nil
}

// DeviceInfo and QueueInfo are the state of a device with queues.
type (
	DeviceInfo = device.Info
	QueueInfo  = device.QueueInfo
)

// Devices looks at the devices that have queues. A machine that runs goes on.
func (vm *VM) Devices() ([]DeviceInfo, error) {
	vm.life.RLock() // keeps RAM, which has the queues
	defer vm.life.RUnlock()
	select {
	case <-vm.done:
		return nil, ErrEnded
	default:
		return vm.devices.Inspect(), nil
	}
}

// ConsoleInfo counts the bytes of a console's output.
type ConsoleInfo = device.ConsoleInfo

// Console counts the output on the first console, COM1, so far.
func (vm *VM) Console() ConsoleInfo { return vm.devices.Serial.Console() }

// errand is work for a vCPU's own thread between two runs of the guest. Any other thread would have
// to wait in KVM until the guest exits by itself.
type errand struct {
	do   func(c *vcpu)
	done chan struct{} // closed once the errand is done
}

// send gives each vCPU an errand, and gets them out of the guest for it. vm.errands is held.
func (vm *VM) send(errands []*errand, do func(c *vcpu)) error {
	vm.life.RLock()
	defer vm.life.RUnlock()
	if vm.vcpus == nil {
		return ErrEnded
	}
	for id, c := range vm.vcpus {
		errands[id] = &errand{do: do, done: make(chan struct{})}
		// The errand is set before the kick, so a vCPU that has just looked for errands comes back
		// at once.
		c.errand.Store(errands[id])
		c.kick()
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.mayRun.Broadcast() // wakes parked vCPUs
	return nil
}

// await returns once a vCPU has done its errand. When ctx ends it takes the errand back.
func (vm *VM) await(ctx context.Context, id int, e *errand) error {
	select {
	case <-e.done:
		return nil
	case <-vm.done:
		return ErrEnded
	case <-ctx.Done():
	}
	vm.life.RLock()
	defer vm.life.RUnlock()
	if vm.vcpus == nil {
		return ErrEnded
	}
	if vm.vcpus[id].errand.CompareAndSwap(e, nil) {
		return ErrBusy
	}
	select { // the vCPU is doing it
	case <-e.done:
		return nil
	case <-vm.done:
		return ErrEnded
	}
}

// runErrand does the vCPU's errand, if it has one. Only the vCPU's own thread calls it.
func (c *vcpu) runErrand() {
	if e := c.errand.Swap(nil); e != nil {
		e.do(c)
		close(e.done)
	}
}

// look reads a vCPU's registers. No access may be half done, because reading MP state makes KVM act
// on an INIT that has arrived, and that resets the registers that the access still needs.
func (c *vcpu) look(info *VCPUInfo) error {
	var (
		mp    kvm.MPState
		regs  kvm.Regs
		lapic kvm.LAPICState
	)
	err := kvm.GetMPState.Do(c.fd, &mp)
	if err == nil {
		err = kvm.GetRegs.Do(c.fd, &regs)
	}
	if err == nil {
		err = kvm.GetLAPIC.Do(c.fd, &lapic)
	}
	if err != nil {
		return err
	}
	msrs, err := c.readMSRs([]uint32{msrTSC, msrTSCDeadline})
	if err != nil {
		return err
	}
	for _, m := range msrs {
		switch m.Index {
		case msrTSC:
			info.TSC = m.Data
		case msrTSCDeadline:
			info.TSCDeadline = m.Data
		}
	}
	info.Exits = c.exits.Load()
	info.MPState, info.RIP = mpStateName(mp.State), regs.RIP
	info.LVTT = le.Uint32(lapic.Regs[apicLVTTimer:])
	info.IRR, info.ISR = vectors(lapic.Regs[apicIRR:]), vectors(lapic.Regs[apicISR:])
	return nil
}

// vectors lists the interrupt vectors that are set in 8 registers of the LAPIC, 16 bytes apart.
func vectors(regs []byte) []int {
	set := []int{}
	for v := range 256 {
		if regs[v/32*16+v%32/8]&(1<<(v%8)) != 0 {
			set = append(set, v)
		}
	}
	return set
}

// mpStateName returns the name of a KVM_MP_STATE_* number of linux/kvm.h.
func mpStateName(n uint32) string {
	names := []string{"runnable", "uninitialized", "init received", "halted", "sipi received"}
	if int(n) < len(names) {
		return names[n]
	}
	return fmt.Sprintf("state %d", n)
}
