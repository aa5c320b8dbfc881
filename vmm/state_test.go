package vmm

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/device"
	"taskguide/vmm/kvm"
	"taskguide/vmm/state"
)

// sampleState is a state in which every section has something in it.
func sampleState(cpus int) *machineState {
	s := &machineState{
		vcpus: make([]vcpuState, cpus),
		pit:   &kvm.PITState2{Flags: 2},
		clock: clockState{Nanoseconds: 1, Realtime: 2},
		devices: []state.Section{
			{Name: "serial", VCPU: state.Machine, Version: 1, Data: []byte{1, 2, 3}},
			{Name: "tags", VCPU: state.Machine, Version: 1, Data: []byte{4, 5}},
		},
	}
	for i := range s.vcpus {
		v := &s.vcpus[i]
		v.regs.RIP, v.sregs.CR3, v.mp.State = uint64(0x1000+i), uint64(0x2000+i), 1
		v.xsave = bytes.Repeat([]byte{byte(i + 1)}, xsaveMinBytes)
		v.xcrs.NrXRCS, v.debug.DR7, v.lapic.Regs[0x20] = 1, 0x400, byte(i)
		v.msrs = []kvm.MSREntry{{Index: 0x174, Data: 7}, {Index: 0xc0000081, Data: uint64(i)}}
		v.tsc = tscState{Value: 5, Realtime: 6, Offset: 7, KHz: 8}
		v.events.SipiVector = 0x9a
	}
	s.pic[0].Chip[3], s.pic[1].Chip[4], s.ioapic.Chip[5] = 1, 2, 3
	return s
}

// sectionOf finds a device's section.
func sectionOf(s *machineState, name string) *state.Section {
	for i := range s.devices {
		if s.devices[i].Name == name {
			return &s.devices[i]
		}
	}
	panic("no section " + name)
}

