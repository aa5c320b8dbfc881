package boot

import "fmt"

// Multiboot is the boot protocol of GRUB (Multiboot Specification 0.6.96). A kernel has a header in
// the first 8 KiB of its file, and is entered in 32-bit protected mode without paging. EAX has a
// magic number, and EBX points to a structure that points to the rest. Section 3.1 has the header,
// 3.2 the registers, and 3.3 the structure.

// The header, and the bits of its flags.
const (
	multibootMagic     = 0x1badb002
	multibootSearch    = 8192 // bytes of the file that may have the header
	multibootAddresses = 12   // where its address fields are
	multibootBytes     = 12   // of the header without them,
	multibootLongBytes = 32   // and with them

	// The low 16 bits are requirements. Modules always begin on a page here, and there always is a
	// memory map.
	multibootAlign     = 1 << 0
	multibootMemory    = 1 << 1
	multibootVideo     = 1 << 2
	multibootMustKnow  = 0xffff
	multibootByAddress = 1 << 16 // the header says where the file goes
)

// The structure that a kernel is given.
const (
	multibootLoaderMagic = 0x2badb002
	multibootInfoBytes   = 116
	multibootModuleBytes = 16
	multibootRangeBytes  = 24 // of an entry of the memory map
	multibootLoaderName  = "taskguide vmm"

	// biosBaseMemory is where a PC's firmware leaves the size of lower memory, in KiB. Xen believes
	// it rather than the structure.
	biosBaseMemory = 0x413

	infoMemory     = 1 << 0
	infoCmdline    = 1 << 2
	infoModules    = 1 << 3
	infoMemoryMap  = 1 << 6
	infoLoaderName = 1 << 9
)

// multibootHeader is a header as the file has it. Its values are not checked yet.
type multibootHeader struct {
	offset uint64 // in the file
	flags  uint32
	// Physical addresses, if hasAddresses.
	header, load, loadEnd, bssEnd, entry uint64
}

// hasAddresses tells whether the header says where the file goes. That counts for more than what an
// ELF file's own header says.
func (h multibootHeader) hasAddresses() bool { return h.flags&multibootByAddress != 0 }

// findMultiboot looks for the header, which is aligned to 4 bytes. What only looks like one has a
// wrong sum.
func findMultiboot(file []byte) (multibootHeader, bool) {
	end := min(len(file), multibootSearch)
	for at := 0; at+multibootBytes <= end; at += 4 {
		b := file[at:end]
		flags := le.Uint32(b[4:])
		if le.Uint32(b) != multibootMagic || multibootMagic+flags+le.Uint32(b[8:]) != 0 {
			continue
		}
		h := multibootHeader{offset: uint64(at), flags: flags}
		if !h.hasAddresses() {
			return h, true
		}
		if len(b) < multibootLongBytes {
			continue
		}
		a := b[multibootAddresses:]
		h.header, h.load, h.loadEnd = word(a), word(a[4:]), word(a[8:])
		h.bssEnd, h.entry = word(a[12:]), word(a[16:])
		return h, true
	}
	return multibootHeader{}, false
}

// multibootImage is a kernel that is booted by multiboot.
type multibootImage struct {
	entry    uint64 // guest-physical
	segments []Content
}

// parseMultiboot reads a file with a multiboot header.
func parseMultiboot(file []byte, h multibootHeader) (*multibootImage, error) {
	const known = multibootAlign | multibootMemory
	switch need := h.flags & multibootMustKnow &^ known; {
	case need&multibootVideo != 0:
		return nil, fmt.Errorf("%w: its multiboot header asks for a video mode, and this machine "+
			"has no display", ErrKernel)
	case need != 0:
		return nil, fmt.Errorf("%w: its multiboot header asks for what multiboot 0.6.96 does not "+
			"have (flags %#x)", ErrKernel, need)
	}
	if h.hasAddresses() {
		return multibootByHeader(file, h)
	}
	if !isELF(file) {
		return nil, fmt.Errorf("%w: it has a multiboot header without addresses, and is no ELF "+
			"file", ErrKernel)
	}
	return multibootByELF(file)
}

// multibootByHeader follows the addresses of a header: one segment, which begins before the header.
func multibootByHeader(file []byte, h multibootHeader) (*multibootImage, error) {
	damaged := func(what string) error {
		return fmt.Errorf("%w: the addresses of its multiboot header are wrong: %s", ErrKernel,
			what)
	}
	if h.load > h.header || h.header-h.load > h.offset {
		return nil, damaged("it would begin before the file does")
	}
	data := file[h.offset-(h.header-h.load):]
	if h.loadEnd != 0 {
		switch {
		case h.loadEnd < h.load:
			return nil, damaged("it would end before it begins")
		case h.loadEnd-h.load > uint64(len(data)):
			return nil, damaged("it would end after the file does, or the file is truncated")
		}
		data = data[:h.loadEnd-h.load]
	}
	size := uint64(len(data))
	if h.bssEnd != 0 {
		if h.bssEnd < h.load+size {
			return nil, damaged("its memory ends before its data does")
		}
		size = h.bssEnd - h.load
	}
	if size == 0 {
		return nil, errNothingToLoad
	}
	return &multibootImage{
		entry: h.entry, segments: []Content{{GPA: h.load, Data: data, Size: size}},
	}, nil
}

