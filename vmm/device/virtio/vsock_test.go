package virtio

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/device"
	"taskguide/vmm/device/devicetest"
	"taskguide/vmm/device/pci"
)

const (
	testCID   = 7
	testRoom  = 4096 // bytes of data that a buffer of the guest takes
	guestPort = 52
)

// newTestVsock returns a vsock on a bus of its own.
func newTestVsock(t testing.TB, path string) *Device {
	h, err := OpenVsock(VsockConfig{CID: testCID, Path: path})
	require.NoError(t, err)
	return NewVsock(pci.NewHost(), h, noLog)
}

// vsockGuest is a guest's driver of a vsock.
type vsockGuest struct {
	*driver
	t    testing.TB
	path string
	// others says that programs of the host connect at any time.
	others bool
	// plain says that the driver has no event index, so it rings always.
	plain bool

	seen uint16 // packets
}

// newVsockGuest starts a driver that has posted buffers for packets and events.
func newVsockGuest(t testing.TB) *vsockGuest {
	path := filepath.Join(t.TempDir(), "v")
	dev := newTestVsock(t, path)
	d, _ := newDriver(t, dev)
	dev.Resume()
	g := &vsockGuest{driver: d, t: t, path: path}
	g.begin()
	return g
}

func (g *vsockGuest) begin() {
	g.start(16, 0)
	g.seen = 0
	g.fill()
}

// fill posts buffers for packets and events.
func (g *vsockGuest) fill() {
	for range 16 {
		g.post()
	}
	for range eventBuffers {
		g.postEvent()
	}
}

// eventBuffers is how many buffers for events the guest posts, as Linux posts 8.
const eventBuffers = 2

// postEvent gives the device a buffer for an event. It rings only if the device asked for that, as
// Linux does.
func (g *vsockGuest) postEvent() {
	ev := g.queues[vsockEvent]
	ev.offer(ev.chain(desc{gpa: bufferBase - 4096, bytes: eventBytes, flags: flagWrite}))
	asked, _ := g.ram.LoadUint16(ev.base + ringUsed + ringEntries + uint64(ev.size)*usedEntry)
	if g.plain || asked == ev.put-1 {
		ev.ring()
	}
}

// post gives the device a buffer for a packet.
func (g *vsockGuest) post() {
	r := g.queues[vsockRX]
	at := bufferBase + uint64(r.put%r.size)<<13
	r.offer(r.chain(desc{gpa: at, bytes: packetBytes + testRoom, flags: flagWrite}))
	r.ring()
}

// packet fills in what most packets of the guest have alike.
func (g *vsockGuest) packet(op uint16, p ports) packet {
	return packet{
		srcCID: testCID, dstCID: hostCID, srcPort: p.guest, dstPort: p.host,
		kind: typeStream, op: op, alloc: 1 << 20,
	}
}

// send sends a packet, and waits until the device has it.
func (g *vsockGuest) send(p packet, data string) {
	g.t.Helper()
	if p.bytes == 0 {
		p.bytes = uint32(len(data))
	}
	const at = bufferBase + 1<<20
	g.ram.Write(at, append(p.append(nil), data...))
	g.queues[vsockTX].do(desc{gpa: at, bytes: packetBytes},
		desc{gpa: at + packetBytes, bytes: uint32(max(1, len(data)))})
}

// receive returns the next packet from the device.
func (g *vsockGuest) receive() (packet, string) {
	g.t.Helper()
	r := g.queues[vsockRX]
	came := func() bool { return r.given() != g.seen }
	require.Eventually(g.t, came, patience, time.Millisecond)
	_, n := r.used(g.seen)
	b, _ := g.ram.Slice(bufferBase+uint64(g.seen%r.size)<<13, int(n))
	b = bytes.Clone(b)
	g.seen++
	g.post()
	p := parsePacket(b)
	require.EqualValues(g.t, testCID, p.dstCID)
	require.EqualValues(g.t, typeStream, p.kind)
	require.EqualValues(g.t, len(b)-packetBytes, p.bytes)
	return p, string(b[packetBytes:])
}

// expect returns the next packet, which must have an operation.
func (g *vsockGuest) expect(op uint16) (packet, string) {
	g.t.Helper()
	for {
		p, data := g.receive()
		if p.op != op && (p.op == opCreditUpdate || p.op == opRequest && g.others) {
			continue // it may come at any time
		}
		require.Equal(g.t, op, p.op, "%+v %q", p, data)
		return p, data
	}
}

