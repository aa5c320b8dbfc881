package boot

import (
	"bytes"
	"fmt"
	"iter"
	"math"
)

// What this machine needs to know of ELF files (System V ABI, chapters 4 and 5):
// segments to load and notes. The file is not trusted.

const (
	elfClass         = 4 // where the header says whether its words have 32 or 64 bits
	elfClass32       = 1
	elfClass64       = 2
	elfData          = 5 // and in which order their bytes are
	elfLittleEndian  = 1
	elfMachine       = 18
	elfMachine386    = 3
	elfMachineX86_64 = 62

	elfLoad = 1 // PT_LOAD
	elfNote = 4 // PT_NOTE

	pvhNoteType = 18 // XEN_ELFNOTE_PHYS32_ENTRY
)

// elfLayout says where an ELF file of one class has what this package reads.
type elfLayout struct {
	machine      uint16
	headerBytes  int
	programBytes int
	// table reads from the file's header where the program headers are: their offset in the file,
	// the size of each in bytes, and their number.
	table func(header []byte) (offset, size, count uint64)
	// program reads one program header.
	program func(b []byte) programHeader
	// entry reads the entry point from the file's header.
	entry func(header []byte) uint64
}

// elfLayouts are the two classes. PVH enters either of them in 32-bit protected mode.
var elfLayouts = map[byte]elfLayout{
	elfClass32: {
		machine: elfMachine386, headerBytes: 52, programBytes: 32,
		table: func(h []byte) (offset, size, count uint64) {
			return word(h[28:]), half(h[42:]), half(h[44:])
		},
		program: func(b []byte) programHeader {
			return programHeader{
				kind: le.Uint32(b), offset: word(b[4:]), virtual: word(b[8:]), gpa: word(b[12:]),
				fileBytes: word(b[16:]), memoryBytes: word(b[20:]), align: word(b[28:]),
			}
		},
		entry: func(h []byte) uint64 { return word(h[24:]) },
	},
	elfClass64: {
		machine: elfMachineX86_64, headerBytes: 64, programBytes: 56,
		table: func(h []byte) (offset, size, count uint64) {
			return le.Uint64(h[32:]), half(h[54:]), half(h[56:])
		},
		program: func(b []byte) programHeader {
			return programHeader{
				kind: le.Uint32(b), offset: le.Uint64(b[8:]), virtual: le.Uint64(b[16:]),
				gpa: le.Uint64(b[24:]), fileBytes: le.Uint64(b[32:]),
				memoryBytes: le.Uint64(b[40:]), align: le.Uint64(b[48:]),
			}
		},
		entry: func(h []byte) uint64 { return le.Uint64(h[24:]) },
	},
}

func half(b []byte) uint64 { return uint64(le.Uint16(b)) }
func word(b []byte) uint64 { return uint64(le.Uint32(b)) }

// programHeader describes a segment of the file. Its values are not checked yet.
type programHeader struct {
	kind              uint32
	offset, fileBytes uint64 // in the file
	gpa, memoryBytes  uint64 // in memory
	virtual           uint64 // address in memory once the kernel has turned on paging
	align             uint64
}

// data returns the bytes that the file has for a segment.
func (h programHeader) data(file []byte) ([]byte, error) {
	if h.offset > uint64(len(file)) || h.fileBytes > uint64(len(file))-h.offset {
		return nil, fmt.Errorf("%w: the ELF file is truncated: a segment reaches beyond its end",
			ErrKernel)
	}
	return file[h.offset : h.offset+h.fileBytes], nil
}

// content returns what a segment puts into memory.
func (h programHeader) content(file []byte) (Content, error) {
	data, err := h.data(file)
	if err != nil {
		return Content{}, err
	}
	if h.memoryBytes < h.fileBytes || h.memoryBytes > math.MaxInt64 {
		return Content{}, fmt.Errorf(
			"%w: the ELF file has a segment of %d bytes for %d bytes of data",
			ErrKernel, h.memoryBytes, h.fileBytes)
	}
	return Content{GPA: h.gpa, Data: data, Size: h.memoryBytes}, nil
}

// pvhImage is a kernel that is booted by PVH.
type pvhImage struct {
	entry    uint32 // guest-physical
	linux    bool   // it is a Linux kernel
	segments []Content
}

// errNoPVHNote is returned for an ELF file that is none of PVH's.
var errNoPVHNote = fmt.Errorf("%w: the ELF file has no PVH note (XEN_ELFNOTE_PHYS32_ENTRY) and no "+
	"multiboot header: for Linux, configure it with CONFIG_PVH or give its bzImage", ErrKernel)

