package vmm

import (
	"errors"
	"sync"
)

// COM1 on a PC.
const (
	serialPort  = 0x3f8
	serialPorts = 8
	serialIRQ   = 4
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

// serial is a 16550 UART. Sending takes no time: the transmitter is always empty.
// What is received waits in the UART's FIFO of 16 bytes and, before that, in a queue
// of the host.
//
// The interrupt line follows the registers: high while an enabled condition holds.
type serial struct {
	out *console
	irq func(level bool)

	mu sync.Mutex
	serialState
	line  bool   // the level last given to irq
	still bool   // the machine stands still: registers and FIFO must not change
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

func newSerial(out *console, irq func(level bool)) *serial {
	return &serial{out: out, irq: irq, still: true, serialState: serialState{divisor: [2]uint8{1, 0}}}
}

// input takes received bytes as far as there is room and returns how many.
func (s *serial) input(p []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(p), serialInput-len(s.queue))
	s.queue = append(s.queue, p[:n]...)
	s.receive()
	return n
}

// hold keeps received bytes in the host's queue from now on, release lets them in.
func (s *serial) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.still = true
}

func (s *serial) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.still = false
	s.receive()
}

// receive moves bytes from the host's queue into the FIFO.
func (s *serial) receive() {
	if s.still {
		return
	}
	n := min(len(s.queue), rxFIFO-len(s.fifo))
	s.fifo = append(s.fifo, s.queue[:n]...)
	s.queue = s.queue[n:]
	s.updateIRQ()
}

// access handles port accesses. The UART has byte registers only.
func (s *serial) access(offset uint64, size int, data []byte, write bool) error {
	switch {
	case size != 1:
		if !write {
			fill(data, 0xff)
		}
	case write:
		s.write(uint16(offset), data)
	default:
		s.read(uint16(offset), data)
	}
	return nil
}

// write handles bytes written to a register one after the other, as `rep outsb`
// does.
func (s *serial) write(reg uint16, p []byte) {
	if reg == regData && s.transmits() {
		// Not with the lock held: the console may make the guest wait.
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
func (s *serial) transmits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lcr&lcrDLAB == 0 && s.mcr&mcrLoop == 0
}

func (s *serial) writeRegister(reg uint16, v uint8) {
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
func (s *serial) read(reg uint16, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p {
		p[i] = s.readRegister(reg)
	}
	s.receive()
	s.updateIRQ()
}

func (s *serial) readRegister(reg uint16) uint8 {
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

func (s *serial) popFIFO() uint8 {
	if len(s.fifo) == 0 {
		return 0
	}
	v := s.fifo[0]
	s.fifo = append(s.fifo[:0], s.fifo[1:]...)
	return v
}

// cause is the most urgent enabled interrupt condition.
func (s *serial) cause() uint8 {
	switch {
	case s.ier&ierData != 0 && len(s.fifo) > 0:
		return iirData
	case s.ier&ierTHRE != 0 && s.thrEmpty:
		return iirTHRE
	}
	return iirNone
}

// identify reads IIR, which acknowledges an interrupt for the empty transmitter.
func (s *serial) identify() uint8 {
	v := s.cause()
	if v == iirTHRE {
		s.thrEmpty = false
	}
	if s.fifoOn {
		v |= iirFIFO
	}
	return v
}

// modemStatus is a peer that is always ready or, in loopback, the modem outputs:
// DTR, RTS, OUT1 and OUT2 read as DSR, CTS, RI and DCD.
func (s *serial) modemStatus() uint8 {
	if s.mcr&mcrLoop == 0 {
		return msrReady
	}
	return s.mcr&1<<5 | s.mcr&2<<3 | s.mcr&4<<4 | s.mcr&8<<4
}

func (s *serial) updateIRQ() {
	level := s.cause() != iirNone
	if level != s.line {
		s.line = level
		s.irq(level)
	}
}

// errSerialState is returned for saved state that no UART can have.
var errSerialState = errors.New("serial port: bad state")

const serialFixed = 8 // bytes of saved registers

// save returns registers and FIFO, and after them what the host has queued.
func (s *serial) save() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(s.visible(), s.queue...)
}

// fingerprint is the part of save that a guest can see.
func (s *serial) fingerprint() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.visible()
}

func (s *serial) visible() []byte {
	var flags uint8
	if s.fifoOn {
		flags |= 1
	}
	if s.thrEmpty {
		flags |= 2
	}
	b := []byte{s.ier, s.lcr, s.mcr, s.scratch, flags, s.divisor[0], s.divisor[1], uint8(len(s.fifo))}
	return append(b, s.fifo...)
}

// load takes what save returned. The interrupt line is left as it is: the interrupt
// controllers' state is loaded too, and has it.
func (s *serial) load(b []byte) error {
	if len(b) < serialFixed || b[7] > rxFIFO || len(b) < serialFixed+int(b[7]) ||
		len(b) > serialFixed+int(b[7])+serialInput || b[4]&^3 != 0 || b[0]&^ierMask != 0 || b[2]&^mcrMask != 0 {
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

// drive gives the interrupt line its level anew.
func (s *serial) drive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.irq(s.line)
}