// silent requires that the device has no more packets, after it has answered another one. The
// answer overtakes what streams have, so it takes a second one to show that there was nothing.
func (g *vsockGuest) silent() {
	g.t.Helper()
	for range 2 {
		g.send(g.packet(opData, ports{9999, 9999}), "x")
		p, _ := g.expect(opReset)
		require.EqualValues(g.t, 9999, p.dstPort)
	}
}

// listen makes a socket for a port of the host.
func (g *vsockGuest) listen(port uint32) net.Listener {
	ln, err := net.Listen("unix", fmt.Sprintf("%s_%d", g.path, port))
	require.NoError(g.t, err)
	g.t.Cleanup(func() { ln.Close() })
	return ln
}

// dial connects a program of the host to the vsock's socket.
func (g *vsockGuest) dial() net.Conn {
	c, err := net.Dial("unix", g.path)
	require.NoError(g.t, err)
	g.t.Cleanup(func() { c.Close() })
	require.NoError(g.t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// opened opens a stream from the guest to a port of the host.
func (g *vsockGuest) opened(p ports) (net.Conn, packet) {
	g.t.Helper()
	ln := g.listen(p.host)
	g.send(g.packet(opRequest, p), "")
	c, err := ln.Accept()
	require.NoError(g.t, err)
	g.t.Cleanup(func() { c.Close() })
	require.NoError(g.t, c.SetDeadline(time.Now().Add(patience)))
	ln.Close()
	response, _ := g.expect(opResponse)
	require.Equal(g.t, p, ports{response.dstPort, response.srcPort})
	return c, response
}

// connected opens a stream from the host to a port of the guest.
func (g *vsockGuest) connected() (net.Conn, ports) {
	g.t.Helper()
	c := g.dial()
	_, err := fmt.Fprintf(c, "CONNECT %d\n", guestPort)
	require.NoError(g.t, err)
	p, _ := g.expect(opRequest)
	require.EqualValues(g.t, guestPort, p.dstPort)
	at := ports{guest: guestPort, host: p.srcPort}
	g.send(g.packet(opResponse, at), "")
	requireReads(g.t, c, fmt.Sprintf("OK %d\n", at.host))
	return c, at
}

func requireReads(t testing.TB, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	_, err := io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

func requireEOF(t testing.TB, c net.Conn) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err)
	var late net.Error
	require.False(t, errors.As(err, &late) && late.Timeout(), "it hangs")
}

// TestVsockKeepsTheContract: streams are open in both directions as the device is quiesced.
func TestVsockKeepsTheContract(t *testing.T) {
	var path string
	var n int
	devicetest.Run(t, devicetest.Suite{
		New: func() device.Device {
			n++
			path = filepath.Join(t.TempDir(), fmt.Sprint(n))
			return newTestVsock(t, path)
		},
		Work: func(m *devicetest.Board) {
			dev := m.Device.(*Device)
			g := &vsockGuest{driver: driverOf(t, dev, m.Windows[0], m.RAM()), t: t}
			g.others = true
			g.path = dev.backend.(*vsock).host.Path
			g.begin()
			c, _ := g.opened(ports{100, 200})
			g.send(g.packet(opData, ports{100, 200}), "some data")
			requireReads(t, c, "some data")
			_, err := c.Write(make([]byte, 100<<10)) // more than there are buffers for
			require.NoError(t, err)
		},
		Outside: func(m *devicetest.Board) {
			c, err := net.Dial("unix", m.Device.(*Device).backend.(*vsock).host.Path)
			if err == nil {
				_, _ = c.Write([]byte("CONNECT 52\nmore"))
				c.Close()
			}
		},
	})
}

// TestVsockToHost: a guest's program reaches the socket of a port, and both say something.
func TestVsockToHost(t *testing.T) {
	g := newVsockGuest(t)
	at := ports{1000, 2000}
	c, response := g.opened(at)
	require.EqualValues(t, hostCID, response.srcCID)
	require.EqualValues(t, vsockCredit, response.alloc)
	g.send(g.packet(opData, at), "hello")
	requireReads(t, c, "hello")
	_, err := c.Write([]byte("hello yourself"))
	require.NoError(t, err)
	_, data := g.expect(opData)
	require.Equal(t, "hello yourself", data)

	g.send(g.packet(opRequest, ports{1000, 2001}), "")
	p, _ := g.expect(opReset) // nobody listens
	require.EqualValues(t, 2001, p.srcPort)
	require.EqualValues(t, 1000, p.dstPort)
	g.silent()
}

// TestVsockToGuest: a program of the host reaches a port of the guest by Firecracker's convention.
func TestVsockToGuest(t *testing.T) {
	g := newVsockGuest(t)
	c, at := g.connected()
	_, err := c.Write([]byte("ping"))
	require.NoError(t, err)
	_, data := g.expect(opData)
	require.Equal(t, "ping", data)
	g.send(g.packet(opData, at), "pong")
	requireReads(t, c, "pong")

	refused := g.dial()
	_, err = fmt.Fprint(refused, "connect 53\nimpatient")
	require.NoError(t, err)
	p, _ := g.expect(opRequest)
	require.NotEqual(t, at.host, p.srcPort)
	g.send(g.packet(opReset, ports{53, p.srcPort}), "")
	requireEOF(t, refused)

	for _, order := range []string{"CONNECT x\n", "HELLO 5\n", "CONNECT 4294967296\n", "\n",
		"CONNECT 5 6\n", "CONNECT 000000000000000000000000000000052\n"} {
		c := g.dial()
		_, err := fmt.Fprint(c, order)
		require.NoError(t, err)
		requireEOF(t, c)
	}
	g.silent()
}

// TestVsockCarries: many bytes in both directions at once, with credit that runs out.
func TestVsockCarries(t *testing.T) {
	g := newVsockGuest(t)
	at := ports{1000, 2000}
	c, _ := g.opened(at)
	want := make([]byte, 1<<20)
	_, _ = rand.Read(want)
	var host sync.WaitGroup
	host.Go(func() { // an echo
		_, err := io.Copy(c, c)
		if err != nil {
			t.Error(err)
		}
		_ = c.(*net.UnixConn).CloseWrite()
	})
	var got []byte
	var sent, taken uint32
	room := uint32(10_000)
	for closed := false; !closed; {
		if int(sent) < len(want) && sent-taken+testRoom <= vsockCredit {
			n := min(testRoom, len(want)-int(sent))
			p := g.packet(opData, at)
			p.alloc, p.taken = room, uint32(len(got))
			g.send(p, string(want[sent:][:n]))
			sent += uint32(n)
			if int(sent) == len(want) {
				p := g.packet(opShutdown, at)
				p.flags = shutSend
				p.alloc, p.taken = room, uint32(len(got))
				g.send(p, "")
			}
			if g.queues[vsockRX].given() == g.seen {
				continue
			}
		}
		p, data := g.receive()
		taken = p.taken
		switch p.op {
		case opData:
			got = append(got, data...)
		case opCreditRequest:
			p := g.packet(opCreditUpdate, at)
			p.alloc, p.taken = room, uint32(len(got))
			g.send(p, "")
		case opShutdown:
			require.EqualValues(t, shutSend, p.flags)
			closed = true
		default:
			require.EqualValues(t, opCreditUpdate, p.op)
		}
	}
	host.Wait()
	require.True(t, bytes.Equal(want, got))
	p := g.packet(opShutdown, at)
	p.flags = shutBoth
	p.taken = uint32(len(got))
	g.send(p, "")
	g.expect(opReset)
	g.silent()
}

// TestVsockCredit: the guest gets no more than it has room for, and asks in vain for none.
func TestVsockCredit(t *testing.T) {
	g := newVsockGuest(t)
	c, at := g.connected()
	p := g.packet(opCreditUpdate, at)
	p.alloc = 10
	g.send(p, "")
	_, err := c.Write([]byte("0123456789abcdef"))
	require.NoError(t, err)
	_, data := g.expect(opData)
	require.Equal(t, "0123456789", data)
	g.expect(opCreditRequest)
	g.silent()
	g.send(p, "") // the same credit again, as Linux answers at once
	g.silent()
	p.taken = 4
	g.send(p, "")
	_, data = g.expect(opData)
	require.Equal(t, "abcd", data)
	g.expect(opCreditRequest)
	p.taken, p.alloc = 14, 1<<32-1
	g.send(p, "")
	_, data = g.expect(opData)
	require.Equal(t, "ef", data)
	g.send(g.packet(opCreditRequest, at), "") // by one that has taken nothing again: no matter
	g.expect(opCreditUpdate)
}

// TestVsockCreditComesBack: a guest that only sends is told, unasked, when its bytes have gone.
func TestVsockCreditComesBack(t *testing.T) {
	g := newVsockGuest(t)
	c, at := g.connected()
	var read sync.WaitGroup
	read.Go(func() { _, _ = io.Copy(io.Discard, c) })
	var taken uint32
	for sent := uint32(0); sent < 4*vsockCredit; sent += testRoom {
		for sent-taken+testRoom > vsockCredit {
			p, _ := g.expect(opCreditUpdate)
			taken = p.taken
		}
		g.send(g.packet(opData, at), string(make([]byte, testRoom)))
	}
	require.NoError(t, c.Close())
	read.Wait()
}

// TestVsockShutdown: each direction ends on its own, and the guest's close is answered, after what
// it sent.
func TestVsockShutdown(t *testing.T) {
	g := newVsockGuest(t)
	c, at := g.connected()
	shutdown := g.packet(opShutdown, at)
	g.send(g.packet(opData, at), "last words")
	shutdown.flags = shutSend
	g.send(shutdown, "")
	requireReads(t, c, "last words")
	requireEOF(t, c)
	_, err := c.Write([]byte("still heard"))
	require.NoError(t, err)
	_, data := g.expect(opData)
	require.Equal(t, "still heard", data)
	require.NoError(t, c.(*net.UnixConn).CloseWrite())
	p, _ := g.expect(opShutdown)
	require.EqualValues(t, shutSend, p.flags)
	shutdown.flags = shutReceive
	g.send(shutdown, "")
	g.expect(opReset)

	c, at = g.connected()
	shutdown = g.packet(opShutdown, at)
	g.send(g.packet(opData, at), "flushed")
	shutdown.flags = shutBoth
	g.send(shutdown, "")
	g.expect(opReset)
	requireReads(t, c, "flushed")
	requireEOF(t, c)

	c, at = g.connected()
	shutdown = g.packet(opShutdown, at)
	shutdown.flags = shutReceive
	g.send(shutdown, "")
	require.Eventually(t, func() bool {
		_, err := c.Write([]byte("nobody reads"))
		return err != nil
	}, patience, time.Millisecond)
	require.NoError(t, c.Close())
	g.send(g.packet(opData, at), "for nobody")
	g.expect(opReset)
	g.silent()
}

// TestVsockClosesWithASlowReader: what the guest sent before it closed a stream reaches a program
// that reads only afterwards, though more waits than its socket holds.
func TestVsockClosesWithASlowReader(t *testing.T) {
	for _, end := range []string{"", "reset", "close"} {
		testVsockSlowReader(t, end)
	}
}

// testVsockSlowReader has the device end like that before the program reads.
func testVsockSlowReader(t *testing.T, end string) {
	g := newVsockGuest(t)
	c, at := g.connected()
	v := g.dev.backend.(*vsock)
	waiting := func() uint32 {
		v.mu.Lock()
		defer v.mu.Unlock()
		s := v.streams[at]
		return s.received - s.passed
	}
	const block = 4000
	var want bytes.Buffer
	full := func() bool { return waiting()+block > vsockCredit }
	for n := byte(0); !full(); n++ {
		data := bytes.Repeat([]byte{n}, block)
		want.Write(data)
		g.send(g.packet(opData, at), string(data))
		for i := 0; i < 100 && full(); i++ {
			time.Sleep(time.Millisecond) // it may just be slow
		}
	}
	shutdown := g.packet(opShutdown, at)
	shutdown.flags = shutBoth
	g.send(shutdown, "")
	g.expect(opReset)
	closed := make(chan struct{})
	switch end {
	case "reset":
		v.reset()
		close(closed)
	case "close":
		go func() {
			v.close()
			close(closed)
		}()
	default:
		close(closed)
	}
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want.Bytes(), got), "%s: %d bytes of %d", end, len(got), want.Len())
	<-closed
}

