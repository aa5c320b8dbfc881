package vmm

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"
)

// vcpu is one virtual CPU, run by one thread.
type vcpu struct {
	vm    *VM
	id    int
	fd    int
	run   runArea
	xsave []byte // as large as KVM's XSAVE area
	msrs  *msrTable

	tid    atomic.Int32
	inside atomic.Bool // in KVM_RUN, or about to be
}

func newVCPU(vm *VM, id, mmapSize int) (*vcpu, error) {
	fd, err := ioctl(vm.fd, kvmCreateVCPU, uintptr(id))
	if err != nil {
		return nil, fmt.Errorf("KVM_CREATE_VCPU: %w", err)
	}
	unix.CloseOnExec(fd)
	mem, err := unix.Mmap(fd, 0, mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("map its run area: %w", err)
	}
	return &vcpu{vm: vm, id: id, fd: fd, run: runArea{mem}, msrs: new(msrTable)}, nil
}

func (c *vcpu) release() {
	_ = unix.Munmap(c.run.mem)
	unix.Close(c.fd)
}

// handleExit does what the guest exited for. It returns errLeave if that ended the
// machine.
func (c *vcpu) handleExit() error {
	switch reason := c.run.exitReason(); reason {
	case kvm.EXITIO:
		io, err := c.run.portIO()
		if err != nil {
			return err
		}
		return c.vm.ports.access(uint64(io.port), io.size, io.data, io.out)
	case kvm.EXITMMIO:
		m, err := c.run.mmio()
		if err != nil {
			return err
		}
		return c.vm.mmio.access(m.gpa, len(m.data), m.data, m.write)
	case exitDirtyRingFull:
		return c.vm.ring.Full()
	case kvm.EXITINTR, kvm.EXITIRQWINDOWOPEN:
		return nil
	case kvm.EXITSHUTDOWN:
		c.vm.end(Exit{Reason: ExitCrash}, fmt.Errorf("the guest crashed: triple fault on vCPU %d, %s", c.id, c.where()))
		return errLeave
	default:
		return c.describeExit(reason)
	}
}

// ErrGuestState is returned when KVM cannot carry the guest on: what it did is not
// supported by this KVM, or its state makes no sense to the processor.
var ErrGuestState = errors.New("KVM cannot run the guest any further")

// describeExit turns an exit that the machine cannot go on from into an error.
func (c *vcpu) describeExit(reason kvm.ExitType) error {
	u := c.run.mem[runUnion:]
	switch reason {
	case kvm.EXITINTERNALERROR:
		return fmt.Errorf("%w: KVM_EXIT_INTERNAL_ERROR, suberror %d (%s), %s", ErrGuestState,
			le.Uint32(u), suberrorName(le.Uint32(u)), c.where())
	case kvm.EXITFAILENTRY:
		return fmt.Errorf("%w: KVM_EXIT_FAIL_ENTRY, hardware reason %#x, %s", ErrGuestState, le.Uint64(u), c.where())
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

// Where a processor is after a reset.
const (
	resetRIP  = 0xfff0
	resetBase = 0xffff0000
)

// where says where the vCPU is, with the bytes of the instruction there.
func (c *vcpu) where() string {
	var regs kvm.Regs
	var sregs kvm.Sregs
	if get(c.fd, kvmGetRegs, "KVM_GET_REGS", &regs) != nil || get(c.fd, kvmGetSregs, "KVM_GET_SREGS", &sregs) != nil {
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

// codeAt is the first instruction bytes at a linear address, in hex.
func (c *vcpu) codeAt(linear uint64) string {
	const most = 15 // the longest instruction
	var code []byte
	for len(code) < most {
		t := kvm.Translation{LinearAddress: linear + uint64(len(code))}
		if get(c.fd, kvmTranslate, "KVM_TRANSLATE", &t) != nil || t.Valid == 0 {
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
