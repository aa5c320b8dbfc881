package cpu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Processor is the processor of a host, as a file describes it.
type Processor struct {
	Name   string // for messages: the file
	CPU    string // model name
	Kernel string // release of its Linux
	Source string // where the table comes from: recorded, or written from which source
	Leaves Table  // as [Offer] returns it
}

// ErrFile is returned for a file that does not describe a host's CPU.
var ErrFile = errors.New("not a CPU file of vmm doctor --cpu")

// fileVersion is the version of the format.
const fileVersion = 1

// MaxFileBytes bounds a file. A full table takes some 40 KiB.
const MaxFileBytes = 1 << 20

// file is the format: JSON, numbers of CPUID in hexadecimal.
type file struct {
	Version int        `json:"version"`
	CPU     string     `json:"cpu"`
	Kernel  string     `json:"kernel"`
	Source  string     `json:"source"`
	Leaves  []fileLeaf `json:"leaves"`
}

type fileLeaf struct {
	Leaf    hex  `json:"leaf"`
	Subleaf hex  `json:"subleaf"`
	Indexed bool `json:"indexed,omitempty"` // the subleaf counts
	EAX     hex  `json:"eax"`
	EBX     hex  `json:"ebx"`
	ECX     hex  `json:"ecx"`
	EDX     hex  `json:"edx"`
}

// hex is a number that JSON shows as "0x1f".
type hex uint32

func (h hex) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%#x", uint32(h)), nil }

func (h *hex) UnmarshalText(text []byte) error {
	digits, ok := bytes.CutPrefix(text, []byte("0x"))
	n, err := strconv.ParseUint(string(digits), 16, 32)
	if !ok || err != nil {
		return fmt.Errorf("%q is no number of 32 bits like \"0x1f\"", text)
	}
	*h = hex(n)
	return nil
}

// Encode returns a host's file, with one leaf per line.
func (h *Processor) Encode() ([]byte, error) {
	f := file{
		Version: fileVersion, CPU: h.CPU, Kernel: h.Kernel, Source: h.Source, Leaves: []fileLeaf{},
	}
	head, err := json.MarshalIndent(&f, "", " ")
	if err != nil {
		return nil, err
	}
	head, tail, _ := bytes.Cut(head, []byte("[]"))
	b := new(bytes.Buffer)
	b.Write(head)
	b.WriteString("[")
	for i, l := range h.Leaves {
		line, err := json.Marshal(fileLeaf{hex(l.Function), hex(l.Index), l.Flags&FlagIndex != 0,
			hex(l.EAX), hex(l.EBX), hex(l.ECX), hex(l.EDX)})
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString("\n  ")
		b.Write(line)
	}
	b.WriteString("\n ]")
	b.Write(tail)
	b.WriteString("\n")
	return b.Bytes(), nil
}

// Decode reads a host's file. Messages call it name. The error is ErrFile.
func Decode(name string, data []byte) (*Processor, error) {
	fail := func(format string, args ...any) (*Processor, error) {
		return nil, fmt.Errorf("%s: %w: "+format, append([]any{name, ErrFile}, args...)...)
	}
	if len(data) > MaxFileBytes {
		return fail("it has more than %d bytes", MaxFileBytes)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var f file
	if err := d.Decode(&f); err != nil {
		return fail("%w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fail("something follows the JSON object")
	}
	if f.Version != fileVersion {
		return fail("version %d, this program knows version %d", f.Version, fileVersion)
	}
	if len(f.Leaves) == 0 || len(f.Leaves) > MaxLeaves {
		return fail("%d leaves, want 1 to %d", len(f.Leaves), MaxLeaves)
	}
	h := &Processor{Name: name, CPU: f.CPU, Kernel: f.Kernel, Source: f.Source}
	for _, l := range f.Leaves {
		leaf := Leaf{Function: uint32(l.Leaf), Index: uint32(l.Subleaf),
			EAX: uint32(l.EAX), EBX: uint32(l.EBX), ECX: uint32(l.ECX), EDX: uint32(l.EDX)}
		if l.Indexed {
			leaf.Flags = FlagIndex
		}
		if h.Leaves.Find(leaf.Function, leaf.Index) != nil {
			return fail("leaf %#x.%d twice", leaf.Function, leaf.Index)
		}
		h.Leaves = append(h.Leaves, leaf)
	}
	if h.Leaves.Find(leafMax, 0) == nil || h.Leaves.Find(leafBasic, 0) == nil {
		return fail("no leaf 0x0 or no leaf 0x1")
	}
	return h, nil
}