// TestVsockHostile: packets that break the rules end their stream, or the device, and nothing else.
func TestVsockHostile(t *testing.T) {
	g := newVsockGuest(t)
	bystander, at := g.connected()
	for name, spoil := range map[string]func(p *packet) (data string){
		"op 0":            func(p *packet) string { p.op = 0; return "" },
		"unknown op":      func(p *packet) string { p.op = 8; return "" },
		"request again":   func(p *packet) string { p.op = opRequest; return "" },
		"response":        func(p *packet) string { p.op = opResponse; return "" },
		"took too much":   func(p *packet) string { p.taken = 1; return "x" },
		"took a lot":      func(p *packet) string { p.taken = 1 << 30; return "x" },
		"beyond its room": func(p *packet) string { return string(make([]byte, vsockCredit+1)) },
		"reset":           func(p *packet) string { p.op = opReset; return "" },
		"shuts all": func(p *packet) string {
			p.op, p.flags = opShutdown, 1<<32-1
			return ""
		},
	} {
		c, at := g.connected()
		p := g.packet(opData, at)
		data := spoil(&p)
		g.send(p, data)
		if p.op != opReset {
			reset, _ := g.expect(opReset)
			require.Equal(t, at, ports{reset.dstPort, reset.srcPort}, name)
		}
		requireEOF(t, c)
		g.send(g.packet(opData, at), "x")
		g.expect(opReset)
	}
	elsewhere := g.packet(opRequest, ports{1, 2})
	elsewhere.dstCID = 99
	g.send(elsewhere, "")
	p, _ := g.expect(opReset)
	require.EqualValues(t, 99, p.srcCID)
	elsewhere = g.packet(opData, at)
	elsewhere.kind = 2
	g.send(elsewhere, "x")
	g.expect(opReset)
	elsewhere = g.packet(opReset, at)
	elsewhere.srcCID = 8
	g.send(elsewhere, "")
	g.silent()
	g.send(g.packet(opData, at), "I am still here")
	requireReads(t, bystander, "I am still here")

	for name, c := range map[string]struct {
		bytes uint32 // of the chain
		data  uint32 // as the packet says
	}{
		"short": {packetBytes - 1, 0}, "less than it says": {packetBytes + 5, 6},
		"much less": {packetBytes, 1<<32 - 1},
	} {
		p := g.packet(opData, at)
		p.bytes = c.data
		g.ram.Write(bufferBase+1<<20, p.append(nil))
		tx := g.queues[vsockTX]
		tx.offer(tx.chain(desc{gpa: bufferBase + 1<<20, bytes: c.bytes}))
		tx.ring()
		g.awaitBroken()
		g.begin()
		_ = name
	}
	requireEOF(t, bystander) // the driver started over
	for _, q := range []int{vsockRX, vsockEvent} {
		g.start(16, 0)
		r := g.queues[q]
		r.offer(r.chain(desc{gpa: bufferBase, bytes: 3, flags: flagWrite}))
		r.ring()
		g.awaitBroken()
	}
}

