package virtio

import (
	"encoding/binary"
	"math/bits"

	"taskguide/memory"
)

var le = binary.LittleEndian

// The rings in RAM. The driver writes the available ring: flags, a count of all chains it ever put
// in, the numbers of the chains, and the event index for the used ring. The device writes the used
// ring, which is alike, but each entry has the number of a chain and how many bytes were written.
const (
	ringIndex   = 2
	ringEntries = 4
	availEntry  = 2
	usedEntry   = 8
	usedLength  = 4

	availNoInterrupt = 1 // in the flags, without event index

	descAlign, availAlign, usedAlign = 16, 2, 4
)

// queue is a split virtqueue. It is not safe for concurrent use.
type queue struct {
	ram *memory.Guest
	max uint16 // entries that it may have, a power of 2

	// The driver sets up these fields.
	size              uint16
	desc, avail, used uint64
	enabled           bool
	eventIndex        bool
	indirect          bool

	// taken and given count the chains that the device took and gave back, modulo 2^16.
	taken, given uint16
	// asked is the value of given when the device last looked whether the driver wants an
	// interrupt. askedOnce says that it has looked since the queue was set up or moved here; before
	// that, asked is unknown.
	asked     uint16
	askedOnce bool
}

// check returns an error if the rings cannot be used.
func (q *queue) check() error {
	if q.size == 0 || q.size > q.max || bits.OnesCount16(q.size) != 1 {
		return broken("a queue of %d entries, want a power of 2 up to %d", q.size, q.max)
	}
	for _, part := range []struct {
		name       string
		gpa, align uint64
		bytes      int
	}{
		{"descriptors", q.desc, descAlign, int(q.size) * descBytes},
		{"an available ring", q.avail, availAlign, ringEntries + int(q.size)*availEntry + 2},
		{"a used ring", q.used, usedAlign, ringEntries + int(q.size)*usedEntry + 2},
	} {
		if _, ok := q.ram.Slice(part.gpa, part.bytes); !ok || part.gpa%part.align != 0 {
			return broken("%s of %d bytes at %#x: want RAM, and a multiple of %d",
				part.name, part.bytes, part.gpa, part.align)
		}
	}
	return nil
}

// available returns how many chains there are to take. The queue must be enabled.
func (q *queue) available() (int, error) {
	index, _ := q.ram.LoadUint16(q.avail + ringIndex)
	n := index - q.taken
	if n > q.size {
		return 0, broken("%d chains available in a queue of %d", n, q.size)
	}
	return int(n), nil
}

// take takes the next chain, if there is one.
func (q *queue) take() (c chain, ok bool, err error) {
	c, ok, err = q.peek()
	if ok {
		q.taken++
	}
	return c, ok, err
}

// peek returns the next chain, if there is one, and leaves it in the queue. If there is none, it
// asks the driver to ring the doorbell for the next one.
func (q *queue) peek() (c chain, ok bool, err error) {
	n, err := q.available()
	if n == 0 && err == nil && q.eventIndex {
		// The driver reads this after it has put a chain in. So the device must look once more
		// after this store, or a chain could be missed.
		q.ram.StoreUint16(q.used+ringEntries+uint64(q.size)*usedEntry, q.taken)
		n, err = q.available()
	}
	if n == 0 || err != nil {
		return chain{}, false, err
	}
	at := q.avail + ringEntries + uint64(q.taken%q.size)*availEntry
	head, _ := q.ram.LoadUint16(at)
	if c, err = q.walk(head); err != nil {
		return chain{}, false, err
	}
	return c, true, nil
}

// posted returns how many chains the driver ever put in, modulo 2^16, and asks it to ring the
// doorbell for the next one.
func (q *queue) posted() uint16 {
	index, _ := q.ram.LoadUint16(q.avail + ringIndex)
	// The driver may put in another one before it can read what it is asked. It has no more than
	// size of them.
	for range q.size {
		if !q.eventIndex {
			break
		}
		q.ram.StoreUint16(q.used+ringEntries+uint64(q.size)*usedEntry, index)
		now, _ := q.ram.LoadUint16(q.avail + ringIndex)
		if now == index {
			break
		}
		index = now
	}
	return index
}

// takeRoom takes chains with room for n bytes together: as many as are needed, up to a number. It
// takes none if there are too few, and then asks the driver to ring for the next one.
func (q *queue) takeRoom(n, most int) (chains []chain, err error) {
	before := q.taken
	for n > 0 {
		c, ok, err := q.take()
		switch {
		case err != nil:
		case ok && c.writeBytes == 0:
			err = broken("a chain for data of the device that has no room for any")
		case !ok || len(chains) == most-1 && c.writeBytes < n:
			err = errNoRoom
		}
		if err != nil {
			q.taken = before
			return nil, err
		}
		chains = append(chains, c)
		n -= c.writeBytes
	}
	return chains, nil
}

// used is a chain that is given back, with the number of bytes that the device wrote to it.
type used struct {
	head    uint16
	written uint32
}

// give gives chains back. The driver sees all of them at once, or none yet. give tells whether the
// driver wants an interrupt.
func (q *queue) give(chains ...used) (interrupt bool) {
	for _, c := range chains {
		var entry [usedEntry]byte
		le.PutUint32(entry[:], uint32(c.head))
		le.PutUint32(entry[usedLength:], c.written)
		q.ram.Write(q.used+ringEntries+uint64(q.given%q.size)*usedEntry, entry[:])
		q.given++
	}
	q.ram.StoreUint16(q.used+ringIndex, q.given)
	return q.interrupts()
}

// interrupts tells whether the driver wants an interrupt for the chains given back since the last
// look.
func (q *queue) interrupts() bool {
	if !q.eventIndex {
		flags, _ := q.ram.LoadUint16(q.avail)
		return flags&availNoInterrupt == 0
	}
	event, _ := q.ram.LoadUint16(q.avail + ringEntries + uint64(q.size)*availEntry)
	// The driver wants an interrupt as soon as entry number event is there. An interrupt is due if
	// that entry has come since the last look.
	due := !q.askedOnce || q.given-event-1 < q.given-q.asked
	q.asked, q.askedOnce = q.given, true
	return due
}
