package virtio

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/memory"
)

// newQueue is an enabled queue in RAM of its own, which has a hole.
func newQueue(t testing.TB, size uint16, ramBytes int64) (*queue, *memory.Guest) {
	ram, err := memory.New(ramBytes)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ram.Close()) })
	g := memory.NewGuest(ram)
	q := &queue{
		ram: g, max: size, size: size, enabled: true, indirect: true, eventIndex: true,
		desc: ringBase, avail: ringBase + ringAvail, used: ringBase + ringUsed,
	}
	require.NoError(t, q.check())
	return q, g
}

// ringOf is a driver's view of a queue that belongs to no device.
func ringOf(t testing.TB, q *queue) *ring {
	return &ring{driver: &driver{t: t, ram: q.ram}, size: q.size, base: q.desc, event: true}
}

// TestGiveShowsAllAtOnce: chains that are given back together are shown to the driver by one store,
// after all of them are in the ring. To stop in between, the test makes a page of it read-only.
func TestGiveShowsAllAtOnce(t *testing.T) {
	q, ram := newQueue(t, testQueue, memory.MinSize)
	const border = ringBase + ringUsed + memory.PageSize
	q.used = border - usedEntry - ringEntries // the first entry is before the border
	require.NoError(t, q.check())
	page, ok := ram.Slice(border, memory.PageSize)
	require.True(t, ok)
	require.NoError(t, unix.Mprotect(page, unix.PROT_READ))
	stops := func() (stopped bool) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() { stopped = recover() != nil }()
		q.give(used{1, 10}, used{2, 20}, used{3, 30})
		return false
	}
	require.True(t, stops())
	require.NoError(t, unix.Mprotect(page, unix.PROT_READ|unix.PROT_WRITE))
	first, _ := ram.Slice(q.used+ringEntries, usedEntry)
	require.Equal(t, []byte{1, 0, 0, 0, 10, 0, 0, 0}, first, "it stopped behind this one")
	shown, _ := ram.LoadUint16(q.used + ringIndex)
	require.Zero(t, shown)
	q.given = 0
	q.give(used{1, 10}, used{2, 20}, used{3, 30})
	shown, _ = ram.LoadUint16(q.used + ringIndex)
	require.EqualValues(t, 3, shown)
}

const (
	testQueue = 8
	highRAM   = memory.LowEnd + 64<<20 // bytes; so there is RAM on both sides of the hole
)

// TestHostileChains: every fault of a driver is found before the chain is used.
func TestHostileChains(t *testing.T) {
	q, ram := newQueue(t, testQueue, highRAM)
	good := desc{gpa: bufferBase, bytes: 16}
	table := func(descs ...desc) desc {
		for i, d := range descs {
			ram.Write(ringBase+ringTable+uint64(i)*descBytes, d.bytesOf())
		}
		return desc{
			gpa: ringBase + ringTable, bytes: uint32(len(descs) * descBytes), flags: flagIndirect,
		}
	}
	for _, c := range []struct {
		name  string
		descs func() []desc
		want  string
	}{
		{"loop", func() []desc {
			return []desc{{gpa: bufferBase, bytes: 1, flags: flagNext, next: 0}}
		}, "a chain of more than 8 descriptors"},
		{"next one that is not there", func() []desc {
			return []desc{{gpa: bufferBase, bytes: 1, flags: flagNext, next: testQueue}}
		}, "descriptor 8 of 8"},
		{"no bytes", func() []desc { return []desc{{gpa: bufferBase}} }, "a range of no bytes"},
		{"not RAM", func() []desc {
			return []desc{{gpa: 0xfee00000, bytes: 4}}
		}, "4 bytes at 0xfee00000, outside of RAM"},
		{"into the hole", func() []desc {
			return []desc{{gpa: memory.LowEnd - 8, bytes: 16}}
		}, "outside of RAM"},
		{"across the hole", func() []desc {
			return []desc{{gpa: memory.LowEnd - 8, bytes: 1<<30 + 16}}
		}, "outside of RAM"},
		{"out of the hole", func() []desc {
			return []desc{{gpa: memory.HighStart - 8, bytes: 16}}
		}, "outside of RAM"},
		{"around the end of all addresses", func() []desc {
			return []desc{{gpa: 1<<64 - 8, bytes: 16}}
		}, "outside of RAM"},
		{"more than 4 GiB", func() []desc {
			return []desc{
				{gpa: 0, bytes: 3 << 30, flags: flagNext, next: 1}, {gpa: 0, bytes: 3 << 30},
			}
		}, "a chain of more than 4 GiB"},
		{"to be read behind one to be written", func() []desc {
			return []desc{
				{gpa: bufferBase, bytes: 1, flags: flagNext | flagWrite, next: 1}, good,
			}
		}, "a range to be read behind one to be written"},
		{"behind an indirect one", func() []desc {
			d := table(good)
			d.flags |= flagNext
			return []desc{d, good}
		}, "a descriptor behind an indirect one"},
		{"indirect in indirect", func() []desc {
			return []desc{table(desc{gpa: bufferBase, bytes: 16, flags: flagIndirect})}
		}, "an indirect descriptor in an indirect table"},
		{"empty table", func() []desc { return []desc{table()} }, "an indirect table of 0 bytes"},
		{"part of a descriptor", func() []desc {
			d := table(good)
			d.bytes--
			return []desc{d}
		}, "an indirect table of 15 bytes"},
		{"table outside of RAM", func() []desc {
			return []desc{{gpa: memory.LowEnd, bytes: 16, flags: flagIndirect}}
		}, "descriptors at 0xc0000000, outside of RAM"},
		{"table around the end of all addresses", func() []desc {
			return []desc{{gpa: 1<<64 - 16, bytes: 16, flags: flagIndirect}}
		}, "outside of RAM"},
		{"table longer than the queue", func() []desc {
			var long []desc
			for i := range uint16(testQueue + 1) {
				long = append(long, desc{
					gpa: bufferBase, bytes: 1, flags: flagNext, next: i + 1,
				})
			}
			return []desc{table(long...)}
		}, "a chain of more than 8 descriptors"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, d := range c.descs() {
				ram.Write(ringBase+uint64(i)*descBytes, d.bytesOf())
			}
			_, err := q.walk(0)
			require.ErrorIs(t, err, errBroken)
			require.ErrorContains(t, err, c.want)
		})
	}
	q.indirect = false
	ram.Write(ringBase, table(good).bytesOf())
	_, err := q.walk(0)
	require.ErrorContains(t, err, "an indirect descriptor that was not agreed on")
	_, err = q.walk(testQueue)
	require.ErrorContains(t, err, "descriptor 8 of 8")
}