// TestVsockIsBounded: neither connections nor refusals grow beyond their limits.
func TestVsockIsBounded(t *testing.T) {
	g := newVsockGuest(t)
	v := g.dev.backend.(*vsock)
	v.mu.Lock()
	for n := range vsockStreams {
		s := v.newConnection(ports{uint32(n), 1}, stageOpen, nil)
		s.ended = shutReceive
	}
	v.mu.Unlock()
	ln := g.listen(5)
	defer ln.Close()
	g.send(g.packet(opRequest, ports{1 << 20, 5}), "")
	g.expect(opReset)
	requireEOF(t, g.dial())
	v.mu.Lock()
	clear(v.sockets)
	v.mu.Unlock()
	for n := range uint32(vsockResets + 100) {
		g.send(g.packet(opData, ports{n, 1}), "x")
	}
	v.mu.Lock()
	require.LessOrEqual(t, len(v.refused), vsockResets)
	require.Greater(t, len(v.refused), vsockResets-100)
	v.mu.Unlock()
}

// TestVsockForgetsWhatIsOver: streams that end do not pile up for a guest that takes no packets,
// whichever way they end.
func TestVsockForgetsWhatIsOver(t *testing.T) {
	g := newVsockGuest(t)
	v := g.dev.backend.(*vsock)
	ln := g.listen(7)
	for n := range uint32(16) { // answers fill the buffers
		g.send(g.packet(opData, ports{n, 1}), "x")
	}
	g.queues[vsockRX].await(16)
	shut := g.packet(opShutdown, ports{})
	shut.flags = shutBoth
	for n, end := range []packet{g.packet(opReset, ports{}), shut, g.packet(opRequest, ports{})} {
		at := ports{uint32(1000 + n), 7}
		g.send(g.packet(opRequest, at), "")
		c, err := ln.Accept()
		require.NoError(t, err)
		open := func() bool {
			v.mu.Lock()
			defer v.mu.Unlock()
			s := v.streams[at]
			if s != nil && s.stage == stageOpen {
				s.accept = false // as if the guest had taken the response
				return true
			}
			return false
		}
		require.Eventually(t, open, patience, time.Millisecond)
		end.srcPort, end.dstPort = at.guest, at.host
		g.send(end, "")
		requireEOF(t, c)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	require.Empty(t, v.streams)
	require.Empty(t, v.ready)
}

// TestVsockNoAnswer: a program does not wait without an end for a guest that has taken its request,
// and an answer that comes later is refused.
func TestVsockNoAnswer(t *testing.T) {
	g := newVsockGuest(t)
	v := g.dev.backend.(*vsock)
	v.mu.Lock()
	v.answerWithin = time.Millisecond
	v.mu.Unlock()
	c := g.dial()
	_, err := fmt.Fprintf(c, "CONNECT %d\n", guestPort)
	require.NoError(t, err)
	p, _ := g.expect(opRequest)
	requireEOF(t, c)
	reset, _ := g.expect(opReset)
	require.Equal(t, p.srcPort, reset.srcPort)
	g.send(g.packet(opResponse, ports{guestPort, p.srcPort}), "")
	g.expect(opReset)
	v.mu.Lock()
	v.answerWithin = time.Hour
	v.mu.Unlock()
	g.connected()
	g.silent()
}

// TestVsockMany: many streams at once, each with its own bytes.
func TestVsockMany(t *testing.T) {
	g := newVsockGuest(t)
	const many = 50
	var host []net.Conn
	var at []ports
	for range many {
		c, p := g.connected()
		host, at = append(host, c), append(at, p)
	}
	for n, c := range host {
		_, err := fmt.Fprintf(c, "to %d", at[n].host)
		require.NoError(t, err)
	}
	for range many {
		p, data := g.expect(opData)
		require.Equal(t, fmt.Sprintf("to %d", p.srcPort), data)
		g.send(g.packet(opData, ports{p.dstPort, p.srcPort}), fmt.Sprintf("from %d", p.srcPort))
	}
	for n, c := range host {
		requireReads(t, c, fmt.Sprintf("from %d", at[n].host))
		require.NoError(t, c.Close())
	}
	for range many {
		g.expect(opShutdown)
	}
	v := g.dev.backend.(*vsock)
	for _, p := range at {
		shutdown := g.packet(opShutdown, p)
		shutdown.flags = shutBoth
		g.send(shutdown, "")
		g.expect(opReset)
	}
	require.Eventually(t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.sockets) == 0 && len(v.streams) == 0
	}, patience, time.Millisecond)
}

