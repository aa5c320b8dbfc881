package virtio

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/integration/need"
	"taskguide/memory"
	"taskguide/vmm/device"
	"taskguide/vmm/device/devicetest"
	"taskguide/vmm/device/pci"
)

const testDisk = 1 << 20

// newFile makes an image with random content.
func newFile(t testing.TB) (path string, content []byte) {
	content = make([]byte, testDisk)
	_, _ = rand.Read(content)
	path = filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path, content
}

// openDisk opens a disk and owns it.
func openDisk(t testing.TB, c DiskConfig) *Disk {
	disk, err := own(c)
	require.NoError(t, err)
	t.Cleanup(disk.Close)
	return disk
}

func own(c DiskConfig) (*Disk, error) {
	disk, err := OpenDisk(c, noLog)
	if err != nil {
		return nil, err
	}
	if err := disk.Own(context.Background()); err != nil {
		disk.Close()
		return nil, err
	}
	return disk, nil
}

// newBlock starts a driver of a disk.
func newBlock(t testing.TB, c DiskConfig, without uint64) *driver {
	return startBlock(t, openDisk(t, c), without)
}

func startBlock(t testing.TB, disk *Disk, without uint64) *driver {
	dev := NewBlock(pci.NewHost(), 0, disk, noLog)
	d, _ := newDriver(t, dev.Device)
	dev.Resume()
	d.start(64, without)
	return d
}

// Where a request is in RAM.
const (
	requestAt = bufferBase
	answerAt  = bufferBase + 4096
	dataAt    = bufferBase + 64<<10
)

// header writes a request's header.
func (d *driver) header(kind uint32, sector uint64) desc {
	b := le.AppendUint32(nil, kind)
	b = le.AppendUint32(b, 0)
	d.ram.Write(requestAt, le.AppendUint64(b, sector))
	d.ram.Write(answerAt, []byte{0xee})
	return desc{gpa: requestAt, bytes: blockHeader}
}

// disk makes the disk serve a request. It returns the answer and how many bytes were written.
func (d *driver) disk(kind uint32, sector uint64, data ...desc) (answer byte, written uint32) {
	d.t.Helper()
	parts := append([]desc{d.header(kind, sector)}, data...)
	written = d.queues[0].do(append(parts, desc{gpa: answerAt, bytes: 1, flags: flagWrite})...)
	b, _ := d.ram.Slice(answerAt, 1)
	return b[0], written
}

func (d *driver) bytes(gpa uint64, n int) []byte {
	b, ok := d.ram.Slice(gpa, n)
	require.True(d.t, ok)
	return bytes.Clone(b)
}

// caches are the ways in which a file can be a disk in a test's folder.
func caches(t *testing.T, f func(t *testing.T, c DiskConfig, content []byte)) {
	for _, cache := range []Cache{CacheHost, CacheDirect} {
		t.Run(string(cache), func(t *testing.T) {
			path, content := newFile(t)
			c := DiskConfig{Path: path, Cache: cache, Lock: LockOFD}
			if cache == CacheDirect && !hasDirect(path) {
				need.Skip(t, "no O_DIRECT in the folder for temporary files")
			}
			f(t, c, content)
		})
	}
}

