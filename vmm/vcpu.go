package vmm

import (
	"errors"
	"fmt"
	"sync/atomic"

	"taskguide/vmm/device"
	"taskguide/vmm/kvm"
)

// vcpu is one virtual CPU, run by one thread.
type vcpu struct {
	vm    *VM
	id    int
	fd    kvm.FD
	run   kvm.RunArea
	xsave []byte // as large as KVM's XSAVE area
	msrs  *kvm.MSRTable

	tid    atomic.Int32
	exits  atomic.Uint64
	inside atomic.Bool // in KVM_RUN, or about to be
	errand atomic.Pointer[errand]
}

func newVCPU(vm *VM, id, mmapSize int) (*vcpu, error) {
	fd, err := vm.fd.CreateVCPU(id)
	if err != nil {
		return nil, err
	}
	run, err := fd.MapRunArea(mmapSize)
	if err != nil {
		fd.Close()
		return nil, err
	}
	return &vcpu{vm: vm, id: id, fd: fd, run: run, msrs: new(kvm.MSRTable)}, nil
}

func (c *vcpu) release() {
	_ = c.run.Unmap()
	c.fd.Close()
}

// handleExit handles the reason for which the guest exited. It returns errLeave if that ended the
// machine.
func (c *vcpu) handleExit() error {
	c.exits.Add(1)
	switch reason := c.run.ExitReason(); reason {
	case kvm.ExitIO:
		io, err := c.run.PortIO()
		if err != nil {
			return err
		}
		c.vm.devices.Access(device.Ports, uint64(io.Port), io.Size, io.Data, io.Write)
		return nil
	case kvm.ExitMMIO:
		m, err := c.run.MMIO()
		if err != nil {
			return err
		}
		c.vm.devices.Access(device.MMIO, m.GPA, len(m.Data), m.Data, m.Write)
		return nil
	case kvm.ExitDirtyRingFull:
		return c.vm.ring.Full()
	case kvm.ExitIntr, kvm.ExitIRQWindowOpen:
		return nil
	case kvm.ExitShutdown:
		c.vm.end(Exit{Reason: ExitCrash},
			fmt.Errorf("the guest crashed: triple fault on vCPU %d, %s", c.id, c.where()))
		return errLeave
	default:
		return c.describeExit(reason)
	}
}

// ErrGuestState is returned when KVM cannot run the guest any further: this KVM does not support
// what the guest did, or the processor refuses its state.
var ErrGuestState = errors.New("KVM cannot run the guest any further")

// describeExit turns an exit that the machine cannot go on from into an error.
func (c *vcpu) describeExit(reason kvm.ExitType) error {
	switch reason {
	case kvm.ExitInternalError:
		return fmt.Errorf("%w: KVM_EXIT_INTERNAL_ERROR, suberror %d (%s), %s", ErrGuestState,
			c.run.Suberror(), suberrorName(c.run.Suberror()), c.where())
	case kvm.ExitFailEntry:
		return fmt.Errorf("%w: KVM_EXIT_FAIL_ENTRY, hardware reason %#x, %s", ErrGuestState,
			c.run.HardwareReason(), c.where())
	}
	return fmt.Errorf("%w: exit reason %d (%s), %s", ErrGuestState, uint(reason), reason, c.where())
}

func suberrorName(n uint32) string {
	switch n {
	case 1:
		return "an instruction that KVM cannot emulate"
	case 2:
		return "simultaneous exceptions"
	case 3:
		return "an exit while an event was being delivered"
	case 4:
		return "an unexpected exit of the processor"
	}
	return "unknown"
}

// Where a processor starts after a reset.
const (
	resetRIP  = 0xfff0
	resetBase = 0xffff0000
)

// eferLMA says that the processor is in long mode.
const eferLMA = 1 << 10

// where describes the place at which the vCPU is, with the bytes of the instruction there.
func (c *vcpu) where() string {
	var regs kvm.Regs
	var sregs kvm.Sregs
	if kvm.GetRegs.Do(c.fd, &regs) != nil || kvm.GetSregs.Do(c.fd, &sregs) != nil {
		return "registers unknown"
	}
	if regs.RIP == resetRIP && sregs.CS.Base == resetBase {
		// After a triple fault an AMD processor's state is undefined, and KVM resets it.
		return "at a place that is not known any more"
	}
	linear := regs.RIP
	if sregs.EFER&eferLMA == 0 || sregs.CS.L == 0 {
		linear = uint64(uint32(sregs.CS.Base + regs.RIP))
	}
	return fmt.Sprintf("rip %#x, cr0 %#x, cr3 %#x, efer %#x, instruction bytes %s",
		regs.RIP, sregs.CR0, sregs.CR3, sregs.EFER, c.codeAt(linear))
}

// codeAt returns the first instruction bytes at a linear address, in hex.
func (c *vcpu) codeAt(linear uint64) string {
	const most = 15 // the longest instruction
	var code []byte
	for len(code) < most {
		t := kvm.Translation{LinearAddress: linear + uint64(len(code))}
		if kvm.Translate.Do(c.fd, &t) != nil || t.Valid == 0 {
			break
		}
		b, ok := c.vm.ram.Slice(t.PhysicalAddress, 1)
		if !ok {
			break
		}
		code = append(code, b[0])
	}
	if len(code) == 0 {
		return "not readable"
	}
	return fmt.Sprintf("% x", code)
}
