package tagpci

import (
	"encoding/binary"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
	"taskguide/tagging/abi"
	"taskguide/vmm/device"
	"taskguide/vmm/device/devicetest"
	"taskguide/vmm/device/pci"
)

var le = binary.LittleEndian

// both is the function together with the tags that it shows.
type both struct {
	*Device
	tags *device.Tags
	host *pci.Host
}

func newBoth(log *slog.Logger) both {
	host, tags := pci.NewHost(), &device.Tags{}
	return both{New(host, tags, log), tags, host}
}

func (b both) Attach(board device.Board) []device.Window {
	b.tags.Attach(board)
	return b.Device.Attach(board)
}

func (b both) Quiesce() {
	b.Device.Quiesce()
	b.tags.Quiesce()
}

func (b both) Resume() {
	b.tags.Resume()
	b.Device.Resume()
}

func TestContract(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	devicetest.Run(t, devicetest.Suite{New: func() device.Device { return newBoth(quiet) }})
	devicetest.Run(t, devicetest.Suite{
		New: func() device.Device { return newBoth(quiet) },
		Work: func(m *devicetest.Board) {
			b := m.Device.(both)
			b.enable()
			b.page(3)
			b.write(m, abi.RegPages, 1<<3)
			b.write(m, abi.RegEnter, 7)
		},
		Outside: func(m *devicetest.Board) {
			port := m.Device.(both).tags.Port
			port.Attach(tagging.All, listener{})
			port.Snapshot()
			port.Detach()
		},
	})
}

type listener struct{}

func (listener) GateOpened()       {}
func (listener) GateClosing() bool { return false }
func (listener) GateClosed()       {}

// config accesses the function's configuration space, by the bus.
func (b both) config(write bool, register int, p []byte) {
	w := b.host.Attach(nil)[2] // ECAM
	w.Access(device.Access{
		Offset: slot<<15 + uint64(register), Size: len(p), Data: p, Write: write,
	})
}

func (b both) enable() { b.config(true, 4, []byte{2, 0}) }

func (b both) read(m *devicetest.Board, register uint64) uint32 {
	p := make([]byte, 4)
	m.Access(0, device.Access{Offset: register, Size: 4, Data: p})
	return le.Uint32(p)
}

func (b both) write(m *devicetest.Board, register uint64, v uint32) {
	m.Access(0, device.Access{
		Offset: register, Size: 4, Data: le.AppendUint32(nil, v), Write: true,
	})
}

// page makes a page of device RAM a tag page with one task, 7, outside of its segment, and a lease
// of the shortest term.
func (b both) page(i int) []byte {
	page := b.ram[i*abi.PageSize:][:abi.PageSize]
	for at, v := range map[int]uint32{
		0: abi.PageMagic, 4: abi.PageVersion, 12: 1, 0x14: 1, 0x40: abi.SlotUsed, 0x44: 7,
	} {
		le.PutUint32(page[at:], v)
	}
	return page
}

// TestFunction: a driver finds what interfaces say, and BAR 2 says that it is memory.
func TestFunction(t *testing.T) {
	b := newBoth(slog.New(slog.DiscardHandler))
	m, err := devicetest.NewBoard(b)
	require.NoError(t, err)
	defer m.Close()
	word := func(register int) uint32 {
		p := make([]byte, 4)
		b.config(false, register, p)
		return le.Uint32(p)
	}
	size := func(register int) uint32 {
		was := le.AppendUint32(nil, word(register))
		b.config(true, register, []byte{0xff, 0xff, 0xff, 0xff})
		defer b.config(true, register, was)
		return -(word(register) &^ 0xf)
	}
	require.EqualValues(t, 0x7461f055, word(0))
	require.EqualValues(t, 0xc0600000, word(0x10))
	require.EqualValues(t, 0xc0680008, word(0x18), "32 bits, prefetchable")
	require.EqualValues(t, 4096, size(0x10))
	require.EqualValues(t, 64<<10, size(0x18))
	require.Zero(t, word(0x14))
	require.Zero(t, word(0x1c))

	require.EqualValues(t, 0xffffffff, b.read(m, abi.RegID), "memory is not enabled")
	b.enable()
	require.EqualValues(t, abi.ID, b.read(m, abi.RegID))
	b.write(m, abi.RegEnter, 9)
	require.Len(t, b.tags.Port.Snapshot().Tasks, 1, "the same port")
}

// buffer is a log that a test can look at meanwhile.
type buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// running is a board whose vCPUs run.
type running struct{ *devicetest.Board }

func (running) MayWait() bool { return true }

// TestLeaseEnds: the function counts leases on its own, and says so once.
func TestLeaseEnds(t *testing.T) {
	var log buffer
	b := newBoth(slog.New(slog.NewTextHandler(&log, nil)))
	m, err := devicetest.NewBoard(b)
	require.NoError(t, err)
	defer m.Close()
	b.Device.board = running{m}
	b.enable()
	page := b.page(3)
	b.write(m, abi.RegPages, 1<<3)
	require.False(t, b.tags.Port.Gate().Open)
	b.Resume() // from here on the term runs
	open := func() bool { return b.tags.Port.Gate().Open }
	require.Eventually(t, open, time.Minute, 10*time.Millisecond)
	b.Quiesce()
	require.Zero(t, le.Uint32(page))
	require.False(t, b.tags.Port.HasDevicePages())
	require.Equal(t, 1, strings.Count(log.String(), "tag pages of programs given up: 1"))
}

// TestQuiescedFunctionCountsNothing, also in the moment before the port is quiesced, too.
func TestQuiescedFunctionCountsNothing(t *testing.T) {
	b := newBoth(slog.New(slog.DiscardHandler))
	m, err := devicetest.NewBoard(b)
	require.NoError(t, err)
	defer m.Close()
	b.Device.board = running{m}
	b.enable()
	b.page(3)
	b.Resume()
	b.Device.Quiesce()
	b.write(m, abi.RegPages, 1<<3)
	time.Sleep(10 * tagging.LeaseStep) // the term is half of that
	require.True(t, b.tags.Port.HasDevicePages())
}

// TestStateMoves: RAM, the committed pages and the configuration go on elsewhere.
func TestStateMoves(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	b, there := newBoth(quiet), newBoth(quiet)
	m, err := devicetest.NewBoard(b)
	require.NoError(t, err)
	defer m.Close()
	m2, err := devicetest.NewBoard(there)
	require.NoError(t, err)
	defer m2.Close()
	b.enable()
	b.page(3)
	b.write(m, abi.RegPages, 1<<3)
	require.NoError(t, there.Load(1, b.Save()))
	require.Equal(t, b.Save(), there.Save())
	require.Equal(t, b.Fingerprint(), there.Fingerprint())
	require.EqualValues(t, 1<<3, there.read(m2, abi.RegPages), "it answers there")
	require.Equal(t, b.ram, there.ram)
	for n := range 40 {
		require.Error(t, there.Load(1, b.Save()[:n]))
	}
}
