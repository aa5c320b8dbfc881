package virtio

import (
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/device"
	"taskguide/vmm/device/pci"
)

// victim is a kind of device for a hostile guest.
type victim struct {
	name string
	make func(t testing.TB, log *slog.Logger) *Device
	// works makes the device serve a request of a sane driver.
	works func(d *driver)
}

var victims = []victim{
	{
		"rng",
		func(_ testing.TB, log *slog.Logger) *Device { return NewRNG(pci.NewHost(), log) },
		func(d *driver) {
			n := d.queues[0].do(desc{gpa: bufferBase, bytes: 64, flags: flagWrite})
			require.EqualValues(d.t, 64, n)
		},
	},
	{
		"balloon",
		func(_ testing.TB, log *slog.Logger) *Device { return NewBalloon(pci.NewHost(), log) },
		func(d *driver) {
			d.fill()
			d.queues[balloonReport].do(report(0, memory.PageSize))
			require.Equal(d.t, []int{0}, d.zeros())
		},
	},
	{
		"blk",
		func(t testing.TB, log *slog.Logger) *Device {
			path := filepath.Join(t.TempDir(), "disk.img")
			require.NoError(t, os.WriteFile(path, make([]byte, testDisk), 0o600))
			disk := openDisk(t, DiskConfig{Path: path, Cache: CacheHost, Lock: LockNone})
			disk.log = log
			return deviceOf(NewBlock(pci.NewHost(), 0, disk, log))
		},
		func(d *driver) {
			answer, _ := d.disk(blockIn, 8, desc{gpa: dataAt, bytes: 512, flags: flagWrite})
			require.EqualValues(d.t, blockOK, answer)
		},
	},
	{
		"console",
		func(_ testing.TB, log *slog.Logger) *Device {
			return NewConsole(pci.NewHost(), device.Console{}, log).Device
		},
		func(d *driver) {
			require.Zero(d.t, d.queues[consoleOutput].do(desc{gpa: bufferBase, bytes: 5}))
		},
	},
	{
		"net",
		func(_ testing.TB, log *slog.Logger) *Device {
			dev, _ := newCard(log)
			return dev
		},
		func(d *driver) {
			d.ram.Write(bufferBase, frame(64))
			require.Zero(d.t, d.queues[queueTransmit].do(
				desc{gpa: bufferBase, bytes: uint32(len(frame(64)))}))
		},
	},
	{
		"net of three pairs",
		func(_ testing.TB, log *slog.Logger) *Device {
			dev, _ := newCardOf(3, log)
			return dev
		},
		func(d *driver) { require.EqualValues(d.t, controlOK, d.usePairs(3)) },
	},
}

// deviceOf is the device in what makes a kind of it.
func deviceOf(d device.Device) *Device {
	switch d := d.(type) {
	case *Device:
		return d
	case *Block:
		return d.Device
	}
	panic("no virtio device")
}

// ops is a hostile guest's program.
type ops struct{ left []byte }

func (o *ops) next() uint64 {
	if len(o.left) == 0 {
		return 0
	}
	v := o.left[0]
	o.left = o.left[1:]
	return uint64(v)
}

func (o *ops) word() uint64 { return o.next() | o.next()<<8 | o.next()<<16 | o.next()<<24 }

// oneOf is a value of a list, or any other.
func (o *ops) oneOf(list ...uint64) uint64 {
	if i := o.next(); i < 224 {
		return list[i%uint64(len(list))]
	}
	return o.word()<<32 | o.word()
}

// address is one that may be interesting to a device.
func (o *ops) address() uint64 {
	return o.oneOf(0, ringBase, ringBase+ringAvail, ringBase+ringUsed, ringBase+ringTable,
		bufferBase, bufferBase+1, dataAt, memory.MinSize-16, memory.MinSize-1, memory.MinSize,
		memory.LowEnd-8, memory.LowEnd, 0xd0000000, 0xfee00000, memory.HighStart-1,
		memory.HighStart, 1<<63, 1<<64-16, 1<<64-1)
}

func (o *ops) length() uint64 {
	return o.oneOf(1, 0, 2, 12, 15, 16, 32, 512, 4096, 65536, 1<<20, 1<<31, 3<<30, 1<<32-1)
}