func TestStateRoundTrip(t *testing.T) {
	for _, cpus := range []int{1, 3} {
		want := sampleState(cpus)
		got, err := decodeState(want.encode(), cpus, device.Base())
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	want := sampleState(1)
	want.pit = nil
	got, err := decodeState(want.encode(), 1, device.Base())
	require.NoError(t, err)
	require.Nil(t, got.pit)
}

// editSections re-encodes a state with its sections changed by edit, which returns false to drop
// one.
func editSections(t *testing.T, data []byte, edit func(s *state.Section) bool) []byte {
	sections, err := state.Decode(data)
	require.NoError(t, err)
	var out []state.Section
	for _, s := range sections {
		if edit(&s) {
			out = append(out, s)
		}
	}
	return state.Encode(out)
}

func TestStateRefusals(t *testing.T) {
	good := sampleState(2).encode()
	drop := func(name string) []byte {
		return editSections(t, good, func(s *state.Section) bool { return s.Name != name })
	}
	change := func(name string, f func(s *state.Section)) []byte {
		return editSections(t, good, func(s *state.Section) bool {
			if s.Name == name {
				f(s)
			}
			return true
		})
	}
	resize := func(name string, size int) []byte {
		return change(name, func(s *state.Section) { s.Data = make([]byte, size) })
	}
	for _, c := range []struct {
		name string
		data []byte
		cpus int
		want string
	}{
		{"another format", []byte("QEVM and so on"), 2, "does not begin as one"},
		{"another section version", change("regs", func(s *state.Section) { s.Version++ }), 2,
			`section "regs" has version 2`},
		{"missing vCPU", good, 3, `section "regs" of vCPU 2 is missing`},
		{"vCPU too many", good, 1, "of vCPU 1, but the machine has 1"},
		{"missing section", drop("lapic"), 2, `section "lapic" of vCPU 0 is missing`},
		{"missing device", drop("tags"), 2, `section "tags"`},
		{"unknown section", change("pit", func(s *state.Section) { s.Name = "hpet" }), 2,
			`unknown section "hpet"`},
		{"of another vCPU", change("clock", func(s *state.Section) { s.VCPU = 0 }), 2,
			`section "clock" is missing`},
		{"out of place", change("pit", func(s *state.Section) { s.VCPU = 0 }), 2,
			`section "pit" is out of place`},
		{"wrong size", resize("sregs", 8), 2, `section "sregs" has 8 bytes`},
		{"half an MSR", resize("msrs", 24), 2, `section "msrs" has 24 bytes`},
		{"too many MSRs", resize("msrs", (maxMSRs+1)*msrEntryBytes), 2, `section "msrs"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decodeState(c.data, c.cpus, device.Base())
			require.ErrorIs(t, err, ErrState)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// TestStateOfANewerProgram: what a newer program adds is skipped if the guest can do without it,
// and refused by name if not.
func TestStateOfANewerProgram(t *testing.T) {
	sections, err := state.Decode(sampleState(2).encode())
	require.NoError(t, err)
	added := state.Section{Name: "newstats", VCPU: 1, Version: 4, Optional: true}
	got, err := decodeState(state.Encode(append(sections, added)), 2, device.Base())
	require.NoError(t, err)
	require.Equal(t, sampleState(2), got)

	added.Optional = false
	_, err = decodeState(state.Encode(append(sections, added)), 2, device.Base())
	require.ErrorIs(t, err, ErrState)
	require.ErrorContains(t, err, `unknown section "newstats", version 4`)
}

// TestSectionNamesDiffer: no device has the name of a section of KVM's.
func TestSectionNamesDiffer(t *testing.T) {
	require.NoError(t,
		state.Catalog{}.AdmitAll(optional(reads(newDevices(Options{}, backends{}).Catalog()))))
	taken := device.Base()
	taken[0].Name = kvmKinds[0].Name
	require.ErrorContains(t, state.Catalog{}.AdmitAll(optional(reads(taken))), "twice")
}

// optional makes a reader that knows no names skip the sections.
func optional(c state.Catalog) []state.Kind {
	c = slices.Clone(c)
	for i := range c {
		c[i].Optional = true
	}
	return c
}

func FuzzDecodeState(f *testing.F) {
	good := sampleState(2).encode()
	f.Add(good)
	f.Add(good[:100])
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeState(data, 2, device.Base())
		if err != nil {
			require.ErrorIs(t, err, ErrState)
			return
		}
		again, err := decodeState(s.encode(), 2, device.Base())
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}

// digestOf is what StateDigest hashes.
func digestOf(s *machineState) []byte {
	c, err := decodeState(s.encode(), len(s.vcpus), device.Base())
	if err != nil {
		panic(err)
	}
	c.withoutTime()
	return c.encode()
}

func TestDigestIgnoresTimeOnly(t *testing.T) {
	const vector, pitVector, other = 0x31, 0x42, 0x53
	base := func() *machineState {
		s := sampleState(2)
		lapicTimer(s.vcpus[1].lapic.Regs[:]).set(apicLVTTimer, timerPeriodic<<lvtModeShift|vector)
		s.ioapic.Chip[ioapicTable+8*ioapicPITPin] = pitVector
		return s
	}
	setIRR := func(s *machineState, v int) {
		s.vcpus[1].lapic.Regs[apicIRR+v/32*16+v%32/8] |= 1 << (v % 8)
	}
	want := digestOf(base())
	for name, change := range map[string]func(s *machineState){
		"kvmclock":      func(s *machineState) { s.clock.Nanoseconds++ },
		"TSC":           func(s *machineState) { s.vcpus[0].tsc.Value++ },
		"current count": func(s *machineState) { s.vcpus[0].lapic.Regs[apicCurrentCount+2]++ },
		"deadline": func(s *machineState) {
			s.vcpus[0].msrs = append(s.vcpus[0].msrs, kvm.MSREntry{Index: msrTSCDeadline, Data: 9})
		},
		"unknown MSR with 0": func(s *machineState) {
			s.vcpus[0].msrs = append(s.vcpus[0].msrs, kvm.MSREntry{Index: 0x1234})
		},
		"PIT load time": func(s *machineState) { s.pit.Channels[1].CountLoadTime = 77 },
		"one-shot initial count": func(s *machineState) {
			s.vcpus[0].lapic.Regs[apicInitialCount]++
		},
		"pending APIC timer":     func(s *machineState) { setIRR(s, vector) },
		"pending PIT":            func(s *machineState) { setIRR(s, pitVector) },
		"PIT line at the PIC":    func(s *machineState) { s.pic[0].Chip[picIRR] |= 1 },
		"PIT line at the IOAPIC": func(s *machineState) { s.ioapic.Chip[ioapicIRR] |= 1 },
		"processor priority": func(s *machineState) {
			s.vcpus[0].lapic.Regs[apicProcessorPriority] = 0x20
		},
		"which XSAVE is in use": func(s *machineState) { s.vcpus[0].xsave[xsaveHeader] ^= 7 },
	} {
		s := base()
		change(s)
		require.Equal(t, want, digestOf(s), name)
	}
	for name, change := range map[string]func(s *machineState){
		"register":        func(s *machineState) { s.vcpus[1].regs.R15++ },
		"segment":         func(s *machineState) { s.vcpus[0].sregs.FS.Base++ },
		"vector register": func(s *machineState) { s.vcpus[0].xsave[xsaveHeaderEnd]++ },
		"XCR0":            func(s *machineState) { s.vcpus[0].xcrs.Registers[0].Value ^= 4 },
		"MSR":             func(s *machineState) { s.vcpus[1].msrs[0].Data++ },
		"initial count": func(s *machineState) {
			regs := lapicTimer(s.vcpus[1].lapic.Regs[:])
			regs.set(apicInitialCount, regs.get(apicInitialCount)+1)
		},
		"pending interrupt": func(s *machineState) { setIRR(s, other) },
		"pending event":     func(s *machineState) { s.vcpus[0].events.N.Pending = 1 },
		"MP state":          func(s *machineState) { s.vcpus[1].mp.State = 0 },
		"debug register":    func(s *machineState) { s.vcpus[1].debug.DB[0] = 8 },
		"PIC mask":          func(s *machineState) { s.pic[1].Chip[2]++ },
		"serial line at PIC": func(s *machineState) {
			s.pic[0].Chip[picIRR] |= 1 << device.SerialIRQ
		},
		"IOAPIC routing": func(s *machineState) { s.ioapic.Chip[ioapicTable+8*4]++ },
		"PIT count":      func(s *machineState) { s.pit.Channels[0].Count++ },
		"serial":         func(s *machineState) { sectionOf(s, "serial").Data[0]++ },
		"tags":           func(s *machineState) { sectionOf(s, "tags").Data[0]++ },
	} {
		s := base()
		change(s)
		require.NotEqual(t, want, digestOf(s), name)
	}
}

func TestStandstill(t *testing.T) {
	const saved = 1_000_000_000_000
	require.Equal(t, 5*time.Millisecond, standstill(saved, saved+5e6))
	require.Zero(t, standstill(saved, saved))
	require.Zero(t, standstill(saved, saved-1), "the destination's clock is behind")
	require.Zero(t, standstill(saved, saved+uint64(maxStandstill)+1),
		"the destination's clock is far ahead")
	require.Zero(t, standstill(0, ^uint64(0)))
}

func TestTicks(t *testing.T) {
	require.Equal(t, uint64(2_500_000), ticks(time.Millisecond, 2_500_000))
	require.Equal(t, uint64(600)*4294967295*1000, ticks(maxStandstill, 4294967295), "no overflow")
}

func TestSameFrequency(t *testing.T) {
	require.True(t, sameFrequency(2_000_000, 2_000_500))
	require.True(t, sameFrequency(2_000_500, 2_000_000))
	require.False(t, sameFrequency(2_000_000, 2_000_501))
	require.False(t, sameFrequency(1, 4294967295))
}

// TestClockIsSetAgain: a kvmclock that an interrupted host has set wrongly is set again, a right
// one is not, and the attempts end.
func TestClockIsSetAgain(t *testing.T) {
	s := clockState{Nanoseconds: 5e9, Realtime: 1e18}
	for name, c := range map[string]struct {
		off    []int64 // of kvmclock after each attempt, ns
		exact  bool
		wanted int
	}{
		"right at once":       {[]int64{0}, true, 1},
		"late within reason":  {[]int64{90_000}, true, 1},
		"early within reason": {[]int64{-90_000}, true, 1},
		"ahead, then right":   {[]int64{16e6, 0}, true, 2},
		"behind, then right":  {[]int64{-16e6, 0}, true, 2},
		"never right":         {[]int64{1e6, 1e6, 1e6, 1e6, 1e6, 1e6}, true, clockTries},
		"cannot tell":         {[]int64{1e6, 0}, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			tries := 0
			require.NoError(t, s.settle(func() error { tries++; return nil },
				func() (moment, error) {
					return moment{
						clock: uint64(5e9 + 3e6 + c.off[tries-1]), realtime: 1e18 + 3e6,
						exact: c.exact,
					}, nil
				}))
			require.Equal(t, c.wanted, tries)
		})
	}
}
