package cpu

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Leaf is what CPUID answers to one question: EAX = Function, ECX = Index.
type Leaf struct {
	Function uint32 `json:"function"`
	Index    uint32 `json:"index"`
	Flags    uint32 `json:"flags"` // FlagIndex or 0
	EAX      uint32 `json:"eax"`
	EBX      uint32 `json:"ebx"`
	ECX      uint32 `json:"ecx"`
	EDX      uint32 `json:"edx"`
}

// FlagIndex marks a leaf whose Index counts (KVM_CPUID_FLAG_SIGNIFCANT_INDEX).
const FlagIndex = 1

// Table is all that CPUID answers, with each question at most once.
type Table []Leaf

// MaxLeaves bounds a table, because KVM takes no more (KVM_MAX_CPUID_ENTRIES).
const MaxLeaves = 256

// Register is one of the registers that CPUID answers in.
type Register int

const (
	EAX Register = iota
	EBX
	ECX
	EDX
)

func (r Register) String() string { return [...]string{"EAX", "EBX", "ECX", "EDX"}[r] }

// Reg returns the register r of the leaf. For a nil leaf it returns a 0 that is part of no table.
func (l *Leaf) Reg(r Register) *uint32 {
	if l == nil {
		return new(uint32)
	}
	return [...]*uint32{&l.EAX, &l.EBX, &l.ECX, &l.EDX}[r]
}

// Find returns the leaf of a function and index, or nil if the table has none. The result points
// into the table.
func (t Table) Find(function, index uint32) *Leaf {
	for i := range t {
		if t[i].Function == function && t[i].Index == index {
			return &t[i]
		}
	}
	return nil
}

// value returns a register. It is 0 if the table lacks the leaf, because KVM answers 0 then.
func (t Table) value(function, index uint32, r Register) uint32 {
	return *t.Find(function, index).Reg(r)
}

// Has tells whether the table has a feature of the list by its name ("avx2", "rtm"). It panics
// for a name that the list does not have, which is a fault of the program.
func (t Table) Has(name string) bool {
	b, ok := featureBits[name]
	if !ok {
		panic(fmt.Sprintf("cpu: no feature is called %q", name))
	}
	return t.value(b.function, b.index, b.reg)&b.mask != 0
}

// clear takes features away.
func (t Table) clear(name string) {
	b := featureBits[name]
	*t.Find(b.function, b.index).Reg(b.reg) &^= b.mask
}

// Vendor returns the processor's maker in the form of leaf 0 ("GenuineIntel").
func (t Table) Vendor() string {
	var b [12]byte
	binary.LittleEndian.PutUint32(b[0:], t.value(leafMax, 0, EBX))
	binary.LittleEndian.PutUint32(b[4:], t.value(leafMax, 0, EDX))
	binary.LittleEndian.PutUint32(b[8:], t.value(leafMax, 0, ECX))
	return string(b[:])
}

// AddressBits returns the width of physical addresses in bits.
func (t Table) AddressBits() int { return int(t.value(leafSizes, 0, EAX) & 0xff) }

// XSaveBytes returns the size of the XSAVE area of all components in the standard format, in bytes.
func (t Table) XSaveBytes() int { return int(t.value(leafXSave, 0, ECX)) }

// without returns the table without the leaves for which drop returns true.
func (t Table) without(drop func(l *Leaf) bool) Table {
	return slices.DeleteFunc(t, func(l Leaf) bool { return drop(&l) })
}
