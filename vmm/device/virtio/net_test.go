package virtio

import (
	"bytes"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/device"
	"taskguide/vmm/device/devicetest"
	"taskguide/vmm/device/pci"
)

// fakeWire is a wire of a test.
type fakeWire struct {
	frames     chan []byte   // for the guest, with headers; nil: the other end has gone
	more       []chan []byte // the same for each further lane
	reconnects chan bool
	closing    chan struct{}

	asked  atomic.Int64 // how often the card asked for a frame
	pushed int64        // frames of the test, which is one goroutine

	mu       sync.Mutex // guards what follows
	sent     [][]byte
	lanes    []int // of each frame ever sent
	held     int
	features uint64
}

func newFakeWire() *fakeWire {
	return &fakeWire{
		frames: make(chan []byte, 64), reconnects: make(chan bool), closing: make(chan struct{}),
	}
}

// push sends a frame to the guest. nil is the end of the connection.
func (w *fakeWire) push(frame []byte) {
	w.pushed++
	w.frames <- frame
}

func (w *fakeWire) receive(lane int, frame []byte) (int, error) {
	frames := w.frames
	if lane > 0 {
		frames = w.more[lane-1]
	} else {
		w.asked.Add(1)
	}
	select {
	case f := <-frames:
		if f == nil {
			return 0, errors.New("the other end has gone")
		}
		return copy(frame, f), nil
	case <-w.closing:
		return 0, errClosed
	}
}

func (w *fakeWire) reconnect() bool {
	select {
	case again := <-w.reconnects:
		return again
	case <-w.closing:
		return false
	}
}

func (w *fakeWire) send(lane int, parts [][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lanes = append(w.lanes, lane)
	w.sent = append(w.sent, bytes.Join(parts, nil))
}

func (w *fakeWire) hold()    { w.mu.Lock(); w.held++; w.mu.Unlock() }
func (w *fakeWire) release() { w.mu.Lock(); w.held = 0; w.mu.Unlock() }

func (w *fakeWire) offload(features uint64) { w.mu.Lock(); w.features = features; w.mu.Unlock() }

func (w *fakeWire) close() { close(w.closing) }

// taken returns what was sent since the last call.
func (w *fakeWire) taken() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	sent := w.sent
	w.sent = nil
	return sent
}

var testMAC = MAC{2, 0, 0, 0, 0, 7}

// newCard makes a card on a bus of its own.
func newCard(log *slog.Logger) (*Device, *fakeWire) { return newCardOf(1, log) }

// newCardOf makes a card with so many pairs of queues.
func newCardOf(pairs int, log *slog.Logger) (*Device, *fakeWire) {
	w := newFakeWire()
	net := &Net{
		NetConfig: NetConfig{Backend: "fake", MAC: testMAC, Queues: pairs},
		features:  netAlways | netOffloads, wire: w, log: log,
	}
	if pairs > 1 {
		net.features |= netMultiQueue
	}
	for range pairs - 1 {
		w.more = append(w.more, make(chan []byte, 64))
	}
	return NewNet(pci.NewHost(), 0, net, log), w
}

// startCard starts a driver of a card.
func startCard(t testing.TB, without uint64) (*driver, *board, *fakeWire) {
	dev, w := newCard(noLog)
	d, b := newDriver(t, dev)
	dev.Resume()
	d.start(64, without)
	return d, b, w
}

// frame is one of n bytes after its header.
func frame(n int) []byte {
	f := make([]byte, netHeaderBytes+n)
	for i := range n {
		f[netHeaderBytes+i] = byte(i*7 + i>>8)
	}
	return f
}

// offerRoom gives the card n buffers of some bytes each, a page apart.
func (d *driver) offerRoom(n int, size uint32) {
	r := d.queues[queueReceive]
	for range n {
		at := dataAt + uint64(r.put%r.size)*memory.PageSize
		r.offer(r.chain(desc{gpa: at, bytes: size, flags: flagWrite}))
	}
	r.ring()
}

// received returns what the card wrote to the n-th chain, which had been offered in order.
func (d *driver) received(n uint16) []byte {
	head, written := d.queues[queueReceive].used(n)
	return d.bytes(dataAt+uint64(head)*memory.PageSize, int(written))
}