// TestVsockMoves: at the destination the guest is told that its connections are gone, once, and who
// waits for an answer is refused. The source, if the guest stays there, goes on.
func TestVsockMoves(t *testing.T) {
	g := newVsockGuest(t)
	c, at := g.connected()
	// A request that has no answer yet: there is no buffer left for it.
	r := g.queues[vsockRX]
	ln := g.listen(7)
	defer ln.Close()
	for n := range uint32(20) {
		g.send(g.packet(opData, ports{n, 1}), "x") // answers fill the buffers
	}
	g.send(g.packet(opRequest, ports{77, 7}), "")
	_, err := ln.Accept()
	require.NoError(t, err)
	require.EqualValues(t, g.seen+16, r.given())
	g.dev.Quiesce()
	saved := g.dev.Save()

	path := filepath.Join(t.TempDir(), "v")
	to := newTestVsock(t, path)
	d, _ := newDriver(t, to)
	all, _ := g.ram.Slice(0, memory.MinSize)
	d.ram.Write(0, all)
	require.NoError(t, to.Load(1, saved))
	there := &vsockGuest{driver: d, t: t, path: path, seen: g.seen}
	for _, q := range g.queues {
		moved := *q
		moved.driver = d
		there.queues = append(there.queues, &moved)
	}
	to.Resume()
	event := there.queues[vsockEvent]
	event.await(1)
	_, n := event.used(0)
	require.EqualValues(t, eventBytes, n)
	there.postEvent()
	refused := make(map[uint32]bool)
	for len(refused) < 21 {
		p, _ := there.expect(opReset)
		refused[p.dstPort] = true
	}
	require.True(t, refused[77])
	there.send(there.packet(opData, at), "to nobody")
	there.expect(opReset)
	c2, at2 := there.connected()
	require.NotEqual(t, at, at2, "the guest may still have the old one")
	there.send(there.packet(opData, at2), "anew")
	requireReads(t, c2, "anew")
	require.EqualValues(t, 1, event.given())

	g.dev.Resume()
	for range 20 {
		g.expect(opReset)
	}
	g.expect(opResponse)
	g.send(g.packet(opData, at), "I stayed")
	requireReads(t, c, "I stayed")
	require.Zero(t, g.queues[vsockEvent].given())
}

