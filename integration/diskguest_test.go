package integration

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/device/pci"
)

// The disk's driver in a guest of these tests: where it has its queue and its data, and the
// registers of the first disk.
const (
	diskQueue  = 0x200000 // descriptors, and one and two pages on, the rings
	diskWrite  = 0x203000 // header of a request to write
	diskRead   = 0x203020 // header of a request to read
	diskFlush  = 0x203030 // header of a request to flush
	diskStatus = 0x203040 // a request's status
	diskOut    = 0x204000 // data to write
	diskIn     = 0x205000 // data that was read

	diskSlot   = 8
	diskConfig = pci.ECAMBase + diskSlot<<15
	diskCommon = pci.BARBase + diskSlot<<20

	diskSector = 512
)

// store16 and store8 are mov word [address], v and mov byte [address], v.
func store16(address uint32, v uint16) []byte {
	b := le.AppendUint32([]byte{0x66, 0xc7, 0x05}, address)
	return le.AppendUint16(b, v)
}

func store8(address uint32, v byte) []byte {
	return append(le.AppendUint32([]byte{0xc6, 0x05}, address), v)
}

// chainOf stores a descriptor. The last one of a request has no next.
func chainOf(n uint32, gpa, bytes uint32, flags, next uint16) []byte {
	at := uint32(diskQueue) + 16*n
	return slices.Concat(
		store(at, gpa), store(at+4, 0), store(at+8, bytes), store(at+12, uint32(next)<<16|
			uint32(flags)))
}

// diskDriver sets up the first disk, with three requests in its descriptors: 0 writes, 3 flushes,
// 5 reads.
var diskDriver = slices.Concat(
	store16(diskConfig+4, 6), // memory, and mastering the bus
	store8(diskCommon+0x14, 3),
	store(diskCommon+8, 0), store(diskCommon+0xc, 1<<9), // flush
	store(diskCommon+8, 1), store(diskCommon+0xc, 1), // VIRTIO_F_VERSION_1
	store8(diskCommon+0x14, 11),
	store16(diskCommon+0x18, 8), // entries of the queue
	store(diskCommon+0x20, diskQueue),
	store(diskCommon+0x28, diskQueue+0x1000),
	store(diskCommon+0x30, diskQueue+0x2000),
	store16(diskCommon+0x1c, 1),
	store8(diskCommon+0x14, 15),
	store(diskWrite, 1), store(diskRead, 0), store(diskFlush, 4),
	chainOf(0, diskWrite, 16, 1, 1), chainOf(1, diskOut, diskSector, 1, 2),
	chainOf(2, diskStatus, 1, 2, 0),
	chainOf(3, diskFlush, 16, 1, 4), chainOf(4, diskStatus, 1, 2, 0),
	chainOf(5, diskRead, 16, 1, 6), chainOf(6, diskIn, diskSector, 3, 7),
	chainOf(7, diskStatus, 1, 2, 0),
)

