package virtio

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"taskguide/memory"
	"taskguide/vmm/device/pci"
	"taskguide/vmm/state"
)

// A vsock carries byte streams between programs of the guest and of the host (VIRTIO 1.2, section
// 5.10). Each packet has a header and says how much room its sender has for the stream (credit),
// so neither side must keep more than it promised.
//
//	guest program -- packets in queues -- vsock -- a unix socket each -- host program
//
// A connection does not move: its other end is a program of this host. So the first thing that a
// guest finds after a move is the event TRANSPORT_RESET, for which it resets its connections. It
// resets all that it has when it comes to the event, and tells nobody. So no connection is made
// before the guest has done that: a new one would end with the old ones, and the program of the
// host would wait for ever. A driver says that it is done with an event by its next buffer for one.

const (
	slotVsock  = 3
	idVsock    = 19
	classVsock = 0x028000 // network controller, other
	vsockQueue = 128

	vsockRX    = 0 // queue with room for packets to the guest
	vsockTX    = 1 // queue with packets from the guest
	vsockEvent = 2 // queue with room for events

	hostCID = 2

	// vsockCredit is how many bytes of a stream may wait for the host's program.
	vsockCredit = 64 << 10
	// vsockChunk is how many bytes of a stream wait for the guest.
	vsockChunk = 32 << 10
	// vsockStreams is the most connections at a time. Together with the two sizes above it bounds
	// the memory for them.
	vsockStreams = 1024
	// vsockAnswerWithin is how long a guest has to answer a request that it has taken. A program of
	// the host would otherwise wait for a driver that hangs, and hold one of the streams. A guest
	// has as long to act on an event, because a driver need not post another buffer for events.
	vsockAnswerWithin = 30 * time.Second
	// vsockResets is the most refusals that wait for the guest. Further ones are not sent.
	vsockResets = 1024

	eventBytes = 4 // an event is its number; 0 is TRANSPORT_RESET
)

// The header of a packet.
const (
	packetSrcCID  = 0
	packetDstCID  = 8
	packetSrcPort = 16
	packetDstPort = 20
	packetLen     = 24
	packetType    = 28
	packetOp      = 30
	packetFlags   = 32
	packetAlloc   = 36
	packetTaken   = 40
	packetBytes   = 44

	typeStream = 1

	opRequest       = 1
	opResponse      = 2
	opReset         = 3
	opShutdown      = 4
	opData          = 5
	opCreditUpdate  = 6
	opCreditRequest = 7

	shutReceive = 1 << 0 // the sender of the packet receives no more
	shutSend    = 1 << 1 // it sends no more
	shutBoth    = shutReceive | shutSend
)

// packet is a packet's header.
type packet struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	bytes            uint32
	kind, op         uint16
	flags            uint32
	alloc            uint32 // how much room its sender has, in all
	taken            uint32 // how much its sender has passed on, ever, modulo 2^32
}

func parsePacket(b []byte) packet {
	return packet{
		srcCID: le.Uint64(b[packetSrcCID:]), dstCID: le.Uint64(b[packetDstCID:]),
		srcPort: le.Uint32(b[packetSrcPort:]), dstPort: le.Uint32(b[packetDstPort:]),
		bytes: le.Uint32(b[packetLen:]), kind: le.Uint16(b[packetType:]),
		op: le.Uint16(b[packetOp:]), flags: le.Uint32(b[packetFlags:]),
		alloc: le.Uint32(b[packetAlloc:]), taken: le.Uint32(b[packetTaken:]),
	}
}

func (p packet) append(b []byte) []byte {
	b = le.AppendUint64(b, p.srcCID)
	b = le.AppendUint64(b, p.dstCID)
	b = le.AppendUint32(b, p.srcPort)
	b = le.AppendUint32(b, p.dstPort)
	b = le.AppendUint32(b, p.bytes)
	b = le.AppendUint16(b, p.kind)
	b = le.AppendUint16(b, p.op)
	b = le.AppendUint32(b, p.flags)
	b = le.AppendUint32(b, p.alloc)
	return le.AppendUint32(b, p.taken)
}