// TestNetKeepsTheContract: frames come and go when it is quiesced.
func TestNetKeepsTheContract(t *testing.T) {
	devicetest.Run(t, devicetest.Suite{
		New: func() device.Device {
			dev, _ := newCard(noLog)
			return dev
		},
		Work: func(m *devicetest.Board) {
			dev := m.Device.(*Device)
			d := driverOf(t, dev, m.Windows[0], m.RAM())
			d.start(64, 0)
			d.offerRoom(20, 2048)
			to := dev.backend.(*card).net.wire.(*fakeWire)
			for range 10 {
				to.push(frame(1000))
				d.queues[queueTransmit].offer(d.queues[queueTransmit].chain(
					desc{gpa: requestAt, bytes: 1000}))
				d.queues[queueTransmit].ring()
			}
		},
	})
}

// TestNetSends: a frame goes out as the driver has it, in however many pieces. Frames that no
// network carries are lost.
func TestNetSends(t *testing.T) {
	d, _, w := startCard(t, 0)
	f := frame(1500)
	d.ram.Write(requestAt, f)
	tx := d.queues[queueTransmit]
	for _, cuts := range [][]uint32{
		{1512}, {12, 1500}, {5, 7, 1, 1499}, {1511, 1},
	} {
		at := uint64(requestAt)
		var parts []desc
		for _, n := range cuts {
			parts = append(parts, desc{gpa: at, bytes: n})
			at += uint64(n)
		}
		require.Zero(t, tx.do(parts...))
		sent := w.taken()
		require.Len(t, sent, 1, cuts)
		require.True(t, bytes.Equal(f, sent[0]), cuts)
	}
	for _, n := range []uint32{netHeaderBytes, netHeaderBytes + 13, netHeaderBytes + maxFrame + 1} {
		tx.do(desc{gpa: requestAt, bytes: n})
		require.Empty(t, w.taken(), n)
	}
	tx.do(desc{gpa: requestAt, bytes: netHeaderBytes + maxFrame})
	require.Len(t, w.taken(), 1)
	for name, parts := range map[string][]desc{
		"no header":          {{gpa: requestAt, bytes: 11}},
		"room for an answer": {{gpa: requestAt, bytes: 64}, {gpa: answerAt, bytes: 1, flags: 2}},
	} {
		d.start(64, 0)
		tx = d.queues[queueTransmit]
		tx.offer(tx.chain(parts...))
		tx.ring()
		d.awaitBroken()
		require.Empty(t, w.taken(), name)
	}
}

// TestNetReceives: a frame is in one buffer or in several, of whatever size, and the driver sees
// all of them at once.
func TestNetReceives(t *testing.T) {
	for _, size := range []uint32{4096, 2048, 1000, 100} {
		d, b, w := startCard(t, 0)
		f := frame(3000)
		chains := (len(f) + int(size) - 1) / int(size)
		d.offerRoom(chains+1, size)
		b.messages()
		w.push(bytes.Clone(f))
		rx := d.queues[queueReceive]
		var seen uint16
		await(t, func() bool {
			seen = rx.given()
			return seen > 0
		})
		require.EqualValues(t, chains, seen, "all at once")
		var got []byte
		for i := range chains {
			got = append(got, d.received(uint16(i))...)
		}
		le.PutUint16(f[netHeaderBuffers:], uint16(chains))
		require.True(t, bytes.Equal(f, got), size)
		require.Eventually(t, func() bool { return len(b.messages()) > 0 }, patience,
			time.Millisecond)
	}
}

// TestNetShowsAFrameAtOnce: when the driver is interrupted for a frame, all chains that the frame
// is in are given back. TestGiveShowsAllAtOnce looks at the moments before that.
func TestNetShowsAFrameAtOnce(t *testing.T) {
	d, b, w := startCard(t, 0)
	const chains, frames = 16, 20
	rx := d.queues[queueReceive]
	given := make(chan uint16, frames)
	b.onSend = func() { given <- rx.given() }
	for i := range uint16(frames) {
		rx.wantNext(rx.given()) // for the first chain
		d.offerRoom(chains, 64)
		w.push(frame(chains*64 - netHeaderBytes))
		select {
		case seen := <-given:
			require.Equal(t, (i+1)*chains, seen)
		case <-time.After(patience):
			t.Fatal("no interrupt came")
		}
	}
}