func isELF(file []byte) bool { return bytes.HasPrefix(file, []byte("\x7fELF")) }

// parsePVH reads an ELF file, of 32 or 64 bits, with a PVH note.
func parsePVH(file []byte) (*pvhImage, error) {
	headers, err := programHeaders(file)
	if err != nil {
		return nil, err
	}
	image := &pvhImage{}
	found := false
	for _, h := range headers {
		switch h.kind {
		case elfNote:
			data, err := h.data(file)
			if err != nil {
				return nil, err
			}
			if entry, ok := pvhEntry(data, h.align); ok {
				image.entry, found = entry, true
			}
			image.linux = image.linux || isLinux(data, h.align)
		case elfLoad:
			segment, err := h.content(file)
			if err != nil {
				return nil, err
			}
			if segment.Size > 0 {
				image.segments = append(image.segments, segment)
			}
		}
	}
	switch {
	case !found:
		return nil, errNoPVHNote
	case len(image.segments) == 0:
		return nil, errNothingToLoad
	}
	return image, nil
}

var errNothingToLoad = fmt.Errorf("%w: the file has nothing to load", ErrKernel)

// programHeaders checks a file's ELF header and returns its program headers.
func programHeaders(file []byte) ([]programHeader, error) {
	if len(file) <= elfData || !isELF(file) {
		return nil, fmt.Errorf("%w: not an ELF file", ErrKernel)
	}
	layout, ok := elfLayouts[file[elfClass]]
	if !ok || file[elfData] != elfLittleEndian {
		return nil, fmt.Errorf("%w: an ELF file, but not for x86", ErrKernel)
	}
	if len(file) < layout.headerBytes {
		return nil, fmt.Errorf("%w: the ELF file is truncated: its header is cut off", ErrKernel)
	}
	if le.Uint16(file[elfMachine:]) != layout.machine {
		return nil, fmt.Errorf("%w: an ELF file, but not for x86", ErrKernel)
	}
	offset, size, count := layout.table(file)
	if size < uint64(layout.programBytes) || offset > uint64(len(file)) ||
		size*count > uint64(len(file))-offset {
		return nil,
			fmt.Errorf("%w: the ELF file is damaged: its program headers are not in it", ErrKernel)
	}
	headers := make([]programHeader, count)
	for i := range headers {
		headers[i] = layout.program(file[offset+uint64(i)*size:])
	}
	return headers, nil
}

// pvhEntry looks for the PVH note in a segment of notes.
func pvhEntry(notes []byte, align uint64) (entry uint32, ok bool) {
	for n := range elfNotes(notes, align) {
		if n.name != "Xen\x00" || n.kind != pvhNoteType {
			continue
		}
		switch {
		case len(n.desc) == 4:
			return le.Uint32(n.desc), true
		case len(n.desc) >= 8 && le.Uint64(n.desc) <= math.MaxUint32:
			return uint32(le.Uint64(n.desc)), true
		}
		return 0, false
	}
	return 0, false
}

// isLinux tells whether a segment of notes belongs to a Linux kernel, which has notes of its own.
func isLinux(notes []byte, align uint64) bool {
	for n := range elfNotes(notes, align) {
		if n.name == "Linux\x00" {
			return true
		}
	}
	return false
}

type elfNoteEntry struct {
	name string // with its end
	kind uint32
	desc []byte
}

// elfNotes iterates over a segment of notes. A note is three words (length of name, length of
// descriptor, type), then name and descriptor, each padded to the segment's alignment of 4 or 8.
// The iteration stops at a note that is cut off.
func elfNotes(notes []byte, align uint64) iter.Seq[elfNoteEntry] {
	if align != 8 {
		align = 4
	}
	pad := func(n uint64) uint64 { return (n + align - 1) &^ (align - 1) }
	return func(yield func(elfNoteEntry) bool) {
		for len(notes) >= 12 {
			nameLen, descLen := uint64(le.Uint32(notes)), uint64(le.Uint32(notes[4:]))
			desc := pad(12 + nameLen)
			end := desc + descLen
			if end > uint64(len(notes)) {
				return
			}
			n := elfNoteEntry{
				name: string(notes[12 : 12+nameLen]), kind: le.Uint32(notes[8:]),
				desc: notes[desc:end],
			}
			if !yield(n) {
				return
			}
			notes = notes[min(pad(end), uint64(len(notes))):]
		}
	}
}
