package virtio

import (
	"errors"
	"fmt"
	"math"

	"taskguide/memory"
)

// A descriptor in RAM: an address, a length, flags, and the number of the next one.
const (
	descBytes  = 16
	descLength = 8
	descFlags  = 12
	descNext   = 14

	flagNext     = 1 << 0 // another one follows
	flagWrite    = 1 << 1 // the device writes the range
	flagIndirect = 1 << 2 // the range is a table of descriptors
)

// errBroken is the error for a driver that breaks the rules.
var errBroken = errors.New("the driver broke the rules of the queue")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errBroken}, args...)...)
}

// chain is a request: ranges of RAM. They were checked when the chain was taken, and stay valid
// because RAM stays where it is: it may lose its content (see balloon), and not its place.
type chain struct {
	head       uint16 // number of its first descriptor
	readable   []memory.Range
	writable   []memory.Range
	readBytes  int
	writeBytes int
}

// walk follows a chain from its first descriptor. A chain has at most as many descriptors as the
// queue, including those of an indirect table. That also bounds a loop.
type walk struct {
	queue    *queue
	chain    chain
	table    uint64 // where the descriptors are
	entries  int    // how many there are
	left     int    // how many more the chain may have
	indirect bool   // the table is one that a descriptor refers to
}

// walk returns the chain that begins with a descriptor.
func (q *queue) walk(head uint16) (chain, error) {
	w := walk{
		queue: q, chain: chain{head: head}, table: q.desc, entries: int(q.size), left: int(q.size),
	}
	for at, more := int(head), true; more; {
		var err error
		if at, more, err = w.step(at); err != nil {
			return chain{}, err
		}
	}
	return w.chain, nil
}

// step reads a descriptor, and returns the number of the next one if there is one.
func (w *walk) step(at int) (next int, more bool, err error) {
	switch {
	case at >= w.entries:
		return 0, false, broken("descriptor %d of %d", at, w.entries)
	case w.left == 0:
		return 0, false, broken("a chain of more than %d descriptors", w.queue.size)
	}
	w.left--
	raw, ok := w.queue.ram.Slice(w.table+uint64(at)*descBytes, descBytes)
	if !ok {
		return 0, false, broken("descriptors at %#x, outside of RAM", w.table)
	}
	// The checks and the use must see the same bytes, so the descriptor is copied: the guest may
	// write it meanwhile.
	var d [descBytes]byte
	copy(d[:], raw)
	gpa, length, flags := le.Uint64(d[:]), le.Uint32(d[descLength:]), le.Uint16(d[descFlags:])
	if flags&flagIndirect != 0 {
		if err := w.enter(gpa, length, flags); err != nil {
			return 0, false, err
		}
		return 0, true, nil
	}
	if err := w.chain.add(w.queue.ram, gpa, length, flags&flagWrite != 0); err != nil {
		return 0, false, err
	}
	return int(le.Uint16(d[descNext:])), flags&flagNext != 0, nil
}

// enter continues in the indirect table that a descriptor refers to.
func (w *walk) enter(gpa uint64, length uint32, flags uint16) error {
	switch {
	case !w.queue.indirect:
		return broken("an indirect descriptor that was not agreed on")
	case w.indirect:
		return broken("an indirect descriptor in an indirect table")
	case flags&flagNext != 0:
		return broken("a descriptor behind an indirect one")
	case length == 0 || length%descBytes != 0:
		return broken("an indirect table of %d bytes", length)
	}
	// The descriptor of the table is not a range for the device, so it does not count.
	w.left++
	w.table, w.entries, w.indirect = gpa, int(length/descBytes), true
	return nil
}

// add adds a range.
func (c *chain) add(ram *memory.Guest, gpa uint64, length uint32, write bool) error {
	if length == 0 {
		return broken("a range of no bytes")
	}
	if _, ok := ram.Slice(gpa, int(length)); !ok {
		return broken("%d bytes at %#x, outside of RAM", length, gpa)
	}
	r := memory.Range{GPA: gpa, Bytes: int(length)}
	switch {
	case write:
		c.writable = append(c.writable, r)
		c.writeBytes += r.Bytes
	case len(c.writable) > 0:
		return broken("a range to be read behind one to be written")
	default:
		c.readable = append(c.readable, r)
		c.readBytes += r.Bytes
	}
	if c.readBytes+c.writeBytes > math.MaxUint32 {
		return broken("a chain of more than 4 GiB")
	}
	return nil
}

// cut splits ranges behind n bytes. There are at least as many.
func cut(ranges []memory.Range, n int) (first, rest []memory.Range) {
	for i, r := range ranges {
		switch {
		case n == 0:
			return first, append(rest, ranges[i:]...)
		case r.Bytes <= n:
			first = append(first, r)
			n -= r.Bytes
		default:
			first = append(first, memory.Range{GPA: r.GPA, Bytes: n})
			rest = append(rest, memory.Range{GPA: r.GPA + uint64(n), Bytes: r.Bytes - n})
			return first, append(rest, ranges[i+1:]...)
		}
	}
	return first, rest
}

// gather copies the bytes of ranges.
func gather(ram *memory.Guest, ranges []memory.Range) []byte {
	var b []byte
	for _, r := range ranges {
		if s, ok := ram.Slice(r.GPA, r.Bytes); ok {
			b = append(b, s...)
		}
	}
	return b
}

// scatter writes bytes to ranges, as far as the ranges have room.
func scatter(ram *memory.Guest, ranges []memory.Range, b []byte) {
	for _, r := range ranges {
		n := min(r.Bytes, len(b))
		ram.Write(r.GPA, b[:n])
		b = b[n:]
	}
}
