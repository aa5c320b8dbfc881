package vmm

import (
	"time"
	"unsafe"

	"taskguide/vmm/kvm"
	"taskguide/vmm/state"
)

// A saved state is a list of sections, see package state. The payloads of KVM's state are the bytes
// of KVM's own structures. They are ABI, so they never change; they only get successors under new
// names.

// baseKinds are the sections that every machine has had from the beginning, and that are not
// announced. This list never changes: see docs/compatibility.md.
var baseKinds = state.Catalog{
	{Name: "regs", Version: 1},
	{Name: "sregs", Version: 1},
	{Name: "xsave", Version: 1},
	{Name: "xcrs", Version: 1},
	{Name: "debug", Version: 1},
	{Name: "lapic", Version: 1},
	{Name: "msrs", Version: 1},
	{Name: "tsc", Version: 1},
	{Name: "mpstate", Version: 1},
	{Name: "events", Version: 1},
	{Name: "pic0", Version: 1},
	{Name: "pic1", Version: 1},
	{Name: "ioapic", Version: 1},
	{Name: "pit", Version: 1},
	{Name: "clock", Version: 1},
}

// kvmKinds are the sections of the state that KVM keeps; each belongs to one vCPU or to the whole
// machine. New sections and new versions of sections are added here.
var kvmKinds = baseKinds

// ErrState is returned for a saved state that is not from this program, is damaged, or does not
// belong to this machine.
var ErrState = state.ErrInvalid

// machineState is all state of a machine except its RAM.
type machineState struct {
	vcpus  []vcpuState
	pic    [2]kvm.IRQChip // master, slave
	ioapic kvm.IRQChip
	pit    *kvm.PITState2 // nil on a KVM without it
	clock  clockState
	// devices are the sections of the devices, in their order.
	devices []state.Section
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
	Offset   uint64 // to the host's counter; keeps the distance between vCPUs
	KHz      uint32
	_        uint32
}

// maxStandstill is the longest time between saving and loading that is believed. A longer or
// negative time means that the hosts' clocks disagree. Then the guest's clocks go on as if no time
// had passed.
const maxStandstill = 10 * time.Minute

// standstill is how long a machine stood still between its save and its load, which are times on
// the hosts' clocks in ns.
func standstill(saved, now uint64) time.Duration {
	d := time.Duration(now - saved)
	if d < 0 || d > maxStandstill {
		return 0
	}
	return d
}

// encode returns the state as bytes.
func (s *machineState) encode() []byte {
	var sections []state.Section
	put := func(vcpu int, name string, payload []byte) {
		s := state.Section{Name: name, VCPU: vcpu, Version: 1, Data: payload}
		sections = append(sections, s)
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
	put(state.Machine, "pic0", bytesOf(&s.pic[0]))
	put(state.Machine, "pic1", bytesOf(&s.pic[1]))
	put(state.Machine, "ioapic", bytesOf(&s.ioapic))
	if s.pit != nil {
		put(state.Machine, "pit", bytesOf(s.pit))
	}
	put(state.Machine, "clock", bytesOf(&s.clock))
	return state.Encode(append(sections, s.devices...))
}

// decodeState reverses encode for a machine with cpus vCPUs and these devices. It checks the form;
// KVM and the devices check the values when they load them.
func decodeState(data []byte, cpus int, devices state.Catalog) (*machineState, error) {
	t, err := state.Open(data, reads(devices), cpus)
	if err != nil {
		return nil, err
	}
	s := &machineState{vcpus: make([]vcpuState, cpus)}
	for i := range s.vcpus {
		v := &s.vcpus[i]
		takeStruct(t, i, "regs", &v.regs)
		takeStruct(t, i, "sregs", &v.sregs)
		v.xsave = t.Take(i, "xsave").Data
		takeStruct(t, i, "xcrs", &v.xcrs)
		takeStruct(t, i, "debug", &v.debug)
		takeStruct(t, i, "lapic", &v.lapic)
		v.msrs = decodeMSRs(t, i)
		takeStruct(t, i, "tsc", &v.tsc)
		takeStruct(t, i, "mpstate", &v.mp)
		takeStruct(t, i, "events", &v.events)
	}
	takeStruct(t, state.Machine, "pic0", &s.pic[0])
	takeStruct(t, state.Machine, "pic1", &s.pic[1])
	takeStruct(t, state.Machine, "ioapic", &s.ioapic)
	if pit, ok := t.Find(state.Machine, "pit"); ok {
		s.pit = new(kvm.PITState2)
		copyStruct(t, pit, s.pit)
	}
	takeStruct(t, state.Machine, "clock", &s.clock)
	for _, k := range devices {
		if d, ok := t.Find(state.Machine, k.Name); ok {
			s.devices = append(s.devices, d)
		} else if !k.Optional {
			t.Fail("section %q is missing", k.Name)
		}
	}
	return s, t.Finish()
}

// takeStruct reads a section that has the bytes of a structure.
func takeStruct[T any](t *state.Reader, vcpu int, name string, p *T) {
	copyStruct(t, t.Take(vcpu, name), p)
}

func copyStruct[T any](t *state.Reader, s state.Section, p *T) {
	dst := bytesOf(p)
	if t.Err() == nil && len(s.Data) != len(dst) {
		t.Fail("section %q has %d bytes, want %d", s.Name, len(s.Data), len(dst))
		return
	}
	copy(dst, s.Data)
}

const msrEntryBytes = int(unsafe.Sizeof(kvm.MSREntry{}))

func encodeMSRs(msrs []kvm.MSREntry) []byte {
	b := make([]byte, 0, len(msrs)*msrEntryBytes)
	for i := range msrs {
		b = append(b, bytesOf(&msrs[i])...)
	}
	return b
}

func decodeMSRs(t *state.Reader, vcpu int) []kvm.MSREntry {
	b := t.Take(vcpu, "msrs").Data
	msrs, ok := parseMSRs(b)
	if !ok {
		t.Fail("section %q has %d bytes", "msrs", len(b))
	}
	return msrs
}

// parseMSRs reverses encodeMSRs.
func parseMSRs(b []byte) ([]kvm.MSREntry, bool) {
	if len(b)%msrEntryBytes != 0 || len(b)/msrEntryBytes > maxMSRs {
		return nil, false
	}
	msrs := make([]kvm.MSREntry, len(b)/msrEntryBytes)
	for i := range msrs {
		copy(bytesOf(&msrs[i]), b[i*msrEntryBytes:])
	}
	return msrs, true
}

// bytesOf returns the memory of a structure as bytes.
//
// Sound: T is one of the structures above or of gokvm that mirror KVM's, made of
// integers and arrays of them only, so that every byte pattern is a value and there
// are no pointers; padding is explicit. The slice does not outlive its use with p.
func bytesOf[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}