// TestNetWithoutMerging: for a driver that wants each frame in one buffer, a larger frame is lost,
// and the next one that fits is not.
func TestNetWithoutMerging(t *testing.T) {
	d, _, w := startCard(t, netMerge)
	d.offerRoom(4, 2048)
	w.push(frame(3000))
	w.push(frame(2048 - netHeaderBytes))
	d.queues[queueReceive].await(1)
	got := d.received(0)
	require.Len(t, got, 2048)
	require.EqualValues(t, 1, le.Uint16(got[netHeaderBuffers:]))
}

// TestNetDropsWithoutRoom: a guest that gives no buffers loses frames and holds nobody up. A frame
// that waits is delivered once there is room.
func TestNetDropsWithoutRoom(t *testing.T) {
	d, _, w := startCard(t, 0)
	for range 10 * cap(w.frames) {
		w.push(frame(100)) // blocks if nobody reads
	}
	awaitDone(t, w)
	require.Zero(t, d.queues[queueReceive].given())
	d.offerRoom(1, 2048)
	w.push(frame(50))
	d.queues[queueReceive].await(1)
	require.Len(t, d.received(0), netHeaderBytes+50)
	// It asks to be told of room, and takes what had been too little before.
	d.offerRoom(2, 100)
	w.push(frame(250))
	awaitDone(t, w)
	d.offerRoom(2, 100)
	w.push(frame(250))
	d.queues[queueReceive].await(4)
}

// awaitRead waits until the card has taken all frames from the wire.
func awaitRead(t *testing.T, w *fakeWire) {
	t.Helper()
	await(t, func() bool { return len(w.frames) == 0 })
}

// awaitDone waits until it is done with them, too.
func awaitDone(t *testing.T, w *fakeWire) {
	t.Helper()
	await(t, func() bool { return w.asked.Load() > w.pushed })
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(10 * time.Microsecond) {
		require.True(t, time.Now().Before(end))
	}
}

// TestNetBrokenRoom: a driver that offers nonsense for frames gets a broken device.
func TestNetBrokenRoom(t *testing.T) {
	for name, part := range map[string]desc{
		"nothing to write": {gpa: dataAt, bytes: 2048},
		"outside of RAM":   {gpa: memory.LowEnd, bytes: 2048, flags: flagWrite},
	} {
		d, _, w := startCard(t, 0)
		d.queues[queueReceive].offer(d.queues[queueReceive].chain(part))
		w.push(frame(100))
		d.awaitBroken()
		require.Zero(t, d.queues[queueReceive].given(), name)
	}
}

// TestNetUnfinishedFrames: a driver gets frames to finish only as far as it agreed to.
func TestNetUnfinishedFrames(t *testing.T) {
	const validated = 2
	with := func(flags, gso byte) []byte {
		f := frame(100)
		f[netHeaderFlags], f[netHeaderGSO] = flags, gso
		return f
	}
	all := netGuestTSO4 | netGuestTSO6 | netGuestECN | netGuestChecksum
	for _, c := range []struct {
		name       string
		flags, gso byte
		needs      uint64
	}{
		{"checksum", netNeedsChecksum, 0, netGuestChecksum},
		{"TCP over IPv4", netNeedsChecksum, netGSOTCP4, netGuestTSO4},
		{"TCP over IPv6", netNeedsChecksum, netGSOTCP6, netGuestTSO6},
		{"congestion", netNeedsChecksum, netGSOTCP4 | netGSOECN, netGuestECN},
	} {
		d, _, w := startCard(t, c.needs)
		d.offerRoom(2, 2048)
		w.push(with(c.flags, c.gso))
		w.push(frame(20))
		d.queues[queueReceive].await(1)
		require.Len(t, d.received(0), netHeaderBytes+20, c.name)
		d, _, w = startCard(t, 0)
		d.offerRoom(2, 2048)
		w.push(with(c.flags, c.gso))
		d.queues[queueReceive].await(1)
		require.Equal(t, []byte{c.flags, c.gso}, d.received(0)[:2], c.name)
		require.Eventually(t, func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.features&uint64(all) == uint64(all)
		}, patience, time.Millisecond)
	}
	d, _, w := startCard(t, uint64(all))
	d.offerRoom(2, 2048)
	w.push(with(0, 3)) // to be cut as UDP, which is never agreed on
	w.push(with(validated, 0))
	d.queues[queueReceive].await(1)
	require.Zero(t, d.received(0)[netHeaderFlags])
}

