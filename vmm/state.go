package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/bobuhiro11/gokvm/kvm"
)

// A saved state is a sequence of sections, each with a name, the number of the vCPU
// that it belongs to, a version and a length:
//
//	"VMSTATE\0"  u32 version
//	then, until the end:
//	  [8]byte name, padded with 0    u16 vCPU or wholeMachine    u16 version    u32 length    payload
//
// All numbers are little endian. Payloads of KVM's state are the bytes of KVM's own
// structures, which are ABI: they never change, only get successors under new names.
// Every section that this program writes must be there exactly once, and no other.

const (
	stateMagic   = "VMSTATE\x00"
	stateVersion = 1
	wholeMachine = 0xffff

	stateHeader   = len(stateMagic) + 4
	sectionHeader = 8 + 2 + 2 + 4
	// maxSection bounds a section; the largest is an XSAVE area.
	maxSection = 1 << 20
)

// ErrState is returned for a saved state that is not one of ours, is damaged, or
// does not belong to this machine.
var ErrState = errors.New("invalid machine state")

// machineState is all state of a machine except its RAM.
type machineState struct {
	vcpus  []vcpuState
	pic    [2]kvm.IRQChip // master, slave
	ioapic kvm.IRQChip
	pit    *kvm.PITState2 // nil on a KVM without it
	clock  clockState
	serial []byte
	tags   []byte
}

// vcpuState is all state of a vCPU.
type vcpuState struct {
	regs   kvm.Regs
	sregs  kvm.Sregs
	xsave  []byte
	xcrs   kvm.XCRS
	debug  kvm.DebugRegs
	lapic  kvm.LAPICState
	msrs   []kvm.MSREntry
	tsc    tscState
	mp     kvm.MPState
	events kvm.VCPUEvents
}

// clockState is kvmclock at one moment.
type clockState struct {
	Nanoseconds uint64 // kvmclock
	Realtime    uint64 // the same moment on the host's CLOCK_REALTIME, in ns
}

// tscState is a vCPU's time-stamp counter at one moment.
type tscState struct {
	Value    uint64
	Realtime uint64 // the same moment on the host's CLOCK_REALTIME, in ns
	Offset   uint64 // to the host's counter, by which vCPUs of one machine compare
	KHz      uint32
	_        uint32
}

// maxStandstill is the longest time between saving and loading that is believed.
// Beyond it, or below zero, the hosts' clocks disagree rather than that much time
// has passed, and the guest's clocks go on as if none had.
const maxStandstill = 10 * time.Minute

// standstill is how long a machine stood still that was saved at one time on the
// hosts' clocks, in ns, and is loaded at another.
func standstill(saved, now uint64) time.Duration {
	d := time.Duration(now - saved)
	if d < 0 || d > maxStandstill {
		return 0
	}
	return d
}

// encode returns the state as bytes.
func (s *machineState) encode() []byte {
	b := append([]byte(stateMagic), 0, 0, 0, 0)
	le.PutUint32(b[len(stateMagic):], stateVersion)
	put := func(vcpu int, name string, payload []byte) {
		var h [sectionHeader]byte
		copy(h[:8], name)
		le.PutUint16(h[8:], uint16(vcpu))
		le.PutUint16(h[10:], 1)
		le.PutUint32(h[12:], uint32(len(payload)))
		b = append(append(b, h[:]...), payload...)
	}
	for i := range s.vcpus {
		v := &s.vcpus[i]
		put(i, "regs", bytesOf(&v.regs))
		put(i, "sregs", bytesOf(&v.sregs))
		put(i, "xsave", v.xsave)
		put(i, "xcrs", bytesOf(&v.xcrs))
		put(i, "debug", bytesOf(&v.debug))
		put(i, "lapic", bytesOf(&v.lapic))
		put(i, "msrs", encodeMSRs(v.msrs))
		put(i, "tsc", bytesOf(&v.tsc))
		put(i, "mpstate", bytesOf(&v.mp))
		put(i, "events", bytesOf(&v.events))
	}
	put(wholeMachine, "pic0", bytesOf(&s.pic[0]))
	put(wholeMachine, "pic1", bytesOf(&s.pic[1]))
	put(wholeMachine, "ioapic", bytesOf(&s.ioapic))
	if s.pit != nil {
		put(wholeMachine, "pit", bytesOf(s.pit))
	}
	put(wholeMachine, "clock", bytesOf(&s.clock))
	put(wholeMachine, "serial", s.serial)
	put(wholeMachine, "tags", s.tags)
	return b
}

