package device

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// wires is a machine that consists of the lines to the interrupt controllers.
type wires struct {
	Board
	levels []bool // that were driven
}

func (w *wires) SetIRQ(line uint32, level bool) { w.levels = append(w.levels, level) }
func (w *wires) MayWait() bool                  { return true }
func (w *wires) Prefer(string)                  {}

// testSerial is a running UART with a console and a record of its interrupt line.
func testSerial(t testing.TB) (*Serial, *bytes.Buffer, *wires) {
	s, out, w := quietSerial(t)
	s.Resume()
	return s, out, w
}

// quietSerial is one that is quiesced. The console's output is there once it is closed.
func quietSerial(t testing.TB) (*Serial, *bytes.Buffer, *wires) {
	var out bytes.Buffer
	w := &wires{}
	s := NewSerial(Console{Writer: &out})
	s.Attach(w)
	t.Cleanup(s.Close)
	return s, &out, w
}

func (s *Serial) out8(reg uint64, v ...byte) {
	s.access(Access{Offset: reg, Size: 1, Data: v, Write: true})
}

func (s *Serial) in8(reg uint64) byte {
	var b [1]byte
	s.access(Access{Offset: reg, Size: 1, Data: b[:]})
	return b[0]
}

func TestSerialTransmits(t *testing.T) {
	s, out, _ := testSerial(t)
	require.Equal(t, byte(lsrIdle), s.in8(regLSR))
	s.out8(regData, 'a')
	s.out8(regData, []byte("bc")...)
	s.Close()
	require.Equal(t, "abc", out.String())
}

func TestSerialDivisorIsNotData(t *testing.T) {
	s, out, _ := testSerial(t)
	s.out8(regLCR, lcrDLAB|3)
	s.out8(regData, 0x0c)
	s.out8(regIER, 0x01)
	require.Equal(t, []byte{0x0c, 0x01}, []byte{s.in8(regData), s.in8(regIER)})
	s.out8(regLCR, 3)
	require.Equal(t, byte(0), s.in8(regIER))
	s.out8(regScratch, 0x5a)
	require.Equal(t, byte(0x5a), s.in8(regScratch))
	s.Close()
	require.Empty(t, out.String())
}

func TestSerialReceives(t *testing.T) {
	s, _, lines := testSerial(t)
	require.Equal(t, 3, s.Input([]byte("xyz")))
	require.Empty(t, lines.levels, "no interrupt is enabled")
	require.Equal(t, byte(lsrIdle|lsrData), s.in8(regLSR))
	s.out8(regIER, ierData)
	require.Equal(t, []bool{true}, lines.levels)
	require.Equal(t, byte(iirData), s.in8(regIIR))
	require.Equal(t, "xyz", string([]byte{s.in8(regData), s.in8(regData), s.in8(regData)}))
	require.Equal(t, []bool{true, false}, lines.levels)
	require.Equal(t, byte(iirNone), s.in8(regIIR))
	require.Equal(t, byte(0), s.in8(regData), "empty")
}

func TestSerialQueuesWhatTheFIFOCannotTake(t *testing.T) {
	s, _, _ := testSerial(t)
	text := strings.Repeat("0123456789", 1000)
	n := s.Input([]byte(text))
	require.Equal(t, rxFIFO+serialInput, n+s.Input([]byte(text)), "bounded")
	var got bytes.Buffer
	for s.in8(regLSR)&lsrData != 0 {
		got.WriteByte(s.in8(regData))
	}
	require.Equal(t, rxFIFO+serialInput, got.Len())
	require.Equal(t, text[:n], got.String()[:n])
}

func TestSerialTransmitInterrupt(t *testing.T) {
	s, _, lines := testSerial(t)
	s.out8(regIIR, fcrEnable)
	s.out8(regIER, ierTHRE)
	require.Equal(t, []bool{true}, lines.levels, "the transmitter is empty")
	require.Equal(t, byte(iirFIFO|iirTHRE), s.in8(regIIR))
	require.Equal(t, []bool{true, false}, lines.levels, "reading IIR acknowledges")
	s.out8(regData, 'x')
	require.Equal(t, []bool{true, false, true}, lines.levels, "empty again at once")
}

