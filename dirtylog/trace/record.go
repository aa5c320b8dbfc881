package trace

import (
	"context"
	"math/rand/v2"
	"time"

	"taskguide/dirtylog"
	"taskguide/memory"
)

// MinInterval is the shortest interval. Shorter ones would be mostly harvests.
const MinInterval = time.Millisecond

// RAM is a guest's memory, whose vCPUs may run.
type RAM interface {
	Pages() int
	Page(n int) []byte
	Allocated(pages *memory.Bitmap) error
}

// samples is how many pages a recording compresses, to say what a migration could gain.
const samples = 256

// Look finds out what is in RAM. It reads every page that the host backs, while the guest may write
// them: it takes about as long as the first round of a migration without a wire. [Contents.Wrote]
// adds what the guest writes meanwhile.
func Look(ctx context.Context, ram RAM) (Contents, error) {
	populated, zero := memory.NewBitmap(ram.Pages()), memory.NewBitmap(ram.Pages())
	if err := ram.Allocated(populated); err != nil {
		return Contents{}, err
	}
	// Every page that is not zero has the same chance of being a sample (reservoir sampling).
	rnd, seen := rand.New(rand.NewPCG(1, 2)), 0
	var chosen []int
	for first, count := populated.NextRun(0, ram.Pages()); count > 0; {
		for page := first; page < first+count; page++ {
			if page%1024 == 0 && ctx.Err() != nil {
				return Contents{}, ctx.Err()
			}
			if memory.IsZero(ram.Page(page)) {
				zero.Set(page)
				continue
			}
			seen++
			if len(chosen) < samples {
				chosen = append(chosen, page)
			} else if at := rnd.IntN(seen); at < samples {
				chosen[at] = page
			}
		}
		first, count = populated.NextRun(first+count, ram.Pages())
	}
	c := Contents{Populated: NewSet(populated), Zero: NewSet(zero)}
	err := c.compress(ram, chosen)
	return c, err
}

// packings is how often the samples are compressed together.
const packings = 3

// compress notes what pages compress to, each alone and all together.
func (c *Contents) compress(ram RAM, pages []int) error {
	z, err := newEncoder()
	if err != nil {
		return err
	}
	c.Samples = make([]Sample, 0, len(pages))
	// An encoder must not see its input change, so it gets copies.
	copies, out := make([]byte, 0, len(pages)*memory.PageSize), []byte(nil)
	for _, page := range pages {
		begin := len(copies)
		copies = append(copies, ram.Page(page)...)
		out = z.EncodeAll(copies[begin:], out[:0])
		c.Samples = append(c.Samples, Sample{Page: page, Bytes: len(out)})
	}
	if len(copies) > 0 {
		out, c.TookUS = fastest(z, copies, out, packings)
		c.Together = len(out)
	}
	return nil
}

// Tally adds up what the end of a trace says.
type Tally struct {
	End
	interval time.Duration
	last     int64 // when the last interval ended, in us
}

// NewTally begins a sum, of intervals that were ordered with that length.
func NewTally(interval time.Duration) *Tally { return &Tally{interval: interval} }

// Add adds an interval's record, which has so many pages.
func (t *Tally) Add(r Record, pages int) {
	t.Intervals++
	t.Faults += int64(pages)
	t.HarvestUS += r.TookUS
	if (r.AtUS-t.last)*2 > 3*t.interval.Microseconds() {
		t.Late++
	}
	t.last = r.AtUS
}

// Follow records intervals until ctx ends, the last up to there, and passes on each. The tracker is
// started, protects at its harvests, and was harvested just before begun, from which the times
// count. The caller stops it. emit is not called any more once Follow has returned. The sum it
// returns has no Why.
func Follow(
	ctx context.Context, tracker dirtylog.Tracker, begun time.Time, ram RAM,
	interval time.Duration, emit func(Record) error,
) (End, error) {
	packer, err := newPacker(ram)
	if err != nil {
		return End{}, err
	}
	f := follower{
		tracker: tracker, begun: begun, dirty: memory.NewBitmap(ram.Pages()),
		tally: NewTally(interval), packer: packer, emit: emit,
	}
	due := time.NewTimer(interval - time.Since(begun))
	defer due.Stop()
	for next := interval; ; {
		select {
		case <-ctx.Done():
			// The interval under way has writes, too, and without it tags would lie behind the end.
			err := f.record()
			return f.tally.End, err
		case <-due.C:
		}
		if err := f.record(); err != nil {
			return f.tally.End, err
		}
		// An interval that took too long makes the next ones no shorter.
		for next += interval; next <= time.Since(begun); {
			next += interval
		}
		due.Reset(next - time.Since(begun))
	}
}

// follower is what Follow works with.
type follower struct {
	tracker dirtylog.Tracker
	begun   time.Time
	dirty   *memory.Bitmap // of the last interval
	tally   *Tally
	packer  *packer
	packed  time.Duration // when pages were last compressed
	emit    func(Record) error
}

// record ends an interval.
func (f *follower) record() error {
	before := time.Since(f.begun)
	f.dirty.Reset()
	if _, err := f.tracker.Harvest(f.dirty); err != nil {
		return err
	}
	at := time.Since(f.begun)
	r := Record{
		AtUS: at.Microseconds(), Dirty: NewSet(f.dirty), TookUS: (at - before).Microseconds(),
	}
	pages := f.dirty.Count()
	f.tally.Add(r, pages)
	if pages > 0 && at-f.packed >= packEvery {
		begun := time.Now()
		r.Packed, f.packed = f.packer.pack(f.dirty, pages), at
		f.tally.PackUS += time.Since(begun).Microseconds()
	}
	return f.emit(r)
}
