package vmm

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// testSerial is a running UART with a console and a record of its interrupt line.
func testSerial(t *testing.T) (*serial, *syncBuffer, *[]bool) {
	var out syncBuffer
	lines := new([]bool)
	c := newConsole(&out, func() bool { return true })
	s := newSerial(c, func(level bool) { *lines = append(*lines, level) })
	s.release()
	t.Cleanup(c.close)
	return s, &out, lines
}

func (s *serial) out8(reg uint64, v ...byte) { _ = s.access(reg, 1, v, true) }

func (s *serial) in8(reg uint64) byte {
	var b [1]byte
	_ = s.access(reg, 1, b[:], false)
	return b[0]
}

func TestSerialTransmits(t *testing.T) {
	s, out, _ := testSerial(t)
	require.Equal(t, byte(lsrIdle), s.in8(regLSR))
	s.out8(regData, 'a')
	s.out8(regData, []byte("bc")...)
	s.out.close()
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
	s.out.close()
	require.Empty(t, out.String())
}

func TestSerialReceives(t *testing.T) {
	s, _, lines := testSerial(t)
	require.Equal(t, 3, s.input([]byte("xyz")))
	require.Empty(t, *lines, "no interrupt is enabled")
	require.Equal(t, byte(lsrIdle|lsrData), s.in8(regLSR))
	s.out8(regIER, ierData)
	require.Equal(t, []bool{true}, *lines)
	require.Equal(t, byte(iirData), s.in8(regIIR))
	require.Equal(t, "xyz", string([]byte{s.in8(regData), s.in8(regData), s.in8(regData)}))
	require.Equal(t, []bool{true, false}, *lines)
	require.Equal(t, byte(iirNone), s.in8(regIIR))
	require.Equal(t, byte(0), s.in8(regData), "empty")
}

func TestSerialQueuesWhatTheFIFOCannotTake(t *testing.T) {
	s, _, _ := testSerial(t)
	text := strings.Repeat("0123456789", 1000)
	n := s.input([]byte(text))
	require.Equal(t, rxFIFO+serialInput, n+s.input([]byte(text)), "bounded")
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
	require.Equal(t, []bool{true}, *lines, "the transmitter is empty")
	require.Equal(t, byte(iirFIFO|iirTHRE), s.in8(regIIR))
	require.Equal(t, []bool{true, false}, *lines, "reading IIR acknowledges")
	s.out8(regData, 'x')
	require.Equal(t, []bool{true, false, true}, *lines, "empty again at once")
}

func TestSerialLoopback(t *testing.T) {
	s, out, _ := testSerial(t)
	require.Equal(t, byte(msrReady), s.in8(regMSR))
	s.out8(regMCR, mcrLoop|0x0a)
	require.Equal(t, byte(0x90), s.in8(regMSR), "RTS reads as CTS, OUT2 as DCD")
	s.out8(regData, 0xae)
	require.Equal(t, byte(0xae), s.in8(regData))
	s.out.close()
	require.Empty(t, out.String())
}

func TestSerialIgnoresWideAccesses(t *testing.T) {
	s, out, _ := testSerial(t)
	wide := []byte("ab")
	require.NoError(t, s.access(regData, 2, wide, true))
	require.NoError(t, s.access(regData, 2, wide, false))
	require.Equal(t, []byte{0xff, 0xff}, wide)
	s.out.close()
	require.Empty(t, out.String())
}

func TestSerialHoldsInputWhileStill(t *testing.T) {
	s, _, lines := testSerial(t)
	s.out8(regIER, ierData)
	s.hold()
	before := s.fingerprint()
	require.Equal(t, 2, s.input([]byte("hi")))
	require.Equal(t, before, s.fingerprint(), "what the guest sees stands still")
	require.Empty(t, *lines)
	saved := s.save()

	moved, _, movedLines := testSerial(t)
	moved.hold()
	require.NoError(t, moved.load(saved))
	require.Equal(t, saved, moved.save())
	moved.release()
	require.Equal(t, []bool{true}, *movedLines)
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
	s.input([]byte("some input"))
	s.hold()

	moved, _, lines := testSerial(t)
	require.NoError(t, moved.load(s.save()))
	require.Equal(t, s.fingerprint(), moved.fingerprint())
	moved.drive()
	require.Equal(t, []bool{true}, *lines, "the line is driven anew")
}

func FuzzSerialLoad(f *testing.F) {
	f.Add([]byte{1, 3, 0xb, 9, 3, 1, 0, 2, 'h', 'i', 'x'})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 17})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newSerial(newConsole(nil, nil), func(bool) {})
		if s.load(b) != nil {
			return
		}
		require.Equal(t, b, s.save())
		s.release()
		for range rxFIFO + 1 {
			s.in8(regData)
		}
	})
}

// FuzzSerialAccess does what a guest could: any access to any register.
func FuzzSerialAccess(f *testing.F) {
	f.Add([]byte{0x81, 5, 0x00, 0x85, 0x03})
	f.Fuzz(func(t *testing.T, program []byte) {
		s := newSerial(newConsole(nil, nil), func(bool) {})
		s.release()
		for len(program) >= 2 {
			reg := uint64(program[0] & 7)
			if program[0]&0x80 != 0 {
				s.out8(reg, program[1])
			} else {
				s.in8(reg)
			}
			s.input(program[1:2])
			program = program[2:]
		}
		require.LessOrEqual(t, len(s.fifo), rxFIFO)
		require.LessOrEqual(t, len(s.queue), serialInput)
		again := newSerial(newConsole(nil, nil), func(bool) {})
		require.NoError(t, again.load(s.save()))
	})
}

// blockedWriter blocks until it is opened.
type blockedWriter struct {
	open chan struct{}
	w    io.Writer
}

func (b *blockedWriter) Write(p []byte) (int, error) {
	<-b.open
	return b.w.Write(p)
}

func TestSlowConsoleDoesNotHoldUpAPause(t *testing.T) {
	var out syncBuffer
	slow := &blockedWriter{open: make(chan struct{}), w: &out}
	vm, err := New(Config{MemoryBytes: 16 << 20, CPUs: 1, Options: Options{Console: slow}})
	require.NoError(t, err)
	defer vm.Close()
	vm.console.limit = 1000
	// The guest writes 0, 1, 2, ... to COM1 for ever.
	require.NoError(t, vm.Boot(testKernel(code(
		0x31, 0xc0, // xor eax, eax
		0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xee,       // 1: out dx, al
		0xfe, 0xc0, // inc al
		0xeb, 0xfb, // jmp 1b
	)), nil, ""))
	require.NoError(t, vm.Resume())
	queued := func() int {
		vm.console.mu.Lock()
		defer vm.console.mu.Unlock()
		return len(vm.console.queue)
	}
	require.Eventually(t, func() bool { return queued() >= 1000 }, testTimeout, 1e6)
	for range 10 {
		require.NoError(t, vm.Pause())
		_, err := vm.SaveState()
		require.NoError(t, err)
		require.NoError(t, vm.Resume())
	}
	require.Less(t, queued(), 1000+20, "the guest waits for the console")
	require.NoError(t, vm.Pause())
	close(slow.open)
	require.Eventually(t, func() bool { return queued() == 0 }, testTimeout, 1e6)
	vm.Stop()
	_, err = vm.Wait()
	require.NoError(t, err)
	for i, v := range []byte(out.String()) {
		require.Equal(t, byte(i), v, "byte %d", i)
	}
}
