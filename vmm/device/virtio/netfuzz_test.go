package virtio

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// FuzzNet gives a card any content of its rings and any frames. It must not panic, block or write
// beyond what the driver offered, and its state must move at the end.
func FuzzNet(f *testing.F) {
	f.Add([]byte{0, 0, 4, 16, 0, 1, 2, 3}, uint16(100), byte(0), byte(1))
	f.Add(bytes.Repeat([]byte{0xff}, 64), uint16(1500), byte(netNeedsChecksum), byte(0))
	data := desc{gpa: dataAt, bytes: 2048, flags: flagWrite}
	f.Add(data.bytesOf(), uint16(60000), byte(0), byte(2))
	table := desc{gpa: ringBase, bytes: 64, flags: flagIndirect}
	f.Add(table.bytesOf(), uint16(60), byte(3), byte(7))
	f.Fuzz(func(t *testing.T, table []byte, size uint16, flags, how byte) {
		pairs := 1 + int(how%3)
		var without uint64
		if how&4 != 0 {
			without = netMultiQueue
		}
		dev, w := newCardOf(pairs, noLog)
		d, _ := newDriver(t, dev)
		dev.Resume()
		d.start(8, without)
		for i, r := range d.queues {
			d.ram.Write(r.base, table[:min(len(table), 8*descBytes)])
			for n := range uint16(8) {
				r.offer(n * uint16(i+1) % 11)
			}
			r.ring()
		}
		fr := frame(int(size))
		fr[netHeaderFlags], fr[netHeaderGSO] = flags, flags>>4
		w.push(bytes.Clone(fr))
		for _, lane := range w.more {
			lane <- bytes.Clone(fr)
		}
		w.push(fr)
		awaitDone(t, w)
		dev.Quiesce()
		to, _ := newCardOf(pairs, noLog)
		d2, _ := newDriver(t, to)
		all, _ := d.ram.Slice(0, memory.MinSize)
		rings := all[ringBase : ringBase+len(d.queues)*ringStride]
		d2.ram.Write(ringBase, rings)
		require.NoError(t, to.Load(1, dev.Save()))
		require.Equal(t, dev.Save(), to.Save())
		require.Equal(t, dev.Fingerprint(), to.Fingerprint())
	})
}

// FuzzNetControl gives a card any requests of its control queue. Each is answered, and no more is
// written than the driver offered; the pairs in use are as many as the card has at most.
func FuzzNetControl(f *testing.F) {
	f.Add([]byte{controlPairs, controlPairsSet, 2, 0}, byte(2), false)
	f.Add([]byte{controlPairs, controlPairsSet, 3, 0}, byte(2), false)
	f.Add([]byte{controlPairs, controlPairsSet, 1}, byte(0), false)
	f.Add([]byte{controlPairs, controlPairsSet, 2, 0}, byte(2), true)
	f.Add([]byte{controlAnnounce, controlAnnounceAck}, byte(9), false)
	f.Add([]byte{controlPairs, controlPairsSet, 0, 0x80}, byte(0), false)
	f.Add([]byte{7}, byte(0), false)
	f.Fuzz(func(t *testing.T, b []byte, room byte, one bool) {
		b = b[:min(len(b), 64)]
		var without uint64
		if one {
			without = netMultiQueue
		}
		const pairs = 2
		dev, _ := newCardOf(pairs, noLog)
		d, _ := newDriver(t, dev)
		dev.Resume()
		d.start(8, without)
		card := dev.backend.(*card)
		d.ram.Write(requestAt, b)
		d.ram.Write(answerAt, bytes.Repeat([]byte{0xee}, 512))
		var parts []desc
		if len(b) > 0 {
			parts = append(parts, desc{gpa: requestAt, bytes: uint32(len(b))})
		}
		if room > 0 {
			parts = append(parts, desc{gpa: answerAt, bytes: uint32(room), flags: flagWrite})
		}
		if len(parts) == 0 {
			return
		}
		r := d.queues[card.controlQueue(dev.driverFeatures)]
		r.offer(r.chain(parts...))
		r.ring()
		if len(b) < controlHeader || room == 0 {
			d.awaitBroken()
		} else {
			r.await(1)
			answer := d.bytes(answerAt+uint64(room)-1, 1)[0]
			require.LessOrEqual(t, answer, byte(controlError))
			sets := len(b) >= 4 && b[0] == controlPairs && b[1] == controlPairsSet && !one &&
				(b[2] == 1 || b[2] == 2) && b[3] == 0
			acks := b[0] == controlAnnounce && b[1] == controlAnnounceAck
			require.Equal(t, sets || acks, answer == controlOK)
		}
		dev.Quiesce()
		want := 1
		if !one && len(b) >= 4 && bytes.Equal(b[:4], []byte{controlPairs, 0, 2, 0}) && room > 0 {
			want = 2
		}
		require.Equal(t, want, card.used)
		require.Equal(t, bytes.Repeat([]byte{0xee}, 512-int(room)),
			d.bytes(answerAt+uint64(room), 512-int(room)))
	})
}
