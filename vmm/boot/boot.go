package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"taskguide/memory"
)

var le = binary.LittleEndian

// ErrKernel is returned for a kernel file that cannot be booted.
var ErrKernel = errors.New("cannot boot this kernel")

// maxCmdline bounds a kernel command line, in bytes without its final zero.
const maxCmdline = 4095

// Hardware is what a kernel is booted on.
type Hardware struct {
	RAM  []memory.Region // by address; the first begins at 0
	CPUs int
}

// Payload is what a kernel is given. Both fields may be empty.
type Payload struct {
	Initrd  []byte
	Cmdline string
}

// Image is a machine's memory and first vCPU at the moment when the kernel starts.
type Image struct {
	// Contents must be written in this order, because later ones may overlap earlier ones.
	Contents  []Content
	Registers Registers
}

// Content is the content of a range of memory.
type Content struct {
	GPA  uint64
	Data []byte
	Size uint64 // at least as long as Data; the rest is 0
}

// Registers are the first vCPU's registers that a boot protocol defines. Segments are flat, and all
// other registers are 0.
type Registers struct {
	RIP, RAX, RBX, RSI  uint64
	CR0, CR3, CR4, EFER uint64
	// Code is the selector in CS, and Data the selector in the other segment registers.
	Code, Data uint16
	GDTBase    uint64
	GDTLimit   uint16
}

// LongMode tells whether code has 64 bits.
func (r Registers) LongMode() bool { return r.EFER&eferLMA != 0 }

// Bits of control registers.
const (
	cr0PE   = 1 << 0
	cr0ET   = 1 << 4
	cr0PG   = 1 << 31
	cr4PAE  = 1 << 5
	eferLME = 1 << 8
	eferLMA = 1 << 10
)

// Kernel is a kernel file that Parse has understood.
type Kernel interface {
	// Linux tells whether it is a Linux kernel.
	Linux() bool

	// load adds what the kernel needs to l's image, and returns the registers.
	load(l *loader) (Registers, error)
}

// Parse reads a kernel file. A PVH note counts for more than a multiboot header in the same file,
// because it says more of where the kernel wants to be entered, and so does a bzImage's header.
func Parse(file []byte) (Kernel, error) {
	if isBzImage(file) {
		return parseBzImage(file)
	}
	header, multiboot := findMultiboot(file)
	switch {
	case isELF(file):
		k, err := parsePVH(file)
		if err != nil && multiboot && (header.hasAddresses() || errors.Is(err, errNoPVHNote)) {
			return parseMultiboot(file, header)
		}
		return k, err
	case multiboot:
		return parseMultiboot(file, header)
	}
	return nil, fmt.Errorf("%w: it is neither an ELF file nor a Linux bzImage, and has no "+
		"multiboot header", ErrKernel)
}

// Load makes the image of a machine that starts a kernel.
func Load(k Kernel, m Hardware, p Payload) (*Image, error) {
	switch {
	case len(p.Cmdline) > maxCmdline:
		return nil, fmt.Errorf("%w: a command line of %d bytes is too long, want at most %d",
			ErrKernel, len(p.Cmdline), maxCmdline)
	case bytes.IndexByte([]byte(p.Cmdline), 0) >= 0:
		return nil, fmt.Errorf("%w: the command line has a NUL byte in it", ErrKernel)
	}
	l := &loader{Hardware: m, Payload: p, layout: newLayout(m.RAM)}
	if err := l.putTables(); err != nil {
		return nil, err
	}
	registers, err := k.load(l)
	if err != nil {
		return nil, err
	}
	return &Image{Contents: l.contents, Registers: registers}, nil
}

// loader is an image in the making.
type loader struct {
	Hardware
	Payload
	layout   *layout
	contents []Content
}

// has tells whether n bytes at a guest-physical address are RAM.
func (l *loader) has(gpa, n uint64) bool {
	for _, r := range l.RAM {
		size := uint64(r.Pages) * memory.PageSize
		if gpa >= r.GPA && gpa-r.GPA < size {
			return n <= size-(gpa-r.GPA)
		}
	}
	return false
}

// mebibytes returns the size of RAM in MiB.
func (l *loader) mebibytes() uint64 {
	pages := 0
	for _, r := range l.RAM {
		pages += r.Pages
	}
	return uint64(pages) * memory.PageSize >> 20
}

// put adds data at a guest-physical address.
func (l *loader) put(gpa uint64, data []byte) error {
	if !l.has(gpa, uint64(len(data))) {
		return fmt.Errorf("%w: %d bytes at %#x are outside of RAM", ErrKernel, len(data), gpa)
	}
	l.contents = append(l.contents, Content{GPA: gpa, Data: data, Size: uint64(len(data))})
	return nil
}

// putTables puts the tables that describe processors and interrupt controllers to where a PC's
// firmware has them.
func (l *loader) putTables() error {
	if err := l.put(mpTable, encodeMPTable(mpTable, l.CPUs)); err != nil {
		return err
	}
	return l.put(acpiTables, encodeACPI(l.CPUs))
}

// putInitrd puts the initrd as high in low RAM as possible, out of the way of a kernel that unpacks
// itself. It returns the address, or 0 without an initrd.
func (l *loader) putInitrd() (uint64, error) {
	if len(l.Initrd) == 0 {
		return 0, nil
	}
	at, ok := l.layout.highest(uint64(len(l.Initrd)))
	if !ok {
		return 0, fmt.Errorf("%w: an initrd of %d bytes does not fit RAM beside the kernel: "+
			"give the machine more memory", ErrKernel, len(l.Initrd))
	}
	return at, l.put(at, l.Initrd)
}

// bootDataFloor is where boot data goes if there is room. It is above the scratch memory that
// kernels use at the very start, and below where they start other processors.
const bootDataFloor = 0x6000

// bootData is what a boot protocol gives to a kernel, laid out for an address.
type bootData interface {
	size() int
	encode(at uint64) []byte
}

// putBootData puts boot data into the image and returns its address.
func (l *loader) putBootData(d bootData) (uint64, error) {
	at, ok := l.layout.lowest(uint64(d.size()), bootDataFloor)
	if !ok {
		return 0, fmt.Errorf("%w: the kernel leaves no room for its boot data", ErrKernel)
	}
	return at, l.put(at, d.encode(at))
}
