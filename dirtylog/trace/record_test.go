package trace

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/memory"
)

// scripted is a tracker whose guest writes page n in interval n, and takes a while to say so.
type scripted struct {
	dirtylog.Tracker // Follow neither starts nor stops it

	took     time.Duration
	harvests int
	fail     error
}

func (s *scripted) Harvest(dirty *memory.Bitmap) (int, error) {
	time.Sleep(s.took)
	dirty.Set(s.harvests)
	s.harvests++
	return 1, s.fail
}

// blank is a RAM of so many zero pages.
type blank int

func (b blank) Pages() int                           { return int(b) }
func (b blank) Page(int) []byte                      { return make([]byte, memory.PageSize) }
func (b blank) Allocated(pages *memory.Bitmap) error { pages.SetRange(0, int(b)); return nil }

// printed is a RAM whose pages have their number in each byte, so that page 0 is zero.
type printed struct{ blank }

func (p printed) Page(n int) []byte { return bytes.Repeat([]byte{byte(n)}, memory.PageSize) }

// TestFollowPacks: four times a second, some of what an interval has are compressed.
func TestFollowPacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 995*time.Millisecond)
		defer cancel()
		packed := map[int64]Packed{}
		emit := func(r Record) error {
			if r.Packed != nil {
				packed[r.AtUS/1000] = *r.Packed
			}
			return nil
		}
		_, err := Follow(ctx, &scripted{}, time.Now(), printed{256}, 10*time.Millisecond, emit)
		require.NoError(t, err)
		require.Len(t, packed, 3)
		for _, at := range []int64{250, 500, 750} {
			require.Equal(t, 1, packed[at].Pages, "the page of that interval")
			require.Less(t, packed[at].Bytes, 100)
			require.Positive(t, packed[at].US)
		}
	})
}

// TestPack takes so many pages at random that are not zero, in their order.
func TestPack(t *testing.T) {
	p, err := newPacker(printed{256})
	require.NoError(t, err)
	require.Nil(t, p.pack(memory.NewBitmap(256), 0))
	zero := memory.NewBitmap(256)
	zero.Set(0)
	require.Nil(t, p.pack(zero, 1))

	few := memory.NewBitmap(256)
	few.SetRange(0, 3)
	require.Equal(t, 2, p.pack(few, 3).Pages)

	all := memory.NewBitmap(256)
	all.SetRange(0, 256)
	chosen := map[byte]bool{}
	for range 50 {
		got := p.pack(all, 256)
		require.InDelta(t, packedPages, got.Pages, 1, "one of them may be the zero one")
		before := byte(0)
		for at := 0; at < len(p.copies); at += memory.PageSize {
			require.Greater(t, p.copies[at], before)
			before = p.copies[at]
			chosen[before] = true
		}
		require.Greater(t, got.Bytes, 64, "they differ")
	}
	require.Len(t, chosen, 255)
}

// TestFollow: each interval has what was written in it, also the one that ctx ends.
func TestFollow(t *testing.T) {
	for _, tt := range []struct {
		name    string
		took    time.Duration
		at      []int64 // in ms
		late    int
		harvest int64 // in ms, in sum
	}{
		{"in time", 2 * time.Millisecond, []int64{12, 22, 32, 42, 44}, 0, 10},
		{"slow", 13 * time.Millisecond, []int64{23, 43, 63, 83, 96}, 4, 65},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scripted{took: tt.took}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var got []int64
				emit := func(r Record) error {
					pages := memory.NewBitmap(64)
					require.NoError(t, r.Dirty.AddTo(pages))
					require.True(t, pages.Test(len(got)))
					require.Equal(t, 1, pages.Count(), "an interval has its own pages alone")
					require.Equal(t, tt.took.Microseconds(), r.TookUS)
					if got = append(got, r.AtUS/1000); len(got) == 4 {
						cancel()
					}
					return nil
				}
				end, err := Follow(ctx, s, time.Now(), blank(64), 10*time.Millisecond, emit)
				require.NoError(t, err)
				require.Equal(t, tt.at, got)
				require.Equal(t, End{
					Intervals: 5, Late: tt.late, Faults: 5, HarvestUS: 1000 * tt.harvest,
				}, end)
			})
		})
	}
}

