package pci

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/device"
	"taskguide/vmm/device/devicetest"
	"taskguide/vmm/state"
)

// sent is a message.
type sent struct {
	vector  int
	address uint64
	data    uint32
}

// board keeps the messages that are sent, and those that are to be prepared.
type board struct {
	*devicetest.Board
	made           int // interrupts
	sent, prepared []sent
}

func (b *board) Interrupt() device.Interrupt {
	b.made++
	return wire{b, b.made - 1}
}

type wire struct {
	board  *board
	vector int
}

func (w wire) Send(address uint64, data uint32) {
	w.board.sent = append(w.board.sent, sent{w.vector, address, data})
}

func (w wire) Prepare(address uint64, data uint32) {
	w.board.prepared = append(w.board.prepared, sent{w.vector, address, data})
}

func (b *board) take() []sent {
	s := b.sent
	b.sent = nil
	return s
}

const (
	testSlot  = 3
	testTable = 0x4000
	testBits  = 0x5000
	vectors   = 3
	bytesBAR  = 0x8000
)

func testSpec() Spec {
	return Spec{
		Slot: testSlot, Vendor: 0x1af4, Device: 0x1044, Class: 0x00ff00, Revision: 1,
		Subsystem: 0x40, BARBytes: bytesBAR, Vectors: vectors,
		TableOffset: testTable, PendingOffset: testBits,
		Capabilities: [][]byte{{16, 1, 0, 0}, {20, 2, 0, 0, 0, 0, 1, 2}},
		Window:       func(a device.Access) { a.Ignore() },
	}
}

// bus is a host bridge with one function.
type bus struct {
	host    *Host
	f       *Function
	board   *board
	windows []device.Window
}

func newBus(t testing.TB) *bus {
	host := NewHost()
	plain, err := devicetest.NewBoard(host)
	require.NoError(t, err)
	t.Cleanup(plain.Close)
	b := &bus{host: host, f: NewFunction(testSpec()), board: &board{Board: plain}}
	b.f.Attach(b.board)
	host.Plug(b.f)
	b.windows = plain.Windows
	return b
}

func access(w device.Window, offset uint64, size int, v uint64, write bool) uint64 {
	word := le.AppendUint64(nil, v)
	w.Access(device.Access{Offset: offset, Size: size, Data: word[:size], Write: write})
	clear(word[size:])
	return le.Uint64(word)
}

// ecam is an access to configuration space.
func (b *bus) ecam(slot int, register uint64, size int) uint64 {
	return access(b.windows[2], uint64(slot)<<15+register, size, 0, false)
}

func (b *bus) ecamWrite(slot int, register uint64, size int, v uint64) {
	access(b.windows[2], uint64(slot)<<15+register, size, v, true)
}

// ports is an access to configuration space by 0xcf8 and 0xcfc.
func (b *bus) ports(slot int, register uint64, size int) uint64 {
	address := uint64(addressEnabled) | uint64(slot)<<11 | register&^3
	access(b.windows[0], 0, 4, address, true)
	return access(b.windows[1], register&3, size, 0, false)
}

// msix is an access to the table, or the pending bits.
func (b *bus) msix(offset uint64, size int, v uint64, write bool) uint64 {
	return access(device.Window{Access: func(a device.Access) {
		if !b.f.AccessMSIX(a) {
			a.Ignore()
		}
	}}, offset, size, v, write)
}

// entry writes an entry of the table.
func (b *bus) entry(v int, address uint64, data, control uint32) {
	at := uint64(testTable + v*entryBytes)
	b.msix(at+entryControl, 4, entryMask, true)
	b.msix(at, 8, address, true)
	b.msix(at+entryData, 4, uint64(data), true)
	b.msix(at+entryControl, 4, uint64(control), true)
}

const (
	command     = 4
	msixAt      = 0x40
	windowAt    = 0x60
	apicAddress = 0xfee00000
)

// enable lets the function send messages.
func (b *bus) enable() {
	b.ecamWrite(testSlot, command, 2, commandMemory|commandMaster)
	b.ecamWrite(testSlot, msixAt+2, 2, msixEnable)
}

func TestHostKeepsTheContract(t *testing.T) {
	devicetest.Run(t, devicetest.Suite{New: func() device.Device { return NewHost() }})
}

// function is a function alone, as a device.
type function struct {
	device.Stateless
	*Function
	host *Host
}

func (function) Kind() state.Kind { return state.Kind{Name: "f", Version: 1} }