// TestVsockWaitsForADriver: a program that connects before the guest has a driver waits for it, and
// after a move until the guest was told of it.
func TestVsockWaitsForADriver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v")
	dev := newTestVsock(t, path)
	d, _ := newDriver(t, dev)
	dev.Resume()
	g := &vsockGuest{driver: d, t: t, path: path}
	c := g.order()
	g.begin()
	p, _ := g.expect(opRequest)
	g.send(g.packet(opResponse, ports{guestPort, p.srcPort}), "")
	requireReads(t, c, fmt.Sprintf("OK %d\n", p.srcPort))
}

// arrive makes the device tell its guest that it moved.
func (g *vsockGuest) arrive() {
	v := g.dev.backend.(*vsock)
	v.mu.Lock()
	v.moved = true
	v.mu.Unlock()
	g.queues[vsockEvent].ring()
}

// order makes a program of the host ask for a port of the guest, and returns once the device knows.
func (g *vsockGuest) order() net.Conn {
	g.t.Helper()
	c := g.dial()
	_, err := fmt.Fprintf(c, "CONNECT %d\n", guestPort)
	require.NoError(g.t, err)
	v := g.dev.backend.(*vsock)
	require.Eventually(g.t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.streams) == 1
	}, patience, time.Millisecond)
	return c
}

