package boot

import (
	"fmt"

	"taskguide/memory"
)

// This is Linux's own boot protocol for x86 (Documentation/arch/x86/boot.rst in Linux). The file
// begins with real-mode code that contains a header. A loader that goes straight to the 64-bit
// entry point skips that code, passes the header on in the "zero page", and sets up paging itself.

// Offsets in a bzImage. Those of the header are the same in the zero page.
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

// bzImage is a Linux kernel that is booted by Linux's own protocol.
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
	return len(file) >= bzHeaderEnd && string(file[bzMagic:bzMagic+4]) == "HdrS" &&
		le.Uint16(file[bzBootFlag:]) == 0xaa55
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
		return nil,
			fmt.Errorf("%w: a bzImage of boot protocol %d.%02d, want 2.12 or newer (Linux 3.8)",
				ErrKernel, b.protocol>>8, b.protocol&0xff)
	case file[bzLoadFlags]&bzLoadedHigh == 0 || le.Uint16(file[bzXLoadFlags:])&bzHas64Bit == 0:
		return nil,
			fmt.Errorf("%w: a bzImage without a 64-bit entry point: give a kernel for x86-64",
				ErrKernel)
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

// Linux implements [Kernel].
func (k *bzImage) Linux() bool { return true }

// load implements [Kernel]. The registers are those that the 64-bit protocol defines.
func (k *bzImage) load(l *loader) (Registers, error) {
	switch {
	case len(l.Cmdline) > int(k.maxCmdline):
		return Registers{}, fmt.Errorf(
			"%w: a command line of %d bytes is too long, this kernel takes %d",
			ErrKernel, len(l.Cmdline), k.maxCmdline)
	case !l.has(k.address, k.memory):
		return Registers{}, fmt.Errorf(
			"%w: it does not fit RAM: it wants %d MiB at %#x and RAM has %d MiB",
			ErrKernel, k.memory>>20, k.address, l.mebibytes())
	}
	l.layout.reserve(k.address, k.address+k.memory)
	if err := l.put(k.address, k.kernel); err != nil {
		return Registers{}, err
	}
	l.layout.end = min(l.layout.end, k.maxRamdisk+1)
	ramdisk, err := l.putInitrd()
	if err != nil {
		return Registers{}, err
	}
	at, err := l.putBootData(&linuxBoot{
		image: k, ramdisk: uint32(ramdisk), ramdiskSize: uint32(len(l.Initrd)),
		cmdline: l.Cmdline, memory: memoryMap(l.RAM),
	})
	return Registers{
		RIP: k.address + bzEntry64, RSI: at,
		CR0: cr0PE | cr0ET | cr0PG, CR3: at + linuxTables, CR4: cr4PAE, EFER: eferLME | eferLMA,
		Code: linuxCodeSegment, Data: linuxDataSegment,
		GDTBase: at + linuxGDT, GDTLimit: linuxDataSegment + 7,
	}, err
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

// encode lays the boot data out for address at.
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
