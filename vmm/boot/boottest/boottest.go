// Package boottest makes kernel files for tests out of a few instructions.
package boottest

import "encoding/binary"

var le = binary.LittleEndian

// Entry is the guest-physical address at which the kernels are loaded, and the entry point of those
// for PVH.
const Entry = 1 << 20

// What the two kinds of ELF file have in common.
const (
	load, note = 1, 4 // PT_LOAD, PT_NOTE
	executable = 2    // ET_EXEC
	entryNote  = 18   // XEN_ELFNOTE_PHYS32_ENTRY
)

// notes returns a segment of notes that has only the PVH note.
func notes() []byte {
	b := make([]byte, 20)
	le.PutUint32(b[0:], 4)
	le.PutUint32(b[4:], 4)
	le.PutUint32(b[8:], entryNote)
	copy(b[12:], "Xen\x00")
	le.PutUint32(b[16:], Entry)
	return b
}

// PVH wraps 32-bit code in an ELF64 file with a PVH note. Its program headers are first the note's,
// then the code's.
func PVH(code []byte) []byte {
	const (
		headerBytes  = 64
		programBytes = 56
		machineX8664 = 62
	)
	notes := notes()
	b := make([]byte, headerBytes+2*programBytes)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], executable)
	le.PutUint16(b[18:], machineX8664)
	le.PutUint64(b[32:], headerBytes)
	le.PutUint16(b[54:], programBytes)
	le.PutUint16(b[56:], 2)
	notesAt := len(b)
	program := func(at int, kind uint32, offset int, gpa uint64, size int) {
		le.PutUint32(b[at:], kind)
		le.PutUint64(b[at+8:], uint64(offset))
		le.PutUint64(b[at+24:], gpa)
		le.PutUint64(b[at+32:], uint64(size))
		le.PutUint64(b[at+40:], uint64(size))
		le.PutUint64(b[at+48:], 4)
	}
	program(headerBytes, note, notesAt, 0, len(notes))
	program(headerBytes+programBytes, load, notesAt+len(notes), Entry, len(code))
	return append(append(b, notes...), code...)
}

// PVH32 wraps 32-bit code in an ELF32 file, with the same program headers as PVH.
func PVH32(code []byte) []byte {
	const (
		headerBytes  = 52
		programBytes = 32
		machine386   = 3
	)
	notes := notes()
	b := make([]byte, headerBytes+2*programBytes)
	copy(b, "\x7fELF\x01\x01\x01")
	le.PutUint16(b[16:], executable)
	le.PutUint16(b[18:], machine386)
	le.PutUint32(b[28:], headerBytes)
	le.PutUint16(b[42:], programBytes)
	le.PutUint16(b[44:], 2)
	notesAt := len(b)
	program := func(at int, kind uint32, offset int, gpa uint32, size int) {
		le.PutUint32(b[at:], kind)
		le.PutUint32(b[at+4:], uint32(offset))
		le.PutUint32(b[at+12:], gpa)
		le.PutUint32(b[at+16:], uint32(size))
		le.PutUint32(b[at+20:], uint32(size))
		le.PutUint32(b[at+28:], 4)
	}
	program(headerBytes, note, notesAt, 0, len(notes))
	program(headerBytes+programBytes, load, notesAt+len(notes), Entry, len(code))
	return append(append(b, notes...), code...)
}

// BzImage wraps 64-bit code in a Linux bzImage, which is entered at its 64-bit entry point.
func BzImage(code []byte) []byte {
	const (
		sector  = 512
		entry64 = 0x200 // from where the kernel is loaded
	)
	b := make([]byte, 2*sector)
	b[0x1f1] = 1                     // sectors of setup code
	le.PutUint16(b[0x1fe:], 0xaa55)  // boot flag
	b[0x201] = 0x268 - 0x202         // length of the header
	copy(b[0x202:], "HdrS")          // magic
	le.PutUint16(b[0x206:], 0x020f)  // version of the protocol
	b[0x211] = 1                     // loaded high
	le.PutUint32(b[0x22c:], 1<<31-1) // highest address of an initrd
	le.PutUint16(b[0x236:], 1)       // has a 64-bit entry point
	le.PutUint32(b[0x238:], 2047)    // longest command line
	le.PutUint64(b[0x258:], Entry)   // where it wants to be loaded
	le.PutUint32(b[0x260:], 4<<20)   // memory that it takes up there
	return append(append(b, make([]byte, entry64)...), code...)
}

// MultibootHeader returns a multiboot header with flags, and the words of its address fields. Where
// flags has bit 16, these are the addresses of header, text, end of data, end of bss, and entry.
func MultibootHeader(flags uint32, addresses ...uint32) []byte {
	const magic = 0x1badb002
	b := le.AppendUint32(nil, magic)
	b = le.AppendUint32(b, flags)
	b = le.AppendUint32(b, -(magic + flags))
	for _, a := range addresses {
		b = le.AppendUint32(b, a)
	}
	return b
}

// Multiboot puts a multiboot header before 32-bit code. The file has no other header, so its
// addresses say that it goes to Entry, and the code runs right behind its header.
func Multiboot(code []byte) []byte {
	const byAddress, headerBytes = 1 << 16, 32
	header := MultibootHeader(byAddress, Entry, Entry, 0, 0, Entry+headerBytes)
	return append(header, code...)
}

// MultibootELF wraps 32-bit code in an ELF64 or an ELF32 file with a multiboot header that has no
// addresses. Elsewhere the kernel would be at virtual addresses, and its entry point is one, too.
func MultibootELF(class Class, code []byte) []byte {
	const virtual = 0x40000000
	header := MultibootHeader(0)
	content := append(header, code...)
	entry := uint64(virtual + Entry + len(header))
	var b []byte
	if class == Class64 {
		b = PVH(content)
		le.PutUint64(b[24:], entry)
		le.PutUint64(b[64+56+16:], virtual+Entry)
		b[64] = 0 // the note's program header is unused
		return b
	}
	b = PVH32(content)
	le.PutUint32(b[24:], uint32(entry))
	le.PutUint32(b[52+32+8:], virtual+Entry)
	b[52] = 0
	return b
}

// Class is the class of an ELF file: how many bits its words have.
type Class int

// The two classes.
const (
	Class32 Class = 32
	Class64 Class = 64
)
