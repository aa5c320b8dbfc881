package boot

import "fmt"

// PVH is the boot protocol that the Xen project defined for guests without firmware
// (docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h there). The file names an
// entry point in a note, and the machine enters it in 32-bit protected mode without paging. EBX
// points to a structure that points to the rest.

const (
	startInfoMagic   = 0x336ec578
	startInfoVersion = 1
	startInfoBytes   = 56 // struct hvm_start_info
	startModuleBytes = 32 // struct hvm_modlist_entry
	startMemoryBytes = 24 // struct hvm_memmap_table_entry
)

// Linux implements [Kernel].
func (k *pvhImage) Linux() bool { return k.linux }

// load implements [Kernel]. The registers are those that PVH defines for the entry point.
func (k *pvhImage) load(l *loader) (Registers, error) {
	if err := l.putSegments(k.segments, uint64(k.entry)); err != nil {
		return Registers{}, err
	}
	module, err := l.putInitrd()
	if err != nil {
		return Registers{}, err
	}
	at, err := l.putBootData(&startInfo{
		module: module, moduleSize: uint64(len(l.Initrd)),
		cmdline: l.Cmdline, memory: memoryMap(l.RAM),
	})
	return Registers{
		RIP: uint64(k.entry), RBX: at,
		CR0:  cr0PE | cr0ET,
		Code: 0x10, Data: 0x18,
	}, err
}

// putSegments puts a kernel's segments to where it wants them. Its entry point must be in RAM. A
// file may name 65535 segments, each as large as RAM, and clearing them all would take hours. So
// together they must fit RAM, as segments that do not overlap do.
func (l *loader) putSegments(segments []Content, entry uint64) error {
	var total uint64 // each is at most RAM, so it does not overflow
	for _, s := range segments {
		if !l.has(s.GPA, s.Size) {
			return fmt.Errorf(
				"%w: it does not fit RAM: it wants %d bytes at %#x and RAM has %d MiB",
				ErrKernel, s.Size, s.GPA, l.mebibytes())
		}
		if total += s.Size; total > l.mebibytes()<<20 {
			return fmt.Errorf("%w: its segments have more bytes than RAM", ErrKernel)
		}
		l.contents = append(l.contents, s)
		l.layout.reserve(s.GPA, s.GPA+s.Size)
	}
	if !l.has(entry, 1) {
		return fmt.Errorf("%w: its entry point %#x is outside of RAM", ErrKernel, entry)
	}
	return nil
}

// startInfo is what a PVH kernel is told.
type startInfo struct {
	module, moduleSize uint64 // initrd, none if its size is 0
	cmdline            string
	memory             []memoryRange
}

// size is the length of encode's result in bytes.
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
