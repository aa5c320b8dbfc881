package vmm

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// testBzImage is a bzImage whose kernel is code, entered at its 64-bit entry point.
func testBzImage(code []byte) []byte {
	b := make([]byte, 2*bzSectorBytes)
	b[bzSetupSectors] = 1
	le.PutUint16(b[bzBootFlag:], 0xaa55)
	b[bzJump] = bzHeaderEnd - bzMagic
	copy(b[bzMagic:], "HdrS")
	le.PutUint16(b[bzVersion:], 0x020f)
	b[bzLoadFlags] = bzLoadedHigh
	le.PutUint16(b[bzXLoadFlags:], bzHas64Bit)
	le.PutUint32(b[bzCmdlineMax:], 2047)
	le.PutUint32(b[bzRamdiskMax:], 0x7fffffff)
	le.PutUint64(b[bzPrefAddress:], 1<<20)
	le.PutUint32(b[bzInitSize:], 4<<20)
	return append(append(b, make([]byte, bzEntry64)...), code...)
}

func TestParseBzImage(t *testing.T) {
	file := testBzImage([]byte{0xf4})
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
		{"no boot flag", func(b []byte) []byte { b[bzBootFlag] = 0; return b }, "not a Linux bzImage"},
		{"old", func(b []byte) []byte { le.PutUint16(b[bzVersion:], 0x20b); return b }, "boot protocol 2.11"},
		{"32 bits", func(b []byte) []byte { b[bzXLoadFlags] = 0; return b }, "without a 64-bit entry point"},
		{"zImage", func(b []byte) []byte { b[bzLoadFlags] = 0; return b }, "without a 64-bit entry point"},
		{"only setup", func(b []byte) []byte { return b[:2*bzSectorBytes] }, "truncated"},
		{"short header", func(b []byte) []byte { b[bzJump] = 10; return b }, "damaged"},
		{"long header", func(b []byte) []byte { b[bzJump] = 0xff; return b }, "damaged"},
	} {
		_, err := parseBzImage(c.change(testBzImage([]byte{0xf4})))
		require.ErrorIs(t, err, ErrKernel, c.name)
		require.ErrorContains(t, err, c.want, c.name)
	}
}

func FuzzParseBzImage(f *testing.F) {
	f.Add(testBzImage([]byte{0xf4}))
	f.Add(testBzImage(nil)[:700])
	f.Fuzz(func(t *testing.T, file []byte) {
		b, err := parseBzImage(file)
		if err != nil {
			require.ErrorIs(t, err, ErrKernel)
			return
		}
		require.NotEmpty(t, b.kernel)
		require.GreaterOrEqual(t, b.memory, uint64(len(b.kernel)))
		d := linuxBoot{image: b, memory: memoryMap(memory.Layout(16 << 20))}
		require.Equal(t, b.header[0x220-bzHeader], d.encode(0x6000)[0x220])
	})
}

func TestLinuxBootData(t *testing.T) {
	const at = 0x6000
	image, err := parseBzImage(testBzImage([]byte{0xf4}))
	require.NoError(t, err)
	d := linuxBoot{image: image, ramdisk: 0x700000, ramdiskSize: 99, cmdline: "quiet", memory: memoryMap(memory.Layout(5 << 30))}
	b := d.encode(at)
	require.Len(t, b, d.size())
	require.Equal(t, "HdrS", string(b[bzMagic:bzMagic+4]))
	require.Equal(t, byte(bzUnknownLoader), b[bzLoader])
	require.Equal(t, []uint32{0x700000, 99}, []uint32{le.Uint32(b[bzRamdisk:]), le.Uint32(b[bzRamdiskSize:])})
	require.Equal(t, "quiet\x00", string(b[le.Uint32(b[bzCmdline:])-at:]))
	require.Equal(t, byte(4), b[zeroE820Count])
	last := b[zeroE820+3*zeroE820Bytes:]
	require.Equal(t, []uint64{4 << 30, 2 << 30}, []uint64{le.Uint64(last), le.Uint64(last[8:])})

	// What an address below 4 GiB translates to, as the processor walks the tables.
	read := func(table uint64, index uint64) uint64 { return le.Uint64(b[table&^0xfff-at+8*index:]) }
	for _, addr := range []uint64{0, 0x100200, 0x7fffffff, 0xfee00000, 1<<32 - 1} {
		directory := read(read(at+linuxTables, 0), addr>>30)
		entry := read(directory, addr>>21&511)
		require.Equal(t, uint64(0x83), entry&0xfff)
		require.Equal(t, addr, entry&^(1<<21-1)|addr&(1<<21-1))
	}
}