func hasDirect(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// TestBlockKeepsTheContract: reads and writes are in flight when it is quiesced.
func TestBlockKeepsTheContract(t *testing.T) {
	path, _ := newFile(t)
	devicetest.Run(t, devicetest.Suite{
		New: func() device.Device {
			c := DiskConfig{Path: path, Cache: CacheHost, Lock: LockNone}
			return NewBlock(pci.NewHost(), 0, openDisk(t, c), noLog)
		},
		Work: func(m *devicetest.Board) {
			d := driverOf(t, m.Device.(*Block).Device, m.Windows[0], m.RAM())
			d.start(64, 0)
			in := d.header(blockIn, 0)
			for i := range uint64(20) {
				d.queues[0].offer(d.queues[0].chain(in,
					desc{gpa: dataAt + i<<16, bytes: 64 << 10, flags: flagWrite},
					desc{gpa: answerAt + i, bytes: 1, flags: flagWrite}))
				d.queues[0].ring()
			}
		},
	})
}

// TestBlockReadsAndWrites: reads and writes work in one piece and in many, whether or not the host
// takes the pieces as they are.
func TestBlockReadsAndWrites(t *testing.T) {
	caches(t, func(t *testing.T, c DiskConfig, content []byte) {
		d := newBlock(t, c, 0)
		for name, parts := range map[string][]desc{
			"one":     {{gpa: dataAt, bytes: 8192}},
			"two":     {{gpa: dataAt + 4096, bytes: 4096}, {gpa: dataAt, bytes: 4096}},
			"crooked": {{gpa: dataAt + 5000, bytes: 4099}, {gpa: dataAt + 7, bytes: 4093}},
		} {
			var in []desc
			for _, p := range parts {
				p.flags |= flagWrite
				in = append(in, p)
			}
			answer, written := d.disk(blockIn, 16, in...)
			require.EqualValues(t, blockOK, answer, name)
			require.EqualValues(t, 8192+1, written)
			var got []byte
			for _, p := range parts {
				got = append(got, d.bytes(p.gpa, int(p.bytes))...)
			}
			require.True(t, bytes.Equal(content[16*512:][:8192], got), name)

			answer, written = d.disk(blockOut, 64, parts...)
			require.EqualValues(t, blockOK, answer, name)
			require.EqualValues(t, 1, written)
			file, err := os.ReadFile(c.Path)
			require.NoError(t, err)
			copy(content[64*512:], got)
			require.True(t, bytes.Equal(content, file), name)
			_, _ = rand.Read(got)
			d.ram.Write(dataAt, got)
		}
		answer, _ := d.disk(blockFlushAll, 0)
		require.EqualValues(t, blockOK, answer)
	})
}

// TestBlockAnswersLast: when a request is done, data and answer are in RAM. From then on the driver
// looks at them, and the last pages of a migration are sent.
func TestBlockAnswersLast(t *testing.T) {
	caches(t, func(t *testing.T, c DiskConfig, content []byte) {
		dev := NewBlock(pci.NewHost(), 0, openDisk(t, c), noLog)
		d, _ := newDriver(t, dev.Device)
		for name, at := range map[string]uint64{"straight": dataAt, "copied": dataAt + 1} {
			d.header(blockIn, 8)
			req := request{chain: chain{
				readable:  []memory.Range{{GPA: requestAt, Bytes: blockHeader}},
				writable:  []memory.Range{{GPA: at, Bytes: 4096}, {GPA: answerAt, Bytes: 1}},
				readBytes: blockHeader, writeBytes: 4096 + 1,
			}}
			var done int
			req.done = func(written uint32, err error) {
				done++
				require.NoError(t, err, name)
				require.EqualValues(t, 4096+1, written, name)
				require.EqualValues(t, blockOK, d.bytes(answerAt, 1)[0], name)
				require.True(t, bytes.Equal(content[8*512:][:4096], d.bytes(at, 4096)), name)
			}
			dev.backend.(*block).do(req)
			require.Equal(t, 1, done)
		}
	})
}

// TestBlockLargeRequest: a request may be larger than the memory that is copied at once.
func TestBlockLargeRequest(t *testing.T) {
	caches(t, func(t *testing.T, c DiskConfig, content []byte) {
		require.NoError(t, os.WriteFile(c.Path, bytes.Repeat(content, 3), 0o600))
		d := newBlock(t, c, 0)
		in := desc{gpa: dataAt + 1, bytes: 3 * testDisk, flags: flagWrite}
		answer, _ := d.disk(blockIn, 0, in)
		require.EqualValues(t, blockOK, answer)
		require.True(t, bytes.Equal(bytes.Repeat(content, 3), d.bytes(in.gpa, 3*testDisk)))
	})
}

// TestBlockRefusals: a request beyond the disk, or a malformed one, gets an error. Nothing is
// written, and nothing is logged.
func TestBlockRefusals(t *testing.T) {
	path, content := newFile(t)
	const sectors = testDisk / 512
	writable := DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD}
	readOnly := writable
	readOnly.ReadOnly = true
	part := func(sector uint64, n, flags uint32) []byte {
		b := le.AppendUint32(le.AppendUint64(nil, sector), n)
		return le.AppendUint32(b, flags)
	}
	for _, c := range []struct {
		name   string
		disk   DiskConfig
		kind   uint32
		sector uint64
		bytes  uint32
		data   []byte
		want   byte
	}{
		{"read beyond", writable, blockIn, sectors - 1, 1024, nil, blockIOError},
		{"read far beyond", writable, blockIn, 1<<64 - 1, 512, nil, blockIOError},
		{"read half a sector", writable, blockIn, 0, 256, nil, blockIOError},
		{"write beyond", writable, blockOut, sectors, 512, nil, blockIOError},
		{"write what is read-only", readOnly, blockOut, 0, 512, nil, blockIOError},
		{"zero what is read-only", readOnly, blockZero, 0, 16, part(0, 1, 0), blockIOError},
		{"drop what is read-only", readOnly, blockDrop, 0, 16, part(0, 1, 0), blockIOError},
		{"zero beyond", writable, blockZero, 0, 16, part(sectors, 1, 0), blockIOError},
		{"zero nothing", writable, blockZero, 0, 16, part(0, 0, 0), blockIOError},
		{"zero too much", writable, blockZero, 0, 16, part(0, mostZeroes+1, 0), blockIOError},
		{"zero, part of a part", writable, blockZero, 0, 15, part(0, 1, 0), blockIOError},
		{"zero, unknown flag", writable, blockZero, 0, 16, part(0, 1, 2), blockUnsupported},
		{"drop and unmap", writable, blockDrop, 0, 16, part(0, 1, 1), blockUnsupported},
		{"drop, too many parts", writable, blockDrop, 0, 17 * 16, part(0, 1, 0), blockIOError},
		{"unknown", writable, 99, 0, 512, nil, blockUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log lines
			disk := openDisk(t, c.disk)
			disk.log = slog.New(slog.NewTextHandler(&log, nil))
			d := startBlock(t, disk, 0)
			d.ram.Write(dataAt, c.data)
			data := desc{gpa: dataAt, bytes: c.bytes}
			if c.kind == blockIn {
				data.flags = flagWrite
			}
			answer, _ := d.disk(c.kind, c.sector, data)
			require.Equal(t, c.want, answer)
			require.Empty(t, log.String())
		})
	}
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, file))
}

