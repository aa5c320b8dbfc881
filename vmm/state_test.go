package vmm

import (
	"bytes"
	"testing"
	"time"

	"github.com/bobuhiro11/gokvm/kvm"
	"github.com/stretchr/testify/require"
)

// sampleState is a state in which every section has something in it.
func sampleState(cpus int) *machineState {
	s := &machineState{
		vcpus:  make([]vcpuState, cpus),
		pit:    &kvm.PITState2{Flags: 2},
		clock:  clockState{Nanoseconds: 1, Realtime: 2},
		serial: []byte{1, 2, 3},
		tags:   []byte{4, 5},
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

func TestStateRoundTrip(t *testing.T) {
	for _, cpus := range []int{1, 3} {
		want := sampleState(cpus)
		got, err := decodeState(want.encode(), cpus)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	want := sampleState(1)
	want.pit = nil
	got, err := decodeState(want.encode(), 1)
	require.NoError(t, err)
	require.Nil(t, got.pit)
}

// editSections re-encodes a state with one section changed by edit, which returns
// false to drop it.
func editSections(data []byte, edit func(name string, header, payload []byte) ([]byte, bool)) []byte {
	out := append([]byte(nil), data[:stateHeader]...)
	for data = data[stateHeader:]; len(data) > 0; {
		n := int(le.Uint32(data[12:]))
		header := append([]byte(nil), data[:sectionHeader]...)
		payload, keep := edit(string(bytes.TrimRight(data[:8], "\x00")), header, data[sectionHeader:sectionHeader+n])
		if keep {
			le.PutUint32(header[12:], uint32(len(payload)))
			out = append(append(out, header...), payload...)
		}
		data = data[sectionHeader+n:]
	}
	return out
}

func TestStateRefusals(t *testing.T) {
	good := sampleState(2).encode()
	drop := func(name string) []byte {
		return editSections(good, func(n string, _, p []byte) ([]byte, bool) { return p, n != name })
	}
	resize := func(name string, size int) []byte {
		return editSections(good, func(n string, _, p []byte) ([]byte, bool) {
			if n == name {
				p = make([]byte, size)
			}
			return p, true
		})
	}
	rename := func(name, to string) []byte {
		return editSections(good, func(n string, h, p []byte) ([]byte, bool) {
			if n == name {
				copy(h[:8], to+"\x00\x00\x00\x00\x00\x00\x00\x00")
			}
			return p, true
		})
	}
	version := bytes.Clone(good)
	version[len(stateMagic)]++
	sectionVersion := bytes.Clone(good)
	sectionVersion[stateHeader+10]++
	long := bytes.Clone(good)
	le.PutUint32(long[stateHeader+12:], maxSection+1)
	for _, c := range []struct {
		name string
		data []byte
		cpus int
		want string
	}{
		{"empty", nil, 2, "does not begin as one"},
		{"another format", []byte("QEVM and so on"), 2, "does not begin as one"},
		{"another version", version, 2, "version 2, this program knows version 1"},
		{"another section version", sectionVersion, 2, `section "regs" has version 2`},
		{"truncated header", good[:len(good)-2-5], 2, "truncated"},
		{"truncated payload", good[:len(good)-1], 2, "too long"},
		{"absurd length", long, 2, "too long"},
		{"missing vCPU", good, 3, `section "regs" of vCPU 2 is missing`},
		{"vCPU too many", good, 1, "of vCPU 1, but the machine has 1"},
		{"missing section", drop("lapic"), 2, `section "lapic" of vCPU 0 is missing`},
		{"missing device", drop("tags"), 2, `section "tags"`},
		{"unknown section", rename("pit", "hpet"), 2, `unknown section "hpet"`},
		{"twice", append(bytes.Clone(good), good[stateHeader:]...), 2, "twice"},
		{"wrong size", resize("sregs", 8), 2, `section "sregs" has 8 bytes`},
		{"half an MSR", resize("msrs", 24), 2, `section "msrs" has 24 bytes`},
		{"too many MSRs", resize("msrs", (maxMSRs+1)*msrEntryBytes), 2, `section "msrs"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decodeState(c.data, c.cpus)
			require.ErrorIs(t, err, ErrState)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func FuzzDecodeState(f *testing.F) {
	good := sampleState(2).encode()
	f.Add(good)
	f.Add(good[:100])
	f.Add([]byte(stateMagic + "\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeState(data, 2)
		if err != nil {
			require.ErrorIs(t, err, ErrState)
			return
		}
		again, err := decodeState(s.encode(), 2)
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}

// digestOf is what StateDigest hashes.
func digestOf(s *machineState) []byte {
	c, err := decodeState(s.encode(), len(s.vcpus))
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
		s.vcpus[1].lapic.Regs[apicLVTTimer] = vector
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
		"unknown MSR with 0":     func(s *machineState) { s.vcpus[0].msrs = append(s.vcpus[0].msrs, kvm.MSREntry{Index: 0x1234}) },
		"PIT load time":          func(s *machineState) { s.pit.Channels[1].CountLoadTime = 77 },
		"pending APIC timer":     func(s *machineState) { setIRR(s, vector) },
		"pending PIT":            func(s *machineState) { setIRR(s, pitVector) },
		"PIT line at the PIC":    func(s *machineState) { s.pic[0].Chip[picIRR] |= 1 },
		"PIT line at the IOAPIC": func(s *machineState) { s.ioapic.Chip[ioapicIRR] |= 1 },
		"processor priority":     func(s *machineState) { s.vcpus[0].lapic.Regs[apicProcessorPriority] = 0x20 },
		"which XSAVE is in use":  func(s *machineState) { s.vcpus[0].xsave[xsaveHeader] ^= 7 },
	} {
		s := base()
		change(s)
		require.Equal(t, want, digestOf(s), name)
	}
	for name, change := range map[string]func(s *machineState){
		"register":           func(s *machineState) { s.vcpus[1].regs.R15++ },
		"segment":            func(s *machineState) { s.vcpus[0].sregs.FS.Base++ },
		"vector register":    func(s *machineState) { s.vcpus[0].xsave[xsaveHeaderEnd]++ },
		"XCR0":               func(s *machineState) { s.vcpus[0].xcrs.Registers[0].Value ^= 4 },
		"MSR":                func(s *machineState) { s.vcpus[1].msrs[0].Data++ },
		"initial count":      func(s *machineState) { s.vcpus[0].lapic.Regs[0x380]++ },
		"pending interrupt":  func(s *machineState) { setIRR(s, other) },
		"pending event":      func(s *machineState) { s.vcpus[0].events.N.Pending = 1 },
		"MP state":           func(s *machineState) { s.vcpus[1].mp.State = 0 },
		"debug register":     func(s *machineState) { s.vcpus[1].debug.DB[0] = 8 },
		"PIC mask":           func(s *machineState) { s.pic[1].Chip[2]++ },
		"serial line at PIC": func(s *machineState) { s.pic[0].Chip[picIRR] |= 1 << serialIRQ },
		"IOAPIC routing":     func(s *machineState) { s.ioapic.Chip[ioapicTable+8*4]++ },
		"PIT count":          func(s *machineState) { s.pit.Channels[0].Count++ },
		"serial":             func(s *machineState) { s.serial[0]++ },
		"tags":               func(s *machineState) { s.tags[0]++ },
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
	require.Zero(t, standstill(saved, saved+uint64(maxStandstill)+1), "the destination's clock is far ahead")
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