func (f function) Attach(b device.Board) []device.Window {
	f.Function.Attach(b)
	f.host.Plug(f.Function)
	return f.host.Attach(b)
}

func (f function) Save() []byte                     { return f.Function.Save() }
func (f function) Fingerprint() []byte              { return f.Save() }
func (f function) Load(_ uint16, data []byte) error { return f.Function.Load(data) }

// TestFunctionKeepsTheContract: the contract holds when all of configuration space is written.
func TestFunctionKeepsTheContract(t *testing.T) {
	devicetest.Run(t, devicetest.Suite{
		New: func() device.Device {
			return function{Function: NewFunction(testSpec()), host: NewHost()}
		},
		Work: func(m *devicetest.Board) {
			for register := uint64(0); register < configBytes; register += 4 {
				access(m.Windows[2], testSlot<<15+register, 4, 0xffffffff, true)
			}
			m.Device.(function).Signal(1)
		},
	})
}

// TestConfigurationSpace: both ways lead to the same registers in all sizes, and other addresses
// have no device.
func TestConfigurationSpace(t *testing.T) {
	b := newBus(t)
	for slot, want := range map[int]uint64{0: bridgeDevice<<16 | Vendor, testSlot: 0x10441af4} {
		require.Equal(t, want, b.ecam(slot, 0, 4))
		require.Equal(t, want, b.ports(slot, 0, 4))
		require.Equal(t, want&0xffff, b.ecam(slot, 0, 2))
		require.Equal(t, want>>24, b.ports(slot, 3, 1))
	}
	require.EqualValues(t, 0x00ff0001, b.ecam(testSlot, 8, 4), "class and revision")
	require.EqualValues(t, bridgeClass<<8, b.ecam(0, 8, 4))
	require.EqualValues(t, 0x00401af4, b.ecam(testSlot, 0x2c, 4), "subsystem")
	for _, at := range []uint64{configBytes, functionBytes - 4} {
		require.Zero(t, b.ecam(testSlot, at, 4), "nothing there: %#x", at)
	}
	for name, got := range map[string]uint64{
		"an empty slot":        b.ecam(9, 0, 4),
		"an empty slot, ports": b.ports(9, 0, 4),
		"a second function":    access(b.windows[2], testSlot<<15+functionBytes, 4, 0, false),
		"not aligned":          b.ecam(testSlot, 2, 4),
		"across registers":     b.ports(testSlot, 3, 2)<<16 | 0xffff,
	} {
		require.EqualValues(t, 0xffffffff, got, name)
	}
	require.EqualValues(t, ^uint64(0), b.ecam(testSlot, 0, 8), "two registers at once")
	for name, address := range map[string]uint64{
		"disabled": testSlot << 11, "another bus": addressEnabled | 1<<16 | testSlot<<11,
	} {
		access(b.windows[0], 0, 4, address, true)
		require.EqualValues(t, 0xffffffff, access(b.windows[1], 0, 4, 0, false), name)
	}
	access(b.windows[0], 0, 4, 0xffffffff, true)
	require.EqualValues(t, addressBits, access(b.windows[0], 0, 4, 0, false))
	access(b.windows[0], 0, 1, 0, true)
	now := access(b.windows[0], 0, 4, 0, false)
	require.EqualValues(t, addressBits, now, "a byte is not for it")
}

// TestWhatAGuestCanChange: of each register, a guest can change the bits that have a meaning.
func TestWhatAGuestCanChange(t *testing.T) {
	want := map[uint64]uint64{
		0x04:   commandBits, // and nothing of the status
		0x0c:   0xff,
		0x10:   0xffffffff &^ (bytesBAR - 1),
		0x3c:   0xff,
		msixAt: (msixEnable | msixMaskAll) << 16,

		windowAt + windowBAR:    0xff,
		windowAt + windowOffset: 0xffffffff,
		windowAt + windowLength: 0xffffffff,
	}
	for register := uint64(0); register < configBytes; register += 4 {
		b := newBus(t)
		b.ecamWrite(testSlot, register, 4, 0)
		zeros := b.ecam(testSlot, register, 4)
		b.ecamWrite(testSlot, register, 4, 0xffffffff)
		ones := b.ecam(testSlot, register, 4)
		require.Equal(t, want[register], zeros^ones, "%#x", register)
		before := newBus(t).ecam(testSlot, register, 4)
		require.Zero(t, (before^ones)&^want[register], "%#x", register)
	}
}

