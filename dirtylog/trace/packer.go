package trace

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/klauspost/compress/zstd"

	"taskguide/memory"
)

const (
	// packEvery is the time between two intervals whose pages are compressed. With pages that take
	// 20 us it costs 1 % of a processor.
	packEvery = 250 * time.Millisecond
	// packedPages is how many pages that are: half a frame of a gigabit link.
	packedPages = 64
	packTries   = 2 // how often they are compressed
)

// packer compresses random pages of intervals.
type packer struct {
	ram    RAM
	zstd   *zstd.Encoder
	random *rand.Rand
	copies []byte // an encoder must not see its input change
	out    []byte
}

func newPacker(ram RAM) (*packer, error) {
	z, err := newEncoder()
	if err != nil {
		return nil, err
	}
	p := &packer{ram: ram, zstd: z, random: rand.New(rand.NewPCG(1, 3))}
	p.copies = make([]byte, 0, packedPages*memory.PageSize)
	return p, nil
}

// newEncoder returns an encoder like that of a migration's fastest packing.
func newEncoder() (*zstd.Encoder, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("make an encoder: %w", err)
	}
	return z, nil
}

// pack compresses some of so many dirty pages, in the order that a frame has. It returns nil if
// they are all zero.
func (p *packer) pack(dirty *memory.Bitmap, pages int) *Packed {
	p.copies = p.copies[:0]
	wanted, left := packedPages, pages
	for first, n := dirty.NextRun(0, dirty.Len()); n > 0 && wanted > 0; {
		for page := first; page < first+n && wanted > 0; page++ {
			// Selection sampling: each page has the same chance, and their order stays.
			if p.random.IntN(left) < wanted {
				wanted--
				if content := p.ram.Page(page); !memory.IsZero(content) {
					p.copies = append(p.copies, content...)
				}
			}
			left--
		}
		first, n = dirty.NextRun(first+n, dirty.Len())
	}
	if len(p.copies) == 0 {
		return nil
	}
	out := Packed{Pages: len(p.copies) / memory.PageSize}
	p.out, out.US = fastest(p.zstd, p.copies, p.out, packTries)
	out.Bytes = len(p.out)
	return &out
}

// fastest compresses a few times, and returns the time of the fastest in us: others may have waited
// for a CPU.
func fastest(z *zstd.Encoder, plain, out []byte, tries int) (packed []byte, us int64) {
	for range tries {
		begun := time.Now()
		out = z.EncodeAll(plain, out[:0])
		took := max(time.Since(begun).Microseconds(), 1)
		if us == 0 || took < us {
			us = took
		}
	}
	return out, us
}
