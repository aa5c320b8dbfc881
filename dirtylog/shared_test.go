package dirtylog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// fakeTracker is a log of writes. A harvest empties it, or a protection does, on demand.
type fakeTracker struct {
	demand bool
	fail   error // of the next harvest, which reports all the same

	mu      sync.Mutex
	on      bool
	log     *memory.Bitmap
	started int
}

const fakePages = 640

func newFakeTracker(demand bool) *fakeTracker {
	return &fakeTracker{demand: demand, log: memory.NewBitmap(fakePages)}
}

func (f *fakeTracker) write(page int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.on {
		f.log.Set(page)
	}
}

func (f *fakeTracker) Start() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.on {
		return errors.New("started twice")
	}
	f.on = true
	f.started++
	f.log.Reset()
	if f.demand {
		f.log.Fill()
	}
	return nil
}

func (f *fakeTracker) Harvest(dirty *memory.Bitmap) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.on {
		return 0, errors.New("not started")
	}
	n := f.log.Count()
	dirty.Or(f.log)
	if !f.demand {
		f.log.Reset()
	}
	err := f.fail
	f.fail = nil
	return n, err
}

func (f *fakeTracker) OnDemand() bool { return f.demand }

func (f *fakeTracker) Protect(pages *memory.Bitmap, first, count int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.demand {
		for page := first; page < first+count; page++ {
			if pages.Test(page) {
				f.log.Clear(page)
			}
		}
	}
	return nil
}

func (f *fakeTracker) Stop() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on = false
	return nil
}

// TestSharedTellsEveryUser: whoever harvests, each user's next harvest has exactly what was written
// since its own last one, or since its start.
func TestSharedTellsEveryUser(t *testing.T) {
	for _, demand := range []bool{false, true} {
		t.Run(fmt.Sprint("on demand ", demand), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(4, 2))
			f := newFakeTracker(demand)
			shared := NewShared(f, fakePages)
			type follower struct {
				Tracker
				on   bool
				want *memory.Bitmap
			}
			users := make([]*follower, 3)
			for i := range users {
				users[i] = &follower{shared.Tracker(), false, memory.NewBitmap(fakePages)}
				require.False(t, users[i].OnDemand())
				require.NoError(t, users[i].Stop(), "no error before the start")
			}
			on := 0
			for range 20000 {
				u := users[rnd.IntN(len(users))]
				switch what := rnd.IntN(20); {
				case what == 0 && !u.on:
					require.NoError(t, u.Start())
					// From here, and not from before, whatever others have harvested since.
					u.want.Reset()
					u.on = true
					on++
					if on > 1 {
						// Writes from before that nobody has harvested yet may be reported.
						_, err := u.Harvest(memory.NewBitmap(fakePages))
						require.NoError(t, err)
					}
				case what == 1 && u.on:
					require.NoError(t, u.Stop())
					u.on = false
					on--
					require.Equal(t, on > 0, f.on)
				case what < 5 && u.on:
					got := memory.NewBitmap(fakePages)
					n, err := u.Harvest(got)
					require.NoError(t, err)
					require.True(t, u.want.Equal(got))
					require.Equal(t, got.Count(), n)
					require.NoError(t, u.Protect(got, 0, fakePages))
					u.want.Reset()
				default:
					page := rnd.IntN(fakePages)
					f.write(page)
					for _, u := range users {
						if u.on {
							u.want.Set(page)
						}
					}
				}
			}
			require.Greater(t, f.started, 1)
		})
	}
}

// TestSharedHarvestFails: what was found before an error is lost for nobody.
func TestSharedHarvestFails(t *testing.T) {
	f := newFakeTracker(false)
	shared := NewShared(f, fakePages)
	a, b := shared.Tracker(), shared.Tracker()
	require.NoError(t, a.Start())
	require.NoError(t, b.Start())
	f.write(7)
	f.fail = errors.New("broken")
	got := memory.NewBitmap(fakePages)
	n, err := a.Harvest(got)
	require.ErrorContains(t, err, "broken")
	require.Equal(t, 1, n)
	require.True(t, got.Test(7))
	got.Reset()
	_, err = b.Harvest(got)
	require.NoError(t, err)
	require.True(t, got.Test(7))
}

// TestSharedConcurrently: users harvest while pages are written. Each user finds every write.
func TestSharedConcurrently(t *testing.T) {
	for _, demand := range []bool{false, true} {
		f := newFakeTracker(demand)
		shared := NewShared(f, fakePages)
		first, second := shared.Tracker(), shared.Tracker()
		require.NoError(t, first.Start())
		require.NoError(t, second.Start())
		written := make(chan struct{})
		go func() {
			defer close(written)
			for page := range fakePages {
				f.write(page)
			}
		}()
		var all sync.WaitGroup
		for _, u := range []Tracker{first, second} {
			all.Go(func() {
				got := memory.NewBitmap(fakePages)
				for done := false; !done; {
					select {
					case <-written:
						done = true // and once more, for what came last
					default:
					}
					if _, err := u.Harvest(got); err != nil {
						t.Error(err)
						return
					}
				}
				if got.Count() != fakePages {
					t.Errorf("%d pages of %d", got.Count(), fakePages)
				}
			})
		}
		all.Wait()
	}
}