// multibootByELF follows the program headers of an ELF file, of 32 or 64 bits, as GRUB does. The
// entry point may be a virtual address: then it is where that address is loaded to.
func multibootByELF(file []byte) (*multibootImage, error) {
	headers, err := programHeaders(file)
	if err != nil {
		return nil, err
	}
	entry := elfLayouts[file[elfClass]].entry(file)
	image := &multibootImage{entry: entry}
	translated := false
	for _, h := range headers {
		if h.kind != elfLoad {
			continue
		}
		segment, err := h.content(file)
		if err != nil {
			return nil, err
		}
		if segment.Size == 0 {
			continue
		}
		image.segments = append(image.segments, segment)
		if into := entry - h.virtual; !translated && into < h.memoryBytes {
			image.entry, translated = h.gpa+into, true
		}
	}
	if len(image.segments) == 0 {
		return nil, errNothingToLoad
	}
	return image, nil
}

// Linux implements [Kernel]. Linux itself knows nothing of multiboot.
func (k *multibootImage) Linux() bool { return false }

// load implements [Kernel]. The registers are those of section 3.2.
func (k *multibootImage) load(l *loader) (Registers, error) {
	base := le.AppendUint16(nil, legacyStart>>10)
	if err := l.put(biosBaseMemory, base); err != nil {
		return Registers{}, err
	}
	if err := l.putSegments(k.segments, k.entry); err != nil {
		return Registers{}, err
	}
	module, err := l.putInitrd()
	if err != nil {
		return Registers{}, err
	}
	at, err := l.putBootData(&multibootInfo{
		module: uint32(module), moduleSize: uint32(len(l.Initrd)),
		cmdline: l.Cmdline, memory: memoryMap(l.RAM), low: l.layout.end,
	})
	return Registers{
		RIP: k.entry, RAX: multibootLoaderMagic, RBX: at,
		CR0:  cr0PE | cr0ET,
		Code: 0x10, Data: 0x18,
	}, err
}

// multibootInfo is what a multiboot kernel is told.
type multibootInfo struct {
	module, moduleSize uint32 // initrd, none if its size is 0
	cmdline            string // as the user has it, without the name of a file before it
	memory             []memoryRange
	low                uint64 // end of the RAM below the hole
}

// size is the length of encode's result in bytes.
func (d *multibootInfo) size() int {
	return multibootInfoBytes + multibootModuleBytes + len(d.memory)*multibootRangeBytes +
		len(multibootLoaderName) + 1 + len(d.cmdline) + 1
}

// encode lays out the structure for address at, followed by what it points to: list of modules,
// memory map, name of the loader, command line.
func (d *multibootInfo) encode(at uint64) []byte {
	b := make([]byte, d.size())
	modules := multibootInfoBytes
	ranges := modules + multibootModuleBytes
	name := ranges + len(d.memory)*multibootRangeBytes
	cmdline := name + len(multibootLoaderName) + 1
	pointer := func(field, to int) { le.PutUint32(b[field:], uint32(at)+uint32(to)) }

	le.PutUint32(b, infoMemory|infoCmdline|infoModules|infoMemoryMap|infoLoaderName)
	le.PutUint32(b[4:], legacyStart>>10)
	le.PutUint32(b[8:], uint32((d.low-legacyEnd)>>10))
	pointer(16, cmdline)
	pointer(24, modules)
	if d.moduleSize > 0 {
		le.PutUint32(b[20:], 1)
		le.PutUint32(b[modules:], d.module)
		le.PutUint32(b[modules+4:], d.module+d.moduleSize)
		// Its string is the empty one at the end of the command line.
		pointer(modules+8, cmdline+len(d.cmdline))
	}
	le.PutUint32(b[44:], uint32(name-ranges))
	pointer(48, ranges)
	for i, r := range d.memory {
		e := b[ranges+i*multibootRangeBytes:]
		le.PutUint32(e, multibootRangeBytes-4) // its own size does not count
		le.PutUint64(e[4:], r.addr)
		le.PutUint64(e[12:], r.size)
		le.PutUint32(e[20:], r.kind)
	}
	pointer(64, name)
	copy(b[name:], multibootLoaderName)
	copy(b[cmdline:], d.cmdline)
	return b
}