// ports name a connection.
type ports struct{ guest, host uint32 }

// refusal is a reset of what is not a connection here.
type refusal struct {
	cid uint64 // whom the guest took for the other end
	ports
}

// vsock is the device.
type vsock struct {
	ram  *memory.Guest
	wake func(queue int) // may be called with locks held
	host *Vsock
	// events is how many buffers for events the guest has ever posted, modulo 2^16. It makes the
	// guest ring for the next one. The device's lock is held.
	events func() uint16

	tasks sync.WaitGroup

	mu      sync.Mutex // guards what follows and the streams; taken with the device's lock held
	streams map[ports]*connection
	sockets map[*connection]bool // those with a socket, or about to have one; some are over
	ready   []*connection        // those with a packet for the guest, in turn; none is over
	refused []refusal
	moved   bool // the guest is still to be told that its connections are gone
	// heeds ends the wait for the guest to act on that; nil: it has, or was not told. told is what
	// events was when it was told.
	heeds  *time.Timer
	told   uint16
	begun  bool // connections are accepted
	closed bool
	last   uint32 // port of the last stream that a program of the host opened

	answerWithin time.Duration // how long the guest has to answer a request or an event; fixed
}

// VsockKind is the kind of a vsock's state.
func VsockKind() state.Kind { return state.Kind{Name: "vsock", Version: 1} }

// NewVsock returns a vsock on a bus.
func NewVsock(bus *pci.Host, host *Vsock, log *slog.Logger) *Device {
	v := &vsock{
		host: host, streams: make(map[ports]*connection), sockets: make(map[*connection]bool),
		answerWithin: vsockAnswerWithin,
		// The guest may still have a connection with a port of the process that it came from. It
		// would take a new one with that port for the old one.
		last: rand.Uint32N(firstHostPort),
	}
	d := newDevice(bus, spec{
		name: VsockKind().Name, slot: slotVsock, id: idVsock, class: classVsock,
		sizes:  []uint16{vsockQueue, vsockQueue, vsockQueue},
		config: le.AppendUint64(nil, uint64(host.CID)),
	}, v, log)
	v.wake = d.wake
	v.events = func() uint16 { return d.queues[vsockEvent].posted() }
	return d
}

func (v *vsock) start(ram *memory.Guest) { v.ram = ram }
func (*vsock) serve(request)             {}

// handle implements [prompt].
func (v *vsock) handle(queue int, c chain) (written uint32, done bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch queue {
	case vsockRX:
		return v.give(c)
	case vsockTX:
		return 0, true, v.take(c)
	default:
		return v.tell(c)
	}
}

// tell tells the guest that it moved, and finds out when it has acted on that; mu is held.
func (v *vsock) tell(c chain) (written uint32, done bool, err error) {
	if c.writeBytes < eventBytes {
		return 0, false, broken("a buffer of %d bytes for an event", c.writeBytes)
	}
	if v.heeds != nil && v.events() != v.told {
		v.heeded()
	}
	if !v.moved {
		return 0, false, nil
	}
	scatter(v.ram, c.writable, make([]byte, eventBytes))
	v.moved = false
	v.told = v.events()
	v.heeds = time.AfterFunc(v.answerWithin, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.heeded()
	})
	return eventBytes, true, nil
}

// heeded ends the wait for the guest to act on an event; mu is held.
func (v *vsock) heeded() {
	if v.heeds != nil {
		v.heeds.Stop()
		v.heeds = nil
		v.wake(vsockRX)
	}
}

