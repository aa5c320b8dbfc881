package boot

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/boot/boottest"
)

func TestParseBzImage(t *testing.T) {
	file := boottest.BzImage([]byte{0xf4})
	b, err := parseBzImage(file)
	require.NoError(t, err)
	require.Equal(t, uint64(1<<20), b.address)
	require.Equal(t, uint64(4<<20), b.memory)
	require.Equal(t, file[2*bzSectorBytes:], b.kernel)
	require.Equal(t, file[bzHeader:bzHeaderEnd], b.header)

	file[bzSetupSectors] = 0
	b, err = parseBzImage(append(file, make([]byte, 5*bzSectorBytes)...))
	require.NoError(t, err)
	require.Equal(t, 5*bzSectorBytes, b.setupLength, "0 means 4")
}

func TestParseBzImageRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		want   string
	}{
		{"empty", func(b []byte) []byte { return nil }, "not a Linux bzImage"},
		{"short", func(b []byte) []byte { return b[:bzHeaderEnd-1] }, "not a Linux bzImage"},
		{"no magic", func(b []byte) []byte { b[bzMagic]++; return b }, "not a Linux bzImage"},
		{"no boot flag", func(b []byte) []byte { b[bzBootFlag] = 0; return b },
			"not a Linux bzImage"},
		{"old", func(b []byte) []byte { le.PutUint16(b[bzVersion:], 0x20b); return b },
			"boot protocol 2.11"},
		{"32 bits", func(b []byte) []byte { b[bzXLoadFlags] = 0; return b },
			"without a 64-bit entry point"},
		{"zImage", func(b []byte) []byte { b[bzLoadFlags] = 0; return b },
			"without a 64-bit entry point"},
		{"only setup", func(b []byte) []byte { return b[:2*bzSectorBytes] }, "truncated"},
		{"short header", func(b []byte) []byte { b[bzJump] = 10; return b }, "damaged"},
		{"long header", func(b []byte) []byte { b[bzJump] = 0xff; return b }, "damaged"},
	} {
		_, err := parseBzImage(c.change(boottest.BzImage([]byte{0xf4})))
		require.ErrorIs(t, err, ErrKernel, c.name)
		require.ErrorContains(t, err, c.want, c.name)
	}
}

func FuzzParseBzImage(f *testing.F) {
	f.Add(boottest.BzImage([]byte{0xf4}))
	f.Add(boottest.BzImage(nil)[:700])
	f.Fuzz(func(t *testing.T, file []byte) {
		b, err := parseBzImage(file)
		if err != nil {
			require.ErrorIs(t, err, ErrKernel)
			return
		}
		require.NotEmpty(t, b.kernel)
		require.GreaterOrEqual(t, b.memory, uint64(len(b.kernel)))
		d := &linuxBoot{image: b, memory: memoryMap(memory.Layout(16 << 20))}
		require.Equal(t, b.header[0x220-bzHeader], d.encode(0x6000)[0x220])
	})
}

func TestLinuxBootData(t *testing.T) {
	const at = 0x6000
	image, err := parseBzImage(boottest.BzImage([]byte{0xf4}))
	require.NoError(t, err)
	d := linuxBoot{
		image: image, ramdisk: 0x700000, ramdiskSize: 99,
		cmdline: "quiet", memory: memoryMap(memory.Layout(5 << 30)),
	}
	b := d.encode(at)
	require.Len(t, b, d.size())
	require.Equal(t, "HdrS", string(b[bzMagic:bzMagic+4]))
	require.Equal(t, byte(bzUnknownLoader), b[bzLoader])
	require.Equal(t, uint32(0x700000), le.Uint32(b[bzRamdisk:]))
	require.Equal(t, uint32(99), le.Uint32(b[bzRamdiskSize:]))
	require.Equal(t, "quiet\x00", string(b[le.Uint32(b[bzCmdline:])-at:]))
	require.Equal(t, byte(5), b[zeroE820Count])
	last := b[zeroE820+4*zeroE820Bytes:]
	require.Equal(t, []uint64{4 << 30, 2 << 30}, []uint64{le.Uint64(last), le.Uint64(last[8:])})

	// What an address below 4 GiB translates to, as the processor walks the tables.
	read := func(table, index uint64) uint64 { return le.Uint64(b[table&^0xfff-at+8*index:]) }
	for _, addr := range []uint64{0, 0x100200, 0x7fffffff, 0xfee00000, 1<<32 - 1} {
		directory := read(read(at+linuxTables, 0), addr>>30)
		entry := read(directory, addr>>21&511)
		require.Equal(t, uint64(0x83), entry&0xfff)
		require.Equal(t, addr, entry&^(1<<21-1)|addr&(1<<21-1))
	}
}

func TestLinuxIsToldByItsNotes(t *testing.T) {
	linux := []byte("\x06\x00\x00\x00\x04\x00\x00\x00\x00\x01\x00\x00" +
		"Linux\x00\x00\x00\x00\x00\x00\x00")
	xen := []byte("\x04\x00\x00\x00\x04\x00\x00\x00\x12\x00\x00\x00Xen\x00\x00\x00\x10\x00")
	require.True(t, isLinux(append(bytes.Clone(xen), linux...), 4))
	require.False(t, isLinux(xen, 4))
	require.False(t, isLinux(nil, 4))
	entry, ok := pvhEntry(append(bytes.Clone(linux), xen...), 4)
	require.True(t, ok)
	require.Equal(t, uint32(boottest.Entry), entry)
}
