package device

import (
	"errors"
	"sync"

	"taskguide/vmm/state"
)

// COM1 on a PC.
const (
	serialPort  = 0x3f8
	serialPorts = 8
	// SerialIRQ is COM1's interrupt line.
	SerialIRQ = 4
)

// Registers of a 16550 by offset; the first two are the divisor while DLAB is set.
const (
	regData     = 0 // RBR, THR
	regIER      = 1
	regIIR      = 2 // FCR when written
	regLCR      = 3
	regMCR      = 4
	regLSR      = 5
	regMSR      = 6
	regScratch  = 7
	lcrDLAB     = 0x80
	ierData     = 0x01 // received data available
	ierTHRE     = 0x02 // transmitter holding register empty
	ierMask     = 0x0f
	iirNone     = 0x01
	iirTHRE     = 0x02
	iirData     = 0x04
	iirFIFO     = 0xc0 // FIFOs enabled
	fcrEnable   = 0x01
	fcrClearRX  = 0x02
	lsrData     = 0x01
	lsrIdle     = 0x60 // transmitter holding register and shift register empty
	mcrLoop     = 0x10
	mcrMask     = 0x1f
	msrReady    = 0xb0 // carrier, data set ready, clear to send
	rxFIFO      = 16
	serialInput = 4096
)

// Serial is a 16550 UART, COM1. Sending takes no time: the transmitter is always empty. Received
// bytes wait first in a queue of the host, then in the UART's FIFO of 16 bytes. While the device is
// quiesced, new bytes stay in the queue. Once its state was saved, it takes no bytes until it is
// known that the guest stays here: what is in the queue moves with it, and what comes later would
// not.
//
// The interrupt line follows the registers: high while an enabled condition holds.
type Serial struct {
	out *console
	irq func(level bool) // set by Attach

	// mu guards what follows. The console's lock is never taken while it is held.
	mu sync.Mutex
	serialState
	quiet bool
	away  bool   // the queue belongs to whoever loads the saved state
	line  bool   // the level last given to irq
	queue []byte // received and not yet in the FIFO
}

// serialState is what the guest can see of a UART.
type serialState struct {
	ier, lcr, mcr, scratch uint8
	fifoOn                 bool
	thrEmpty               bool // an interrupt for the empty transmitter is due
	divisor                [2]uint8
	fifo                   []byte // at most rxFIFO
}

// NewSerial returns a UART that sends to a console.
func NewSerial(c Console) *Serial {
	return &Serial{
		out: newConsole(c), serialState: serialState{divisor: [2]uint8{1, 0}}, quiet: true,
	}
}

// Kind implements [Device].
func (*Serial) Kind() state.Kind { return state.Kind{Name: "serial", Version: 1} }

// Attach implements [Device].
func (s *Serial) Attach(h Board) []Window {
	s.irq = func(level bool) { h.SetIRQ(SerialIRQ, level) }
	s.out.start(h)
	return []Window{{Ports, serialPort, serialPorts, s.access}}
}

// Quiesce implements [Device].
func (s *Serial) Quiesce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet = true
}

// Resume implements [Device].
func (s *Serial) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet, s.away = false, false
	s.receive()
}

// Stay implements [Stayer].
func (s *Serial) Stay() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = false
}

// Hurry implements [Waiter]. A slow console may keep vCPUs waiting.
func (s *Serial) Hurry() { s.out.hurry() }

// Close implements [Device]. It writes the console out, as far as its writer takes it.
func (s *Serial) Close() {
	s.Quiesce()
	s.out.close()
}

// Input sends bytes to the guest as far as there is room, and returns how many it took.
func (s *Serial) Input(p []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return 0
	}
	n := min(len(p), serialInput-len(s.queue))
	s.queue = append(s.queue, p[:n]...)
	if !s.quiet {
		s.receive()
	}
	return n
}

// Unwritten is how many bytes wait for the console's writer.
func (s *Serial) Unwritten() int {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	return len(s.out.queue)
}

// Console counts the output so far. Any thread may call it, also after the device was closed.
func (s *Serial) Console() ConsoleInfo { return s.out.info() }

// receive lets queued bytes into the FIFO.
func (s *Serial) receive() {
	s.fillFIFO()
	s.updateIRQ()
}

func (s *Serial) fillFIFO() {
	n := min(len(s.queue), rxFIFO-len(s.fifo))
	s.fifo = append(s.fifo, s.queue[:n]...)
	s.queue = s.queue[n:]
}

// access handles port accesses. The UART has byte registers only.
func (s *Serial) access(a Access) {
	switch {
	case a.Size != 1:
		a.Ignore()
	case a.Write:
		s.write(uint16(a.Offset), a.Data)
	default:
		s.read(uint16(a.Offset), a.Data)
	}
}