// TestBAR: the slot fixes the BAR's address. A guest can measure the BAR, and it answers only at
// that address, and only if the guest allows it.
func TestBAR(t *testing.T) {
	b := newBus(t)
	const at = BARBase + testSlot*barStride
	require.EqualValues(t, at, b.ecam(testSlot, regBAR, 4))
	require.False(t, b.f.Decodes())
	b.ecamWrite(testSlot, command, 2, commandMemory)
	require.True(t, b.f.Decodes())
	b.ecamWrite(testSlot, regBAR, 4, 0xffffffff)
	require.EqualValues(t, 1+^uint32(bytesBAR), b.ecam(testSlot, regBAR, 4))
	require.False(t, b.f.Decodes())
	b.ecamWrite(testSlot, regBAR, 4, at+bytesBAR)
	require.False(t, b.f.Decodes())
	b.ecamWrite(testSlot, regBAR, 4, at)
	require.True(t, b.f.Decodes())
	require.Zero(t, b.ecam(testSlot, regBAR+4, 4))
	for slot := range slots {
		s := Spec{Slot: slot}
		require.Less(t, s.BARAddress()+barStride, uint64(BAREnd)+1)
	}
}

// TestCapabilities: the list leads to each of them once.
func TestCapabilities(t *testing.T) {
	b := newBus(t)
	require.NotZero(t, b.ecam(testSlot, regStatus, 2)&statusHasList)
	var ids []uint64
	for at := b.ecam(testSlot, regCapabilities, 1); at != 0; at = b.ecam(testSlot, at+1, 1) {
		require.Zero(t, at%4)
		ids = append(ids, b.ecam(testSlot, at, 1)|b.ecam(testSlot, at+3, 1)<<8)
	}
	want := []uint64{
		capabilityMSIX, capabilityVendor | 1<<8, capabilityVendor | 2<<8,
		capabilityVendor | windowKind<<8,
	}
	require.Equal(t, want, ids)
	require.EqualValues(t, vectors-1, b.ecam(testSlot, msixAt+2, 2))
	require.EqualValues(t, testTable, b.ecam(testSlot, msixAt+4, 4))
	require.EqualValues(t, testBits, b.ecam(testSlot, msixAt+8, 4))
	require.Zero(t, b.ecam(0, regStatus, 2))
}

// TestMessages: a message is sent with what the table has at that time. A masked message stays
// pending and is sent once, when the last mask is lifted.
func TestMessages(t *testing.T) {
	b := newBus(t)
	b.f.Signal(0)
	require.Empty(t, b.board.take(), "not enabled")
	b.enable()
	require.Empty(t, b.board.take(), "and nothing is kept")
	b.f.Signal(1)
	require.Empty(t, b.board.take(), "masked from the beginning")
	require.EqualValues(t, 2, b.msix(testBits, 8, 0, false))
	b.f.Signal(1)
	b.entry(1, apicAddress|1<<12, 0x41, 0)
	require.Equal(t, []sent{{1, apicAddress | 1<<12, 0x41}}, b.board.take(), "once")
	require.Zero(t, b.msix(testBits, 8, 0, false))
	b.f.Signal(1)
	b.msix(testTable+entryBytes+entryData, 4, 0x42, true)
	b.f.Signal(1)
	require.Equal(t, []sent{
		{1, apicAddress | 1<<12, 0x41}, {1, apicAddress | 1<<12, 0x42},
	}, b.board.take())

	b.ecamWrite(testSlot, msixAt+2, 2, msixEnable|msixMaskAll)
	b.entry(2, apicAddress, 0x43, 0)
	b.f.Signal(1)
	b.f.Signal(2)
	b.f.Signal(0) // masked by itself, too
	require.Empty(t, b.board.take())
	require.EqualValues(t, 7, b.msix(testBits, 4, 0, false))
	b.ecamWrite(testSlot, msixAt+2, 2, msixEnable)
	require.Equal(t, []sent{{1, apicAddress | 1<<12, 0x42}, {2, apicAddress, 0x43}}, b.board.take())
	require.EqualValues(t, 1, b.msix(testBits, 4, 0, false))
	b.f.Signal(vectors)
	b.f.Signal(0xffff)
	require.Empty(t, b.board.take(), "vectors that it does not have")

	b.ecamWrite(testSlot, command, 2, commandMemory)
	b.f.Signal(1)
	require.Empty(t, b.board.take(), "no leave to send")
	b.ecamWrite(testSlot, command, 2, commandMemory|commandMaster)
	require.Empty(t, b.board.take())
}

