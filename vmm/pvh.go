package vmm

import (
	"errors"
	"fmt"

	"github.com/bobuhiro11/gokvm/kvm"

	"taskguide/memory"
)

// PVH is the boot protocol that the Xen project defined for guests without firmware
// (docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h there): the
// file names an entry point in a note, and the machine enters it in 32-bit protected
// mode without paging, EBX pointing to a structure that points to the rest.

const (
	startInfoMagic   = 0x336ec578
	startInfoVersion = 1
	startInfoBytes   = 56 // struct hvm_start_info
	startModuleBytes = 32 // struct hvm_modlist_entry
	startMemoryBytes = 24 // struct hvm_memmap_table_entry

	// bootDataFloor is where boot data goes if there is room: above what kernels use
	// as scratch at the very start of memory, below where they like to start other
	// processors.
	bootDataFloor = 0x6000
)

// bootPVH loads an ELF kernel and its boot data and sets up the first vCPU.
func (vm *VM) bootPVH(kernel, initrd []byte, cmdline string) error {
	image, err := parsePVH(kernel)
	if err != nil {
		return err
	}
	if image.linux && emulatesRing0() {
		return ErrEmulatedRing0
	}
	l := newLayout(vm.ram.Regions())
	if err := vm.loadELF(l, image); err != nil {
		return err
	}
	module, err := vm.placeInitrd(l, initrd)
	if err != nil {
		return err
	}
	info := startInfo{
		module: module, moduleSize: uint64(len(initrd)),
		cmdline: cmdline, memory: memoryMap(vm.ram.Regions()),
	}
	at, ok := l.lowest(uint64(info.size()), bootDataFloor)
	if !ok {
		return fmt.Errorf("%w: the kernel leaves no room for its boot data", ErrKernel)
	}
	if err := vm.place(at, info.encode(at)); err != nil {
		return err
	}
	return vm.vcpus[0].enterPVH(image.entry, uint32(at))
}

// loadELF copies a kernel's segments to where it wants them.
func (vm *VM) loadELF(l *layout, image *pvhImage) error {
	for _, s := range image.segments {
		if s.size > uint64(vm.ram.Size()) {
			return tooLarge(s, vm.ram)
		}
		dst, ok := vm.ram.Slice(s.gpa, int(s.size))
		if !ok {
			return tooLarge(s, vm.ram)
		}
		clear(dst[copy(dst, s.data):])
		vm.MarkDirty(s.gpa, len(dst))
		l.reserve(s.gpa, s.gpa+s.size)
	}
	if _, ok := vm.ram.Slice(uint64(image.entry), 1); !ok {
		return fmt.Errorf("%w: its entry point %#x is outside of RAM", ErrKernel, image.entry)
	}
	return nil
}

func tooLarge(s elfSegment, ram *memory.RAM) error {
	return fmt.Errorf("%w: it does not fit RAM: it wants %d bytes at %#x and RAM has %d MiB", ErrKernel, s.size, s.gpa, ram.Size()>>20)
}

// startInfo is what a PVH kernel is told.
type startInfo struct {
	module, moduleSize uint64 // initrd, none if its size is 0
	cmdline            string
	memory             []memoryRange
}

// size is how long encode's result is.
func (s *startInfo) size() int {
	return startInfoBytes + startModuleBytes + len(s.memory)*startMemoryBytes + len(s.cmdline) + 1
}

// encode lays out struct hvm_start_info for address at, followed by what it points
// to: module list, memory map, command line.
func (s *startInfo) encode(at uint64) []byte {
	b := make([]byte, s.size())
	modules := startInfoBytes
	mem := modules + startModuleBytes
	cmdline := mem + len(s.memory)*startMemoryBytes

	le.PutUint32(b[0:], startInfoMagic)
	le.PutUint32(b[4:], startInfoVersion)
	if s.moduleSize > 0 {
		le.PutUint32(b[12:], 1)
		le.PutUint64(b[16:], at+uint64(modules))
		le.PutUint64(b[modules:], s.module)
		le.PutUint64(b[modules+8:], s.moduleSize)
	}
	le.PutUint64(b[24:], at+uint64(cmdline))
	le.PutUint64(b[32:], acpiTables)
	le.PutUint64(b[40:], at+uint64(mem))
	le.PutUint32(b[48:], uint32(len(s.memory)))
	for i, r := range s.memory {
		e := b[mem+i*startMemoryBytes:]
		le.PutUint64(e[0:], r.addr)
		le.PutUint64(e[8:], r.size)
		le.PutUint32(e[16:], r.kind)
	}
	copy(b[cmdline:], s.cmdline)
	return b
}

// Bits of control registers and types of segments.
const (
	cr0PE  = 1 << 0
	cr0ET  = 1 << 4
	cr0PG  = 1 << 31
	cr4PAE = 1 << 5

	segmentCode = 0xb // execute, read, accessed
	segmentData = 0x3 // read, write, accessed
	segmentTSS  = 0xb // 32 bits, busy
)

// flatSegment covers all 32-bit addresses.
func flatSegment(selector uint16, kind uint8) kvm.Segment {
	return kvm.Segment{Selector: selector, Limit: 0xffffffff, Typ: kind, Present: 1, DB: 1, S: 1, G: 1}
}

// enterPVH sets the registers that PVH defines for the entry point.
func (c *vcpu) enterPVH(entry, info uint32) error {
	var sregs kvm.Sregs
	if err := get(c.fd, kvmGetSregs, "KVM_GET_SREGS", &sregs); err != nil {
		return err
	}
	data := flatSegment(0x18, segmentData)
	sregs.CS = flatSegment(0x10, segmentCode)
	sregs.DS, sregs.ES, sregs.SS, sregs.FS, sregs.GS = data, data, data, data, data
	sregs.TR = kvm.Segment{Selector: 0x20, Limit: 0x67, Typ: segmentTSS, Present: 1}
	sregs.LDT = kvm.Segment{Unusable: 1}
	sregs.GDT, sregs.IDT = kvm.Descriptor{}, kvm.Descriptor{}
	sregs.CR0, sregs.CR4, sregs.EFER = cr0PE|cr0ET, 0, 0
	regs := kvm.Regs{RBX: uint64(info), RIP: uint64(entry), RFLAGS: 2}
	return errors.Join(
		set(c.fd, kvmSetSregs, "KVM_SET_SREGS", &sregs),
		set(c.fd, kvmSetRegs, "KVM_SET_REGS", &regs),
	)
}
