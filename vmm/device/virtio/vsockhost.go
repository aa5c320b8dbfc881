package virtio

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The guest's addresses (CIDs). Those below are for hypervisor, loopback and host, the one above
// for anybody.
const (
	minCID = 3
	maxCID = 1<<32 - 2
)

const (
	// maxUnixPath is the most bytes of the path of a unix socket.
	maxUnixPath = 107
	// vsockOrder is the most bytes of the line by which a program says whom it wants.
	vsockOrder = 32
	// vsockOrderWithin is how long a program has for it.
	vsockOrderWithin = 10 * time.Second
	// firstHostPort is the first port of streams that programs of the host open. Guests give their
	// own ones other numbers.
	firstHostPort = 1 << 30
)

// VsockConfig says where a guest's vsock is at the host, as Firecracker has it: programs of the
// host connect to the socket Path and write "CONNECT PORT\n", which is answered by "OK PORT\n" with
// the port at this end. When the guest connects to port N of the host, it reaches the socket
// Path_N.
type VsockConfig struct {
	CID  uint32 // the guest's address
	Path string
	// Listen makes a unix socket; nil stands for net.Listen.
	Listen func(path string) (net.Listener, error)
}

// Check returns an error for a configuration that cannot be.
func (c VsockConfig) Check() error {
	switch {
	case c.CID < minCID || c.CID > maxCID:
		return fmt.Errorf("vsock address (CID) %d: use %d to %d", c.CID, minCID, uint32(maxCID))
	case c.Path == "":
		return errors.New("vsock without a path: give it as CID,PATH")
	case len(c.portPath(1<<32-1)) > maxUnixPath:
		return fmt.Errorf("vsock path %s: too long, with a port behind it it may have %d bytes",
			c.Path, maxUnixPath)
	}
	return nil
}

// portPath is where the guest's connections to a port of the host go.
func (c VsockConfig) portPath(port uint32) string {
	path := c.Path
	if strings.HasPrefix(path, "@") {
		path = "./" + path // package net takes it for a name without a file
	}
	return fmt.Sprintf("%s_%d", path, port)
}

// Vsock is the host's side of a guest's vsock.
type Vsock struct {
	VsockConfig
	ln net.Listener
}

// OpenVsock makes the socket. Nobody is accepted before the device is resumed.
func OpenVsock(c VsockConfig) (*Vsock, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if c.Listen == nil {
		c.Listen = func(path string) (net.Listener, error) { return net.Listen("unix", path) }
	}
	ln, err := c.Listen(c.Path)
	if err != nil {
		return nil, fmt.Errorf("vsock: %w", err)
	}
	return &Vsock{VsockConfig: c, ln: ln}, nil
}

// Close removes the socket.
func (h *Vsock) Close() { h.ln.Close() }

// VsockIdentity is what a destination must know of a vsock.
type VsockIdentity struct {
	CID uint32 `json:"cid"`
}

// Identity describes the vsock to a destination.
func (h *Vsock) Identity() VsockIdentity { return VsockIdentity{h.CID} }

// stage is how far a stream has come.
type stage int

const (
	stageGreeted stage = iota // a program of the host says whom it wants
	stageAsked                // it waits for the guest
	stageDialing              // the guest waits for a program of the host
	stageOpen
	stageOver // the guest does not know it any more
)

// connection is one between a program of the guest and one of the host. vsock.mu guards it.
type connection struct {
	ports
	stage   stage
	socket  *net.UnixConn // nil while dialing; set once
	changed sync.Cond
	queued  bool        // in vsock.ready
	greet   []byte      // comes before toHost
	answer  *time.Timer // ends the wait for the guest's answer; nil: it was not asked

	// Packets that are due.
	ask, accept, update bool

	// To the guest. room and taken are what the guest said of itself.
	toGuest     []byte
	sent        uint32
	room, taken uint32
	begged      bool // the guest was asked for credit
	eof         bool // the socket has no more
	eofTold     bool

	// From the guest.
	toHost   []byte
	received uint32
	passed   uint32
	told     uint32 // the last value of passed that the guest knows
	ended    uint32 // shutReceive, shutSend
}