// write handles bytes written to a register one after the other, as `rep outsb`
// does.
func (s *Serial) write(reg uint16, p []byte) {
	if reg == regData && s.transmits() {
		// The lock is not held here, because the console may make the guest wait.
		s.out.write(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range p {
		s.writeRegister(reg, v)
	}
	s.updateIRQ()
}

// transmits tells whether the data register sends to the console.
func (s *Serial) transmits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lcr&lcrDLAB == 0 && s.mcr&mcrLoop == 0
}

func (s *Serial) writeRegister(reg uint16, v uint8) {
	switch reg {
	case regData:
		switch {
		case s.lcr&lcrDLAB != 0:
			s.divisor[0] = v
		case s.mcr&mcrLoop != 0:
			if len(s.fifo) < rxFIFO {
				s.fifo = append(s.fifo, v)
			}
			s.thrEmpty = true
		default:
			s.thrEmpty = true
		}
	case regIER:
		if s.lcr&lcrDLAB != 0 {
			s.divisor[1] = v
			return
		}
		if v&ierTHRE != 0 && s.ier&ierTHRE == 0 {
			// Enabling the interrupt with the transmitter empty raises it.
			s.thrEmpty = true
		}
		s.ier = v & ierMask
	case regIIR:
		s.fifoOn = v&fcrEnable != 0
		if v&fcrClearRX != 0 {
			s.fifo = s.fifo[:0]
		}
	case regLCR:
		s.lcr = v
	case regMCR:
		s.mcr = v & mcrMask
	case regScratch:
		s.scratch = v
	}
}

// read handles bytes read from a register one after the other.
func (s *Serial) read(reg uint16, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p {
		p[i] = s.readRegister(reg)
	}
	s.fillFIFO()
	s.updateIRQ()
}

func (s *Serial) readRegister(reg uint16) uint8 {
	switch reg {
	case regData:
		if s.lcr&lcrDLAB != 0 {
			return s.divisor[0]
		}
		return s.popFIFO()
	case regIER:
		if s.lcr&lcrDLAB != 0 {
			return s.divisor[1]
		}
		return s.ier
	case regIIR:
		return s.identify()
	case regLCR:
		return s.lcr
	case regMCR:
		return s.mcr
	case regLSR:
		if len(s.fifo) > 0 {
			return lsrIdle | lsrData
		}
		return lsrIdle
	case regMSR:
		return s.modemStatus()
	}
	return s.scratch
}

func (s *Serial) popFIFO() uint8 {
	if len(s.fifo) == 0 {
		return 0
	}
	v := s.fifo[0]
	s.fifo = append(s.fifo[:0], s.fifo[1:]...)
	return v
}

// cause is the most urgent enabled interrupt condition.
func (s *Serial) cause() uint8 {
	switch {
	case s.ier&ierData != 0 && len(s.fifo) > 0:
		return iirData
	case s.ier&ierTHRE != 0 && s.thrEmpty:
		return iirTHRE
	}
	return iirNone
}

// identify reads IIR, which acknowledges an interrupt for the empty transmitter.
func (s *Serial) identify() uint8 {
	v := s.cause()
	if v == iirTHRE {
		s.thrEmpty = false
	}
	if s.fifoOn {
		v |= iirFIFO
	}
	return v
}

// modemStatus shows a peer that is always ready. In loopback it shows the modem outputs: DTR, RTS,
// OUT1 and OUT2 read as DSR, CTS, RI and DCD.
func (s *Serial) modemStatus() uint8 {
	if s.mcr&mcrLoop == 0 {
		return msrReady
	}
	return s.mcr&1<<5 | s.mcr&2<<3 | s.mcr&4<<4 | s.mcr&8<<4
}

func (s *Serial) updateIRQ() {
	level := s.cause() != iirNone
	if level != s.line {
		s.line = level
		s.irq(level)
	}
}

// errSerialState is returned for saved state that no UART can have.
var errSerialState = errors.New("serial port: bad state")

const serialFixed = 8 // bytes of saved registers

// Save implements [Device]. The state is registers and FIFO, followed by the bytes in the host's
// queue.
func (s *Serial) Save() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = true
	return append(s.visible(), s.queue...)
}

// Fingerprint implements [Device].
func (s *Serial) Fingerprint() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.visible()
}

func (s *Serial) visible() []byte {
	var flags uint8
	if s.fifoOn {
		flags |= 1
	}
	if s.thrEmpty {
		flags |= 2
	}
	b := []byte{
		s.ier, s.lcr, s.mcr, s.scratch, flags, s.divisor[0], s.divisor[1], uint8(len(s.fifo)),
	}
	return append(b, s.fifo...)
}

// Load implements [Device].
func (s *Serial) Load(_ uint16, b []byte) error {
	if len(b) < serialFixed || b[7] > rxFIFO || len(b) < serialFixed+int(b[7]) ||
		len(b) > serialFixed+int(b[7])+serialInput || b[4]&^3 != 0 || b[0]&^ierMask != 0 ||
		b[2]&^mcrMask != 0 {
		return errSerialState
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	end := serialFixed + int(b[7])
	s.serialState = serialState{
		ier: b[0], lcr: b[1], mcr: b[2], scratch: b[3],
		fifoOn: b[4]&1 != 0, thrEmpty: b[4]&2 != 0,
		divisor: [2]uint8{b[5], b[6]},
		fifo:    append([]byte(nil), b[serialFixed:end]...),
	}
	s.queue = append([]byte(nil), b[end:]...)
	s.line = s.cause() != iirNone
	return nil
}
