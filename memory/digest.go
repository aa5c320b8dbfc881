package memory

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// DigestChunk is how many bytes of RAM one worker digests at a time. Both ends of a migration must
// agree on it, because the digest of RAM is the digest of the chunks' digests.
const DigestChunk = 4 << 20

// chunkPages is how many pages a chunk has.
const chunkPages = DigestChunk / PageSize

// Digest digests all RAM of a machine that stands still, on all CPUs. It does not read holes: an
// untouched chunk counts as zeros.
func (r *RAM) Digest() (uint64, error) {
	sums, err := r.ChunkDigests(nil)
	return DigestOf(sums), err
}

// DigestOf is the digest of RAM whose chunks have these digests.
func DigestOf(chunks []uint64) uint64 {
	b := make([]byte, 0, 8*len(chunks))
	for _, sum := range chunks {
		b = binary.LittleEndian.AppendUint64(b, sum)
	}
	return xxhash.Sum64(b)
}

// ChunkDigests digests each chunk of RAM, as Digest does. Pages in without count as zeros.
func (r *RAM) ChunkDigests(without Spans) ([]uint64, error) {
	data := NewBitmap(r.Pages())
	if err := r.Allocated(data); err != nil {
		return nil, err
	}
	for _, span := range without {
		data.ClearRange(span.First, span.Count)
	}
	sums := make([]uint64, (r.Size()+DigestChunk-1)/DigestChunk)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(workers, len(sums)) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(sums) {
					return
				}
				sums[i] = r.digestChunk(i, data)
			}
		})
	}
	wg.Wait()
	return sums, nil
}

// chunk returns the first page of chunk i and the page after its last.
func (r *RAM) chunk(i int) (first, end int) {
	first = i * chunkPages
	return first, min(first+chunkPages, r.Pages())
}

// digestChunk hashes the pages of chunk i that are not zero, with their numbers,
// so that a hole and a page of zeros count the same.
func (r *RAM) digestChunk(i int, data *Bitmap) uint64 {
	d := xxhash.New()
	var number [8]byte
	for p, end := r.chunk(i); p < end; p++ {
		if !data.Test(p) || IsZero(r.Page(p)) {
			continue
		}
		binary.LittleEndian.PutUint64(number[:], uint64(p))
		d.Write(number[:])
		d.Write(r.Page(p))
	}
	return d.Sum64()
}

// PageDigests digests each page of chunk i. The digest of a page in without is 0.
func (r *RAM) PageDigests(i int, without Spans) []uint64 {
	first, end := r.chunk(i)
	sums := make([]uint64, end-first)
	for _, gap := range without.Gaps(r.Pages()) {
		for p := max(first, gap.First); p < min(end, gap.End()); p++ {
			sums[p-first] = xxhash.Sum64(r.Page(p))
		}
	}
	return sums
}

// AddressOf is the guest-physical address of a page.
func (r *RAM) AddressOf(page int) uint64 {
	for _, region := range r.Regions() {
		if n := page - region.First; n < region.Pages {
			return region.GPA + uint64(n)*PageSize
		}
	}
	panic("a page beyond the end of RAM")
}
