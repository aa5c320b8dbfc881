package transport

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"github.com/klauspost/compress/zstd"

	"taskguide/memory"
)

// Sender packs runs of pages into frames and sends them on one channel. It copies
// no page unless it compresses, and allocates nothing per page or frame. Not safe
// for concurrent use; several Senders may share a Limiter.
type Sender struct {
	conn    *Conn
	limiter *Limiter
	frame   int // bytes of data and table at which a frame is sent

	head    []byte // header and table of the frame that is being packed
	entries int
	last    run      // the table's last entry, which may still grow
	data    [][]byte // slices of guest RAM, or of stage
	size    int      // bytes in data

	deltas   bool
	staged   bool // pages are copied into stage, as zstd and delta need
	packing  Packing
	encoders [packings]*zstd.Encoder
	stage    []byte // stable copies of the pages to compress
	packed   []byte

	bufs net.Buffers // what writev consumes: kept here, because a local would escape

	stats FrameStats
}

// Packing is how a Sender packs the data of its frames.
type Packing uint8

const (
	PackRaw   Packing = iota // as it is, straight from guest RAM
	PackFast                 // zstd, as fast as it gets
	PackSmall                // zstd, smaller and slower
	packings
)

func (p Packing) level() zstd.EncoderLevel {
	if p == PackSmall {
		return zstd.SpeedDefault
	}
	return zstd.SpeedFastest
}

// FrameStats tells how the last frame went.
type FrameStats struct {
	Frames int64         // sent so far
	Asked  Packing       // as asked; a frame that does not shrink goes raw
	Plain  int           // bytes of page content
	Wire   int           // bytes sent
	Pack   time.Duration // time to compress
	Send   time.Duration // time to write, the limiter's wait included
	Held   time.Duration // part of Send: the limiter's wait, for other channels' frames too
}

// Last returns the statistics of the last frame.
func (s *Sender) Last() FrameStats { return s.stats }

// NewSender returns a Sender for one channel.
func NewSender(c *Conn, l *Limiter) *Sender {
	return &Sender{
		conn:    c,
		limiter: l,
		frame:   l.FrameData(),
		head:    make([]byte, headerSize, headerSize+MaxEntries*entrySize),
		data:    make([][]byte, 0, MaxEntries),
		bufs:    make(net.Buffers, 0, MaxEntries+1),
	}
}

// SetPacking chooses how the data of the frames to come is packed; what was packed
// before is sent first.
func (s *Sender) SetPacking(ctx context.Context, p Packing) error {
	if p == s.packing {
		return nil
	}
	if err := s.Flush(ctx); err != nil {
		return err
	}
	if p != PackRaw && s.encoders[p] == nil {
		// One goroutine per channel compresses already.
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderLevel(p.level()),
			zstd.WithEncoderCRC(false), zstd.WithWindowSize(MaxData))
		if err != nil {
			return fmt.Errorf("set up zstd: %w", err)
		}
		s.encoders[p] = enc
	}
	if p != PackRaw && s.packed == nil {
		s.packed = make([]byte, 0, MaxData+MaxData/8)
	}
	s.packing = p
	s.setStaged()
	return nil
}

// SetFrame bounds the data of the frames to come, in bytes; 0 restores what suits
// the limiter.
func (s *Sender) SetFrame(bytes int) {
	s.frame = s.limiter.FrameData()
	if bytes > 0 {
		s.frame = min(s.frame, max(bytes, memory.PageSize))
	}
}

// UseDeltas makes the Sender accept deltas from the next frame on.
func (s *Sender) UseDeltas(ctx context.Context) error {
	if err := s.Flush(ctx); err != nil {
		return err
	}
	s.deltas = true
	s.setStaged()
	return nil
}

// setStaged decides, between two frames, whether pages are copied.
func (s *Sender) setStaged() {
	s.staged = s.deltas || s.packing != PackRaw
	if s.staged && s.stage == nil {
		s.stage = make([]byte, 0, MaxData)
	}
}

// FrameData is how many bytes of content a frame has at most, unless SetFrame bounds it.
func (s *Sender) FrameData() int { return s.limiter.FrameData() }

// Room is how many more pages of content fit in the frame that is being packed. A Content call with
// at most that many pages sends nothing, except the frame that it completes.
func (s *Sender) Room() int { return (s.frame - s.size) / memory.PageSize }