// take takes a packet from the guest; mu is held.
func (v *vsock) take(c chain) error {
	if c.readBytes < packetBytes {
		return broken("a packet of %d bytes", c.readBytes)
	}
	first, rest := cut(c.readable, packetBytes)
	p := parsePacket(gather(v.ram, first))
	if uint64(p.bytes) > uint64(c.readBytes-packetBytes) {
		return broken("a packet with %d bytes of data has %d", p.bytes, c.readBytes-packetBytes)
	}
	if p.srcCID != uint64(v.host.CID) {
		return nil // nobody to answer to
	}
	s := v.streams[ports{p.srcPort, p.dstPort}]
	if p.dstCID != hostCID || p.kind != typeStream {
		s = nil
	}
	switch {
	case p.op == opReset:
		if s != nil {
			v.drop(s)
		}
	case p.dstCID != hostCID || p.kind != typeStream:
		v.refuse(p.dstCID, ports{p.srcPort, p.dstPort})
	case p.op == opRequest && s == nil:
		v.dial(p)
	case s == nil:
		v.refuse(hostCID, ports{p.srcPort, p.dstPort})
	default:
		data, _ := cut(rest, int(min(p.bytes, vsockCredit)))
		if !v.advance(s, p, data) {
			v.cut(s)
		}
	}
	return nil
}

// refuse resets what is not a connection here; mu is held.
func (v *vsock) refuse(cid uint64, p ports) {
	if len(v.refused) < vsockResets {
		v.refused = append(v.refused, refusal{cid, p})
		v.wake(vsockRX)
	}
}

// advance does what a packet says about its stream. It returns false if the guest breaks the
// rules; mu is held.
func (v *vsock) advance(s *connection, p packet, data []memory.Range) bool {
	if !s.setCredit(p.alloc, p.taken) {
		return false
	}
	switch {
	case p.op == opResponse && s.stage == stageAsked && !s.ask:
		s.stage = stageOpen
		s.changed.Broadcast()
	case s.stage != stageOpen || s.accept:
		return false
	case p.op == opData:
		if p.bytes > vsockCredit-(s.received-s.passed) {
			return false
		}
		s.received += p.bytes
		s.toHost = append(s.toHost, gather(v.ram, data)...)
		s.changed.Broadcast()
	case p.op == opShutdown:
		v.shutdown(s, p.flags)
	case p.op == opCreditRequest:
		s.update = true
	case p.op != opCreditUpdate:
		return false
	}
	v.offer(s) // the guest may have more room
	return true
}

// shutdown ends one or both directions of a stream; mu is held.
func (v *vsock) shutdown(s *connection, flags uint32) {
	s.ended |= flags & shutBoth
	if s.ended == shutBoth {
		// The guest has closed it. It waits for this answer, and what it sent before is still
		// passed on.
		v.drop(s)
		v.refuse(hostCID, s.ports)
		return
	}
	if s.ended&shutReceive != 0 {
		s.toGuest = nil
		_ = s.socket.CloseRead()
	}
	s.changed.Broadcast()
}

// give gives the next packet to the guest, if there is one; mu is held.
func (v *vsock) give(c chain) (written uint32, done bool, err error) {
	if c.writeBytes < packetBytes {
		return 0, false, broken("a buffer of %d bytes for a packet", c.writeBytes)
	}
	p, data, ok := v.next(c.writeBytes - packetBytes)
	if !ok {
		return 0, false, nil
	}
	p.dstCID, p.kind, p.bytes = uint64(v.host.CID), typeStream, uint32(len(data))
	scatter(v.ram, c.writable, append(p.append(nil), data...))
	return packetBytes + p.bytes, true, nil
}

// next takes the next packet with at most room bytes of data; mu is held.
func (v *vsock) next(room int) (p packet, data []byte, ok bool) {
	if len(v.refused) > 0 {
		r := v.refused[0]
		v.refused = v.refused[1:]
		return packet{
			srcCID: r.cid, srcPort: r.ports.host, dstPort: r.guest, op: opReset,
		}, nil, true
	}
	var later []*connection
	defer func() {
		for _, s := range later {
			s.queued = true
		}
		v.ready = append(v.ready, later...) // heeded wakes the queue
	}()
	for len(v.ready) > 0 {
		s := v.ready[0]
		v.ready = v.ready[1:]
		s.queued = false
		if (s.ask || s.accept) && (v.moved || v.heeds != nil) {
			later = append(later, s) // the guest would reset it with those that did not move
			continue
		}
		if p, data, ok = s.next(room); !ok {
			continue
		}
		if p.op == opRequest {
			s.answer = time.AfterFunc(v.answerWithin, func() { v.unanswered(s) })
		}
		v.offer(s) // it may have more, but others come first
		s.told, s.update = s.passed, false
		p.srcCID, p.srcPort, p.dstPort = hostCID, s.ports.host, s.guest
		p.alloc, p.taken = vsockCredit, s.passed
		return p, data, true
	}
	return packet{}, nil, false
}

