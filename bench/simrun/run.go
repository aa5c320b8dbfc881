// Package simrun carries out comparisons of policies by simulation, for the command line: it reads
// traces, simulates on all CPUs, and writes tables and files. Package sim does the simulating.
package simrun

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"taskguide/bench/sim"
	"taskguide/dirtylog/trace"
	"taskguide/memory"
)

// Order is a comparison.
type Order struct {
	Traces   []string // folders of vmm trace, or files
	Entrants []sim.Entrant
	// Setting is that of all moves. Its Protection is the trace's if it is empty.
	Setting sim.Setting
	// MemoryBytes is how much RAM the guests have; 0 is what was recorded.
	MemoryBytes int64
	Growth      sim.Growth
	Moments     int
	Seed        uint64
	// Validations are what figures are marked by.
	Validations []sim.Validation
}

// Result is the outcome for one trace.
type Result struct {
	Trace     string        `json:"trace"`
	Name      string        `json:"name"`
	Pages     int           `json:"pages"`
	Recorded  int           `json:"recorded_pages"`
	Growth    sim.Growth    `json:"growth"`
	LengthMS  float64       `json:"length_ms"`
	Interval  float64       `json:"interval_ms"`
	Tasks     int           `json:"tasks"`
	Setting   sim.Setting   `json:"setting"`
	Seed      uint64        `json:"seed"`
	Not       []string      `json:"not_modelled"`
	Rows      []sim.Row     `json:"rows"`
	Moves     []EntrantMove `json:"-"`
	Validated []string      `json:"validated"`
}

// EntrantMove is a move of an entrant.
type EntrantMove struct {
	Policy, Guidance string
	sim.Paired
}

// NotModelled are what the figures leave out.
var NotModelled = []string{
	"that a migration slows the guest down",
	"disks, devices that drain slowly, delta, lost packets",
}

// Run carries the comparison out, trace by trace.
func Run(ctx context.Context, o Order, progress func(done, all int)) ([]Result, error) {
	var results []Result
	for i, name := range o.Traces {
		r, err := o.trace(ctx, name, func(done int) {
			progress(i*o.Moments+done, len(o.Traces)*o.Moments)
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		results = append(results, r)
	}
	return results, nil
}

// Load reads a trace: a file, or the folder that vmm trace has made.
func Load(name string) (*sim.Trace, error) {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		name = filepath.Join(name, trace.FileName)
	}
	f, err := os.Open(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errors.New("there is no such trace: name a folder that vmm trace has made")
		}
		return nil, err
	}
	defer f.Close()
	return sim.Load(f)
}

func (o Order) trace(ctx context.Context, name string, progress func(int)) (Result, error) {
	t, err := Load(name)
	if err == nil && o.MemoryBytes > 0 {
		t, err = t.Grow(int(o.MemoryBytes/memory.PageSize), o.Growth)
	}
	if err != nil {
		return Result{}, err
	}
	s := o.Setting
	if s.Protection == "" {
		s.Protection = sim.DefaultSetting(t).Protection
	}
	r := Result{
		Trace: name, Name: t.Name, Pages: t.Pages, Recorded: t.Recorded, Growth: t.Grown,
		LengthMS: ms(t.Length), Interval: ms(t.Interval), Tasks: t.Tasks(), Setting: s,
		Seed: o.Seed, Not: NotModelled, Validated: []string{},
	}
	for _, v := range o.Validations {
		r.Validated = append(r.Validated, v.String())
	}
	o.Entrants = StartPrograms(o.Entrants, s)
	all, err := o.simulate(ctx, s, t, progress)
	if err != nil {
		return r, err
	}
	for i, e := range o.Entrants {
		var own []sim.Paired
		for _, moment := range all {
			own = append(own, moment[i])
			r.Moves = append(r.Moves, EntrantMove{e.Name(), e.GuidanceName(), moment[i]})
		}
		row := sim.Summarize(e, own)
		row.Extrapolated = sim.Extrapolated(o.Validations, s, t, e)
		r.Rows = append(r.Rows, row)
	}
	return r, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// simulate simulates the moves of all entrants, moment by moment, on all CPUs.
func (o Order) simulate(
	ctx context.Context, s sim.Setting, t *sim.Trace, progress func(int),
) ([][]sim.Paired, error) {
	moments := sim.Moments(t, o.Moments, o.Seed)
	out, errs := make([][]sim.Paired, len(moments)), make([]error, len(moments))
	next := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := range next {
				out[i], errs[i] = s.Compare(t, o.Entrants, moments[i])
			}
		})
	}
	for i := range moments {
		if ctx.Err() != nil {
			break
		}
		progress(i)
		next <- i
	}
	close(next)
	workers.Wait()
	return out, errors.Join(append(errs, context.Cause(ctx))...)
}
