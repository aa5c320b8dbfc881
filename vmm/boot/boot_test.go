package boot

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/boot/boottest"
)

// elfKind is one of the two kinds of ELF file, with the offsets in a test kernel of the fields that
// tests break.
type elfKind struct {
	name     string
	make     func(code []byte) []byte
	header   int // bytes of the file's header
	program  int // bytes of a program header
	offset   int // where a program header has the offset of its segment in the file
	gpa      int
	fileSize int
	size     int
	// In the file's header, table is the place of the program headers' offset, and each that of
	// their length.
	table, each int
	// put stores v as a word of this kind of file, cut to the word's size.
	put func(b []byte, v uint64)
}

var elfKinds = []elfKind{
	{
		name: "ELF64", make: boottest.PVH, header: 64, program: 56,
		offset: 8, gpa: 24, fileSize: 32, size: 40, table: 32, each: 54, put: le.PutUint64,
	},
	{
		name: "ELF32", make: boottest.PVH32, header: 52, program: 32,
		offset: 4, gpa: 12, fileSize: 16, size: 20, table: 28, each: 42,
		put: func(b []byte, v uint64) { le.PutUint32(b, uint32(v)) },
	},
}

// at is where program header n of a test kernel begins.
func (k elfKind) at(n int) int { return k.header + n*k.program }

func TestParsePVH(t *testing.T) {
	for _, k := range elfKinds {
		image, err := parsePVH(k.make([]byte{0xf4, 0x90}))
		require.NoError(t, err, k.name)
		require.Equal(t, uint32(boottest.Entry), image.entry, k.name)
		want := []Content{{GPA: boottest.Entry, Data: []byte{0xf4, 0x90}, Size: 2}}
		require.Equal(t, want, image.segments, k.name)
		require.False(t, image.Linux(), k.name)
	}
}

func TestParsePVHRefusals(t *testing.T) {
	for _, k := range elfKinds {
		for _, c := range []struct {
			name   string
			change func(b []byte) []byte
			want   string
		}{
			{"empty", func(b []byte) []byte { return nil }, "not an ELF file"},
			{"script", func(b []byte) []byte { return []byte("#!/bin/sh\n") }, "not an ELF file"},
			{"magic only", func(b []byte) []byte { return b[:4] }, "not an ELF file"},
			{"no header", func(b []byte) []byte { return b[:k.header-1] }, "its header is cut off"},
			{"the other class", func(b []byte) []byte { b[4] ^= 3; return b }, "not for x86"},
			{"no class", func(b []byte) []byte { b[4] = 0; return b }, "not for x86"},
			{"big endian", func(b []byte) []byte { b[5] = 2; return b }, "not for x86"},
			{"ARM", func(b []byte) []byte { b[18] = 0xb7; return b }, "not for x86"},
			{"headers beyond the end", func(b []byte) []byte {
				k.put(b[k.table:], uint64(len(b)))
				return b
			}, "damaged"},
			{"headers far away", func(b []byte) []byte {
				k.put(b[k.table:], ^uint64(0))
				return b
			}, "damaged"},
			{"small headers", func(b []byte) []byte {
				le.PutUint16(b[k.each:], uint16(k.program)-1)
				return b
			}, "damaged"},
			{"truncated", func(b []byte) []byte { return b[:len(b)-1] }, "truncated"},
			{"offset far away", func(b []byte) []byte {
				k.put(b[k.at(1)+k.offset:], ^uint64(0))
				return b
			}, "truncated"},
			{"no note", func(b []byte) []byte {
				le.PutUint32(b[k.at(0):], 6)
				return b
			}, "no PVH note"},
			{"another's note", func(b []byte) []byte {
				return bytes.Replace(b, []byte("Xen\x00"), []byte("GNU\x00"), 1)
			}, "no PVH note"},
			{"note cut off", func(b []byte) []byte {
				k.put(b[k.at(0)+k.fileSize:], 19)
				return b
			}, "no PVH note"},
			{"less memory than data", func(b []byte) []byte {
				k.put(b[k.at(1)+k.size:], 1)
				return b
			}, "segment of 1 bytes"},
			{"nothing to load", func(b []byte) []byte {
				le.PutUint32(b[k.at(1):], 6)
				return b
			}, "nothing to load"},
		} {
			t.Run(k.name+"/"+c.name, func(t *testing.T) {
				_, err := parsePVH(c.change(k.make(make([]byte, 10))))
				require.ErrorIs(t, err, ErrKernel)
				require.ErrorContains(t, err, c.want)
				require.NotContains(t, err.Error(), "\n")
			})
		}
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
		{"aligned to 8", join(note("Other\x00", 18, four, 8),
			note("Xen\x00", 18, eight, 8)), 8, true},
		{"other type", note("Xen\x00", 6, four, 4), 4, false},
		{"beyond 4 GiB", note("Xen\x00", 18, []byte{0, 0, 0, 0, 1, 0, 0, 0}, 4), 4, false},
		{"2 bytes", note("Xen\x00", 18, []byte{1, 2}, 4), 4, false},
		{"absurd name", join(le.AppendUint32(nil, ^uint32(0)), make([]byte, 16)), 4, false},
		{"absurd descriptor", join(make([]byte, 4), le.AppendUint32(nil, ^uint32(0)),
			make([]byte, 16)), 4, false},
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
	f.Add(boottest.PVH([]byte{0xf4}))
	f.Add(boottest.PVH32([]byte{0xf4}))
	f.Add(boottest.PVH(nil))
	f.Add([]byte("\x7fELF\x01\x01\x01"))
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, file []byte) {
		image, err := parsePVH(file)
		if err != nil {
			require.ErrorIs(t, err, ErrKernel)
			return
		}
		require.NotEmpty(t, image.segments)
		for _, s := range image.segments {
			require.GreaterOrEqual(t, s.Size, uint64(len(s.Data)))
		}
	})
}

