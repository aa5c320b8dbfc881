package virtio

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// startPairs starts a driver of a card with so many pairs of queues.
func startPairs(t testing.TB, pairs int, without uint64) (*driver, *board, *fakeWire) {
	dev, w := newCardOf(pairs, noLog)
	d, b := newDriver(t, dev)
	dev.Resume()
	d.start(64, without)
	return d, b, w
}

// usePairs asks the card to use so many pairs of queues, and returns the answer.
func (d *driver) usePairs(n uint16) byte {
	d.ram.Write(requestAt, le.AppendUint16([]byte{controlPairs, controlPairsSet}, n))
	return d.order(requestAt, 4)
}

const framesAt = 8 << 20

// offerAt gives a queue n buffers of a page each, at pages of its own.
func (r *ring) offerAt(n int) {
	for range n {
		r.offer(r.chain(desc{gpa: r.buffer(r.put), bytes: memory.PageSize, flags: flagWrite}))
	}
	r.ring()
}

func (r *ring) buffer(n uint16) uint64 {
	return framesAt + uint64(r.index*int(r.size)+int(n%r.size))*memory.PageSize
}

// got returns what the card wrote to the n-th buffer of offerAt.
func (r *ring) got(n uint16) []byte {
	_, written := r.used(n)
	return r.driver.bytes(r.buffer(n), int(written))
}

// TestNetPairsAtFirst: a card with several pairs of queues uses one until its driver asks for more.
func TestNetPairsAtFirst(t *testing.T) {
	d, b, w := startPairs(t, 3, 0)
	require.EqualValues(t, 7, d.read(0x12, 2), "queues")
	require.EqualValues(t, 3, d.read(barConfig+netConfigPairs, 2))
	for _, r := range d.queues {
		if r.index%2 == queueReceive && r.index < 6 {
			r.offerAt(8)
		}
	}
	w.push(frame(100))
	w.more[0] <- frame(200)
	w.more[1] <- frame(300)
	d.queues[0].await(3)
	var sizes []int
	for n := range uint16(3) {
		sizes = append(sizes, len(d.queues[0].got(n))-netHeaderBytes)
	}
	require.ElementsMatch(t, []int{100, 200, 300}, sizes)
	require.EqualValues(t, controlOK, d.usePairs(3))
	b.messages()
	d.queues[0].wantNext(3)
	w.push(frame(101))
	w.more[0] <- frame(201)
	w.more[1] <- frame(301)
	for i, size := range []int{101, 201, 301} {
		r := d.queues[2*i]
		n := uint16(0)
		if i == 0 {
			n = 3
		}
		r.await(n + 1)
		require.True(t, bytes.Equal(frame(size)[netHeaderBytes:], r.got(n)[netHeaderBytes:]))
	}
	var sent []uint32 // each queue has its interrupt, which follows what the queue gives
	await(t, func() bool {
		sent = append(sent, b.messages()...)
		return slices.Contains(sent, messageOf(1)) && slices.Contains(sent, messageOf(3)) &&
			slices.Contains(sent, messageOf(5))
	})
	require.EqualValues(t, controlOK, d.usePairs(2))
	w.more[1] <- frame(302) // its lane shares the first pair now
	d.queues[0].await(5)
	require.Len(t, d.queues[0].got(4), netHeaderBytes+302)
	require.EqualValues(t, 1, d.queues[4].given())
}

