package boot

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/boot/boottest"
)

func TestFindMultiboot(t *testing.T) {
	header := boottest.MultibootHeader(3)
	at := func(n int, b []byte) []byte { return append(make([]byte, n), b...) }
	for _, c := range []struct {
		name string
		file []byte
		want uint64 // its offset
		ok   bool
	}{
		{"first", header, 0, true},
		{"last", at(8192-12, header), 8192 - 12, true},
		{"too far", at(8192-8, header), 0, false},
		{"not aligned", at(2, header), 0, false},
		{"cut off", header[:11], 0, false},
		{"wrong sum", boottest.MultibootHeader(3)[:8], 0, false},
		{"after one with a wrong sum", append(le.AppendUint32(nil, multibootMagic),
			at(8, header)...), 12, true},
		{"addresses cut off", boottest.MultibootHeader(1<<16, 1, 2, 3, 4), 0, false},
		{"addresses too far", at(8192-28, boottest.MultibootHeader(1<<16, 1, 2, 3, 4, 5)), 0,
			false},
		{"addresses", boottest.MultibootHeader(1<<16, 1, 2, 3, 4, 5), 0, true},
		{"empty", nil, 0, false},
	} {
		h, ok := findMultiboot(c.file)
		require.Equal(t, c.ok, ok, c.name)
		require.Equal(t, c.want, h.offset, c.name)
	}
}

// TestWhichProtocol: a file of two kinds is booted by the better protocol.
func TestWhichProtocol(t *testing.T) {
	header := boottest.MultibootHeader(0)
	bz := boottest.BzImage([]byte{0xf4})
	copy(bz, header)
	pvhByAddress := boottest.PVH(boottest.Multiboot([]byte{0xf4}))
	damaged := bytes.Clone(pvhByAddress)
	le.PutUint64(damaged[32:], 1<<40) // where its program headers are
	for _, c := range []struct {
		name string
		file []byte
		want Kernel
	}{
		{"bzImage and multiboot", bz, &bzImage{}},
		{"PVH and multiboot", boottest.PVH(header), &pvhImage{}},
		{"PVH and multiboot with addresses", pvhByAddress, &pvhImage{}},
		{"addresses in a damaged ELF file", damaged, &multibootImage{}},
		{"multiboot in ELF32", boottest.MultibootELF(boottest.Class32, nil), &multibootImage{}},
		{"multiboot in ELF64", boottest.MultibootELF(boottest.Class64, nil), &multibootImage{}},
		{"multiboot alone", boottest.Multiboot([]byte{0xf4}), &multibootImage{}},
	} {
		k, err := Parse(c.file)
		require.NoError(t, err, c.name)
		require.IsType(t, c.want, k, c.name)
	}
}

// TestMultibootAddresses: the address fields say which part of the file goes where.
func TestMultibootAddresses(t *testing.T) {
	const at = boottest.Entry
	// The header is the second of three parts.
	file := func(addresses ...uint32) []byte {
		b := append([]byte("before--"), boottest.MultibootHeader(1<<16, addresses...)...)
		return append(b, "after"...)
	}
	const size = 8 + 32 + 5
	for _, c := range []struct {
		name      string
		addresses []uint32
		from, to  int // of the file, what goes to memory
		bytes     uint64
	}{
		{"whole file", []uint32{at + 8, at, 0, 0, at + 40}, 0, size, size},
		{"from the header on", []uint32{at, at, 0, 0, at}, 8, size, size - 8},
		{"not to the end", []uint32{at + 8, at, at + 10, 0, at}, 0, 10, 10},
		{"bss", []uint32{at + 8, at, at + 10, at + 99, at}, 0, 10, 99},
		{"bss behind the file", []uint32{at + 8, at, 0, at + 99, at}, 0, size, 99},
	} {
		b := file(c.addresses...)
		h, ok := findMultiboot(b)
		require.True(t, ok, c.name)
		k, err := parseMultiboot(b, h)
		require.NoError(t, err, c.name)
		want := Content{GPA: at, Data: b[c.from:c.to], Size: c.bytes}
		require.Equal(t, []Content{want}, k.segments, c.name)
		require.Equal(t, uint64(c.addresses[4]), k.entry, c.name)
	}
}