// TestTransferInPieces: the host may transfer less than it was asked for, or nothing because of a
// signal.
func TestTransferInPieces(t *testing.T) {
	path, content := newFile(t)
	disk := openDisk(t, DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD})
	calls := 0
	some := func(fd int, parts [][]byte, offset int64) (int, error) {
		if calls++; calls%2 == 0 {
			return 0, unix.EINTR
		}
		if len(parts) > 1 && calls%3 == 0 {
			return unix.Preadv(fd, parts[:1], offset) // ends where a part does
		}
		return unix.Pread(fd, parts[0][:min(700, len(parts[0]))], offset)
	}
	got := make([]byte, 8192)
	parts := [][]byte{got[:5000], got[5000:5001], got[5001:]}
	require.NoError(t, disk.transfer(some, parts, 512))
	require.Greater(t, calls, 10)
	require.True(t, bytes.Equal(content[512:][:8192], got))
}

// TestBlockUnit: a disk with larger blocks than sectors is accessed by whole blocks.
func TestBlockUnit(t *testing.T) {
	const block, perBlock = 4096, 8
	path, content := newFile(t)
	disk := openDisk(t, DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD})
	disk.block = block
	d := startBlock(t, disk, 0)
	require.EqualValues(t, block, d.read(barConfig+20, 4))
	require.EqualValues(t, perBlock, d.read(barConfig+44, 4), "to be dropped at once")
	for _, c := range []struct {
		sector uint64
		bytes  uint32
		want   byte
	}{
		{0, 512, blockIOError},
		{0, block + 512, blockIOError},
		{1, block, blockIOError},
		{perBlock - 1, block, blockIOError},
		{perBlock, block, blockOK},
	} {
		in := desc{gpa: dataAt, bytes: c.bytes, flags: flagWrite}
		answer, _ := d.disk(blockIn, c.sector, in)
		require.Equal(t, c.want, answer, "%+v", c)
		part := le.AppendUint32(le.AppendUint64(nil, c.sector), c.bytes/sectorBytes)
		d.ram.Write(dataAt+block, le.AppendUint32(part, 0))
		answer, _ = d.disk(blockDrop, 0, desc{gpa: dataAt + block, bytes: partBytes})
		require.Equal(t, c.want, answer, "drop %+v", c)
	}
	require.True(t, bytes.Equal(content[block:][:block], d.bytes(dataAt, block)))
	clear(content[block:][:block])
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, file))
}