// Content packs a run of pages. mem is a slice of guest RAM, which may change until it is sent.
// Content sends frames that become full.
func (s *Sender) Content(ctx context.Context, first int, mem []byte) error {
	for len(mem) > 0 {
		if s.Room() == 0 { // deltas left room for less than a page
			if err := s.Flush(ctx); err != nil {
				return err
			}
		}
		n := min(len(mem), s.Room()*memory.PageSize)
		if err := s.entry(ctx, run{
			first: first, count: n / memory.PageSize, kind: kindContent,
		}); err != nil {
			return err
		}
		s.append(mem[:n])
		if s.Room() == 0 {
			if err := s.Flush(ctx); err != nil {
				return err
			}
		}
		first, mem = first+n/memory.PageSize, mem[n:]
	}
	return nil
}

// append adds data of the last entry.
func (s *Sender) append(mem []byte) {
	s.size += len(mem)
	if s.staged {
		s.stage = append(s.stage, mem...)
		return
	}
	if n := len(s.data); n > 0 && adjacent(s.data[n-1], mem) {
		s.data[n-1] = join(s.data[n-1], mem)
		return
	}
	s.data = append(s.data, mem)
}

// Delta packs one page as a delta from a DeltaCache. It copies the delta.
func (s *Sender) Delta(ctx context.Context, page int, delta []byte) error {
	if s.size+deltaLength+len(delta) > s.frame {
		if err := s.Flush(ctx); err != nil {
			return err
		}
	}
	if err := s.entry(ctx, run{first: page, count: 1, kind: kindDelta}); err != nil {
		return err
	}
	s.stage = binary.LittleEndian.AppendUint16(s.stage, uint16(len(delta)))
	s.size += deltaLength
	s.append(delta)
	return nil
}

// Zeros packs a run of zero pages.
func (s *Sender) Zeros(ctx context.Context, first, count int) error {
	for count > 0 {
		n := min(count, maxRun)
		if err := s.entry(ctx, run{first: first, count: n, kind: kindZero}); err != nil {
			return err
		}
		first, count = first+n, count-n
	}
	return nil
}

// entry adds a run to the table, or grows the last one.
func (s *Sender) entry(ctx context.Context, r run) error {
	if s.entries > 0 && s.last.kind == r.kind && s.last.first+s.last.count == r.first &&
		s.last.count+r.count <= maxRun {
		s.last.count += r.count
		binary.LittleEndian.PutUint64(s.head[len(s.head)-entrySize:], s.last.pack())
		return nil
	}
	// The table counts, too: without data, thousands of short zero runs would still take time to
	// send.
	if s.entries == MaxEntries || s.size+s.entries*entrySize >= s.frame {
		if err := s.Flush(ctx); err != nil {
			return err
		}
	}
	s.last = r
	s.entries++
	s.head = binary.LittleEndian.AppendUint64(s.head, r.pack())
	return nil
}

// Flush sends the frame that is being packed, if it holds anything. If ctx ends while the limiter
// holds the frame back, Flush returns ctx's error, and the Sender can no longer be used.
func (s *Sender) Flush(ctx context.Context) error {
	if s.entries == 0 {
		return nil
	}
	begin := time.Now()
	h := Header{Type: TypePages, Entries: s.entries, Arg: uint32(s.size)}
	s.bufs = append(s.bufs[:0], nil)
	length := s.size
	if s.packing != PackRaw && s.size > 0 {
		s.packed = s.encoders[s.packing].EncodeAll(s.stage, s.packed[:0])
		if len(s.packed) < s.size {
			h.Encoding, length = EncodingZstd, len(s.packed)
			s.bufs = append(s.bufs, s.packed)
		} else {
			s.bufs = append(s.bufs, s.stage)
		}
	} else if s.staged {
		s.bufs = append(s.bufs, s.stage)
	} else {
		s.bufs = append(s.bufs, s.data...)
	}
	h.Length = len(s.head) - headerSize + length
	h.put(s.head)
	s.bufs[0] = s.head
	packed := time.Now()
	if err := s.limiter.Wait(ctx, len(s.head)+length); err != nil {
		return err
	}
	held := time.Since(packed)
	if err := s.send(); err != nil {
		return fmt.Errorf("send pages: %w", err)
	}
	s.stats = FrameStats{
		Frames: s.stats.Frames + 1,
		Asked:  s.packing,
		Plain:  s.size,
		Wire:   len(s.head) + length,
		Pack:   packed.Sub(begin),
		Send:   time.Since(packed),
		Held:   held,
	}
	s.head, s.entries, s.size = s.head[:headerSize], 0, 0
	s.data, s.stage = s.data[:0], s.stage[:0]
	return nil
}

// send writes s.bufs. WriteTo consumes the slice headers it is given, so it gets
// the field and the backing array is put back.
func (s *Sender) send() error {
	s.conn.wmu.Lock()
	defer s.conn.wmu.Unlock()
	whole := s.bufs
	err := s.conn.writeLocked(&s.bufs)
	s.bufs = whole[:0]
	return err
}