func TestMemoryMap(t *testing.T) {
	low := []memoryRange{{0, 0xa0000, memoryRAM}, {0xa0000, 0x60000, memoryReserved}}
	bus := memoryRange{0xe0000000, 1 << 20, memoryReserved}
	require.Equal(t, append(low, memoryRange{1 << 20, 15 << 20, memoryRAM}, bus),
		memoryMap(memory.Layout(16<<20)))
	require.Equal(t, append(low,
		memoryRange{1 << 20, 3<<30 - 1<<20, memoryRAM}, bus,
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
	s := startInfo{module: 0xabc000, moduleSize: 77, cmdline: "a=b", memory: []memoryRange{
		{1, 2, 3}, {4, 5, 6},
	}}
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
	require.Equal(t, []uint64{4, 5, 6},
		[]uint64{le.Uint64(entry), le.Uint64(entry[8:]), uint64(le.Uint32(entry[16:]))})

	without := startInfo{}
	b = without.encode(at)
	require.Zero(t, le.Uint32(b[12:]))
	require.Zero(t, le.Uint64(b[16:]))
}

// small is a machine of 16 MiB.
var small = Hardware{RAM: memory.Layout(16 << 20), CPUs: 2}

func load(file []byte, p Payload) (*Image, error) {
	k, err := Parse(file)
	if err != nil {
		return nil, err
	}
	return Load(k, small, p)
}

// TestSegmentsLargerThanRAM: a hostile kernel does not keep its host busy for hours.
func TestSegmentsLargerThanRAM(t *testing.T) {
	l := &loader{Hardware: small, layout: newLayout(small.RAM)}
	all := Content{Size: uint64(small.RAM[0].Pages) * memory.PageSize}
	require.NoError(t, l.putSegments([]Content{all}, 0))
	err := l.putSegments([]Content{all, all}, 0)
	require.ErrorIs(t, err, ErrKernel)
	require.ErrorContains(t, err, "more bytes than RAM")
}

func TestLoadRefusals(t *testing.T) {
	pvh, linux := boottest.PVH([]byte{0xf4}), boottest.BzImage([]byte{0xf4})
	big := boottest.PVH(make([]byte, 10))
	le.PutUint64(big[elfKinds[0].at(1)+40:], 15<<20+1)
	away := boottest.PVH(make([]byte, 10))
	le.PutUint64(away[elfKinds[0].at(1)+24:], 0xd0000000)
	wrap := boottest.PVH(make([]byte, 10))
	le.PutUint64(wrap[elfKinds[0].at(1)+24:], ^uint64(0)-4)
	entry := boottest.PVH(make([]byte, 10))
	le.PutUint32(entry[elfKinds[0].at(2)+16:], 0xd0000000)
	huge := boottest.PVH(make([]byte, 10))
	le.PutUint64(huge[elfKinds[0].at(1)+40:], 1<<62)
	far := boottest.BzImage([]byte{0xf4})
	le.PutUint64(far[bzPrefAddress:], 15<<20)
	for _, c := range []struct {
		name    string
		kernel  []byte
		initrd  []byte
		cmdline string
		want    string
	}{
		{"neither", []byte("hello"), nil, "", "has no multiboot header"},
		{"empty", nil, nil, "", "neither"},
		{"larger than RAM", big, nil, "", "does not fit RAM"},
		{"absurd", huge, nil, "", "does not fit RAM"},
		{"in the hole", away, nil, "", "does not fit RAM"},
		{"around the end", wrap, nil, "", "does not fit RAM"},
		{"entry in the hole", entry, nil, "", "entry point 0xd0000000"},
		{"initrd too large", pvh, make([]byte, 16<<20), "", "does not fit RAM beside the kernel"},
		{"bzImage beyond RAM", far, nil, "", "does not fit RAM"},
		{"initrd beside a bzImage", linux, make([]byte, 12<<20), "",
			"does not fit RAM beside the kernel"},
		{"command line of a bzImage", linux, nil, strings.Repeat("x", 2048),
			"too long, this kernel takes 2047"},
		{"long command line", pvh, nil, strings.Repeat("x", 4096), "too long"},
		{"command line with NUL", pvh, nil, "a\x00b", "NUL"},
	} {
		_, err := load(c.kernel, Payload{Initrd: c.initrd, Cmdline: c.cmdline})
		require.ErrorIs(t, err, ErrKernel, c.name)
		require.ErrorContains(t, err, c.want, c.name)
		require.NotContains(t, err.Error(), "\n", c.name)
	}
}

// requireWithin fails unless all of an image is RAM of a machine.
func requireWithin(t testing.TB, m Hardware, image *Image) {
	t.Helper()
	for _, c := range image.Contents {
		require.GreaterOrEqual(t, c.Size, uint64(len(c.Data)))
		within := false
		for _, r := range m.RAM {
			end := r.GPA + uint64(r.Pages)*memory.PageSize
			within = within || c.GPA >= r.GPA && c.GPA < end && c.Size <= end-c.GPA
		}
		require.True(t, within, "%d bytes at %#x", c.Size, c.GPA)
	}
}

// requireApart fails if two of an image's contents share a byte.
func requireApart(t testing.TB, image *Image) {
	t.Helper()
	for i, a := range image.Contents {
		for _, b := range image.Contents[i+1:] {
			require.True(t, a.GPA+a.Size <= b.GPA || b.GPA+b.Size <= a.GPA,
				"%d bytes at %#x and %d at %#x", a.Size, a.GPA, b.Size, b.GPA)
		}
	}
}

// TestLoad: kernel, tables, initrd and boot data lie apart from each other in RAM, and the
// registers are what the protocol says.
func TestLoad(t *testing.T) {
	payload := Payload{Initrd: []byte("an initrd"), Cmdline: "quiet"}
	// Where an image has data of a length.
	find := func(image *Image, data []byte) uint64 {
		for _, c := range image.Contents {
			if bytes.Equal(c.Data, data) {
				return c.GPA
			}
		}
		require.Fail(t, "not in memory")
		return 0
	}
	code := []byte{0xf4, 0x90}

	for _, k := range elfKinds {
		image, err := load(k.make(code), payload)
		require.NoError(t, err, k.name)
		requireWithin(t, small, image)
		requireApart(t, image)
		require.Equal(t, uint64(boottest.Entry), find(image, code))
		require.Equal(t, uint64(16<<20-memory.PageSize), find(image, payload.Initrd))
		require.Equal(t, Registers{
			RIP: boottest.Entry, RBX: bootDataFloor, CR0: 0x11, Code: 0x10, Data: 0x18,
		}, image.Registers, k.name)
		require.False(t, image.Registers.LongMode())
	}

	image, err := load(boottest.BzImage(code), payload)
	require.NoError(t, err)
	requireWithin(t, small, image)
	requireApart(t, image)
	require.Equal(t, uint64(16<<20-memory.PageSize), find(image, payload.Initrd))
	require.Equal(t, Registers{
		RIP: boottest.Entry + 0x200, RSI: bootDataFloor,
		CR0: 0x80000011, CR3: bootDataFloor + 0x2000, CR4: 0x20, EFER: 0x500,
		Code: 0x10, Data: 0x18, GDTBase: bootDataFloor + 0x1000, GDTLimit: 31,
	}, image.Registers)
	require.True(t, image.Registers.LongMode())
}

// TestLoadKeepsClearOfTheKernel: a kernel may lie where boot data or an initrd would go.
func TestLoadKeepsClearOfTheKernel(t *testing.T) {
	for _, at := range []uint64{bootDataFloor, 16<<20 - 2*memory.PageSize} {
		file := boottest.PVH([]byte{0xf4})
		le.PutUint64(file[elfKinds[0].at(1)+24:], at)
		le.PutUint64(file[elfKinds[0].at(1)+40:], 2*memory.PageSize)
		image, err := load(file, Payload{Initrd: []byte("an initrd"), Cmdline: "quiet"})
		require.NoError(t, err)
		requireWithin(t, small, image)
		requireApart(t, image)
	}
}

// FuzzLoad: whatever a kernel file says, its image lies within RAM, or it is refused.
func FuzzLoad(f *testing.F) {
	f.Add(boottest.PVH([]byte{0xf4}), []byte("initrd"), "cmdline")
	f.Add(boottest.PVH32([]byte{0xf4}), []byte("initrd"), "cmdline")
	f.Add(boottest.BzImage([]byte{0xf4}), []byte("initrd"), "cmdline")
	f.Add(boottest.Multiboot([]byte{0xf4}), []byte("initrd"), "cmdline")
	f.Add(boottest.MultibootELF(boottest.Class32, []byte{0xf4}), []byte("initrd"), "cmdline")
	f.Add(boottest.MultibootELF(boottest.Class64, []byte{0xf4}), []byte("initrd"), "cmdline")
	f.Fuzz(func(t *testing.T, file, initrd []byte, cmdline string) {
		image, err := load(file, Payload{Initrd: initrd, Cmdline: cmdline})
		if err != nil {
			require.ErrorIs(t, err, ErrKernel)
			return
		}
		requireWithin(t, small, image)
	})
}