func (v *vsock) newConnection(p ports, first stage, socket *net.UnixConn) *connection {
	s := &connection{ports: p, stage: first, socket: socket}
	s.changed.L = &v.mu
	v.sockets[s] = true
	return s
}

// setCredit notes what the guest says of its room. It returns false for a guest that has taken more
// than was sent.
func (s *connection) setCredit(room, taken uint32) bool {
	if int32(s.sent-taken) < 0 {
		return false
	}
	if room != s.room || taken != s.taken {
		s.begged = false // else it has only answered, and would for ever
	}
	s.room, s.taken = room, taken
	return true
}

// credit is how many bytes the guest has room for.
func (s *connection) credit() int {
	return max(0, int(s.room)-int(s.sent-s.taken))
}

// next returns the stream's next packet without addresses and credit.
func (s *connection) next(room int) (p packet, data []byte, ok bool) {
	switch {
	case s.ask:
		s.ask = false
		return packet{op: opRequest}, nil, true
	case s.accept:
		s.accept = false
		return packet{op: opResponse}, nil, true
	case s.stage != stageOpen:
		return packet{}, nil, false
	}
	if n := min(len(s.toGuest), s.credit(), room); n > 0 {
		data, s.toGuest = s.toGuest[:n], s.toGuest[n:]
		s.sent += uint32(n)
		if len(s.toGuest) == 0 {
			s.changed.Broadcast()
		}
		return packet{op: opData}, data, true
	}
	switch {
	case s.eof && len(s.toGuest) == 0 && !s.eofTold:
		s.eofTold = true
		return packet{op: opShutdown, flags: shutSend}, nil, true
	case len(s.toGuest) > 0 && !s.begged:
		s.begged = true
		return packet{op: opCreditRequest}, nil, true
	case s.update:
		return packet{op: opCreditUpdate}, nil, true
	}
	return packet{}, nil, false
}

// close ends all streams, and returns once no goroutine is left. What the guest has sent is still
// passed on, as far as its readers take it in outletFlush.
func (v *vsock) close() {
	v.host.Close()
	v.mu.Lock()
	v.closed = true
	v.heeded()
	flushed := time.Now().Add(outletFlush)
	for s := range v.sockets {
		if s.socket != nil && s.received != s.passed {
			_ = s.socket.SetWriteDeadline(flushed)
			v.drop(s)
			continue
		}
		v.abort(s)
	}
	v.mu.Unlock()
	v.tasks.Wait()
}

// stay implements [stateful].
func (v *vsock) stay() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.begun {
		v.begun = true
		v.tasks.Go(v.accept)
	}
}

// accept takes programs of the host that want to connect.
func (v *vsock) accept() {
	for {
		c, err := v.host.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond) // no descriptors are left, for instance
			continue
		}
		v.mu.Lock()
		if v.closed || len(v.sockets) >= vsockStreams {
			c.Close()
		} else {
			s := v.newConnection(ports{}, stageGreeted, c.(*net.UnixConn))
			v.tasks.Go(func() { v.greet(s) })
		}
		v.mu.Unlock()
	}
}

// greet reads whom a program wants, and asks the guest.
func (v *vsock) greet(s *connection) {
	_ = s.socket.SetReadDeadline(time.Now().Add(vsockOrderWithin))
	port, err := readOrder(s.socket)
	_ = s.socket.SetReadDeadline(time.Time{})
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil || s.stage == stageOver {
		v.bury(s)
		return
	}
	for used := true; used; _, used = v.streams[s.ports] {
		v.last = (v.last + 1) % firstHostPort
		s.ports = ports{guest: port, host: firstHostPort + v.last}
	}
	s.stage, s.ask = stageAsked, true
	s.greet = fmt.Appendf(nil, "OK %d\n", s.ports.host)
	v.streams[s.ports] = s
	v.offer(s)
	v.begin(s)
}

// begin starts the goroutines of a stream that has its socket; mu is held.
func (v *vsock) begin(s *connection) {
	v.tasks.Go(func() { v.read(s) })
	v.tasks.Go(func() { v.write(s) })
}