// decodeState is the reverse of encode for a machine with cpus vCPUs. It checks the
// form; KVM and the devices check the values when they are loaded.
func decodeState(data []byte, cpus int) (*machineState, error) {
	sections, err := splitState(data, cpus)
	if err != nil {
		return nil, err
	}
	s := &machineState{vcpus: make([]vcpuState, cpus)}
	t := &taker{sections: sections}
	for i := range s.vcpus {
		v := &s.vcpus[i]
		takeStruct(t, i, "regs", &v.regs)
		takeStruct(t, i, "sregs", &v.sregs)
		v.xsave = t.take(i, "xsave")
		takeStruct(t, i, "xcrs", &v.xcrs)
		takeStruct(t, i, "debug", &v.debug)
		takeStruct(t, i, "lapic", &v.lapic)
		v.msrs = decodeMSRs(t, i)
		takeStruct(t, i, "tsc", &v.tsc)
		takeStruct(t, i, "mpstate", &v.mp)
		takeStruct(t, i, "events", &v.events)
	}
	takeStruct(t, wholeMachine, "pic0", &s.pic[0])
	takeStruct(t, wholeMachine, "pic1", &s.pic[1])
	takeStruct(t, wholeMachine, "ioapic", &s.ioapic)
	if t.has(wholeMachine, "pit") {
		s.pit = new(kvm.PITState2)
		takeStruct(t, wholeMachine, "pit", s.pit)
	}
	takeStruct(t, wholeMachine, "clock", &s.clock)
	s.serial = t.take(wholeMachine, "serial")
	s.tags = t.take(wholeMachine, "tags")
	return s, t.finish()
}

// sectionKey identifies a section.
type sectionKey struct {
	vcpu int
	name string
}

// splitState cuts data into its sections.
func splitState(data []byte, cpus int) (map[sectionKey][]byte, error) {
	if len(data) < stateHeader || string(data[:len(stateMagic)]) != stateMagic {
		return nil, fmt.Errorf("%w: it does not begin as one", ErrState)
	}
	if v := le.Uint32(data[len(stateMagic):]); v != stateVersion {
		return nil, fmt.Errorf("%w: version %d, this program knows version %d: use the same program on both hosts", ErrState, v, stateVersion)
	}
	sections := make(map[sectionKey][]byte)
	for data = data[stateHeader:]; len(data) > 0; {
		if len(data) < sectionHeader {
			return nil, fmt.Errorf("%w: truncated", ErrState)
		}
		key := sectionKey{vcpu: int(le.Uint16(data[8:])), name: string(bytes.TrimRight(data[:8], "\x00"))}
		version, length := le.Uint16(data[10:]), le.Uint32(data[12:])
		data = data[sectionHeader:]
		_, twice := sections[key]
		switch {
		case key.vcpu != wholeMachine && key.vcpu >= cpus:
			return nil, fmt.Errorf("%w: section %q of vCPU %d, but the machine has %d", ErrState, key.name, key.vcpu, cpus)
		case twice:
			return nil, fmt.Errorf("%w: section %q twice", ErrState, key.name)
		case version != 1:
			return nil, fmt.Errorf("%w: section %q has version %d, this program knows version 1", ErrState, key.name, version)
		case length > maxSection || uint64(length) > uint64(len(data)):
			return nil, fmt.Errorf("%w: section %q of %d bytes is too long", ErrState, key.name, length)
		}
		sections[key] = data[:length:length]
		data = data[length:]
	}
	return sections, nil
}

// taker takes sections out by name and remembers the first thing that was wrong.
type taker struct {
	sections map[sectionKey][]byte
	err      error
}

func (t *taker) fail(format string, args ...any) {
	if t.err == nil {
		t.err = fmt.Errorf("%w: "+format, append([]any{ErrState}, args...)...)
	}
}

func (t *taker) has(vcpu int, name string) bool {
	_, ok := t.sections[sectionKey{vcpu, name}]
	return ok
}

func (t *taker) take(vcpu int, name string) []byte {
	key := sectionKey{vcpu, name}
	p, ok := t.sections[key]
	if !ok {
		t.fail("section %q of vCPU %d is missing", name, vcpu)
	}
	delete(t.sections, key)
	return p
}

func (t *taker) finish() error {
	for key := range t.sections {
		t.fail("unknown section %q", key.name)
	}
	return t.err
}

// takeStruct takes a section that is the bytes of a structure.
func takeStruct[T any](t *taker, vcpu int, name string, p *T) {
	b, dst := t.take(vcpu, name), bytesOf(p)
	if t.err == nil && len(b) != len(dst) {
		t.fail("section %q has %d bytes, want %d", name, len(b), len(dst))
		return
	}
	copy(dst, b)
}

const msrEntryBytes = int(unsafe.Sizeof(kvm.MSREntry{}))

func encodeMSRs(msrs []kvm.MSREntry) []byte {
	b := make([]byte, 0, len(msrs)*msrEntryBytes)
	for i := range msrs {
		b = append(b, bytesOf(&msrs[i])...)
	}
	return b
}

func decodeMSRs(t *taker, vcpu int) []kvm.MSREntry {
	b := t.take(vcpu, "msrs")
	if len(b)%msrEntryBytes != 0 || len(b)/msrEntryBytes > maxMSRs {
		t.fail("section %q has %d bytes", "msrs", len(b))
		return nil
	}
	msrs := make([]kvm.MSREntry, len(b)/msrEntryBytes)
	for i := range msrs {
		copy(bytesOf(&msrs[i]), b[i*msrEntryBytes:])
	}
	return msrs
}

// bytesOf is the memory of a structure.
//
// Sound: T is one of the structures above or of gokvm that mirror KVM's, made of
// integers and arrays of them only, so that every byte pattern is a value and there
// are no pointers; padding is explicit. The slice does not outlive its use with p.
func bytesOf[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}
