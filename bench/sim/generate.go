package sim

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"taskguide/dirtylog/trace"
	"taskguide/memory"
)

// Synthetic describes a guest that nobody recorded: it alternates between a busy phase, in which it
// rewrites its working set, and a calm one, in which it rewrites a few hot pages. One task tags the
// calm phases as segments.
type Synthetic struct {
	Name       string
	Pages      int // of RAM
	WorkingSet int // pages, at the beginning of RAM
	Hot        int // pages of the working set that are written in calm phases
	Busy, Calm time.Duration
	// Rate is how many pages a second the busy phase writes, one after another; the calm one writes
	// the hot pages at CalmRate.
	Rate, CalmRate float64
	// Jitter is the part, from 0 to 1, by which each phase is at most longer or shorter.
	Jitter float64
	// Packed is what zstd makes of a page, in bytes.
	Packed   int
	Interval time.Duration
	Length   time.Duration
	Seed     uint64
}

func (g Synthetic) check() error {
	switch {
	case g.Pages <= 0 || g.WorkingSet < 0 || g.WorkingSet > g.Pages:
		return fmt.Errorf("a working set of %d pages in %d pages of RAM", g.WorkingSet, g.Pages)
	case g.Hot < 0 || g.Hot > g.WorkingSet:
		return fmt.Errorf("%d hot pages in a working set of %d pages", g.Hot, g.WorkingSet)
	case g.Busy < 0 || g.Calm < 0 || g.Busy+g.Calm <= 0:
		return fmt.Errorf("phases of %v and %v", g.Busy, g.Calm)
	case g.Rate < 0 || g.CalmRate < 0 || g.Jitter < 0 || g.Jitter > 1:
		return fmt.Errorf("a rate below 0, or a jitter that is not from 0 to 1")
	case g.Interval < trace.MinInterval || g.Length < g.Interval:
		return fmt.Errorf("intervals of %v in %v", g.Interval, g.Length)
	case g.Packed <= 0 || g.Packed > memory.PageSize:
		return fmt.Errorf("a page packed into %d bytes", g.Packed)
	}
	return nil
}

// Generate writes the trace. The same Synthetic always gives the same trace, but for the version in
// its header.
func (g Synthetic) Generate(version string, to trace.Sink) error {
	if err := g.check(); err != nil {
		return err
	}
	err := to.Begin(trace.Header{
		Trace: trace.Version, Name: g.Name, VMM: version, Begun: time.Unix(0, 0).UTC(),
		Pages: g.Pages, PageBytes: memory.PageSize, CPUs: 1, Tracker: "synthetic",
		IntervalUS: g.Interval.Microseconds(),
	})
	if err != nil {
		return err
	}
	if err := to.Contents(g.contents()); err != nil {
		return err
	}
	return (&generator{Synthetic: g, rnd: rand.New(rand.NewPCG(g.Seed, 6)), to: to}).run()
}

func (g Synthetic) contents() trace.Contents {
	populated := memory.NewBitmap(g.Pages)
	populated.SetRange(0, g.WorkingSet)
	c := trace.Contents{
		Populated: trace.NewSet(populated), Zero: trace.NewSet(memory.NewBitmap(g.Pages)),
		Samples: []trace.Sample{},
	}
	if g.WorkingSet > 0 {
		c.Samples = append(c.Samples, trace.Sample{Page: 0, Bytes: g.Packed})
	}
	return c
}

// generator writes a synthetic trace.
type generator struct {
	Synthetic
	rnd   *rand.Rand
	to    trace.Sink
	tally *trace.Tally

	calm  bool
	until time.Duration // the end of the phase
	wrote [2]float64    // pages so far: busy, calm
}

func (g *generator) run() error {
	g.tally = trace.NewTally(g.Interval)
	g.calm, g.until = true, 0
	if err := g.nextPhase(0); err != nil {
		return err
	}
	dirty := memory.NewBitmap(g.Pages)
	for at := time.Duration(0); at < g.Length; {
		end := at + g.Interval
		dirty.Reset()
		for at < end {
			stop := min(end, g.until)
			g.write(dirty, stop-at)
			if at = stop; at == g.until {
				if err := g.nextPhase(at); err != nil {
					return err
				}
			}
		}
		r := trace.Record{AtUS: at.Microseconds(), Dirty: trace.NewSet(dirty)}
		g.tally.Add(r, dirty.Count())
		if err := g.to.Record(r); err != nil {
			return err
		}
	}
	end := g.tally.End
	end.Why = "generated"
	return g.to.Record(trace.Record{AtUS: g.Length.Microseconds(), End: &end})
}

// write writes what the phase writes in d.
func (g *generator) write(dirty *memory.Bitmap, d time.Duration) {
	phase, rate, pages := 0, g.Rate, g.WorkingSet
	if g.calm {
		phase, rate, pages = 1, g.CalmRate, g.Hot
	}
	before := math.Floor(g.wrote[phase])
	g.wrote[phase] += rate * d.Seconds()
	count := int(math.Floor(g.wrote[phase]) - before)
	if pages == 0 || count == 0 {
		return
	}
	first := int(math.Mod(before, float64(pages)))
	for i := range min(count, pages) {
		dirty.Set((first + i) % pages)
	}
}

// nextPhase begins another phase, and tags it.
func (g *generator) nextPhase(at time.Duration) error {
	for g.until <= at {
		g.calm = !g.calm
		length := g.Busy
		if g.calm {
			length = g.Calm
		}
		spread := 1 + g.Jitter*(2*g.rnd.Float64()-1)
		// Whole microseconds, as the trace has them.
		g.until += time.Duration(float64(length) * spread).Truncate(time.Microsecond)
		if g.Busy+g.Calm > 0 && length == 0 {
			continue
		}
		change, depth := "exit", 0
		if g.calm {
			change, depth = "enter", 1
		}
		text, err := json.Marshal(map[string]any{
			"time": time.Unix(0, int64(at)).UTC(), "kind": "tag",
			"tag": map[string]any{
				"time": time.Unix(0, int64(at)).UTC(), "event": change, "task": 1, "depth": depth,
				"fast": false, "gate_all": g.calm, "gate_any": g.calm, "dropped": 0,
			},
		})
		if err != nil {
			return err
		}
		if err := g.to.Record(trace.Record{AtUS: at.Microseconds(), Event: text}); err != nil {
			return err
		}
	}
	return nil
}
