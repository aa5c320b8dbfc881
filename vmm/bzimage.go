package vmm

import (
	"errors"
	"fmt"

	"github.com/bobuhiro11/gokvm/kvm"

	"taskguide/memory"
)

// Linux' own boot protocol for x86 (Documentation/arch/x86/boot.rst in Linux): the
// file begins with real-mode code that has a header in it; a loader that goes straight
// to the 64-bit entry point skips that code, hands the header on in the "zero page",
// and sets up paging itself.

// Offsets in a bzImage, which for the header are those in the zero page too.
const (
	bzHeader         = 0x1f1
	bzSetupSectors   = 0x1f1
	bzBootFlag       = 0x1fe
	bzJump           = 0x201 // length of the header from 0x202 on
	bzMagic          = 0x202
	bzVersion        = 0x206
	bzLoader         = 0x210
	bzLoadFlags      = 0x211
	bzRamdisk        = 0x218
	bzRamdiskSize    = 0x21c
	bzCmdline        = 0x228
	bzRamdiskMax     = 0x22c
	bzXLoadFlags     = 0x236
	bzCmdlineMax     = 0x238
	bzPrefAddress    = 0x258
	bzInitSize       = 0x260
	bzHeaderEnd      = 0x268
	zeroRSDP         = 0x070
	zeroE820Count    = 0x1e8
	zeroE820         = 0x2d0
	zeroE820Bytes    = 20
	zeroPageBytes    = 4096
	bzSectorBytes    = 512
	bzLoadedHigh     = 1 << 0 // of bzLoadFlags
	bzHas64Bit       = 1 << 0 // of bzXLoadFlags
	bzUnknownLoader  = 0xff
	bzOldestVersion  = 0x020c
	bzEntry64        = 0x200 // from where the kernel was loaded
	linuxCodeSegment = 0x10
	linuxDataSegment = 0x18
)

// bzImage is a Linux kernel to be booted by its own protocol.
type bzImage struct {
	header      []byte // from bzHeader on
	kernel      []byte
	address     uint64 // where it wants to be loaded
	memory      uint64 // bytes that it takes up there until it knows its memory map
	maxCmdline  uint32
	maxRamdisk  uint64 // highest address of an initrd
	protocol    uint16
	setupLength int
}

func isBzImage(file []byte) bool {
	return len(file) >= bzHeaderEnd && string(file[bzMagic:bzMagic+4]) == "HdrS" && le.Uint16(file[bzBootFlag:]) == 0xaa55
}

// parseBzImage reads a bzImage, which is not trusted.
func parseBzImage(file []byte) (*bzImage, error) {
	if !isBzImage(file) {
		return nil, fmt.Errorf("%w: not a Linux bzImage", ErrKernel)
	}
	b := &bzImage{
		protocol:   le.Uint16(file[bzVersion:]),
		address:    le.Uint64(file[bzPrefAddress:]),
		memory:     uint64(le.Uint32(file[bzInitSize:])),
		maxCmdline: le.Uint32(file[bzCmdlineMax:]),
		maxRamdisk: uint64(le.Uint32(file[bzRamdiskMax:])),
	}
	switch {
	case b.protocol < bzOldestVersion:
		return nil, fmt.Errorf("%w: a bzImage of boot protocol %d.%02d, want 2.12 or newer (Linux 3.8)", ErrKernel, b.protocol>>8, b.protocol&0xff)
	case file[bzLoadFlags]&bzLoadedHigh == 0 || le.Uint16(file[bzXLoadFlags:])&bzHas64Bit == 0:
		return nil, fmt.Errorf("%w: a bzImage without a 64-bit entry point: give a kernel for x86-64", ErrKernel)
	}
	sectors := int(file[bzSetupSectors])
	if sectors == 0 {
		sectors = 4 // what the protocol says 0 means
	}
	b.setupLength = (sectors + 1) * bzSectorBytes
	end := bzMagic + int(file[bzJump])
	if b.setupLength >= len(file) || end < bzHeaderEnd || end > len(file) || end > zeroE820 {
		return nil, fmt.Errorf("%w: the bzImage is truncated or damaged", ErrKernel)
	}
	b.header, b.kernel = file[bzHeader:end], file[b.setupLength:]
	b.memory = max(b.memory, uint64(len(b.kernel)))
	return b, nil
}