// journalling is code that writes one sector after the other, from sector 1 on. Each sector
// consists of its own number. The guest flushes each, and prints it once that is done: w and the
// number. Before it writes, it reads the sector before, and if that is not what it wrote it prints
// s and stops. After an error of the disk it prints e, and tries again.
var journalling = []byte{
	0xbc, 0x00, 0x00, 0x21, 0x00, // mov esp, 0x210000
	0x31, 0xf6, // xor esi, esi
	// next:
	0x89, 0x35, 0x28, 0x30, 0x20, 0x00, // mov [diskRead + 8], esi
	0x46,                         // inc esi
	0xe8, 0x41, 0x00, 0x00, 0x00, // call check
	0x75, 0x35, // jnz bad
	0x89, 0x35, 0x08, 0x30, 0x20, 0x00, // mov [diskWrite + 8], esi
	0xbf, 0x00, 0x40, 0x20, 0x00, // mov edi, diskOut
	0x89, 0xf0, // mov eax, esi
	0xb9, 0x80, 0x00, 0x00, 0x00, // mov ecx, 128
	0xf3, 0xab, // rep stosd
	0xba, 0x00, 0x00, 0x00, 0x00, // mov edx, 0
	0xe8, 0x44, 0x00, 0x00, 0x00, // call do
	0x75, 0x15, // jnz bad
	0xba, 0x03, 0x00, 0x00, 0x00, // mov edx, 3
	0xe8, 0x38, 0x00, 0x00, 0x00, // call do
	0x75, 0x09, // jnz bad
	0xb0, 0x77, // mov al, 'w'
	0xe8, 0x62, 0x00, 0x00, 0x00, // call print
	0xeb, 0xbd, // jmp next
	// bad:
	0xb0, 0x65, // mov al, 'e'
	0xe8, 0x59, 0x00, 0x00, 0x00, // call print
	0x4e,       // dec esi
	0xeb, 0xb3, // jmp next
	// check: ZF says that the sector before could be read
	0xba, 0x05, 0x00, 0x00, 0x00, // mov edx, 5
	0xe8, 0x19, 0x00, 0x00, 0x00, // call do
	0x75, 0x16, // jnz 2f
	0xa1, 0x00, 0x50, 0x20, 0x00, // mov eax, [diskIn]
	0x3b, 0x05, 0x28, 0x30, 0x20, 0x00, // cmp eax, [diskRead + 8]
	0x74, 0x09, // je 2f
	0xb0, 0x73, // mov al, 's'
	0xe8, 0x36, 0x00, 0x00, 0x00, // call print
	0xeb, 0xfe, // 1: jmp 1b
	0xc3, // 2: ret
	// do: the request in edx; ZF says that it succeeded
	0xa1, 0x02, 0x10, 0x20, 0x00, // mov eax, [available index]
	0x89, 0xc1, // mov ecx, eax
	0x83, 0xe1, 0x07, // and ecx, 7
	0x66, 0x89, 0x14, 0x4d, 0x04, 0x10, 0x20, 0x00, // mov [available ring + 2 ecx], dx
	0x40,                               // inc eax
	0x66, 0xa3, 0x02, 0x10, 0x20, 0x00, // mov [available index], ax
	0x66, 0xc7, 0x05, 0x00, 0x30, 0x80, 0xc0, 0x00, 0x00, // mov word [doorbell], 0
	0x66, 0x39, 0x05, 0x02, 0x20, 0x20, 0x00, // 1: cmp [used index], ax
	0x75, 0xf7, // jne 1b
	0x80, 0x3d, 0x40, 0x30, 0x20, 0x00, 0x00, // cmp byte [diskStatus], 0
	0xc3, // ret
	// print: al, and esi in 8 hexadecimal digits; then it waits for 5 ms
	0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
	0xee,                         // out dx, al
	0xb9, 0x08, 0x00, 0x00, 0x00, // mov ecx, 8
	0x89, 0xf7, // mov edi, esi
	0xc1, 0xc7, 0x04, // 1: rol edi, 4
	0x89, 0xf8, // mov eax, edi
	0x24, 0x0f, // and al, 15
	0x04, 0x30, // add al, '0'
	0x3c, 0x39, // cmp al, '9'
	0x76, 0x02, // jbe 2f
	0x04, 0x27, // add al, 'a' - '9' - 1
	0xee,       // 2: out dx, al
	0xe2, 0xee, // loop 1b
	0xb0, 0x0a, // mov al, '\n'
	0xee,                   // out dx, al
	0x66, 0xba, 0x28, 0x0d, // mov dx, CLOCK_LO
	0xed,       // in eax, dx
	0x89, 0xc7, // mov edi, eax
	0xed,       // 1: in eax, dx
	0x29, 0xf8, // sub eax, edi
	0x3d, 0x40, 0x4b, 0x4c, 0x00, // cmp eax, 5000000
	0x72, 0xf6, // jb 1b
	0xc3, // ret
}

// writer returns the arguments of a VM whose guest writes a disk and keeps a journal of it.
func (b *box) writer(disk string) []string {
	b.t.Helper()
	return tiny(b.kernel(diskDriver, journalling), "--disk", disk)
}

// bigImage makes the file of a disk that a writer does not fill.
func (b *box) bigImage(name string) string {
	b.t.Helper()
	require.NoError(b.t, os.WriteFile(b.path(name), nil, 0o600))
	require.NoError(b.t, os.Truncate(b.path(name), 1<<30))
	return b.path(name)
}

// journalLine is a line of a writer's journal.
var journalLine = regexp.MustCompile(`(?m)^([a-z])([0-9a-f]{8})$`)

// journal returns the numbers that a writer printed after a letter, one console after the other.
// What its end cut off does not count.
func journal(letter string, consoles ...*guest) []int {
	var text strings.Builder
	for _, g := range consoles {
		text.WriteString(g.String())
	}
	var all []int
	whole := text.String()[:strings.LastIndexByte(text.String(), '\n')+1]
	for _, line := range journalLine.FindAllStringSubmatch(whole, -1) {
		if n, err := strconv.ParseUint(line[2], 16, 32); err == nil && line[1] == letter {
			all = append(all, int(n))
		}
	}
	return all
}

// writes waits until a writer has written n more sectors. Its earlier consoles come first.
func writes(b *box, n int, consoles ...*guest) {
	b.t.Helper()
	last := 0
	if all := journal("w", consoles...); len(all) > 0 {
		last = all[len(all)-1]
	}
	now := consoles[len(consoles)-1]
	require.NoError(b.t, now.WaitText(b.ctx, fmt.Sprintf("w%08x\n", last+n)))
}

// nothingLost requires that a guest wrote each sector once, whichever process it was in, and that
// each sector that it said is written is on the disk. It returns how many it wrote.
func nothingLost(b *box, disk string, consoles ...*guest) int {
	b.t.Helper()
	require.Empty(b.t, journal("s", consoles...), "it read what it did not write")
	written := journal("w", consoles...)
	require.NotEmpty(b.t, written)
	file, err := os.Open(disk)
	require.NoError(b.t, err)
	defer file.Close()
	sector, before := make([]byte, diskSector), 0
	for _, n := range written {
		require.Greater(b.t, n, before, "each once, in order")
		before = n
		_, err := file.ReadAt(sector, int64(n)*diskSector)
		require.NoError(b.t, err)
		for at := 0; at < diskSector; at += 4 {
			require.EqualValues(b.t, n, le.Uint32(sector[at:]), "sector %d", n)
		}
	}
	return len(written)
}
