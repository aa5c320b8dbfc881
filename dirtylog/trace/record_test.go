package trace

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// scripted is a tracker whose guest writes page n in interval n, and takes a while to say so.
type scripted struct {
	took     time.Duration
	on       bool
	harvests int
	fail     error
}

func (s *scripted) Start() error                           { s.on = true; return nil }
func (s *scripted) OnDemand() bool                         { return false }
func (s *scripted) Protect(*memory.Bitmap, int, int) error { return nil }
func (s *scripted) Stop() error                            { s.on = false; return nil }
func (s *scripted) Harvest(dirty *memory.Bitmap) (int, error) {
	time.Sleep(s.took)
	dirty.Set(s.harvests)
	s.harvests++
	return 1, s.fail
}

func TestFollow(t *testing.T) {
	for _, tt := range []struct {
		name    string
		took    time.Duration
		at      []int64 // in ms
		late    int
		harvest int64 // in ms, in sum
	}{
		{"in time", 2 * time.Millisecond, []int64{12, 22, 32, 42}, 0, 8},
		{"slow", 13 * time.Millisecond, []int64{23, 43, 63, 83}, 4, 52},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scripted{took: tt.took}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var got []int64
				end, err := Follow(ctx, s, 64, 10*time.Millisecond, func(r Record) error {
					pages := memory.NewBitmap(64)
					require.NoError(t, r.Dirty.AddTo(pages))
					require.True(t, pages.Test(len(got)))
					require.Equal(t, 1, pages.Count(), "an interval has its own pages alone")
					require.Equal(t, tt.took.Microseconds(), r.TookUS)
					if got = append(got, r.AtUS/1000); len(got) == 4 {
						cancel()
					}
					return nil
				})
				require.NoError(t, err)
				require.Equal(t, tt.at, got)
				require.Equal(t, End{
					Intervals: 4, Late: tt.late, Faults: 4, HarvestUS: 1000 * tt.harvest,
				}, end)
				require.False(t, s.on)
			})
		})
	}
}

// TestFollowFails: logging is off again after an error of the tracker, or of who takes the records.
func TestFollowFails(t *testing.T) {
	broken := errors.New("broken")
	s := &scripted{fail: broken}
	_, err := Follow(t.Context(), s, 64, time.Millisecond, func(Record) error { return nil })
	require.ErrorIs(t, err, broken)
	require.False(t, s.on)
	s = &scripted{}
	_, err = Follow(t.Context(), s, 64, time.Millisecond, func(Record) error { return broken })
	require.ErrorIs(t, err, broken)
	require.False(t, s.on)
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
