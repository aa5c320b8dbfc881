package vmm

import (
	"errors"
	"fmt"

	"taskguide/vmm/boot"
	"taskguide/vmm/kvm"
	"taskguide/vmm/probe"
)

// ErrKernel is returned for a kernel file that cannot be booted.
var ErrKernel = boot.ErrKernel

// ErrEmulatedRing0 is returned for a kernel that cannot run on a KVM that emulates guest kernel
// code.
var ErrEmulatedRing0 = errors.New("this KVM emulates guest kernel code " +
	"instruction by instruction (no hardware virtualization) " +
	"and knows too few instructions for Linux: use a host with VMX or SVM")

// Boot loads a kernel, and sets the first vCPU to start it as soon as the machine is resumed. The
// kernel file itself says how it is booted, see package boot. initrd may be empty. A refused kernel
// (ErrKernel, ErrEmulatedRing0) leaves the machine as it was.
func (vm *VM) Boot(kernel, initrd []byte, cmdline string) error {
	return vm.still(func() error {
		k, err := boot.Parse(kernel)
		if err != nil {
			return err
		}
		if k.Linux() && probe.EmulatesRing0() {
			return ErrEmulatedRing0
		}
		image, err := boot.Load(k, boot.Hardware{RAM: vm.ram.Regions(), CPUs: vm.CPUs()},
			boot.Payload{Initrd: initrd, Cmdline: cmdline})
		if err != nil {
			return err
		}
		for _, c := range image.Contents {
			if err := vm.place(c); err != nil {
				return err
			}
		}
		return vm.vcpus[0].startWith(image.Registers)
	})
}

// place writes to guest RAM as the host does, marked for the dirty log.
func (vm *VM) place(c boot.Content) error {
	load := func(dst []byte) { clear(dst[copy(dst, c.Data):]) }
	if !vm.guest.Fill(c.GPA, int(c.Size), load) {
		return fmt.Errorf("%w: %d bytes at %#x are outside of RAM", ErrKernel, c.Size, c.GPA)
	}
	return nil
}

// Types of segments.
const (
	segmentCode = 0xb // execute, read, accessed
	segmentData = 0x3 // read, write, accessed
	segmentTSS  = 0xb // 32 bits, busy
)

// flatSegment covers all 32-bit addresses.
func flatSegment(selector uint16, kind uint8) kvm.Segment {
	return kvm.Segment{
		Selector: selector, Limit: 0xffffffff, Typ: kind, Present: 1, DB: 1, S: 1, G: 1,
	}
}

// startWith sets the registers that a vCPU starts with.
func (c *vcpu) startWith(r boot.Registers) error {
	var sregs kvm.Sregs
	if err := kvm.GetSregs.Do(c.fd, &sregs); err != nil {
		return err
	}
	sregs.CS = flatSegment(r.Code, segmentCode)
	if r.LongMode() {
		sregs.CS.DB, sregs.CS.L = 0, 1
	}
	data := flatSegment(r.Data, segmentData)
	sregs.DS, sregs.ES, sregs.SS, sregs.FS, sregs.GS = data, data, data, data, data
	sregs.TR = kvm.Segment{Selector: 0x20, Limit: 0x67, Typ: segmentTSS, Present: 1}
	sregs.LDT = kvm.Segment{Unusable: 1}
	sregs.GDT = kvm.Descriptor{Base: r.GDTBase, Limit: r.GDTLimit}
	sregs.IDT = kvm.Descriptor{}
	sregs.CR0, sregs.CR3, sregs.CR4, sregs.EFER = r.CR0, r.CR3, r.CR4, r.EFER
	regs := kvm.Regs{RAX: r.RAX, RBX: r.RBX, RSI: r.RSI, RIP: r.RIP, RFLAGS: 2}
	return errors.Join(kvm.SetSregs.Do(c.fd, &sregs), kvm.SetRegs.Do(c.fd, &regs))
}