// TestBlockNonsense: a request without header, or without room for an answer, breaks the device.
func TestBlockNonsense(t *testing.T) {
	path, _ := newFile(t)
	for name, parts := range map[string][]desc{
		"no header": {{gpa: requestAt, bytes: 15}, {gpa: answerAt, bytes: 1, flags: flagWrite}},
		"no answer": {{gpa: requestAt, bytes: 16}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newBlock(t, DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD}, 0)
			d.queues[0].offer(d.queues[0].chain(parts...))
			d.queues[0].ring()
			d.awaitBroken()
		})
	}
}

// TestBlockClears: dropped or zeroed parts read as zeros, and nothing else does.
func TestBlockClears(t *testing.T) {
	caches(t, func(t *testing.T, c DiskConfig, content []byte) {
		d := newBlock(t, c, 0)
		sector := uint64(0)
		for _, kind := range []uint32{blockDrop, blockZero, blockZero | 1<<31} {
			unmap := kind >> 31
			var parts []byte
			for range 2 {
				parts = le.AppendUint64(parts, sector)
				parts = le.AppendUint32(parts, 16)
				parts = le.AppendUint32(parts, unmap)
				clear(content[sector*512:][:16*512])
				sector += 24
			}
			d.ram.Write(dataAt, parts)
			answer, _ := d.disk(kind&^(1<<31), 0, desc{gpa: dataAt, bytes: uint32(len(parts))})
			require.EqualValues(t, blockOK, answer)
		}
		file, err := os.ReadFile(c.Path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, file))
	})
}

// TestBlockDurable: a driver that can flush decides when its writes become durable. For one that
// cannot, each write is durable before it is answered.
func TestBlockDurable(t *testing.T) {
	path, _ := newFile(t)
	part := le.AppendUint32(le.AppendUint64(nil, 8), 8)
	part = le.AppendUint32(part, 0)
	for _, c := range []struct {
		name    string
		without uint64
		kind    uint32
		synced  int32
	}{
		{"read", 0, blockIn, 0},
		{"write", 0, blockOut, 0},
		{"zero", 0, blockZero, 0},
		{"flush", 0, blockFlushAll, 1},
		{"read through", blockFlush, blockIn, 0},
		{"write through", blockFlush, blockOut, 1},
		{"zero through", blockFlush, blockZero, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := openDisk(t, DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD})
			var synced atomic.Int32
			var fails atomic.Bool
			disk.Intercept(func(op Op) error {
				if op != OpSync {
					return nil
				}
				synced.Add(1)
				if fails.Load() {
					return unix.EIO
				}
				return nil
			})
			d := startBlock(t, disk, c.without)
			do := func() byte {
				data := desc{gpa: dataAt, bytes: 512}
				switch c.kind {
				case blockIn:
					data.flags = flagWrite
				case blockZero:
					data.bytes = partBytes
					d.ram.Write(dataAt, part)
				}
				answer, _ := d.disk(c.kind, 0, data)
				return answer
			}
			require.EqualValues(t, blockOK, do())
			require.Equal(t, c.synced, synced.Load())
			fails.Store(true)
			if c.synced > 0 {
				require.EqualValues(t, blockIOError, do())
			} else {
				require.EqualValues(t, blockOK, do())
			}
		})
	}
}

// TestBlockIdentity: what a driver reads of the disk, by its registers and by request.
func TestBlockIdentity(t *testing.T) {
	path, _ := newFile(t)
	d := newBlock(t, DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD}, 0)
	require.EqualValues(t, testDisk/512, d.read(barConfig, 8))
	require.EqualValues(t, 512, d.read(barConfig+20, 4))
	require.EqualValues(t, blockQueue-2, d.read(barConfig+12, 4))
	answer, written := d.disk(blockGetID, 0, desc{gpa: dataAt, bytes: 20, flags: flagWrite})
	require.EqualValues(t, blockOK, answer)
	require.EqualValues(t, 21, written)
	require.Equal(t, "disk0", strings.TrimRight(string(d.bytes(dataAt, 20)), "\x00"))
	d.write(0, 4, 0)
	require.Zero(t, d.read(4, 4)&blockReadOnly)
	c := DiskConfig{Path: path, ReadOnly: true, Cache: CacheHost, Lock: LockNone}
	readOnly := newBlock(t, c, 0)
	readOnly.write(0, 4, 0)
	const writes = blockFlush | blockDiscard | blockWriteZeroes
	require.EqualValues(t, blockReadOnly, readOnly.read(4, 4)&(blockReadOnly|writes))
}