// TestChainsAsLongAsTheQueue: direct, indirect, and both after one another.
func TestChainsAsLongAsTheQueue(t *testing.T) {
	q, ram := newQueue(t, testQueue, highRAM)
	var want []memory.Range
	for i := range uint16(testQueue) {
		d := desc{gpa: bufferBase + uint64(i)<<12, bytes: uint32(i + 1), next: i + 1}
		if i < testQueue-1 {
			d.flags = flagNext
		}
		ram.Write(ringBase+uint64(i)*descBytes, d.bytesOf())
		ram.Write(ringBase+ringTable+uint64(i)*descBytes, d.bytesOf())
		want = append(want, memory.Range{GPA: d.gpa, Bytes: int(d.bytes)})
	}
	c, err := q.walk(0)
	require.NoError(t, err)
	require.Equal(t, want, c.readable)
	require.Equal(t, 36, c.readBytes)
	head := desc{gpa: ringBase + ringTable, bytes: testQueue * descBytes, flags: flagIndirect}
	ram.Write(ringBase, head.bytesOf())
	again, err := q.walk(0)
	require.NoError(t, err)
	require.Equal(t, c, again)
}

// TestIndexJumps: a driver cannot make more available than the queue has.
func TestIndexJumps(t *testing.T) {
	for _, jump := range []uint16{testQueue + 1, 0x8000, 0xffff} {
		q, ram := newQueue(t, testQueue, memory.MinSize)
		q.taken = 0xfffe // so it wraps around
		ram.StoreUint16(q.avail+ringIndex, q.taken+jump)
		_, _, err := q.take()
		require.ErrorIs(t, err, errBroken)
		require.ErrorContains(t, err, fmt.Sprintf("%d chains available", jump))
	}
}

// TestQueueSetUp: rings that cannot be used are refused when the queue is enabled.
func TestQueueSetUp(t *testing.T) {
	for name, spoil := range map[string]func(q *queue){
		"no entries":             func(q *queue) { q.size = 0 },
		"no power of 2":          func(q *queue) { q.size = 7 },
		"too many":               func(q *queue) { q.size = 2 * testQueue },
		"descriptors, alignment": func(q *queue) { q.desc += 8 },
		"descriptors, RAM":       func(q *queue) { q.desc = memory.LowEnd - descBytes },
		"available, alignment":   func(q *queue) { q.avail++ },
		"available, RAM":         func(q *queue) { q.avail = memory.HighStart - 2 },
		"used, alignment":        func(q *queue) { q.used += 2 },
		"used, RAM":              func(q *queue) { q.used = 1<<64 - 4 },
	} {
		t.Run(name, func(t *testing.T) {
			q, _ := newQueue(t, testQueue, memory.MinSize)
			spoil(q)
			require.ErrorIs(t, q.check(), errBroken)
		})
	}
}