// TestNetPairsSend: what a driver sends by a pair of queues goes out by the lane of that pair.
func TestNetPairsSend(t *testing.T) {
	d, _, w := startPairs(t, 3, 0)
	require.EqualValues(t, controlOK, d.usePairs(3))
	d.ram.Write(requestAt, frame(60))
	for _, pair := range []int{0, 2, 1} {
		d.queues[2*pair+queueTransmit].do(desc{gpa: requestAt, bytes: netHeaderBytes + 60})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Equal(t, []int{0, 2, 1}, w.lanes)
}

// TestNetPairsRefused: a driver that asks for pairs of queues that there are not, or that it did
// not agree on, is told so, and nothing changes.
func TestNetPairsRefused(t *testing.T) {
	d, _, _ := startPairs(t, 2, 0)
	require.EqualValues(t, controlOK, d.usePairs(2))
	for _, n := range []uint16{0, 3, 0x8000, 0xffff} {
		require.EqualValues(t, controlError, d.usePairs(n), n)
	}
	d.ram.Write(requestAt, []byte{controlPairs, controlPairsSet, 1})
	require.EqualValues(t, controlError, d.order(requestAt, 3), "half a number")
	d.ram.Write(requestAt, []byte{controlPairs, 1, 1, 0})
	require.EqualValues(t, controlError, d.order(requestAt, 4), "another command")
	require.Equal(t, 2, d.dev.backend.(*card).used)
	d.start(64, 0)
	require.Equal(t, 1, d.dev.backend.(*card).used, "a reset")
	plain, _, _ := startPairs(t, 1, 0)
	require.EqualValues(t, controlError, plain.usePairs(1))
}

// TestNetPairsUnknown: for a driver that knows of one pair of queues, the control queue is the
// third, and no queue behind it does anything.
func TestNetPairsUnknown(t *testing.T) {
	d, _, w := startPairs(t, 2, netMultiQueue)
	require.EqualValues(t, controlOK, d.ack(controlAnnounce, controlAnnounceAck))
	require.EqualValues(t, controlError, d.usePairs(1))
	d.queues[0].offerAt(4)
	w.push(frame(100))
	w.more[0] <- frame(200)
	d.queues[0].await(2)
	// The queue that is the second pair's for others is no queue for frames here.
	d.queues[3].offer(d.queues[3].chain(desc{gpa: requestAt, bytes: 100}))
	d.queues[3].ring()
	d.awaitBroken()
	require.Empty(t, w.taken())
}

// TestNetPairsOfADriverBefore: what was asked for by a driver that is gone does nothing to the next
// one, and no queue is taken for what it was to that driver.
func TestNetPairsOfADriverBefore(t *testing.T) {
	d, _, _ := startPairs(t, 2, 0)
	card := d.dev.backend.(*card)
	asked := request{features: d.dev.driverFeatures, life: d.dev.life}
	d.start(64, 0)
	require.False(t, card.command(asked, []byte{controlPairs, controlPairsSet, 2, 0}))
	require.Equal(t, 1, card.used)
	asked.life = d.dev.life
	require.True(t, card.command(asked, []byte{controlPairs, controlPairsSet, 2, 0}))
	d.queues[0].offerAt(1)
	_, ok := d.dev.take(0)
	require.False(t, ok, "room for frames is no request")
	d.start(64, netMultiQueue)
	control := d.queues[2]
	control.offer(control.chain(desc{gpa: answerAt, bytes: 100, flags: flagWrite}))
	_, err := d.dev.takeRoom(want{queue: func() int { return 2 }, bytes: 100})
	require.ErrorIs(t, err, errNoDriver, "a request is no room for frames")
}

// TestNetPairsMove: how many pairs are used moves with the guest, and is compared.
func TestNetPairsMove(t *testing.T) {
	src, _, _ := startPairs(t, 2, 0)
	require.EqualValues(t, controlOK, src.usePairs(2))
	for _, r := range []int{0, 2} {
		src.queues[r].offerAt(4)
	}
	d, _, w := moved(t, src)
	require.Equal(t, src.dev.Fingerprint(), d.dev.Fingerprint())
	d.dev.Resume()
	w.more[0] <- frame(70)
	d.queues[2].await(1)
	require.Len(t, d.queues[2].got(0), netHeaderBytes+70)
	saved := src.dev.Save()
	at := len(saved) - netSavedUsed
	other, _ := newCardOf(2, noLog)
	to, _ := newDriver(t, other)
	to.ram.Write(ringBase, d.bytes(ringBase, 5*ringStride))
	require.NoError(t, other.Load(1, replaced(saved, at, 1)))
	require.NotEqual(t, src.dev.Fingerprint(), other.Fingerprint())
	for _, bad := range []byte{0, 3, 0xff} {
		err := other.Load(1, replaced(saved, at, bad))
		require.ErrorContains(t, err, "pairs of queues", bad)
	}
	require.ErrorContains(t, other.Load(1, saved[:at]), "3 bytes of a network card, want 5")
	one, _, _ := startPairs(t, 2, netMultiQueue)
	one.dev.Quiesce()
	saved = one.dev.Save()
	err := other.Load(1, replaced(saved, len(saved)-netSavedUsed, 2))
	require.ErrorContains(t, err, "pairs of queues", "its driver does not know of them")
}

// TestNetPairsAnswerLast: a driver has the answer that fewer pairs are used only after the frames
// that were on their way to the others.
func TestNetPairsAnswerLast(t *testing.T) {
	d, _, w := startPairs(t, 2, 0)
	require.EqualValues(t, controlOK, d.usePairs(2))
	d.queues[2].offerAt(2)
	second := func() int { return 2 }
	r, err := d.dev.takeRoom(want{queue: second, bytes: 100})
	require.NoError(t, err)
	control := d.queues[4]
	d.ram.Write(requestAt, []byte{controlPairs, controlPairsSet, 1, 0})
	d.ram.Write(answerAt, []byte{0xee})
	control.offer(control.chain(desc{gpa: requestAt, bytes: 4},
		desc{gpa: answerAt, bytes: 1, flags: flagWrite}))
	control.ring()
	await(t, func() bool { // it is being carried out
		d.dev.mu.Lock()
		defer d.dev.mu.Unlock()
		return d.dev.backend.(*card).used == 1
	})
	time.Sleep(20 * time.Millisecond)
	require.EqualValues(t, 0xee, d.bytes(answerAt, 1)[0])
	d.dev.giveRoom(r, []uint32{100})
	control.await(2)
	require.EqualValues(t, 1, d.queues[2].given())
	require.EqualValues(t, controlOK, d.bytes(answerAt, 1)[0])
	d.queues[0].offerAt(1)
	w.more[0] <- frame(80)
	d.queues[0].await(1)
}

// TestNetMTU: a driver finds out how large a packet may be where that is not the usual.
func TestNetMTU(t *testing.T) {
	w := newFakeWire()
	net := &Net{
		NetConfig: NetConfig{Backend: "fake", MAC: testMAC}, features: netAlways | netMTU,
		mtu: 9000, wire: w, log: noLog,
	}
	dev := NewNet(newRNG().host, 0, net, noLog)
	d, _ := newDriver(t, dev)
	dev.Resume()
	d.start(64, 0)
	require.NotZero(t, dev.driverFeatures&netMTU)
	require.EqualValues(t, 9000, d.read(barConfig+netConfigMTU, 2))
	require.EqualValues(t, 1, d.read(barConfig+netConfigPairs, 2))
	plain, _, _ := startPairs(t, 1, 0)
	require.Zero(t, plain.read(barConfig+netConfigMTU, 2))
	usual := &Net{NetConfig: NetConfig{Queues: 2}, features: netMultiQueue, mtu: usualMTU}
	require.Zero(t, le.Uint16(usual.registers()[netConfigMTU:]), "it is the same after a move")
	require.Len(t, plain.dev.spec.config, netConfigBytes)
}

// TestNetBecomesOfPairs: a destination's card has as many pairs of queues as the source's, and
// takes packets as large.
func TestNetBecomesOfPairs(t *testing.T) {
	source := NetIdentity{
		MAC: testMAC, Features: netAlways | netOffloads | netMultiQueue, Queue: netQueue, Pairs: 2,
	}
	large, small, odd, none, tiny := source, source, source, source, source
	large.Features, large.MTU = source.Features|netMTU, 9000
	small.Features, small.MTU = source.Features|netMTU, 1400
	odd.Features = netAlways | netOffloads
	none.Features = source.Features | netMTU
	tiny.Features, tiny.MTU = source.Features|netMTU, leastMTU-1
	for _, c := range []struct {
		queues, mtu int
		theirs      NetIdentity
		want        string
	}{
		{2, 1500, source, ""}, {2, 9000, source, ""}, {2, 9000, large, ""}, {2, 65521, large, ""},
		{1, 1500, source, "it has 1 pairs of queues, and the source's 2: give queues=2"},
		{3, 1500, source, "it has 3 pairs of queues, and the source's 2: give queues=2"},
		{2, 1500, large, "of 1500 bytes (MTU), and the source's of 9000: " +
			"use ip link set dev tap0 mtu 9000"},
		{2, 1400, source, "of 1400 bytes (MTU), and the source's of 1500: " +
			"use ip link set dev tap0 mtu 1500"},
		{2, 1500, small, ""}, {2, 1400, small, ""},
		{2, 1280, small, "of 1280 bytes (MTU), and the source's of 1400: " +
			"use ip link set dev tap0 mtu 1400"},
		{2, 1500, odd, "features"}, {2, 1500, none, "features"}, {2, 1500, tiny, "features"},
	} {
		n := &Net{
			NetConfig: NetConfig{Backend: NetTAP, Name: "tap0", Queues: c.queues},
			features:  netAlways | netOffloads | netMultiQueue, mtu: c.mtu,
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

// TestNetQueuesRefused: only a TAP interface has several queues, and not any number.
func TestNetQueuesRefused(t *testing.T) {
	for want, c := range map[string]NetConfig{
		"9 pairs of queues: a card has 1 to 8":  {Backend: NetTAP, Name: "x", Queues: 9},
		"-1 pairs of queues: a card has 1 to 8": {Backend: NetTAP, Name: "x", Queues: -1},
		"only a card on a TAP interface":        {Backend: NetUnix, Name: "x", Queues: 2},
		"mode tap multi_queue user $USER":       {Backend: NetTAP, Name: "gone", Queues: 2},
	} {
		_, err := OpenNet(c, noLog)
		require.ErrorContains(t, err, want)
	}
}