// abuse does one thing that no driver would do, or that one would.
func (o *ops) abuse(d *driver) {
	size := 1 << (o.next() & 3)
	base := uint64(ringBase) + o.next()%uint64(len(d.dev.queues))*ringStride
	what := uint64("00000111122223456789ab"[o.next()%22])
	if dev := d.dev.Inspect(); dev.State != device.StateWorking && o.next()%2 == 0 {
		what = 'b'
	}
	switch what {
	case '0': // a descriptor, perhaps of a table
		at := base + o.next()%64*descBytes
		if o.next()%4 == 0 {
			at = base + ringTable + o.next()%16*descBytes
		}
		d.ram.Write(at, desc{
			gpa: o.address(), bytes: uint32(o.length()), flags: uint16(o.next() & 7),
			next: uint16(o.next() % 80),
		}.bytesOf())
	case '1': // the available ring: an entry, and an index that goes on or jumps
		at := base + ringAvail
		d.ram.StoreUint16(at+ringEntries+o.next()%64*availEntry, uint16(o.next()%66))
		index, _ := d.ram.LoadUint16(at + ringIndex)
		step := uint16(1)
		if o.next() < 16 {
			step = uint16(o.word())
		}
		d.ram.StoreUint16(at+ringIndex, index+step)
	case '2':
		i := int(o.next()) % len(d.queues)
		d.queues[i].ring()
		for range 100 {
			runtime.Gosched() // so that the device looks
		}
	case '3': // any register
		d.write(o.word()%barBytes, size, o.address())
	case '4':
		d.read(o.word()%barBytes, size)
	case '5': // a common register
		d.write(o.next()%commonBytes, size, o.oneOf(0, 1, 4, 7, 8, 64, 0xffff, 1<<32-1))
	case '6': // a queue's address
		d.write(regSelect, 2, o.next()%8)
		d.write(0x20+o.next()%6*4, 4, o.address())
		d.write(0x1c, 2, 1)
	case '7': // the table of messages, and the pending bits
		d.write(barTable+o.word()%(2*barPage), 4<<(o.next()&1), o.address())
	case '8': // configuration space
		d.config(o.next(), size&7, o.address(), true)
	case '9': // the BAR, and whether it answers
		d.config(0x10, 4, o.oneOf(0, 1<<32-1, 0xd0000000, d.dev.BARAddress()), true)
		d.config(pciCommand, 2, o.oneOf(memoryMaster, memoryMaster, 0, 2, 4, 0x7ff), true)
	case 'a': // the window to the BAR
		at := windowOf(d)
		d.config(at+8, 4, o.word()%(barBytes+8), true)
		d.config(at+12, 4, o.oneOf(4, 2, 1, 3, 0, 1<<31), true)
		d.config(at+16, 4, o.address(), o.next()&1 != 0)
	case 'b': // a fresh start, so that the device does not stay broken
		d.config(0x10, 4, d.dev.BARAddress(), true)
		d.config(pciCommand, 2, memoryMaster, true)
		d.write(regStatus, 1, 0)
		if d.read(regStatus, 1) == 0 {
			startGood(d)
		}
	}
}

// startGood starts a driver whose descriptors are all good: pairs of one to be read and one to be
// written.
func startGood(d *driver) {
	d.start(64, 0)
	for _, r := range d.queues {
		for i := range uint16(64) {
			part := desc{gpa: requestAt, bytes: 16, flags: flagNext, next: i + 1}
			if i%2 == 1 {
				part = desc{gpa: dataAt + uint64(i)<<12, bytes: 513, flags: flagWrite}
			}
			d.ram.Write(r.base+uint64(i)*descBytes, part.bytesOf())
		}
	}
}

// windowOf returns the register of the window's capability.
func windowOf(d *driver) uint64 {
	for at := d.config(0x34, 1, 0, false); at != 0; at = d.config(at+1, 1, 0, false) {
		if d.config(at, 1, 0, false) == 9 && d.config(at+3, 1, 0, false) == 5 {
			return at
		}
	}
	d.t.Fatal("no window")
	return 0
}

// mostLines is how many lines a device may log about a guest.
const mostLines = 4

// suffer lets a hostile guest do its worst to a device. The device lives: it comes to rest, its
// state moves, and after a reset it serves a sane driver. The log is short.
func (v victim) suffer(t *testing.T, program []byte) {
	var log lines
	logger := slog.New(slog.NewTextHandler(&log, nil))
	dev := v.make(t, logger)
	d, _ := newDriver(t, dev)
	dev.Resume()
	startGood(d)
	for o := (ops{program}); len(o.left) > 0; {
		o.abuse(d)
	}
	quiet := make(chan struct{})
	go func() {
		dev.Quiesce()
		close(quiet)
	}()
	select {
	case <-quiet:
	case <-time.After(patience):
		t.Fatal("it does not come to rest")
	}
	info := dev.Inspect()
	require.Equal(t, info.State == device.StateBroken, info.Broken != "")

	to := v.make(t, logger)
	d2, _ := newDriver(t, to)
	all, _ := d.ram.Slice(0, memory.MinSize)
	d2.ram.Write(0, all)
	require.NoError(t, to.Load(1, dev.Save()))
	require.Equal(t, dev.Fingerprint(), to.Fingerprint())

	for _, d := range []*driver{d, d2} {
		d.dev.Resume()
		d.config(0x10, 4, d.dev.BARAddress(), true)
		d.start(64, 0)
		v.works(d)
	}
	require.LessOrEqual(t, strings.Count(log.String(), "\n"), mostLines, log.String())
}

// TestHostileDrivers: no guest gets a device to do more than break, whatever it does to queues,
// chains, messages and the BAR, and in whatever order.
func TestHostileDrivers(t *testing.T) {
	const programs, length = 10, 4000
	for _, v := range victims {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(programs) {
				rnd := rand.New(rand.NewPCG(seed, 24))
				program := make([]byte, length)
				for i := range program {
					program[i] = byte(rnd.Uint32())
				}
				v.suffer(t, program)
			}
		})
	}
}

// FuzzHostileDriver is TestHostileDrivers with any program.
func FuzzHostileDriver(f *testing.F) {
	for i := range victims {
		f.Add(uint8(i), []byte("\x00\x00\x00\x00\x05\x01\x00\x01\x00\x00\x00\x01\x00\x02\x00"))
	}
	f.Fuzz(func(t *testing.T, kind uint8, program []byte) {
		victims[int(kind)%len(victims)].suffer(t, program)
	})
}