// TestEventIndex walks a driver and a device around the ring, and around the end of the indices:
// the driver is interrupted for exactly the entry that it asked for, and is asked to ring for the
// next one that it puts in once the ring is empty.
func TestEventIndex(t *testing.T) {
	const begin = 0xfff0
	q, ram := newQueue(t, testQueue, memory.MinSize)
	r := ringOf(t, q)
	q.taken, q.given, r.put = begin, begin, begin
	ram.StoreUint16(q.avail+ringIndex, begin)
	availEvent := func() uint16 {
		v, _ := ram.LoadUint16(q.used + ringEntries + testQueue*usedEntry)
		return v
	}
	r.wantNext(begin - 1) // the last one that was given
	first := true
	for round := range uint16(40) {
		want := begin + 3*round + 1 // of three, the second one
		r.wantNext(want)
		for range 3 {
			r.offer(r.chain(desc{gpa: bufferBase, bytes: 1}))
		}
		for i := range uint16(3) {
			c, ok, err := q.take()
			require.NoError(t, err)
			require.True(t, ok)
			interrupts := q.give(used{c.head, 0})
			due := begin+3*round+i == want || first
			require.Equal(t, due, interrupts, "%d of round %d", i, round)
			first = false // where the driver was interrupted last is not known at first
		}
		_, ok, err := q.take()
		require.NoError(t, err)
		require.False(t, ok)
		require.Equal(t, r.put, availEvent())
	}
}

// TestNoEventIndex: without it, a flag says whether the driver wants interrupts.
func TestNoEventIndex(t *testing.T) {
	q, ram := newQueue(t, testQueue, memory.MinSize)
	q.eventIndex = false
	r := ringOf(t, q)
	for _, no := range []uint16{0, availNoInterrupt, 0} {
		ram.StoreUint16(q.avail, no)
		r.offer(r.chain(desc{gpa: bufferBase, bytes: 1}))
		c, ok, err := q.take()
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, no == 0, q.give(used{c.head, 7}))
		_, written := r.used(q.given - 1)
		require.EqualValues(t, 7, written)
	}
}

// TestNoRingIsLost: a driver rings only if the device asked for it, and a chain may come just as
// the device looks for the last time. A device that missed it would wait for ever. And a chain that
// was given back is complete.
func TestNoRingIsLost(t *testing.T) {
	const (
		chains = 300_000 // of which some meet that moment
		enough = patience / 2
	)
	q, ram := newQueue(t, testQueue, memory.MinSize)
	r := ringOf(t, q)
	head := r.chain(desc{gpa: bufferBase, bytes: 1})
	bell := make(chan struct{}, 1)
	ended := make(chan struct{})
	var device sync.WaitGroup
	device.Go(func() {
		for n := 0; ; {
			c, ok, err := q.take()
			switch {
			case err != nil:
				t.Error(err)
				return
			case ok:
				q.give(used{c.head, uint32(n)})
				n++
			default:
				select {
				case <-bell:
				case <-ended:
					return
				}
			}
		}
	})
	t.Cleanup(func() { close(ended); device.Wait() })
	event := q.used + ringEntries + testQueue*usedEntry
	// awaitGiven waits until the device has nothing left, and looks for more once more.
	awaitGiven := func() {
		for deadline := time.Now().Add(patience); r.given() != r.put; runtime.Gosched() {
			require.True(t, time.Now().Before(deadline),
				"the device waits for a ring that it never asked for")
		}
	}
	for n, begun := 0, time.Now(); n < chains && time.Since(begun) < enough; n++ {
		awaitGiven()
		if n > 0 {
			_, written := r.used(r.put - 1)
			require.EqualValues(t, n-1, written, "given back before it is written down")
		}
		r.offer(head)
		if v, _ := ram.LoadUint16(event); v == r.put-1 {
			select {
			case bell <- struct{}{}:
			default:
			}
		}
	}
	awaitGiven()
}

// FuzzQueue gives the device rings of any content. What it takes must lie in RAM, and be no more
// than the queue has.
func FuzzQueue(f *testing.F) {
	chained := desc{gpa: bufferBase, bytes: 16, flags: flagNext, next: 1}
	last := desc{gpa: bufferBase, bytes: 16, flags: flagWrite}
	table := desc{gpa: ringBase, bytes: 32, flags: flagIndirect}
	avail := []byte{0, 0, 2, 0, 0, 0, 2, 0}
	f.Add(append(append(chained.bytesOf(), last.bytesOf()...), table.bytesOf()...), avail)
	f.Add(last.bytesOf(), []byte{0, 0, 1, 0})
	f.Add(table.bytesOf(), []byte{0, 0, 1, 0})
	q, ram := newQueue(f, testQueue, memory.MinSize)
	f.Fuzz(func(t *testing.T, descs, avail []byte) {
		q.taken, q.given, q.askedOnce = 0, 0, false
		zeros := make([]byte, 256)
		for _, part := range []uint64{q.desc, q.avail, q.used} {
			ram.Write(part, zeros)
		}
		ram.Write(q.desc, descs[:min(len(descs), testQueue*descBytes)])
		ram.Write(q.avail, avail[:min(len(avail), 64)])
		for range testQueue + 1 {
			c, ok, err := q.take()
			if err != nil {
				require.ErrorIs(t, err, errBroken)
				return
			}
			if !ok {
				return
			}
			require.LessOrEqual(t, len(c.readable)+len(c.writable), testQueue)
			_, inside := ram.Slices(append(c.readable, c.writable...))
			require.True(t, inside)
			q.give(used{c.head, uint32(c.writeBytes)})
			require.Equal(t, q.taken, q.given)
		}
		t.Fatal("more chains than the queue has")
	})
}
