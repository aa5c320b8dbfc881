package vmm

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

func TestParsePVH(t *testing.T) {
	image, err := parsePVH(testKernel([]byte{0xf4, 0x90}))
	require.NoError(t, err)
	require.Equal(t, uint32(testEntry), image.entry)
	require.Equal(t, []elfSegment{{gpa: testEntry, data: []byte{0xf4, 0x90}, size: 2}}, image.segments)
}

// programAt is where program header n of a test kernel begins.
func programAt(n int) int { return elfHeaderBytes + n*elfProgramBytes }

func TestParsePVHRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		want   string
	}{
		{"empty", func(b []byte) []byte { return nil }, "not an ELF file"},
		{"script", func(b []byte) []byte { return []byte("#!/bin/sh\n") }, "not an ELF file"},
		{"magic only", func(b []byte) []byte { return b[:4] }, "not an ELF file"},
		{"32 bits", func(b []byte) []byte { b[4] = 1; return b }, "not for x86-64"},
		{"big endian", func(b []byte) []byte { b[5] = 2; return b }, "not for x86-64"},
		{"ARM", func(b []byte) []byte { b[18] = 0xb7; return b }, "not for x86-64"},
		{"headers beyond the end", func(b []byte) []byte { le.PutUint64(b[32:], uint64(len(b))); return b }, "damaged"},
		{"headers beyond 2^64", func(b []byte) []byte { le.PutUint64(b[32:], ^uint64(0)); return b }, "damaged"},
		{"small headers", func(b []byte) []byte { le.PutUint16(b[54:], 32); return b }, "damaged"},
		{"truncated", func(b []byte) []byte { return b[:len(b)-1] }, "truncated"},
		{"offset beyond 2^64", func(b []byte) []byte { le.PutUint64(b[programAt(1)+8:], ^uint64(0)); return b }, "truncated"},
		{"no note", func(b []byte) []byte { le.PutUint32(b[programAt(0):], 6); return b }, "no PVH note"},
		{"another's note", func(b []byte) []byte { return bytes.Replace(b, []byte("Xen\x00"), []byte("GNU\x00"), 1) }, "no PVH note"},
		{"note cut off", func(b []byte) []byte { le.PutUint64(b[programAt(0)+32:], 19); return b }, "no PVH note"},
		{"less memory than data", func(b []byte) []byte { le.PutUint64(b[programAt(1)+40:], 1); return b }, "segment of 1 bytes"},
		{"nothing to load", func(b []byte) []byte { le.PutUint32(b[programAt(1):], 6); return b }, "nothing to load"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parsePVH(c.change(testKernel(make([]byte, 10))))
			require.ErrorIs(t, err, ErrKernel)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestPVHNote(t *testing.T) {
	note := func(name string, kind uint32, desc []byte, align int) []byte {
		pad := func(b []byte) []byte {
			for len(b)%align != 0 {
				b = append(b, 0)
			}
			return b
		}
		b := le.AppendUint32(nil, uint32(len(name)))
		b = le.AppendUint32(b, uint32(len(desc)))
		b = le.AppendUint32(b, kind)
		return pad(append(pad(append(b, name...)), desc...))
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	four, eight := []byte{0x78, 0x56, 0x34, 0x12}, []byte{0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0}
	other := note("Linux\x00", 0x101, []byte{1, 2, 3}, 4)
	for _, c := range []struct {
		name  string
		notes []byte
		align uint64
		ok    bool
	}{
		{"4 bytes", note("Xen\x00", 18, four, 4), 4, true},
		{"8 bytes", note("Xen\x00", 18, eight, 4), 4, true},
		{"after another", join(other, note("Xen\x00", 18, four, 4)), 4, true},
		{"aligned to 8", join(note("Other\x00", 18, four, 8), note("Xen\x00", 18, eight, 8)), 8, true},
		{"other type", note("Xen\x00", 6, four, 4), 4, false},
		{"beyond 4 GiB", note("Xen\x00", 18, []byte{0, 0, 0, 0, 1, 0, 0, 0}, 4), 4, false},
		{"2 bytes", note("Xen\x00", 18, []byte{1, 2}, 4), 4, false},
		{"absurd name", join(le.AppendUint32(nil, ^uint32(0)), make([]byte, 16)), 4, false},
		{"absurd descriptor", join(make([]byte, 4), le.AppendUint32(nil, ^uint32(0)), make([]byte, 16)), 4, false},
		{"nothing", nil, 4, false},
	} {
		entry, ok := pvhEntry(c.notes, c.align)
		require.Equal(t, c.ok, ok, c.name)
		if c.ok {
			require.Equal(t, uint32(0x12345678), entry, c.name)
		}
	}
}

func FuzzParsePVH(f *testing.F) {
	f.Add(testKernel([]byte{0xf4}))
	f.Add(testKernel(nil))
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, file []byte) {
		image, err := parsePVH(file)
		if err != nil {
			require.ErrorIs(t, err, ErrKernel)
			return
		}
		require.NotEmpty(t, image.segments)
		for _, s := range image.segments {
			require.GreaterOrEqual(t, s.size, uint64(len(s.data)))
		}
	})
}

func TestMemoryMap(t *testing.T) {
	low := []memoryRange{{0, 0xa0000, memoryRAM}, {0xa0000, 0x60000, memoryReserved}}
	require.Equal(t, append(low, memoryRange{1 << 20, 15 << 20, memoryRAM}), memoryMap(memory.Layout(16<<20)))
	require.Equal(t, append(low,
		memoryRange{1 << 20, 3<<30 - 1<<20, memoryRAM},
		memoryRange{4 << 30, 2 << 30, memoryRAM}), memoryMap(memory.Layout(5<<30)))
}

func TestLayout(t *testing.T) {
	l := newLayout(memory.Layout(16 << 20))
	l.reserve(1<<20, 2<<20+5) // the kernel
	at, ok := l.lowest(0x1000, bootDataFloor)
	require.True(t, ok)
	require.Equal(t, uint64(bootDataFloor), at)
	at, ok = l.lowest(0x800, bootDataFloor)
	require.True(t, ok)
	require.Equal(t, uint64(bootDataFloor+0x1000), at, "not twice")
	at, ok = l.lowest(0xa0000, bootDataFloor)
	require.True(t, ok)
	require.Equal(t, uint64(2<<20+0x1000), at, "above what is in the way")
	at, ok = l.highest(5000)
	require.True(t, ok)
	require.Equal(t, uint64(16<<20-0x2000), at)
	at, ok = l.highest(4096)
	require.True(t, ok)
	require.Equal(t, uint64(16<<20-0x3000), at)
	_, ok = l.highest(14 << 20)
	require.False(t, ok)
	_, ok = l.lowest(14<<20, 0)
	require.False(t, ok)
	_, ok = l.lowest(1<<63, 0)
	require.False(t, ok)

	high := newLayout(memory.Layout(16 << 20))
	high.reserve(10<<20, 16<<20)
	at, ok = high.highest(9 << 20)
	require.True(t, ok)
	require.Equal(t, uint64(1<<20), at, "below what is in the way")
}

func TestStartInfo(t *testing.T) {
	const at = 0x6000
	s := startInfo{module: 0xabc000, moduleSize: 77, cmdline: "a=b", memory: []memoryRange{{1, 2, 3}, {4, 5, 6}}}
	b := s.encode(at)
	require.Len(t, b, s.size())
	require.Equal(t, uint32(startInfoMagic), le.Uint32(b))
	require.Equal(t, uint32(1), le.Uint32(b[4:]), "version")
	require.Equal(t, uint32(1), le.Uint32(b[12:]), "modules")
	module := b[le.Uint64(b[16:])-at:]
	require.Equal(t, []uint64{0xabc000, 77}, []uint64{le.Uint64(module), le.Uint64(module[8:])})
	require.Equal(t, "a=b\x00", string(b[le.Uint64(b[24:])-at:]))
	require.Equal(t, uint32(2), le.Uint32(b[48:]), "memory map")
	entry := b[le.Uint64(b[40:])-at+startMemoryBytes:]
	require.Equal(t, []uint64{4, 5, 6}, []uint64{le.Uint64(entry), le.Uint64(entry[8:]), uint64(le.Uint32(entry[16:]))})

	without := startInfo{}
	b = without.encode(at)
	require.Zero(t, le.Uint32(b[12:]))
	require.Zero(t, le.Uint64(b[16:]))
}

func TestBootRefusals(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	big := testKernel(make([]byte, 10))
	le.PutUint64(big[programAt(1)+40:], 15<<20+1)
	away := testKernel(make([]byte, 10))
	le.PutUint64(away[programAt(1)+24:], 0xd0000000)
	wrap := testKernel(make([]byte, 10))
	le.PutUint64(wrap[programAt(1)+24:], ^uint64(0)-4)
	entry := testKernel(make([]byte, 10))
	le.PutUint32(entry[programAt(2)+16:], 0xd0000000)
	huge := testKernel(make([]byte, 10))
	le.PutUint64(huge[programAt(1)+40:], 1<<62)
	for _, c := range []struct {
		name    string
		kernel  []byte
		initrd  []byte
		cmdline string
		want    string
	}{
		{"neither", []byte("hello"), nil, "", "neither an ELF file nor a Linux bzImage"},
		{"empty", nil, nil, "", "neither"},
		{"larger than RAM", big, nil, "", "does not fit RAM"},
		{"absurd", huge, nil, "", "does not fit RAM"},
		{"in the hole", away, nil, "", "does not fit RAM"},
		{"around the end", wrap, nil, "", "does not fit RAM"},
		{"entry in the hole", entry, nil, "", "entry point 0xd0000000"},
		{"initrd too large", testKernel([]byte{0xf4}), make([]byte, 16<<20), "", "does not fit RAM beside the kernel"},
		{"long command line", testKernel([]byte{0xf4}), nil, strings.Repeat("x", 4096), "too long"},
		{"command line with NUL", testKernel([]byte{0xf4}), nil, "a\x00b", "NUL"},
	} {
		err := vm.Boot(c.kernel, c.initrd, c.cmdline)
		require.ErrorIs(t, err, ErrKernel, c.name)
		require.ErrorContains(t, err, c.want, c.name)
	}
	// What was refused has not spoilt the machine.
	require.NoError(t, vm.Boot(testKernel(exitWith(3)), nil, ""))
	require.NoError(t, vm.Resume())
	require.Equal(t, Exit{Reason: ExitGuest, Status: 3}, waitEnd(t, vm))
}
