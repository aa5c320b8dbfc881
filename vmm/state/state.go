package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// The encoding, all numbers little-endian:
//
//	"VMSTATE\0"  u32 version
//	then, until the end:
//	  [8]byte name, padded with 0    u16 vCPU or Machine    u16 version    u32 length    payload
//
// The highest bit of a section's version says that it is optional.
const (
	magic = "VMSTATE\x00"
	// Version is that of the encoding alone. A new section, or a new version of one, does not
	// change it.
	Version = 2

	headerBytes        = len(magic) + 4
	sectionHeaderBytes = MaxName + 2 + 2 + 4
	optionalBit        = 1 << 15

	// Machine stands in place of a vCPU's number in a section of the whole machine.
	Machine = 0xffff

	// MaxName is the longest name, MaxVersion the highest version of a section.
	MaxName    = 8
	MaxVersion = optionalBit - 1
	// MaxData is the greatest size of a section's data in bytes; the largest today is an XSAVE
	// area.
	MaxData = 1 << 20
	// MaxSections is the most sections that a state has.
	MaxSections = 1024
)

// ErrInvalid is returned for bytes that are not a state from this program, or a damaged one.
var ErrInvalid = errors.New("invalid machine state")

// Section is a part of a machine's state.
type Section struct {
	Name     string
	VCPU     int // or Machine
	Version  uint16
	Optional bool // the guest can do without it
	Data     []byte
}

// Encode returns the sections as bytes. Their names and versions must be valid, see [Kind.Check].
func Encode(sections []Section) []byte {
	size := headerBytes
	for i := range sections {
		size += sectionHeaderBytes + len(sections[i].Data)
	}
	b := make([]byte, 0, size)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, Version)
	for i := range sections {
		b = sections[i].append(b)
	}
	return b
}

func (s *Section) append(b []byte) []byte {
	var name [MaxName]byte
	copy(name[:], s.Name)
	v := s.Version
	if s.Optional {
		v |= optionalBit
	}
	b = append(b, name[:]...)
	b = binary.LittleEndian.AppendUint16(b, uint16(s.VCPU))
	b = binary.LittleEndian.AppendUint16(b, v)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.Data)))
	return append(b, s.Data...)
}

// Decode reverses [Encode] for bytes that are not trusted. It does not judge names; [Open] does.
// The sections' data are slices of data.
func Decode(data []byte) ([]Section, error) {
	if len(data) < headerBytes || string(data[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it does not begin as one", ErrInvalid)
	}
	if v := binary.LittleEndian.Uint32(data[len(magic):]); v != Version {
		return nil, fmt.Errorf("%w: version %d, this program knows version %d: "+
			"use the same program on both hosts", ErrInvalid, v, Version)
	}
	var sections []Section
	seen := make(map[key]bool)
	for data = data[headerBytes:]; len(data) > 0; {
		s, rest, err := cut(data)
		if err != nil {
			return nil, err
		}
		switch k := s.key(); {
		case seen[k]:
			return nil, fmt.Errorf("%w: section %q twice", ErrInvalid, s.Name)
		case len(sections) == MaxSections:
			return nil, fmt.Errorf("%w: more than %d sections", ErrInvalid, MaxSections)
		default:
			seen[k] = true
		}
		sections, data = append(sections, s), rest
	}
	return sections, nil
}

// cut takes the first section off data, which must not be empty.
func cut(data []byte) (s Section, rest []byte, err error) {
	if len(data) < sectionHeaderBytes {
		return s, nil, fmt.Errorf("%w: truncated", ErrInvalid)
	}
	name := string(bytes.TrimRight(data[:MaxName], "\x00"))
	data = data[MaxName:]
	v, length := binary.LittleEndian.Uint16(data[2:]), binary.LittleEndian.Uint32(data[4:])
	s = Section{
		Name: name, VCPU: int(binary.LittleEndian.Uint16(data)),
		Version: v &^ optionalBit, Optional: v&optionalBit != 0,
	}
	data = data[sectionHeaderBytes-MaxName:]
	if err := (Kind{Name: s.Name, Version: s.Version}).Check(); err != nil {
		return s, nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if length > MaxData || uint64(length) > uint64(len(data)) {
		return s, nil, fmt.Errorf("%w: section %q of %d bytes is too long",
			ErrInvalid, name, length)
	}
	s.Data = data[:length:length]
	return s, data[length:], nil
}

// key identifies a section of a state.
type key struct {
	vcpu int
	name string
}

func (s *Section) key() key { return key{s.VCPU, s.Name} }