// TestVsockTellsOfTheMoveFirst: after a move a program of the host reaches the guest only once the
// guest was told to reset its connections, or it would reset the new one, too.
func TestVsockTellsOfTheMoveFirst(t *testing.T) {
	g := newVsockGuest(t)
	ev := g.queues[vsockEvent]
	for n := range uint16(eventBuffers) {
		g.arrive()
		ev.await(n + 1)
	}
	g.arrive() // no buffer is left
	g.order()
	g.silent()
	g.postEvent()
	ev.await(eventBuffers + 1)
	g.silent()
	g.postEvent()
	g.expect(opRequest)
}

// TestVsockConnectsOnceTheMoveIsHeeded: no connection is made, in either direction, between the
// event that tells of a move and the driver's next buffer for an event. A driver resets, when it
// comes to the event, all connections that it has by then, and tells the device nothing.
func TestVsockConnectsOnceTheMoveIsHeeded(t *testing.T) {
	for name, without := range map[string]uint64{
		"event index": 0, "no event index": featureEventIndex,
	} {
		t.Run(name, func(t *testing.T) {
			g := newVsockGuest(t)
			g.plain = without != 0
			g.start(16, without)
			g.seen = 0
			g.fill()
			g.arrive()
			g.queues[vsockEvent].await(1)

			c := g.order()
			g.silent()
			ln := g.listen(7)
			g.send(g.packet(opRequest, ports{77, 7}), "")
			called, err := ln.Accept()
			require.NoError(t, err)
			defer called.Close()
			v := g.dev.backend.(*vsock)
			require.Eventually(t, func() bool {
				v.mu.Lock()
				defer v.mu.Unlock()
				return v.streams[ports{77, 7}].stage == stageOpen
			}, patience, time.Millisecond)
			g.silent()

			g.postEvent()
			seen := make(map[uint16]packet)
			for range 2 {
				p, _ := g.receive()
				seen[p.op] = p
			}
			require.EqualValues(t, 77, seen[opResponse].dstPort)
			at := ports{guestPort, seen[opRequest].srcPort}
			g.send(g.packet(opResponse, at), "")
			requireReads(t, c, fmt.Sprintf("OK %d\n", at.host))
			require.EqualValues(t, 1, g.queues[vsockEvent].given())
		})
	}
}

// TestVsockConnectsWithoutEventBuffers: a driver that posts no further buffer for an event gets its
// connections nevertheless, later; and one that resets the device, at once.
func TestVsockConnectsWithoutEventBuffers(t *testing.T) {
	g := newVsockGuest(t)
	v := g.dev.backend.(*vsock)
	within := func(d time.Duration) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.answerWithin = d
	}
	within(time.Millisecond)
	g.arrive()
	g.queues[vsockEvent].await(1)
	require.Eventually(t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.heeds == nil
	}, patience, time.Millisecond)
	within(time.Hour)
	g.connected()

	g.arrive()
	g.queues[vsockEvent].await(2)
	g.begin()
	g.connected()
}

// TestVsockConfig: what cannot be is refused, in words.
func TestVsockConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v")
	for want, c := range map[string]VsockConfig{
		"(CID) 2: use 3 to 4294967294": {CID: 2, Path: path},
		"(CID) 4294967295":             {CID: 1<<32 - 1, Path: path},
		"give it as CID,PATH":          {CID: 3},
		"too long":                     {CID: 3, Path: string(bytes.Repeat([]byte("x"), 100))},
		"vsock: ":                      {CID: 3, Path: path + "/there/is/none"},
	} {
		_, err := OpenVsock(c)
		require.ErrorContains(t, err, want)
	}
}