// TestMessageTableAccess: the table is accessed by 32 and 64 bits, and bits without a meaning stay
// 0.
func TestMessageTableAccess(t *testing.T) {
	b := newBus(t)
	b.msix(testTable, 8, ^uint64(0), true)
	require.Equal(t, ^uint64(3), b.msix(testTable, 8, 0, false))
	b.msix(testTable+8, 8, ^uint64(0), true)
	require.EqualValues(t, 1<<32|0xffffffff, b.msix(testTable+8, 8, 0, false))
	require.EqualValues(t, 0xffffffff, b.msix(testTable+4, 4, 0, false))
	for _, size := range []int{1, 2} {
		b.msix(testTable, size, 0, true)
		require.EqualValues(t, 1<<(8*size)-1, b.msix(testTable, size, 0, false))
	}
	b.msix(testTable+4, 8, 0, true) // not aligned
	require.Equal(t, ^uint64(3), b.msix(testTable, 8, 0, false))
	behind := b.msix(testTable+vectors*entryBytes, 4, 0, false)
	require.EqualValues(t, 0xffffffff, behind)
	b.enable()
	b.f.Signal(0)
	b.msix(testBits, 8, 0, true)
	require.EqualValues(t, 1, b.msix(testBits, 8, 0, false), "only to be read")
	require.Zero(t, b.msix(testBits+4, 4, 0, false))
	require.EqualValues(t, 0xffffffff, b.msix(testBits+8, 4, 0, false))
	require.EqualValues(t, 0xffffffff, b.msix(0x6000, 4, 0, false))
}

// TestPendingMoves: a message that was masked at the source comes at the destination, when its mask
// is lifted there.
func TestPendingMoves(t *testing.T) {
	src, dst := newBus(t), newBus(t)
	src.enable()
	src.entry(2, apicAddress, 0x33, entryMask)
	src.f.Signal(2)
	require.NoError(t, dst.f.Load(src.f.Save()))
	require.Equal(t, src.f.Save(), dst.f.Save())
	require.True(t, dst.f.Decodes())
	require.True(t, dst.f.Masters())
	require.Empty(t, dst.board.take())
	dst.msix(testTable+2*entryBytes+entryControl, 4, 0, true)
	require.Equal(t, []sent{{2, apicAddress, 0x33}}, dst.board.take())
}

// TestMessagesArePrepared: a function that was loaded says which messages it may send, and sends
// none of them.
func TestMessagesArePrepared(t *testing.T) {
	src := newBus(t)
	src.enable()
	src.entry(0, apicAddress, 0x31, 0)
	src.entry(1, apicAddress, 0x32, entryMask)
	src.entry(2, apicAddress|1<<12, 0x33, 0)
	require.Empty(t, src.board.prepared)
	want := []sent{{0, apicAddress, 0x31}, {2, apicAddress | 1<<12, 0x33}}
	for _, control := range []uint64{msixEnable, msixEnable | msixMaskAll, 0} {
		src.ecamWrite(testSlot, msixAt+2, 2, control)
		dst := newBus(t)
		require.NoError(t, dst.f.Load(src.f.Save()))
		require.Empty(t, dst.board.take())
		if control != msixEnable {
			want = nil
		}
		require.Equal(t, want, dst.board.prepared)
	}
}

