package memory

import (
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// digestChunk is hashed by one worker at a time. Both ends of a migration must
// agree on it, for the digest of RAM is the digest of the chunks' digests.
const digestChunk = 4 << 20

// Digest sums up all RAM of a machine that stands still, on all CPUs. Holes are
// not read: an untouched chunk counts as the zeros it would read as.
func (r *RAM) Digest() (uint64, error) {
	data := NewBitmap(r.Pages())
	if err := r.Allocated(data); err != nil {
		return 0, err
	}
	chunks := int((r.Size() + digestChunk - 1) / digestChunk)
	sums := make([]byte, 8*chunks)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.NumCPU(), chunks) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= chunks {
					return
				}
				binary.LittleEndian.PutUint64(sums[8*i:], r.digestChunk(i, data))
			}
		})
	}
	wg.Wait()
	return xxhash.Sum64(sums), nil
}

// digestChunk hashes the pages of chunk i that are not zero, with their numbers,
// so that a hole and a page of zeros count the same.
func (r *RAM) digestChunk(i int, data *Bitmap) uint64 {
	d := xxhash.New()
	var number [8]byte
	first := i * (digestChunk / PageSize)
	end := min(first+digestChunk/PageSize, r.Pages())
	for p := first; p < end; p++ {
		if !data.Test(p) || IsZero(r.Page(p)) {
			continue
		}
		binary.LittleEndian.PutUint64(number[:], uint64(p))
		d.Write(number[:])
		d.Write(r.Page(p))
	}
	return d.Sum64()
}