// bootLinux loads a bzImage and sets up the first vCPU for its 64-bit entry point.
func (vm *VM) bootLinux(kernel, initrd []byte, cmdline string) error {
	image, err := parseBzImage(kernel)
	if err != nil {
		return err
	}
	if emulatesRing0() {
		return ErrEmulatedRing0
	}
	if len(cmdline) > int(image.maxCmdline) {
		return fmt.Errorf("%w: a command line of %d bytes is too long, this kernel takes %d", ErrKernel, len(cmdline), image.maxCmdline)
	}
	l := newLayout(vm.ram.Regions())
	if _, ok := vm.ram.Slice(image.address, int(image.memory)); !ok {
		return fmt.Errorf("%w: it does not fit RAM: it wants %d MiB at %#x and RAM has %d MiB", ErrKernel, image.memory>>20, image.address, vm.ram.Size()>>20)
	}
	l.reserve(image.address, image.address+image.memory)
	if err := vm.place(image.address, image.kernel); err != nil {
		return err
	}
	l.end = min(l.end, image.maxRamdisk+1)
	ramdisk, err := vm.placeInitrd(l, initrd)
	if err != nil {
		return err
	}
	data := linuxBoot{image: image, ramdisk: uint32(ramdisk), ramdiskSize: uint32(len(initrd)), cmdline: cmdline, memory: memoryMap(vm.ram.Regions())}
	at, ok := l.lowest(uint64(data.size()), bootDataFloor)
	if !ok {
		return fmt.Errorf("%w: the kernel leaves no room for its boot data", ErrKernel)
	}
	if err := vm.place(at, data.encode(at)); err != nil {
		return err
	}
	return vm.vcpus[0].enterLinux(image.address+bzEntry64, at)
}

// linuxBoot is what a Linux kernel is given: pages of
//
//	zero page | GDT | page tables: PML4, PDPT, 4 page directories | command line
type linuxBoot struct {
	image                *bzImage
	ramdisk, ramdiskSize uint32
	cmdline              string
	memory               []memoryRange
}

const (
	linuxGDT       = 1 * memory.PageSize
	linuxTables    = 2 * memory.PageSize
	linuxTablePage = 6
	linuxCmdline   = linuxTables + linuxTablePage*memory.PageSize
)

func (d *linuxBoot) size() int { return linuxCmdline + len(d.cmdline) + 1 }

// encode lays it out for address at.
func (d *linuxBoot) encode(at uint64) []byte {
	b := make([]byte, d.size())
	copy(b[bzHeader:], d.image.header)
	b[bzLoader] = bzUnknownLoader
	le.PutUint64(b[zeroRSDP:], acpiTables)
	le.PutUint32(b[bzCmdline:], uint32(at)+linuxCmdline)
	le.PutUint32(b[bzRamdisk:], d.ramdisk)
	le.PutUint32(b[bzRamdiskSize:], d.ramdiskSize)
	b[zeroE820Count] = byte(len(d.memory))
	for i, r := range d.memory {
		e := b[zeroE820+i*zeroE820Bytes:]
		le.PutUint64(e[0:], r.addr)
		le.PutUint64(e[8:], r.size)
		le.PutUint32(e[16:], r.kind)
	}
	// Flat segments: code for 64 bits, data.
	le.PutUint64(b[linuxGDT+linuxCodeSegment:], 0x00af9b000000ffff)
	le.PutUint64(b[linuxGDT+linuxDataSegment:], 0x00cf93000000ffff)
	d.mapIdentity(b[linuxTables:linuxCmdline], at+linuxTables)
	copy(b[linuxCmdline:], d.cmdline)
	return b
}

// mapIdentity fills in page tables at address at that map the lowest 4 GiB to
// themselves, in pages of 2 MiB.
func (d *linuxBoot) mapIdentity(tables []byte, at uint64) {
	const (
		present = 0x3 // and writable
		large   = 0x83
		entries = 512
	)
	le.PutUint64(tables, at+memory.PageSize|present)
	for i := range uint64(4) {
		le.PutUint64(tables[memory.PageSize+8*i:], at+(2+i)*memory.PageSize|present)
	}
	for i := range uint64(4 * entries) {
		le.PutUint64(tables[2*memory.PageSize+8*i:], i<<21|large)
	}
}

// enterLinux sets the registers that the 64-bit protocol defines.
func (c *vcpu) enterLinux(entry, data uint64) error {
	var sregs kvm.Sregs
	if err := get(c.fd, kvmGetSregs, "KVM_GET_SREGS", &sregs); err != nil {
		return err
	}
	seg := flatSegment(linuxDataSegment, segmentData)
	sregs.CS = flatSegment(linuxCodeSegment, segmentCode)
	sregs.CS.DB, sregs.CS.L = 0, 1
	sregs.DS, sregs.ES, sregs.SS, sregs.FS, sregs.GS = seg, seg, seg, seg, seg
	sregs.TR = kvm.Segment{Selector: 0x20, Limit: 0x67, Typ: segmentTSS, Present: 1}
	sregs.LDT = kvm.Segment{Unusable: 1}
	sregs.GDT = kvm.Descriptor{Base: data + linuxGDT, Limit: linuxDataSegment + 7}
	sregs.IDT = kvm.Descriptor{}
	sregs.CR3 = data + linuxTables
	sregs.CR4 = cr4PAE
	sregs.CR0 = cr0PE | cr0ET | cr0PG
	sregs.EFER = eferLME | eferLMA
	regs := kvm.Regs{RSI: data, RIP: entry, RFLAGS: 2}
	return errors.Join(
		set(c.fd, kvmSetSregs, "KVM_SET_SREGS", &sregs),
		set(c.fd, kvmSetRegs, "KVM_SET_REGS", &regs),
	)
}