// TestNetWaitsWhileQuiesced: what comes while the card is quiesced is delivered afterwards, and
// what came before it ever ran is not.
func TestNetWaitsWhileQuiesced(t *testing.T) {
	dev, w := newCard(noLog)
	d, _ := newDriver(t, dev)
	w.push(frame(111))
	awaitDone(t, w)
	dev.Resume()
	d.start(64, 0)
	d.offerRoom(8, 2048)
	dev.Quiesce()
	require.Equal(t, 1, w.held)
	w.push(frame(200))
	w.push(frame(300))
	time.Sleep(20 * time.Millisecond)
	require.Zero(t, d.queues[queueReceive].given())
	dev.Resume()
	require.Zero(t, w.held)
	d.queues[queueReceive].await(2)
	require.Len(t, d.received(0), netHeaderBytes+200)
	require.Len(t, d.received(1), netHeaderBytes+300)
}

// TestNetClosesWhileAFrameWaits: who closes a quiesced card does not wait for the frame that waits
// for the card. In the bubble a card that waits for ever is a deadlock.
func TestNetClosesWhileAFrameWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, w := startCard(t, 0)
		d.offerRoom(4, 2048)
		d.dev.Quiesce()
		w.push(frame(100))
		synctest.Wait()
		require.Empty(t, w.frames, "the card has it")
		d.dev.Close()
		require.Zero(t, d.queues[queueReceive].given())
	})
}

// TestNetFingerprint: what a driver reads of the link is compared after a move.
func TestNetFingerprint(t *testing.T) {
	src, _, w := startCard(t, 0)
	w.push(nil)
	await(t, func() bool { return src.netStatus() == 0 })
	d, _, _ := moved(t, src)
	require.Equal(t, src.dev.Fingerprint(), d.dev.Fingerprint())
	saved := src.dev.Save()
	for _, other := range [][]byte{
		replaced(saved, len(saved)-netSavedBytes, netLinkUp),
		replaced(saved, len(saved)-1, saved[len(saved)-1]+1),
	} {
		require.NoError(t, d.dev.Load(1, other))
		require.NotEqual(t, src.dev.Fingerprint(), d.dev.Fingerprint())
	}
}

// netStatus reads the status from the card's registers.
func (d *driver) netStatus() uint64 { return d.read(barConfig+netConfigStatus, 2) }

// TestNetConfig: the driver finds the address and the link.
func TestNetConfig(t *testing.T) {
	d, _, _ := startCard(t, 0)
	for i, b := range testMAC {
		require.EqualValues(t, b, d.read(barConfig+uint64(i), 1))
	}
	require.EqualValues(t, netLinkUp, d.netStatus())
	require.EqualValues(t, 3, d.read(0x12, 2), "queues")
}

// TestNetLinkGoesDown: when the wire has no other end, the driver is told, and again when there is
// one. A quiesced card tells after it is resumed.
func TestNetLinkGoesDown(t *testing.T) {
	var log bytes.Buffer
	dev, w := newCard(slog.New(slog.NewTextHandler(&log, nil)))
	d, b := newDriver(t, dev)
	dev.Resume()
	d.start(64, 0)
	awaitLink := func(want uint64) {
		t.Helper()
		require.Eventually(t, func() bool { return d.netStatus() == want }, patience,
			time.Millisecond)
		require.Equal(t, []uint32{messageOf(0)}, b.messages())
	}
	before := d.read(0x15, 1)
	w.push(nil)
	awaitLink(0)
	require.NotEqual(t, before, d.read(0x15, 1), "generation")
	require.EqualValues(t, isrConfig, d.read(barISR, 1))
	dev.Quiesce()
	was := dev.Fingerprint()
	w.reconnects <- true
	w.push(frame(100))
	awaitRead(t, w)
	require.Equal(t, was, dev.Fingerprint())
	require.Zero(t, d.netStatus())
	dev.Resume()
	awaitLink(netLinkUp)
	require.Equal(t, 2, bytes.Count(log.Bytes(), []byte("\n")))
	require.Contains(t, log.String(), "the guest's link is down")
	require.Contains(t, log.String(), "link is up again")
}