// TestVsockForeignState is refused.
func TestVsockForeignState(t *testing.T) {
	dev := newTestVsock(t, filepath.Join(t.TempDir(), "v"))
	newDriver(t, dev)
	saved := dev.Save()
	for _, n := range []int{1, savedRefusal - 1, savedRefusal * (vsockResets + vsockStreams + 1)} {
		require.ErrorContains(t, dev.Load(1, append(saved[:len(saved):len(saved)],
			make([]byte, n)...)), `state of device "vsock"`)
	}
}

// TestVsockSavesWhatItLoads, also after moves in which the guest took no packet.
func TestVsockSavesWhatItLoads(t *testing.T) {
	dev := newTestVsock(t, filepath.Join(t.TempDir(), "v"))
	newDriver(t, dev)
	v := dev.backend.(*vsock)
	require.NoError(t, v.load(make([]byte, mostSaved*savedRefusal)))
	at := ports{host: 1, guest: 2}
	v.streams[at] = &connection{ports: at, accept: true}
	defer delete(v.streams, at)
	require.NoError(t, v.load(v.save()))
}

// FuzzVsock lets a guest send packets of any kind. The device neither panics nor keeps more than it
// may, and its state moves at the end.
func FuzzVsock(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 2, 0, 0, 0, 5, 0, 9, 9})
	f.Add([]byte{1, 1, 0, 0, 5, 1, 200, 0, 4, 1, 0, 3, 3, 1, 0, 0})
	dir := f.TempDir()
	ln, err := net.Listen("unix", filepath.Join(dir, "v_1"))
	require.NoError(f, err)
	f.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	f.Fuzz(func(t *testing.T, ops []byte) {
		path := filepath.Join(dir, "v")
		h, err := OpenVsock(VsockConfig{CID: testCID, Path: path, Listen: nobody})
		require.NoError(t, err)
		dev := NewVsock(pci.NewHost(), h, noLog)
		d, _ := newDriver(t, dev)
		dev.Resume()
		g := &vsockGuest{driver: d, t: t, path: path}
		g.begin()
		v := dev.backend.(*vsock)
		for ; len(ops) >= 4; ops = ops[4:] {
			p := g.packet(uint16(ops[0]&15), ports{uint32(ops[1] & 3), 1 + uint32(ops[1]>>6)})
			p.flags, p.taken = uint32(ops[3]&7), uint32(int8(ops[3]))
			p.alloc = uint32(ops[2]) << (ops[3] & 31)
			if ops[0]&0x80 != 0 {
				p.srcPort, p.dstPort = p.dstPort, p.srcPort
			}
			if ops[0]&0x70 == 0x70 {
				p.dstCID, p.kind = uint64(ops[1]), uint16(ops[2])
			}
			g.send(p, string(make([]byte, int(ops[2])<<(ops[3]&7))))
			for g.queues[vsockRX].given() != g.seen {
				g.receive()
			}
		}
		v.mu.Lock()
		for s := range v.sockets {
			require.LessOrEqual(t, len(s.toHost), vsockCredit)
			require.LessOrEqual(t, len(s.toGuest), vsockChunk)
		}
		v.mu.Unlock()
		dev.Quiesce()
		to := NewVsock(pci.NewHost(), h, noLog)
		d2, _ := newDriver(t, to)
		all, _ := d.ram.Slice(0, memory.MinSize)
		copyRAM(d2.ram, all)
		require.NoError(t, to.Load(1, dev.Save()))
		require.Equal(t, dev.Fingerprint(), to.Fingerprint())
	})
}

// nobody is a socket that nobody connects to.
func nobody(string) (net.Listener, error) { return &silentListener{end: make(chan struct{})}, nil }

type silentListener struct {
	once sync.Once
	end  chan struct{}
}

func (l *silentListener) Accept() (net.Conn, error) {
	<-l.end
	return nil, net.ErrClosed
}

func (l *silentListener) Close() error {
	l.once.Do(func() { close(l.end) })
	return nil
}

func (*silentListener) Addr() net.Addr { return nil }

// FuzzVsockLoad gives a vsock the state of another host. It takes it whole or refuses it.
func FuzzVsockLoad(f *testing.F) {
	f.Add(make([]byte, savedRefusal))
	f.Add(make([]byte, savedRefusal+1))
	f.Fuzz(func(t *testing.T, data []byte) {
		v := &vsock{}
		if v.load(data) != nil {
			return
		}
		require.True(t, v.moved)
		require.True(t, bytes.Equal(data, v.save()))
	})
}