// TestFollowCountsFromTheFirstMoment, also if that was a while ago: the first interval is then due.
func TestFollowCountsFromTheFirstMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		for _, late := range []time.Duration{3 * time.Millisecond, 32 * time.Millisecond} {
			time.Sleep(late)
			var got []int64
			ctx, cancel := context.WithCancel(t.Context())
			emit := func(r Record) error {
				if got = append(got, r.AtUS/1000); len(got) == 2 {
					cancel()
				}
				return nil
			}
			_, err := Follow(ctx, &scripted{}, begun, blank(64), 10*time.Millisecond, emit)
			require.NoError(t, err)
			require.Equal(t, map[time.Duration][]int64{
				3 * time.Millisecond: {10, 20, 20}, 32 * time.Millisecond: {52, 60, 60},
			}[late], got)
		}
	})
}

// TestFollowLeavesNothing: a trace that ends before its first interval is over has its writes.
func TestFollowLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Millisecond)
		defer cancel()
		var got []Record
		emit := func(r Record) error { got = append(got, r); return nil }
		end, err := Follow(ctx, &scripted{}, time.Now(), blank(64), time.Hour, emit)
		require.NoError(t, err)
		require.Equal(t, []Record{{AtUS: 7000, Dirty: &Set{Runs: []int{0, 1}}}}, got)
		require.Equal(t, End{Intervals: 1, Faults: 1}, end)
	})
}

// TestFollowFails with the tracker, and with who takes the records.
func TestFollowFails(t *testing.T) {
	broken := errors.New("broken")
	follow := func(s *scripted, taken error) error {
		_, err := Follow(t.Context(), s, time.Now(), blank(64), time.Millisecond,
			func(Record) error { return taken })
		return err
	}
	require.ErrorIs(t, follow(&scripted{fail: broken}, nil), broken)
	require.ErrorIs(t, follow(&scripted{}, broken), broken)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Follow(ended, &scripted{fail: broken}, time.Now(), blank(64), time.Hour, nil)
	require.ErrorIs(t, err, broken, "at the end")
}

// TestWrote: a page that was written during the look has memory, and is not zero.
func TestWrote(t *testing.T) {
	c := Contents{Populated: &Set{Runs: []int{0, 10}}, Zero: &Set{Runs: []int{5, 5}}}
	written := memory.NewBitmap(128)
	written.SetRange(8, 4)
	written.Set(100)
	require.NoError(t, c.Wrote(written))
	populated, zero := memory.NewBitmap(128), memory.NewBitmap(128)
	require.NoError(t, c.Populated.AddTo(populated))
	require.NoError(t, c.Zero.AddTo(zero))
	require.Equal(t, 12+1, populated.Count())
	require.Equal(t, 12, populated.CountRange(0, 12))
	require.True(t, populated.Test(100))
	require.Equal(t, 3, zero.Count())
	require.Equal(t, 3, zero.CountRange(5, 3))
	require.Error(t, c.Wrote(memory.NewBitmap(64)), "of a smaller guest")
}

func TestLook(t *testing.T) {
	ram, err := memory.New(16 << 20)
	require.NoError(t, err)
	defer ram.Close()
	for page := 100; page < 1000; page++ {
		for i := range ram.Page(page) {
			ram.Page(page)[i] = byte(page)
		}
	}
	clear(ram.Page(200))
	contents, err := Look(t.Context(), ram)
	require.NoError(t, err)
	populated, zero := memory.NewBitmap(ram.Pages()), memory.NewBitmap(ram.Pages())
	require.NoError(t, contents.Populated.AddTo(populated))
	require.NoError(t, contents.Zero.AddTo(zero))
	for page := 100; page < 1000; page++ {
		require.True(t, populated.Test(page))
		require.Equal(t, page%256 == 0 || page == 200, zero.Test(page), page)
	}
	require.Len(t, contents.Samples, samples)
	require.Positive(t, contents.Together)
	require.Positive(t, contents.TookUS)
	for _, s := range contents.Samples {
		require.False(t, zero.Test(s.Page))
		require.Less(t, s.Bytes, 200, "a page of one byte's value compresses well")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ram.Page(1024)[0] = 1
	_, err = Look(ctx, ram)
	require.ErrorIs(t, err, context.Canceled)
}