// unanswered ends a stream if the guest has still not answered the request for it.
func (v *vsock) unanswered(s *connection) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s.stage == stageAsked {
		v.cut(s)
	}
}

// offer puts a stream in the line of those that may have a packet for the guest, unless the stream
// is over; mu is held.
func (v *vsock) offer(s *connection) {
	if s.stage == stageOver {
		return
	}
	if !s.queued {
		s.queued = true
		v.ready = append(v.ready, s)
	}
	v.wake(vsockRX)
}

// cut ends a stream for both sides; mu is held.
func (v *vsock) cut(s *connection) {
	if s.stage != stageOver {
		v.refuse(hostCID, s.ports)
	}
	v.abort(s)
}

// abort ends a stream, and closes its socket; mu is held.
func (v *vsock) abort(s *connection) {
	s.toHost, s.greet = nil, nil
	v.drop(s)
	if s.socket != nil {
		_ = s.socket.Close()
	}
}

// drop ends a stream for the guest. What the guest sent before is still passed on; mu is held.
func (v *vsock) drop(s *connection) {
	if v.streams[s.ports] == s {
		delete(v.streams, s.ports)
	}
	if s.queued { // a guest that takes no packets must not make the line grow
		s.queued = false
		v.ready = slices.DeleteFunc(v.ready, func(o *connection) bool { return o == s })
	}
	if s.answer != nil {
		s.answer.Stop()
	}
	if s.stage != stageOpen {
		s.greet = nil
	}
	s.stage, s.ask, s.toGuest = stageOver, false, nil
	s.changed.Broadcast()
	if s.socket != nil {
		_ = s.socket.CloseRead() // wakes the reader
	}
}

// reset implements [stateful]. Programs that the guest was not told of yet wait for the next
// driver.
func (v *vsock) reset() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refused, v.ready, v.moved = nil, nil, false
	v.heeded()
	for s := range v.sockets {
		s.queued = false
		switch {
		case s.ask:
			v.offer(s)
		case s.stage == stageOver: // the guest closed it, and its last words are on their way
		case s.stage != stageGreeted:
			v.abort(s)
		}
	}
}

// The state has the refusals, and nothing of the streams. mostSaved is the most refusals that it
// has: a guest that takes no packet could gather more with each move, until none loads them.
const (
	savedRefusal = 8 + 4 + 4
	mostSaved    = vsockResets + vsockStreams
)

// save implements [stateful]. The guest resets the connections that it has, but not those that it
// has asked for and got no answer to: they are refused at the destination. As in refuse, the guest
// hears nothing of those that are too many.
func (v *vsock) save() []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := slices.Clone(v.refused)
	for _, s := range v.streams {
		if s.stage == stageDialing || s.accept {
			all = append(all, refusal{hostCID, s.ports})
		}
	}
	var b []byte
	for _, r := range all[:min(len(all), mostSaved)] {
		b = le.AppendUint64(b, r.cid)
		b = le.AppendUint32(b, r.ports.host)
		b = le.AppendUint32(b, r.guest)
	}
	return b
}

// load implements [stateful].
func (v *vsock) load(b []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(b)%savedRefusal != 0 || len(b)/savedRefusal > mostSaved {
		return fmt.Errorf("%d bytes of a vsock", len(b))
	}
	v.refused = nil
	for ; len(b) > 0; b = b[savedRefusal:] {
		v.refused = append(v.refused, refusal{
			le.Uint64(b), ports{host: le.Uint32(b[8:]), guest: le.Uint32(b[12:])},
		})
	}
	v.moved = true
	return nil
}