func TestMultibootRefusals(t *testing.T) {
	const at = boottest.Entry
	byAddress := func(addresses ...uint32) []byte {
		return boottest.MultibootHeader(1<<16, addresses...)
	}
	cut := boottest.MultibootELF(boottest.Class64, make([]byte, 10))
	empty := boottest.MultibootELF(boottest.Class32, nil)
	for n := range 2 {
		empty[elfKinds[1].at(n)] = 6
	}
	away := boottest.MultibootELF(boottest.Class32, make([]byte, 10))
	le.PutUint32(away[24:], 0xd0000000)
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"video", boottest.MultibootHeader(4), "has no display"},
		{"requirements of the future", boottest.MultibootHeader(8), "flags 0x8"},
		{"no ELF file, no addresses", boottest.MultibootHeader(3), "without addresses"},
		{"text after the header", byAddress(at, at+4, 0, 0, at), "begin before the file"},
		{"text before the file", byAddress(at+4, at, 0, 0, at), "begin before the file"},
		{"ends before it begins", byAddress(at, at, at-1, 0, at), "end before it begins"},
		{"truncated", byAddress(at, at, at+33, 0, at), "truncated"},
		{"bss within data", byAddress(at, at, 0, at+31, at), "memory ends before its data"},
		{"nothing", byAddress(at, at, at, 0, at), "nothing to load"},
		{"outside of RAM", byAddress(0xd0000000, 0xd0000000, 0, 0, at), "does not fit RAM"},
		{"around 4 GiB", byAddress(0xfffffff0, 0xfffffff0, 0, 0, at), "does not fit RAM"},
		{"much bss", byAddress(at, at, 0, 0xffffffff, at), "does not fit RAM"},
		{"entry outside of RAM", byAddress(at, at, 0, 0, 0xd0000000), "entry point 0xd0000000"},
		{"truncated ELF file", cut[:len(cut)-1], "truncated"},
		{"empty ELF file", empty, "nothing to load"},
		{"entry of an ELF file outside of RAM", away, "entry point 0xd0000000"},
	} {
		_, err := load(c.file, Payload{})
		require.ErrorIs(t, err, ErrKernel, c.name)
		require.ErrorContains(t, err, c.want, c.name)
		require.NotContains(t, err.Error(), "\n", c.name)
	}
}

// TestMultibootLoad: kernel, tables, module and information lie apart from each other, and the
// registers are what section 3.2 says.
func TestMultibootLoad(t *testing.T) {
	for _, file := range [][]byte{
		boottest.MultibootELF(boottest.Class32, make([]byte, 10)),
		boottest.MultibootELF(boottest.Class64, make([]byte, 10)),
	} {
		image, err := load(file, Payload{Initrd: []byte("a module"), Cmdline: "quiet"})
		require.NoError(t, err)
		requireWithin(t, small, image)
		requireApart(t, image)
		require.Equal(t, Registers{
			RIP: boottest.Entry + 12, RAX: 0x2badb002, RBX: bootDataFloor, CR0: 0x11,
			Code: 0x10, Data: 0x18,
		}, image.Registers)
		require.Contains(t, image.Contents, Content{GPA: 0x413, Data: []byte{0x80, 2}, Size: 2},
			"640 KiB of lower memory")
	}
}

func TestMultibootInfo(t *testing.T) {
	const at = 0x6000
	d := multibootInfo{
		module: 0xabc000, moduleSize: 77, cmdline: "a=b",
		memory: memoryMap(memory.Layout(5 << 30)), low: 3 << 30,
	}
	b := d.encode(at)
	require.Len(t, b, d.size())
	text := func(field int) string {
		from := b[le.Uint32(b[field:])-at:]
		return string(from[:bytes.IndexByte(from, 0)])
	}
	require.Equal(t, uint32(0x24d), le.Uint32(b), "memory, command line, modules, map, name")
	require.Equal(t, uint32(640), le.Uint32(b[4:]), "KiB of lower memory")
	require.Equal(t, uint32(3<<20-1<<10), le.Uint32(b[8:]), "KiB of upper memory")
	require.Equal(t, "a=b", text(16))
	require.Equal(t, "taskguide vmm", text(64))
	require.Equal(t, uint32(1), le.Uint32(b[20:]))
	module := int(le.Uint32(b[24:])) - at
	require.Equal(t, uint32(0xabc000), le.Uint32(b[module:]))
	require.Equal(t, uint32(0xabc000+77), le.Uint32(b[module+4:]), "its end")
	require.Empty(t, text(module+8))

	ranges := b[le.Uint32(b[48:])-at:][:le.Uint32(b[44:])]
	var m []memoryRange
	for len(ranges) > 0 {
		m = append(m, memoryRange{le.Uint64(ranges[4:]), le.Uint64(ranges[12:]),
			le.Uint32(ranges[20:])})
		ranges = ranges[4+le.Uint32(ranges):]
	}
	require.Equal(t, d.memory, m)

	without := multibootInfo{low: 16 << 20}
	b = without.encode(at)
	require.Zero(t, le.Uint32(b[20:]), "no module")
	require.Empty(t, text(16))
}

// FuzzMultiboot: whatever a header says, the image lies within RAM, or it is refused.
func FuzzMultiboot(f *testing.F) {
	f.Add(uint32(0x10003), uint32(boottest.Entry), uint32(boottest.Entry), uint32(0), uint32(0),
		uint32(boottest.Entry), []byte("rest"))
	f.Add(uint32(3), uint32(0), uint32(0), uint32(0), uint32(0), uint32(0), []byte("rest"))
	f.Fuzz(func(t *testing.T, flags, header, text, end, bss, entry uint32, rest []byte) {
		file := append(boottest.MultibootHeader(flags, header, text, end, bss, entry), rest...)
		image, err := load(file, Payload{Initrd: []byte("a module")})
		if err != nil {
			require.ErrorIs(t, err, ErrKernel)
			return
		}
		requireWithin(t, small, image)
		require.True(t, (&loader{Hardware: small}).has(image.Registers.RIP, 1))
	})
}
