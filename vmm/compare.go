package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"taskguide/vmm/cpu"
	"taskguide/vmm/state"
)

// ErrDiffer is returned for two states of one machine that are not the same.
var ErrDiffer = errors.New("the states differ")

// maxDifferences is how many of them are named.
const maxDifferences = 8

// CompareStates compares the fingerprints of a machine at both ends of a migration, as
// [VM.Fingerprint] returns them. One of them comes from another host. [ErrDiffer] names the
// sections, registers and MSRs that differ, with both values.
//
// Of an MSR, only the bits that the guest's processor uses count ([cpu.MSRBits]), because a host's
// KVM may drop the others. Everything else must be equal to the last bit.
func (vm *VM) CompareStates(source, destination []byte) error {
	here, err := state.Decode(source)
	if err != nil {
		return fmt.Errorf("fingerprint of the source: %w", err)
	}
	there, err := state.Decode(destination)
	if err != nil {
		return fmt.Errorf("fingerprint of the destination: %w", err)
	}
	c := comparison{cpuid: vm.config.CPUID}
	c.sections(here, there)
	return c.result()
}

// comparison collects differences.
type comparison struct {
	cpuid cpu.Table
	found []string
}

func (c *comparison) result() error {
	if len(c.found) == 0 {
		return nil
	}
	more := ""
	if n := len(c.found) - maxDifferences; n > 0 {
		more = fmt.Sprintf("; and %d more", n)
	}
	return fmt.Errorf("%w: %s%s", ErrDiffer,
		strings.Join(c.found[:min(len(c.found), maxDifferences)], "; "), more)
}

func (c *comparison) add(format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf(format, args...))
}

func (c *comparison) sections(source, destination []state.Section) {
	find := func(in []state.Section, s state.Section) *state.Section {
		for i := range in {
			if in[i].Name == s.Name && in[i].VCPU == s.VCPU {
				return &in[i]
			}
		}
		return nil
	}
	for _, s := range source {
		if d := find(destination, s); d != nil {
			c.section(s, *d)
		} else {
			c.add("%s is missing at the destination", nameOf(s))
		}
	}
	for _, d := range destination {
		if find(source, d) == nil {
			c.add("%s is at the destination only", nameOf(d))
		}
	}
}

// nameOf names the owner of a section's state.
func nameOf(s state.Section) string {
	if s.VCPU == state.Machine {
		return s.Name
	}
	return fmt.Sprintf("%s of vCPU %d", s.Name, s.VCPU)
}

func (c *comparison) section(source, destination state.Section) {
	switch {
	case source.Name == "msrs":
		c.msrs(source, destination)
	case bytes.Equal(source.Data, destination.Data):
	case len(source.Data) != len(destination.Data):
		c.add("%s has %d bytes at the source and %d at the destination", nameOf(source),
			len(source.Data), len(destination.Data))
	default:
		c.words(source, destination)
	}
}

// words names the first 8 bytes that differ, which are a register in most of KVM's structures.
func (c *comparison) words(source, destination state.Section) {
	const word = 8
	for at := 0; at < len(source.Data); at += word {
		end := min(at+word, len(source.Data))
		a, b := source.Data[at:end], destination.Data[at:end]
		if !bytes.Equal(a, b) {
			c.add("%s from byte %d on is %s at the source and %s at the destination",
				nameOf(source), at, number(a), number(b))
			return
		}
	}
}

// number formats a few bytes as a little-endian number.
func number(b []byte) string {
	b = slices.Clone(b)
	slices.Reverse(b)
	return fmt.Sprintf("0x%x", b)
}

// msrs compares the MSRs of a vCPU. One that is missing counts as 0, see checkMSR.
func (c *comparison) msrs(source, destination state.Section) {
	here, okHere := msrValues(source.Data)
	there, okThere := msrValues(destination.Data)
	if !okHere || !okThere {
		c.add("%s is damaged", nameOf(source))
		return
	}
	indices := slices.AppendSeq(slices.Collect(maps.Keys(here)), maps.Keys(there))
	slices.Sort(indices)
	for _, index := range slices.Compact(indices) {
		a, b := here[index], there[index]
		if (a^b)&cpu.MSRBits(c.cpuid, index) != 0 {
			c.add("MSR %#x of vCPU %d is %#x at the source and %#x at the destination",
				index, source.VCPU, a, b)
		}
	}
}

// msrValues returns a section's values by MSR index, or false if the section is malformed.
func msrValues(data []byte) (map[uint32]uint64, bool) {
	msrs, ok := parseMSRs(data)
	values := make(map[uint32]uint64, len(msrs))
	for _, m := range msrs {
		values[m.Index] = m.Data
	}
	return values, ok && len(values) == len(msrs)
}