// lines is a log that keeps its lines.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestBlockFailures: a host that cannot write is an error to the guest, and two lines in the log.
func TestBlockFailures(t *testing.T) {
	var log lines
	path, _ := newFile(t)
	disk, err := OpenDisk(DiskConfig{Path: path, Cache: CacheHost, Lock: LockNone},
		slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	dev := NewBlock(pci.NewHost(), 0, disk, noLog)
	d, _ := newDriver(t, dev.Device)
	dev.Resume()
	d.start(64, 0)
	full, err := unix.Open("/dev/full", unix.O_RDWR|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	good, err := unix.Dup(disk.fd)
	require.NoError(t, err)
	defer unix.Close(good)
	require.NoError(t, unix.Dup3(full, disk.fd, unix.O_CLOEXEC))
	unix.Close(full)
	for range 3 {
		answer, _ := d.disk(blockOut, 0, desc{gpa: dataAt, bytes: 512})
		require.EqualValues(t, blockIOError, answer)
	}
	require.Equal(t, 1, strings.Count(log.String(), "\n"))
	require.Contains(t, log.String(), "no space left on device")
	require.NoError(t, unix.Dup3(good, disk.fd, unix.O_CLOEXEC))
	for range 2 {
		answer, _ := d.disk(blockOut, 0, desc{gpa: dataAt, bytes: 512})
		require.EqualValues(t, blockOK, answer)
	}
	require.Equal(t, 1, strings.Count(log.String(), "\n"), "not over yet: others may fail")
	disk.mu.Lock()
	disk.lastBad = time.Now().Add(-calm)
	disk.mu.Unlock()
	for range 2 {
		d.disk(blockOut, 0, desc{gpa: dataAt, bytes: 512})
	}
	require.Equal(t, 2, strings.Count(log.String(), "\n"))
	require.Contains(t, log.String(), "failed_requests=3")
	// A file that became shorter.
	require.NoError(t, os.Truncate(path, 0))
	answer, _ := d.disk(blockIn, 0, desc{gpa: dataAt, bytes: 512, flags: flagWrite})
	require.EqualValues(t, blockIOError, answer)
	require.Contains(t, log.String(), "unexpected EOF")
}

// TestDiskRefusals: a disk that cannot be one is refused by a line that says what to do.
func TestDiskRefusals(t *testing.T) {
	dir := t.TempDir()
	path, _ := newFile(t)
	odd, empty := filepath.Join(dir, "odd"), filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(odd, make([]byte, 1000), 0o600))
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	openDisk(t, DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD})
	for _, c := range []struct {
		disk DiskConfig
		want string
	}{
		{DiskConfig{Path: filepath.Join(dir, "none")}, "there is no such file: make one"},
		{DiskConfig{Path: dir}, "neither a file nor a block device"},
		{DiskConfig{Path: "/dev/null"}, "neither a file nor a block device"},
		{
			DiskConfig{Path: odd, Cache: CacheHost},
			"1000 bytes: want a multiple of its block size, 512",
		},
		{DiskConfig{Path: empty, Cache: CacheHost}, "0 bytes: want a multiple"},
		{
			DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD},
			"in use: another process has locked it",
		},
		{
			DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD, ReadOnly: true},
			"in use: another process has locked it",
		},
	} {
		_, err := own(c.disk)
		require.ErrorContains(t, err, "disk "+c.disk.Path+": "+c.want)
	}
	openDisk(t, DiskConfig{Path: path, Cache: CacheHost, Lock: LockNone})
}

// TestCacheAuto: without O_DIRECT the disk uses the host's cache, and the log says so once.
func TestCacheAuto(t *testing.T) {
	var log bytes.Buffer
	path, _ := newFile(t)
	disk, err := OpenDisk(DiskConfig{Path: path, Cache: CacheAuto, Lock: LockOFD},
		slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	defer disk.Close()
	require.Equal(t, hasDirect(path), disk.direct)
	require.Equal(t, disk.direct, log.Len() == 0)
}