// TestLinuxEntry boots a "kernel" of a few instructions of 64-bit code where guest
// kernel code runs natively, and expects the refusal elsewhere.
func TestLinuxEntry(t *testing.T) {
	var console syncBuffer
	vm := newTestVM(t, 1, &console)
	kernel := testBzImage(code(
		0x48, 0x8b, 0x8e, imm32(bzMagic), // mov rcx, [rsi + magic]: RSI is the zero page
		0x81, 0xf9, "HdrS", // cmp ecx, 'HdrS'
		0x75, 0x04, // jne 1f
		exitWith(11),
		exitWith(12), // 1:
	))
	err := vm.Boot(kernel, make([]byte, 5000), "console=ttyS0")
	if emulatesRing0() {
		require.ErrorIs(t, err, ErrEmulatedRing0)
		require.NotContains(t, err.Error(), "\n")
		return
	}
	require.NoError(t, err)
	require.NoError(t, vm.Resume())
	require.Equal(t, Exit{Reason: ExitGuest, Status: 11}, waitEnd(t, vm))
}

func TestLinuxRefusals(t *testing.T) {
	if emulatesRing0() {
		return // refused whatever it is, see TestLinuxEntry
	}
	vm := newTestVM(t, 1, nil)
	far := testBzImage([]byte{0xf4})
	le.PutUint64(far[bzPrefAddress:], 15<<20)
	for _, c := range []struct {
		name    string
		kernel  []byte
		initrd  []byte
		cmdline string
		want    string
	}{
		{"does not fit", far, nil, "", "does not fit RAM"},
		{"initrd", testBzImage([]byte{0xf4}), make([]byte, 12<<20), "", "does not fit RAM beside the kernel"},
		{"command line", testBzImage([]byte{0xf4}), nil, strings.Repeat("x", 2048), "too long, this kernel takes 2047"},
	} {
		err := vm.Boot(c.kernel, c.initrd, c.cmdline)
		require.ErrorIs(t, err, ErrKernel, c.name)
		require.ErrorContains(t, err, c.want, c.name)
	}
}

func TestLinuxIsToldByItsNotes(t *testing.T) {
	linux := code(imm32(6), imm32(4), imm32(0x100), "Linux\x00\x00\x00", imm32(0))
	xen := code(imm32(4), imm32(4), imm32(pvhNoteType), "Xen\x00", imm32(testEntry))
	require.True(t, isLinux(append(bytes.Clone(xen), linux...), 4))
	require.False(t, isLinux(xen, 4))
	require.False(t, isLinux(nil, 4))
	entry, ok := pvhEntry(append(bytes.Clone(linux), xen...), 4)
	require.True(t, ok)
	require.Equal(t, uint32(testEntry), entry)
}

func TestMPTable(t *testing.T) {
	for _, cpus := range []int{1, 8} {
		b := encodeMPTable(mpTable, cpus)
		require.Equal(t, "_MP_", string(b[:4]))
		require.Equal(t, uint32(mpTable+mpPointer), le.Uint32(b[4:]))
		require.Zero(t, checksum(b[:mpPointer]))
		table := b[mpPointer:]
		require.Equal(t, "PCMP", string(table[:4]))
		require.Equal(t, len(table), int(le.Uint16(table[4:])))
		require.Zero(t, checksum(table))

		kinds := make(map[byte]int)
		lengths := map[byte]int{mpProcessor: 20, mpBus: 8, mpIOAPIC: 8, mpInterrupt: 8, mpLocal: 8}
		count := 0
		for e := table[mpHeader:]; len(e) > 0; e = e[lengths[e[0]]:] {
			require.Contains(t, lengths, e[0])
			if e[0] == mpProcessor {
				require.Equal(t, byte(kinds[mpProcessor]), e[1], "APIC id")
				require.Equal(t, kinds[mpProcessor] == 0, e[3]&2 != 0, "the first boots")
			}
			kinds[e[0]]++
			count++
		}
		require.Equal(t, map[byte]int{mpProcessor: cpus, mpBus: 1, mpIOAPIC: 1, mpInterrupt: isaIRQs, mpLocal: 2}, kinds)
		require.Equal(t, count, int(le.Uint16(table[34:])))
	}
}

func TestACPITables(t *testing.T) {
	for _, cpus := range []int{1, 8} {
		b := encodeACPI(cpus)
		require.Less(t, acpiTables+len(b), legacyEnd)
		require.Equal(t, "RSD PTR ", string(b[:8]))
		require.Zero(t, checksum(b[:20]))
		require.Zero(t, checksum(b[:rsdpBytes]))
		table := func(at uint64, signature string) []byte {
			p := b[at-acpiTables:]
			p = p[:le.Uint32(p[4:])]
			require.Equal(t, signature, string(p[:4]))
			require.Zero(t, checksum(p), signature)
			return p[acpiHeader:]
		}
		xsdt := table(le.Uint64(b[24:]), "XSDT")
		require.Len(t, xsdt, 8)
		madt := table(le.Uint64(xsdt), "APIC")
		require.Equal(t, uint32(apicAddress), le.Uint32(madt))
		kinds := make(map[byte]int)
		for e := madt[8:]; len(e) > 0; e = e[e[1]:] {
			if e[0] == madtLAPIC {
				require.Equal(t, byte(kinds[madtLAPIC]), e[3], "APIC id")
			}
			kinds[e[0]]++
		}
		require.Equal(t, map[byte]int{madtLAPIC: cpus, madtIOAPIC: 1, madtNMI: 1}, kinds)
	}
}