// ack acknowledges an announcement as a driver does, and returns the answer.
func (d *driver) ack(class, command byte) byte {
	d.ram.Write(requestAt, []byte{class, command})
	d.ram.Write(answerAt, []byte{0xee})
	return d.order(requestAt, 2)
}

// order makes the card carry out a request that is in RAM, and returns the answer.
func (d *driver) order(gpa uint64, size uint32) byte {
	card := d.dev.backend.(*card)
	queue := card.controlQueue(d.dev.driverFeatures)
	written := d.queues[queue].do(desc{gpa: gpa, bytes: size},
		desc{gpa: answerAt, bytes: 1, flags: flagWrite})
	require.EqualValues(d.t, 1, written)
	return d.bytes(answerAt, 1)[0]
}

// moved moves a card with a driver to another device, which has not run yet.
func moved(t *testing.T, d *driver) (*driver, *board, *fakeWire) {
	t.Helper()
	d.dev.Quiesce()
	dev, w := newCardOf(d.dev.backend.(*card).net.pairs(), noLog)
	to, b := newDriver(t, dev)
	all, _ := d.ram.Slice(0, memory.MinSize)
	to.ram.Write(0, all)
	require.NoError(t, dev.Load(1, d.dev.Save()))
	require.Equal(t, d.dev.Save(), dev.Save())
	for _, r := range d.queues {
		copied := *r
		copied.driver = to
		to.queues = append(to.queues, &copied)
	}
	return to, b, w
}

// TestNetAnnounces: after a move the driver is asked to announce itself until all rounds are over,
// and its answer ends a round, and those that came before it. Before the card runs nothing is sent,
// received or asked.
func TestNetAnnounces(t *testing.T) {
	src, _, _ := startCard(t, 0)
	require.EqualValues(t, controlError, src.ack(9, 9))
	require.EqualValues(t, controlError, src.ack(controlAnnounce, 1))
	src.offerRoom(8, 2048)
	d, b, w := moved(t, src)
	w.push(frame(100))
	awaitDone(t, w)
	require.EqualValues(t, netLinkUp, d.netStatus())
	require.Empty(t, b.messages())
	d.dev.Resume()
	asked := func() bool { return d.netStatus() == netLinkUp|netAnnounceNow }
	left := func() int {
		d.dev.mu.Lock()
		defer d.dev.mu.Unlock()
		return d.dev.backend.(*card).rounds
	}
	answers := 0
	await(t, func() bool {
		over := left() == 0 // what it asks for from here on was asked before
		if asked() {
			require.EqualValues(t, controlOK, d.ack(controlAnnounce, controlAnnounceAck))
			answers++
		}
		return over
	})
	require.False(t, asked())
	require.Positive(t, answers)
	require.LessOrEqual(t, answers, announceRounds)
	require.Contains(t, b.messages(), messageOf(0))
	require.Empty(t, w.taken(), "the driver does it")
	require.Zero(t, d.queues[queueReceive].given(), "a frame from before it ran")
	d.write(regStatus, 1, 0)
	require.EqualValues(t, netLinkUp, d.netStatus())
}

// TestNetAnnouncesForTheDriver: for a driver that cannot announce itself the card does, but not for
// a guest without driver.
func TestNetAnnouncesForTheDriver(t *testing.T) {
	src, _, _ := startCard(t, netAnnounce)
	d, _, w := moved(t, src)
	time.Sleep(10 * time.Millisecond)
	require.Empty(t, w.taken(), "not before it runs")
	d.dev.Resume()
	var sent [][]byte
	await(t, func() bool {
		sent = append(sent, w.taken()...)
		return len(sent) == announceRounds
	})
	for _, f := range sent {
		require.Equal(t, make([]byte, netHeaderBytes), f[:netHeaderBytes])
		require.Equal(t, []byte{
			0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 0x80, 0x35,
			0, 1, 8, 0, 6, 4, 0, 3, 2, 0, 0, 0, 0, 7, 0, 0, 0, 0, 2, 0, 0, 0, 0, 7, 0, 0, 0, 0,
		}, f[netHeaderBytes:][:42])
		require.Len(t, f, netHeaderBytes+60)
	}
	require.Zero(t, d.netStatus()&netAnnounceNow)
}