// TestWindow: a guest accesses the BAR by configuration space alone, in any part of it, and nothing
// else. Where it had come to moves with it.
func TestWindow(t *testing.T) {
	b := newBus(t)
	var got []device.Access
	b.f.Window = func(a device.Access) {
		if a.Write {
			a.Data = append([]byte(nil), a.Data...)
		} else {
			copy(a.Data, []byte{0x11, 0x22, 0x33, 0x44})
		}
		got = append(got, a)
	}
	aim := func(bar, offset, length uint64) {
		b.ecamWrite(testSlot, windowAt+windowBAR, 1, bar)
		b.ecamWrite(testSlot, windowAt+windowOffset, 4, offset)
		b.ecamWrite(testSlot, windowAt+windowLength, 4, length)
		require.Empty(t, got)
	}
	take := func() []device.Access {
		defer func() { got = nil }()
		return got
	}
	require.Zero(t, b.ecam(testSlot, windowAt+windowData, 4), "it leads nowhere yet")
	require.Empty(t, got)
	for _, c := range []struct {
		length uint64
		want   uint64
	}{{1, 0x11}, {2, 0x2211}, {4, 0x44332211}} {
		aim(0, bytesBAR-4, c.length)
		require.Equal(t, c.want, b.ecam(testSlot, windowAt+windowData, 4), "%d", c.length)
		require.Len(t, take(), 1)
		require.Equal(t, c.want>>8, b.ecam(testSlot, windowAt+windowData, 4)>>8)
		require.EqualValues(t, c.want&0xff, b.ports(testSlot, windowAt+windowData, 1))
		require.EqualValues(t, c.want>>16, b.ecam(testSlot, windowAt+windowData+2, 2))
		require.Len(t, take(), 3)
		b.ecamWrite(testSlot, windowAt+windowData, 4, 0xaabbccdd)
		want := []byte{0xdd, 0xcc, 0xbb, 0xaa}[:c.length]
		require.Equal(t, []device.Access{
			{Offset: bytesBAR - 4, Size: int(c.length), Data: want, Write: true},
		}, take())
	}
	b.ecamWrite(testSlot, windowAt+windowData, 2, 1)   // half of an access
	b.ecamWrite(testSlot, windowAt+windowData+2, 2, 1) // the other half
	require.Empty(t, got)
	for _, c := range [][3]uint64{
		{1, 0, 4}, {0, 2, 4}, {0, 1, 2}, {0, 0, 3}, {0, 0, 0}, {0, 0, 8}, {0, bytesBAR, 4},
		{0, 0xfffffffc, 4}, {0, 0, 0xffffffff},
	} {
		aim(c[0], c[1], c[2])
		b.ecamWrite(testSlot, windowAt+windowData, 4, 1)
		require.Zero(t, b.ecam(testSlot, windowAt+windowData, 4), "%v", c)
		require.Empty(t, got)
	}
	aim(0, 0x20, 4)
	to := newBus(t)
	require.NoError(t, to.f.Load(b.f.Save()))
	to.f.Window = b.f.Window
	require.EqualValues(t, 0x44332211, to.ecam(testSlot, windowAt+windowData, 4))
	require.EqualValues(t, 0x20, take()[0].Offset)
}

// TestForeignState: bits that no guest can set are refused.
func TestForeignState(t *testing.T) {
	b := newBus(t)
	saved := b.f.Save()
	table := len(saved) - 8 - vectors*entryBytes
	for name, c := range map[string]struct {
		at int
		v  byte
	}{
		"command": {0, 1}, "address": {table, 1}, "control": {table + entryControl, 2},
		"pending": {len(saved) - 8, 8}, "pending, last": {len(saved) - 1, 0x80},
	} {
		data := append([]byte(nil), saved...)
		data[c.at] = c.v
		require.Error(t, b.f.Load(data), name)
	}
	require.Error(t, b.f.Load(saved[1:]))
	require.Error(t, b.f.Load(append(saved, 0)))
	require.NoError(t, b.f.Load(saved))
	require.Error(t, b.host.Load(1, []byte{1, 0, 0, 0}))
}

// FuzzBus gives the bus accesses of any kind. The bus must not panic, must answer with all ones
// where there is no device, and its state must move.
func FuzzBus(f *testing.F) {
	f.Add([]byte{0, 0, 2, 1, 4, 0x40, 1, 0xff})
	f.Fuzz(func(t *testing.T, ops []byte) {
		b := newBus(t)
		for ; len(ops) >= 5; ops = ops[5:] {
			offset, size := uint64(le.Uint16(ops)), 1<<(ops[2]&3)
			v := uint64(ops[3]) * 0x0101010101010101
			write := ops[4]&1 != 0
			switch ops[4] >> 1 & 3 {
			case 0:
				access(b.windows[2], testSlot<<15+offset&0xfff, size, v, write)
			case 1:
				access(b.windows[2], offset<<4, size, v, write)
			case 2:
				access(b.windows[offset&1], offset>>1&3, size, v, write)
			case 3:
				b.msix(offset&0x7fff, size, v, write)
			}
			b.f.Signal(int(ops[3]))
		}
		to := newBus(t)
		require.NoError(t, to.f.Load(b.f.Save()))
		require.Equal(t, b.f.Save(), to.f.Save())
		require.NoError(t, to.host.Load(1, b.host.Save()))
	})
}
