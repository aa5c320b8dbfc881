package vmm

import (
	"bytes"
	"fmt"
	"iter"
	"math"
)

// What this machine needs to know of ELF files (System V ABI, chapters 4 and 5):
// segments to load and notes. The file is not trusted.

const (
	elfHeaderBytes   = 64
	elfProgramBytes  = 56
	elfClass64       = 2
	elfLittleEndian  = 1
	elfMachineX86_64 = 62
	elfLoad          = 1 // PT_LOAD
	elfNote          = 4 // PT_NOTE

	pvhNoteType = 18 // XEN_ELFNOTE_PHYS32_ENTRY
)

// pvhImage is a kernel to be booted by PVH.
type pvhImage struct {
	entry    uint32 // guest-physical
	linux    bool   // it is a Linux kernel
	segments []elfSegment
}

// elfSegment is memory that a kernel file fills.
type elfSegment struct {
	gpa  uint64
	data []byte
	size uint64 // in memory, at least as long as data; the rest is 0
}

func isELF(file []byte) bool { return bytes.HasPrefix(file, []byte("\x7fELF")) }

// parsePVH reads an ELF64 file with a PVH note.
func parsePVH(file []byte) (*pvhImage, error) {
	headers, err := programHeaders(file)
	if err != nil {
		return nil, err
	}
	image := &pvhImage{}
	found := false
	for _, h := range headers {
		kind, offset, length := le.Uint32(h), le.Uint64(h[8:]), le.Uint64(h[32:])
		if kind != elfLoad && kind != elfNote {
			continue
		}
		if offset > uint64(len(file)) || length > uint64(len(file))-offset {
			return nil, fmt.Errorf("%w: the ELF file is truncated: a segment reaches beyond its end", ErrKernel)
		}
		data := file[offset : offset+length]
		if kind == elfNote {
			align := le.Uint64(h[48:])
			if entry, ok := pvhEntry(data, align); ok {
				image.entry, found = entry, true
			}
			image.linux = image.linux || isLinux(data, align)
			continue
		}
		s := elfSegment{gpa: le.Uint64(h[24:]), data: data, size: le.Uint64(h[40:])}
		if s.size < length || s.size > math.MaxInt64 {
			return nil, fmt.Errorf("%w: the ELF file has a segment of %d bytes for %d bytes of data", ErrKernel, s.size, length)
		}
		if s.size > 0 {
			image.segments = append(image.segments, s)
		}
	}
	switch {
	case !found:
		return nil, fmt.Errorf("%w: the ELF file has no PVH note (XEN_ELFNOTE_PHYS32_ENTRY): for Linux, configure it with CONFIG_PVH or give its bzImage", ErrKernel)
	case len(image.segments) == 0:
		return nil, fmt.Errorf("%w: the ELF file has nothing to load", ErrKernel)
	}
	return image, nil
}

// programHeaders checks a file's ELF header and returns its program headers.
func programHeaders(file []byte) ([][]byte, error) {
	if len(file) < elfHeaderBytes || !isELF(file) {
		return nil, fmt.Errorf("%w: not an ELF file", ErrKernel)
	}
	if file[4] != elfClass64 || file[5] != elfLittleEndian || le.Uint16(file[18:]) != elfMachineX86_64 {
		return nil, fmt.Errorf("%w: an ELF file, but not for x86-64", ErrKernel)
	}
	offset, size, count := le.Uint64(file[32:]), uint64(le.Uint16(file[54:])), uint64(le.Uint16(file[56:]))
	if size < elfProgramBytes || offset > uint64(len(file)) || size*count > uint64(len(file))-offset {
		return nil, fmt.Errorf("%w: the ELF file is damaged: its program headers are not in it", ErrKernel)
	}
	headers := make([][]byte, count)
	for i := range headers {
		at := offset + uint64(i)*size
		headers[i] = file[at : at+elfProgramBytes]
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

// isLinux tells whether a segment of notes is of a Linux kernel, which has some of
// its own.
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

// elfNotes iterates over a segment of notes. A note is three words (length of name,
// length of descriptor, type), then name and descriptor, each padded to the segment's
// alignment of 4 or 8. It stops at one that is cut off.
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
			n := elfNoteEntry{name: string(notes[12 : 12+nameLen]), kind: le.Uint32(notes[8:]), desc: notes[desc:end]}
			if !yield(n) {
				return
			}
			notes = notes[min(pad(end), uint64(len(notes))):]
		}
	}
}
