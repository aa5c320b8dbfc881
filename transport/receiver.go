package transport

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"taskguide/memory"
)

// Receiver applies the pages frames of one channel to RAM that was fresh (all zero, never touched)
// when the migration began. It validates everything that arrives. A Receiver is not safe for
// concurrent use, but the Receivers of a migration may run at the same time.
type Receiver struct {
	conn     *Conn
	ram      *memory.RAM
	channel  int
	channels int

	// written holds the pages that have ever got content. All Receivers share it: each touches only
	// the words of its own chunks. Zero pages outside it are zero already and must not be touched,
	// because that would make the host back them with memory.
	written *memory.Bitmap
	// release says that zero pages give their memory back. If RAM was populated before the guest
	// came, they keep it.
	release bool

	table   []byte
	runs    []run
	bufs    [][]byte
	decoder *zstd.Decoder
	packed  []byte
	plain   []byte

	reached int64
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
			release:  !ram.Populated(),
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
	pages, err := r.readTable(h)
	if err != nil {
		return err
	}
	length, plain := h.Length-h.Entries*entrySize, int(h.Arg)
	content := pages[kindContent] * memory.PageSize
	switch {
	case h.Encoding == EncodingRaw && length != plain,
		h.Encoding == EncodingZstd && (length > plain || plain == 0),
		pages[kindDelta] == 0 && plain != content,
		plain < content:
		return fmt.Errorf("%w: %d bytes announced as %d for %d pages and %d deltas", ErrFrame,
			length, plain, pages[kindContent], pages[kindDelta])
	}
	if err := r.clearZeros(); err != nil {
		return err
	}
	if h.Encoding == EncodingRaw && pages[kindDelta] == 0 {
		if plain == 0 {
			return nil
		}
		r.scatter()
		return r.readInto(r.bufs)
	}
	data, err := r.unpack(h.Encoding, length, plain)
	if err != nil {
		return err
	}
	return r.spread(data)
}

// readTable receives and checks the frame's runs. It counts their pages by kind.
func (r *Receiver) readTable(h Header) (pages [3]int, err error) {
	table := r.table[:h.Entries*entrySize]
	if err := r.conn.readFull(table); err != nil {
		return pages, err
	}
	r.runs = r.runs[:0]
	for ; len(table) > 0; table = table[entrySize:] {
		e := unpackRun(binary.LittleEndian.Uint64(table))
		if err := r.check(e); err != nil {
			return pages, err
		}
		pages[e.kind] += e.count
		r.reached = max(r.reached, int64(e.first+e.count-1))
		r.runs = append(r.runs, e)
	}
	return pages, nil
}

func (r *Receiver) check(e run) error {
	if e.count == 0 || e.first+e.count > r.ram.Pages() {
		return fmt.Errorf("%w: %d pages at %d of a RAM of %d", ErrFrame, e.count, e.first,
			r.ram.Pages())
	}
	if e.kind > kindDelta {
		return fmt.Errorf("%w: pages of kind %d", ErrFrame, e.kind)
	}
	if r.channels == 1 {
		return nil
	}
	for chunk := e.first / chunkPages; chunk <= (e.first+e.count-1)/chunkPages; chunk++ {
		if chunk%r.channels != r.channel {
			return fmt.Errorf("%w: page %d on channel %d is another channel's", ErrFrame,
				chunk*chunkPages, r.channel)
		}
	}
	return nil
}

// holePages is the least number of zero pages in a row that are given back to the host, which a
// guest that reports free memory does by much longer rows. To clear a few pages is cheaper, and
// leaves huge pages in one piece.
const holePages = 16

// clearZeros applies the runs of zero pages. It touches only pages that have ever got content. Rows
// of others may have been populated ahead of their content, so these are given back as well.
func (r *Receiver) clearZeros() error {
	for _, e := range r.runs {
		if e.kind != kindZero {
			continue
		}
		if r.release && e.count >= holePages {
			if err := r.ram.Release(e.first, e.count); err != nil {
				return err
			}
			r.written.ClearRange(e.first, e.count)
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
	return nil
}

// scatter lists where the frame's content goes, and marks those pages as written.
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
	_, err := c.vec.readFull(bufs)
	return c.explain(err)
}

// unpack receives length bytes of data, which must unpack to plain bytes.
func (r *Receiver) unpack(e Encoding, length, plain int) ([]byte, error) {
	if r.plain == nil {
		r.packed, r.plain = make([]byte, MaxData), make([]byte, MaxData)
	}
	if e == EncodingRaw {
		return r.plain[:plain], r.conn.readFull(r.plain[:plain])
	}
	if r.decoder == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(MaxData), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return nil, fmt.Errorf("set up zstd: %w", err)
		}
		r.decoder = d
	}
	packed := r.packed[:length]
	if err := r.conn.readFull(packed); err != nil {
		return nil, err
	}
	data, err := r.decoder.DecodeAll(packed, r.plain[:0:plain])
	if err != nil || len(data) != plain {
		return nil, fmt.Errorf("%w: compressed pages are damaged (%d of %d bytes, %v)", ErrFrame,
			len(data), plain, err)
	}
	return data, nil
}

// spread copies a frame's data to the places that its runs name.
func (r *Receiver) spread(data []byte) error {
	for _, e := range r.runs {
		switch e.kind {
		case kindContent:
			mem := r.ram.Range(e.first, e.count)
			if len(data) < len(mem) {
				return fmt.Errorf("%w: data ends before its pages", ErrFrame)
			}
			r.written.SetRange(e.first, e.count)
			data = data[copy(mem, data):]
		case kindDelta:
			r.written.SetRange(e.first, e.count)
			for page := e.first; page < e.first+e.count; page++ {
				if len(data) < deltaLength {
					return fmt.Errorf("%w: data ends before its deltas", ErrFrame)
				}
				n := int(binary.LittleEndian.Uint16(data))
				data = data[deltaLength:]
				if len(data) < n {
					return fmt.Errorf("%w: data ends within a delta", ErrFrame)
				}
				if err := applyDelta(r.ram.Page(page), data[:n]); err != nil {
					return err
				}
				data = data[n:]
			}
		}
	}
	if len(data) > 0 {
		return fmt.Errorf("%w: %d bytes of data too many", ErrFrame, len(data))
	}
	return nil
}

// Reached is the highest page that has arrived so far.
func (r *Receiver) Reached() int64 { return r.reached }