// readOrder reads "CONNECT PORT\n", and nothing behind it.
func readOrder(r io.Reader) (port uint32, err error) {
	var line []byte
	for b := make([]byte, 1); len(line) < vsockOrder; {
		if _, err := io.ReadFull(r, b); err != nil {
			return 0, err
		}
		if b[0] != '\n' {
			line = append(line, b[0])
			continue
		}
		word, number, _ := strings.Cut(strings.TrimSuffix(string(line), "\r"), " ")
		if !strings.EqualFold(word, "connect") {
			return 0, fmt.Errorf("%q is not CONNECT", word)
		}
		n, err := strconv.ParseUint(number, 10, 32)
		return uint32(n), err
	}
	return 0, errors.New("no line")
}

// dial connects a stream that the guest asks for to a program of the host; mu is held.
func (v *vsock) dial(p packet) {
	at := ports{p.srcPort, p.dstPort}
	if v.closed || len(v.sockets) >= vsockStreams {
		v.refuse(hostCID, at)
		return
	}
	s := v.newConnection(at, stageDialing, nil)
	s.setCredit(p.alloc, p.taken)
	v.streams[at] = s
	v.tasks.Go(func() {
		c, err := net.Dial("unix", v.host.portPath(at.host))
		v.mu.Lock()
		defer v.mu.Unlock()
		if err == nil {
			s.socket = c.(*net.UnixConn)
		}
		switch {
		case err != nil:
			v.cut(s)
			v.bury(s)
		case s.stage == stageOver:
			v.bury(s)
		default:
			s.stage, s.accept = stageOpen, true
			v.offer(s)
			v.begin(s)
		}
	})
}

// bury closes a stream's socket; mu is held.
func (v *vsock) bury(s *connection) {
	delete(v.sockets, s)
	if s.socket != nil {
		_ = s.socket.Close()
	}
}

// read passes on what a program of the host sends.
func (v *vsock) read(s *connection) {
	chunk := make([]byte, vsockChunk)
	for v.awaitSpace(s) {
		n, err := s.socket.Read(chunk)
		if !v.got(s, chunk[:n], err != nil) {
			return
		}
	}
}

// awaitSpace returns once what was read before has gone to the guest, or false if the stream is
// over.
func (v *vsock) awaitSpace(s *connection) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(s.toGuest) > 0 {
		s.changed.Wait()
	}
	return s.stage != stageOver
}

// got takes what was read, and tells whether more may come.
func (v *vsock) got(s *connection, b []byte, eof bool) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s.stage == stageOver || s.ended&shutReceive != 0 {
		return false
	}
	s.toGuest, s.eof = b, eof
	v.offer(s)
	return !eof
}

// write passes on what the guest sends, and closes the socket in the end.
func (v *vsock) write(s *connection) {
	for {
		b, credit := v.awaitData(s)
		if b == nil {
			v.mu.Lock()
			v.bury(s)
			v.mu.Unlock()
			return
		}
		_, err := s.socket.Write(b)
		v.wrote(s, credit, err)
	}
}

// awaitData returns what is to be written, and how much of it is the guest's, or nil if the stream
// is over.
func (v *vsock) awaitData(s *connection) (b []byte, credit int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	shut := false
	for ; s.stage == stageAsked || len(s.greet)+len(s.toHost) == 0; s.changed.Wait() {
		if s.stage == stageOver {
			return nil, 0
		}
		if s.ended&shutSend != 0 && !shut {
			shut = true
			_ = s.socket.CloseWrite()
		}
	}
	credit = len(s.toHost)
	b = append(s.greet, s.toHost...)
	s.greet, s.toHost = nil, nil
	return b, credit
}

// wrote counts what was written. It tells the guest once it has a quarter of its room again, so
// that not each write costs a packet.
func (v *vsock) wrote(s *connection, credit int, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s.passed += uint32(credit)
	switch {
	case err != nil:
		v.cut(s)
	case s.stage == stageOpen && s.passed-s.told >= vsockCredit/4:
		s.update = true
		v.offer(s)
	}
}
