package transport

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"taskguide/memory"
)

// Receiver applies the pages frames of one channel to RAM that was fresh (all
// zero, not touched) when the migration began. It trusts nothing that arrives.
// Not safe for concurrent use; the Receivers of a migration work side by side.
type Receiver struct {
	conn     *Conn
	ram      *memory.RAM
	channel  int
	channels int

	// written is what ever got content. It is shared by all Receivers: each touches
	// only the words of its own chunks. Zero pages outside it are zero already and
	// must not be touched, for that would make the host back them with memory.
	written *memory.Bitmap

	table   []byte
	runs    []run
	bufs    [][]byte
	decoder *zstd.Decoder
	packed  []byte
	plain   []byte

	pages int64
}

// NewReceivers returns a Receiver for each of the connections of a migration, in
// the order of their channels.
func NewReceivers(conns []*Conn, ram *memory.RAM) []*Receiver {
	written := memory.NewBitmap(ram.Pages())
	rs := make([]*Receiver, len(conns))
	for i, c := range conns {
		rs[i] = &Receiver{
			conn:     c,
			ram:      ram,
			channel:  i,
			channels: len(conns),
			written:  written,
			table:    make([]byte, MaxEntries*entrySize),
			runs:     make([]run, 0, MaxEntries),
			bufs:     make([][]byte, 0, MaxEntries),
		}
	}
	return rs
}

// Conn is the Receiver's channel.
func (r *Receiver) Conn() *Conn { return r.conn }

// Apply receives the payload of the pages frame that h begins and applies it.
func (r *Receiver) Apply(h Header) error {
	if h.Type != TypePages {
		return fmt.Errorf("%w: type %d where pages were due", ErrFrame, h.Type)
	}
	content, err := r.readTable(h)
	if err != nil {
		return err
	}
	length := h.Length - h.Entries*entrySize
	if int(h.Arg) != content*memory.PageSize || (h.Encoding == EncodingRaw && length != int(h.Arg)) {
		return fmt.Errorf("%w: %d bytes announced as %d for %d pages", ErrFrame, length, h.Arg, content)
	}
	r.clearZeros()
	if content == 0 {
		if length != 0 {
			return fmt.Errorf("%w: %d bytes for no page", ErrFrame, length)
		}
		return nil
	}
	r.scatter()
	if h.Encoding == EncodingZstd {
		return r.applyPacked(length)
	}
	return r.readInto(r.bufs)
}

// readTable receives and checks the frame's runs; content is the number of pages
// that have any.
func (r *Receiver) readTable(h Header) (content int, err error) {
	table := r.table[:h.Entries*entrySize]
	if err := r.conn.readFull(table); err != nil {
		return 0, err
	}
	r.runs = r.runs[:0]
	for ; len(table) > 0; table = table[entrySize:] {
		e := unpackRun(binary.LittleEndian.Uint64(table))
		if err := r.check(e); err != nil {
			return 0, err
		}
		if e.kind == kindContent {
			content += e.count
		}
		r.pages += int64(e.count)
		r.runs = append(r.runs, e)
	}
	return content, nil
}

func (r *Receiver) check(e run) error {
	if e.count == 0 || e.first+e.count > r.ram.Pages() {
		return fmt.Errorf("%w: %d pages at %d of a RAM of %d", ErrFrame, e.count, e.first, r.ram.Pages())
	}
	if e.kind > kindZero {
		return fmt.Errorf("%w: pages of kind %d", ErrFrame, e.kind)
	}
	if r.channels == 1 {
		return nil
	}
	for chunk := e.first / chunkPages; chunk <= (e.first+e.count-1)/chunkPages; chunk++ {
		if chunk%r.channels != r.channel {
			return fmt.Errorf("%w: page %d on channel %d is another channel's", ErrFrame, chunk*chunkPages, r.channel)
		}
	}
	return nil
}

// clearZeros applies the runs of zero pages: only what ever had content is
// written.
func (r *Receiver) clearZeros() {
	for _, e := range r.runs {
		if e.kind != kindZero {
			continue
		}
		for from, end := e.first, e.first+e.count; from < end; {
			first, n := r.written.NextRunBefore(from, end)
			if n == 0 {
				break
			}
			clear(r.ram.Range(first, n))
			r.written.ClearRange(first, n)
			from = first + n
		}
	}
}

// scatter lists where the frame's content goes, and remembers that it did.
func (r *Receiver) scatter() {
	r.bufs = r.bufs[:0]
	for _, e := range r.runs {
		if e.kind == kindContent {
			r.bufs = append(r.bufs, r.ram.Range(e.first, e.count))
			r.written.SetRange(e.first, e.count)
		}
	}
}

// readInto fills bufs from the connection.
func (r *Receiver) readInto(bufs [][]byte) error {
	c := r.conn
	if err := c.armRead(); err != nil {
		return err
	}
	n, err := c.vec.readFull(bufs)
	c.received.Add(int64(n))
	return c.explain(err)
}

// applyPacked receives length bytes of zstd and spreads what is in them.
func (r *Receiver) applyPacked(length int) error {
	if r.decoder == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxData), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return fmt.Errorf("set up zstd: %w", err)
		}
		r.decoder = d
		r.packed, r.plain = make([]byte, MaxData), make([]byte, MaxData)
	}
	packed := r.packed[:length]
	if err := r.conn.readFull(packed); err != nil {
		return err
	}
	want := 0
	for _, b := range r.bufs {
		want += len(b)
	}
	plain, err := r.decoder.DecodeAll(packed, r.plain[:0:want])
	if err != nil || len(plain) != want {
		return fmt.Errorf("%w: compressed pages are damaged (%d of %d bytes, %v)", ErrFrame, len(plain), want, err)
	}
	for _, b := range r.bufs {
		plain = plain[copy(b, plain):]
	}
	return nil
}

// Pages is how many pages were applied so far.
func (r *Receiver) Pages() int64 { return r.pages }
