package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// TestDeltasArrive rewrites pages again and again, sparsely and wholly, through
// caches of several sizes, mixed with zero pages, in both encodings.
func TestDeltasArrive(t *testing.T) {
	for _, packing := range []Packing{PackRaw, PackFast, PackSmall} {
		for _, places := range []int64{1, 7, 4096} {
			rnd := rand.New(rand.NewPCG(uint64(places), uint64(packing)))
			a, b := newRAM(t), newRAM(t)
			src, dst := connect(t)
			r := NewReceivers([]*Conn{dst}, b)[0]
			s := NewSender(src, nil)
			ctx := context.Background()
			require.NoError(t, s.SetPacking(ctx, packing))
			require.NoError(t, s.UseDeltas(ctx))
			cache, err := NewDeltaCache(places*memory.PageSize, a.Pages(), 0, 1)
			require.NoError(t, err)
			defer cache.Close()
			deltas := 0
			var order []int
			for range 6 {
				done := make(chan error, 1)
				go func() { done <- receive(r) }()
				for i := range 2000 {
					if i%500 == 0 { // as between two rounds: a frame has a page once
						require.NoError(t, s.Flush(ctx))
						order = rnd.Perm(500)
					}
					p := order[i%500]
					switch rnd.IntN(10) {
					case 0:
						clear(a.Page(p))
						cache.Forget(p)
						require.NoError(t, s.Zeros(ctx, p, 1))
						continue
					case 1:
						fill(rnd, a.Page(p))
					default:
						binary.LittleEndian.PutUint64(a.Page(p)[8*rnd.IntN(512):], rnd.Uint64())
					}
					delta, content := cache.Update(p, a.Page(p))
					if content == nil {
						deltas++
						require.NoError(t, s.Delta(ctx, p, delta))
					} else {
						require.NoError(t, s.Content(ctx, p, content))
					}
				}
				require.NoError(t, s.Flush(ctx))
				require.NoError(t, src.WriteMessage(TypeFlush, 0, nil))
				require.NoError(t, <-done)
				require.True(t, bytes.Equal(a.Bytes(), b.Bytes()))
			}
			if places == 4096 {
				require.Greater(t, deltas, 6000, "sparse changes must go as deltas")
			}
		}
	}
}

// TestDeltaCacheHasRoomForItsChannel: where the caches' bytes add up to RAM, every page of a
// channel has a place of its own, however many channels there are.
func TestDeltaCacheHasRoomForItsChannel(t *testing.T) {
	const pages = 11*chunkPages + 77 // no whole number of stretches for any channel but one
	for _, channels := range []int{1, 2, 3, 4, 8, 16} {
		own := 0
		for channel := range channels {
			c, err := NewDeltaCache(pages*memory.PageSize, pages, channel, channels)
			require.NoError(t, err)
			defer c.Close()
			page := make([]byte, memory.PageSize)
			for round := range 2 {
				for p := range pages {
					if ChannelOf(p, channels) != channel {
						continue
					}
					page[0] = byte(p + round)
					delta, _ := c.Update(p, page)
					require.Equal(t, round > 0, delta != nil, "page %d, %d channels", p, channels)
					own += 1 - round
				}
			}
			require.LessOrEqual(t, len(c.owner), max(ownPages(pages, channel, channels), 1))
		}
		require.Equal(t, pages, own)
	}
}

func FuzzDelta(f *testing.F) {
	old, new := make([]byte, memory.PageSize), make([]byte, memory.PageSize)
	new[100], new[4095] = 1, 2
	seed, _ := appendDelta(nil, old, new)
	f.Add(seed, []byte("abc"))
	f.Fuzz(func(t *testing.T, delta, change []byte) {
		guarded := make([]byte, 3*memory.PageSize)
		_ = applyDelta(guarded[memory.PageSize:2*memory.PageSize], delta)
		require.True(t,
			memory.IsZero(guarded[:memory.PageSize]) && memory.IsZero(guarded[2*memory.PageSize:]),
			"a delta reached beyond its page")

		page := make([]byte, memory.PageSize)
		for i, c := range change {
			page[(i*97+int(c)*13)%len(page)] ^= c
		}
		d, ok := appendDelta(nil, old, page)
		if ok {
			got := bytes.Clone(old)
			require.NoError(t, applyDelta(got, d))
			require.Equal(t, page, got)
		}
	})
}

func BenchmarkDelta(b *testing.B) {
	cache, err := NewDeltaCache(64*memory.PageSize, 64, 0, 1)
	require.NoError(b, err)
	defer cache.Close()
	page := make([]byte, memory.PageSize)
	cache.Update(3, page)
	b.SetBytes(memory.PageSize)
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		binary.LittleEndian.PutUint64(page[8*(i%512):], i)
		if delta, _ := cache.Update(3, page); delta == nil {
			b.Fatal("no delta")
		}
	}
}