func TestSerialLoopback(t *testing.T) {
	s, out, _ := testSerial(t)
	require.Equal(t, byte(msrReady), s.in8(regMSR))
	s.out8(regMCR, mcrLoop|0x0a)
	require.Equal(t, byte(0x90), s.in8(regMSR), "RTS reads as CTS, OUT2 as DCD")
	s.out8(regData, 0xae)
	require.Equal(t, byte(0xae), s.in8(regData))
	s.Close()
	require.Empty(t, out.String())
}

func TestSerialIgnoresWideAccesses(t *testing.T) {
	s, out, _ := testSerial(t)
	wide := []byte("ab")
	s.access(Access{Offset: regData, Size: 2, Data: wide, Write: true})
	s.access(Access{Offset: regData, Size: 2, Data: wide})
	require.Equal(t, []byte{0xff, 0xff}, wide)
	s.Close()
	require.Empty(t, out.String())
}

func TestQuiescedSerialQueuesInput(t *testing.T) {
	s, _, lines := testSerial(t)
	s.out8(regIER, ierData)
	s.Quiesce()
	before := s.Fingerprint()
	require.Equal(t, 2, s.Input([]byte("hi")))
	require.Equal(t, before, s.Fingerprint(), "the guest sees nothing yet")
	require.Empty(t, lines.levels)
	saved := s.Save()

	moved, _, movedLines := quietSerial(t)
	require.NoError(t, moved.Load(1, saved))
	require.Equal(t, saved, moved.Save())
	moved.Resume()
	require.Equal(t, []bool{true}, movedLines.levels)
	require.Equal(t, "hi", string([]byte{moved.in8(regData), moved.in8(regData)}))
}

func TestSerialStateRoundTrip(t *testing.T) {
	s, _, _ := testSerial(t)
	s.out8(regIIR, fcrEnable)
	s.out8(regLCR, lcrDLAB)
	s.out8(regData, 3)
	s.out8(regLCR, 3)
	s.out8(regMCR, 0x0b)
	s.out8(regScratch, 9)
	s.out8(regIER, ierData|ierTHRE)
	s.Input([]byte("some input"))

	moved, _, lines := quietSerial(t)
	require.NoError(t, moved.Load(1, s.Save()))
	require.Equal(t, s.Fingerprint(), moved.Fingerprint())
	moved.Resume()
	require.Empty(t, lines.levels, "the interrupt controllers know the line's level")
	for range len("some input") {
		moved.in8(regData)
	}
	moved.in8(regIIR)
	require.Equal(t, []bool{false}, lines.levels)
}

// silentSerial is one without a console, quiesced.
func silentSerial() *Serial {
	s := NewSerial(Console{})
	s.Attach(&wires{})
	return s
}

func FuzzSerialLoad(f *testing.F) {
	f.Add([]byte{1, 3, 0xb, 9, 3, 1, 0, 2, 'h', 'i', 'x'})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 17})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := silentSerial()
		if s.Load(1, b) != nil {
			return
		}
		require.Equal(t, b, s.Save())
		s.Resume()
		for range rxFIFO + 1 {
			s.in8(regData)
		}
	})
}

// FuzzSerialAccess does what a guest could: any access to any register.
func FuzzSerialAccess(f *testing.F) {
	f.Add([]byte{0x81, 5, 0x00, 0x85, 0x03})
	f.Fuzz(func(t *testing.T, program []byte) {
		s := silentSerial()
		s.Resume()
		for len(program) >= 2 {
			reg := uint64(program[0] & 7)
			if program[0]&0x80 != 0 {
				s.out8(reg, program[1])
			} else {
				s.in8(reg)
			}
			s.Input(program[1:2])
			program = program[2:]
		}
		require.LessOrEqual(t, len(s.fifo), rxFIFO)
		require.LessOrEqual(t, len(s.queue), serialInput)
		require.NoError(t, silentSerial().Load(1, s.Save()))
	})
}