// TestNetAnnouncesAfterAPause: a card that is quiesced while it announces goes on afterwards.
func TestNetAnnouncesAfterAPause(t *testing.T) {
	src, _, _ := startCard(t, netAnnounce)
	d, _, w := moved(t, src)
	d.dev.Resume()
	sent := 0
	count := func() int {
		sent += len(w.taken())
		return sent
	}
	await(t, func() bool { return count() > 0 })
	d.dev.Quiesce()
	was := count()
	time.Sleep(60 * time.Millisecond) // longer than until the next one
	require.Equal(t, was, count())
	d.dev.Resume()
	await(t, func() bool { return count() == announceRounds })
}

// TestNetForeignState: state that no card can have is refused.
func TestNetForeignState(t *testing.T) {
	src, _, _ := startCard(t, 0)
	src.dev.Quiesce()
	saved := src.dev.Save()
	status := len(saved) - netSavedBytes
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"short":  {saved[:len(saved)-1], "2 bytes of a network card, want 3"},
		"long":   {append(bytes.Clone(saved), 0), "4 bytes of a network card, want 3"},
		"status": {replaced(saved, status, 4), "status 0x4 of a network card"},
		"upper":  {replaced(saved, status+1, 1), "status 0x101 of a network card"},
	} {
		dst, _ := newCard(noLog)
		newDriver(t, dst)
		require.ErrorContains(t, dst.Load(1, c.data), c.want, name)
	}
}

func replaced(b []byte, at int, v byte) []byte {
	b = bytes.Clone(b)
	b[at] = v
	return b
}

// TestNetBecomes: a destination's card must be able to be the source's.
func TestNetBecomes(t *testing.T) {
	source := NetIdentity{MAC: testMAC, Features: netAlways | netOffloads, Queue: 256, Pairs: 1}
	plain, fewer, long, pairs, nobody := source, source, source, source, source
	plain.Features, fewer.Features = netAlways, netAlways&^netAnnounce
	long.Queue, pairs.Pairs, nobody.MAC = 1024, 2, MAC{}
	unknown := source
	unknown.Features |= 1 << 60
	tap := NetConfig{Backend: NetTAP, Name: "tap0"}
	unix := NetConfig{Backend: NetUnix, Name: "/s"}
	same, other := tap, tap
	same.MAC, other.MAC = testMAC, MAC{2, 0, 0, 0, 0, 8}
	for _, c := range []struct {
		ours   NetConfig
		theirs NetIdentity
		want   string
	}{
		{tap, source, ""}, {same, source, ""}, {tap, plain, ""}, {unix, plain, ""},
		{
			other, source, "network card tap:tap0: its address is to be 02:00:00:00:00:08, " +
				"and the source's has 02:00:00:00:00:07: give that, or no mac=",
		},
		{unix, source, "whose offloads this cannot do: use tap:IFNAME"},
		{tap, fewer, "features"}, {tap, unknown, "features"},
		{tap, long, "queues of 256 entries, and the source's of 1024"},
		{tap, pairs, "it has 1 pairs of queues, and the source's 2: give queues=2"},
		{tap, nobody, "has no address"},
	} {
		n := &Net{NetConfig: c.ours, features: netAlways}
		if c.ours.Backend == NetTAP {
			n.features |= netOffloads
		}
		err := n.Become(c.theirs)
		if c.want == "" {
			require.NoError(t, err)
			require.Equal(t, c.theirs, n.Identity())
			continue
		}
		require.ErrorContains(t, err, c.want)
	}
}

// TestMAC: an address is read as it is printed, and a random one is a card's own.
func TestMAC(t *testing.T) {
	var m MAC
	for range 100 {
		r := RandomMAC()
		require.EqualValues(t, 2, r[0]&3)
		text, _ := r.MarshalText()
		require.NoError(t, m.UnmarshalText(text))
		require.Equal(t, r, m)
	}
}
