// Package simrun carries out comparisons of policies by simulation, for the command line: it reads
// traces, simulates on all CPUs, joins parts of a comparison, and writes tables, files and maps.
// Package sim does the simulating.
package simrun

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"time"

	"taskguide/bench/shard"
	"taskguide/bench/sim"
	"taskguide/bench/simprogram"
)

// Order is a comparison: each subject in each of its cells.
type Order struct {
	Subjects []Subject
	Entrants []sim.Entrant
	Moments  int
	Seed     uint64
	// Shard is the part that is simulated. Its pieces are the moments of all cells in their order.
	Shard shard.Shard
	// WithoutOracle saves the time of simulating it. Then there is no regret.
	WithoutOracle bool
	// Validations are what figures are marked by.
	Validations []sim.Validation
	// VMM is the revision of the program.
	VMM string
}

// Subject is a guest, and the conditions in which it is moved.
type Subject struct {
	Name string // as results have it
	Load func() (*sim.Trace, Origin, error)
	// Cells are in the order of the results.
	Cells []Cell
}

// Cell is the conditions of some moves. If the Protection of its Setting is empty, or the time to
// compress a page is 0, it is the trace's.
type Cell struct {
	// MemoryBytes is how much RAM the guest has; 0 is what was recorded.
	MemoryBytes int64
	Growth      sim.Growth
	Setting     sim.Setting
	Limit       time.Duration // the entrants' downtime limit, 0 for what their orders say
	Point       *Point        // on a map
}

// EntrantMove is a move of the entrant in a row of the result.
type EntrantMove struct {
	Row    int `json:"row"`
	Moment int `json:"moment"`
	sim.Paired
}

// Run carries the comparison out, cell by cell. It tells progress how many of all moments are
// simulated.
func Run(ctx context.Context, o Order, progress func(done, all int)) (Comparison, error) {
	c := Comparison{Format: format, VMM: o.VMM, Shard: o.Shard, Moments: o.Moments, Seed: o.Seed}
	for _, e := range o.Entrants {
		c.Orders = append(c.Orders, inWords(e))
	}
	var err error
	if c.Programs, err = programsOf(o.Entrants); err != nil {
		return c, err
	}
	cells := 0
	for _, s := range o.Subjects {
		cells += len(s.Cells)
	}
	done, piece := 0, 0
	all := Pieces(o.Shard, cells*o.Moments)
	if all == 0 {
		return c, fmt.Errorf("part %v has no moment: there are %d", o.Shard, cells*o.Moments)
	}
	for _, s := range o.Subjects {
		t, origin, err := s.Load()
		if err != nil {
			return c, fmt.Errorf("%s: %w", s.Name, err)
		}
		for _, cell := range s.Cells {
			var ours []int
			for i := range o.Moments {
				if o.Shard.Has(piece) {
					ours = append(ours, i)
				}
				piece++
			}
			r, err := o.cell(ctx, t, cell, ours, func(n int) { progress(done+n, all) })
			if err != nil {
				return c, fmt.Errorf("%s: %w", s.Name, err)
			}
			done += len(ours)
			r.Trace, r.Origin = s.Name, origin
			c.Results = append(c.Results, r)
		}
	}
	c.sumUp()
	return c, nil
}

// programsOf hashes the programs of policies, because people edit them, and parts of a comparison
// are simulated with the same ones.
func programsOf(entrants []sim.Entrant) (map[string]string, error) {
	var all map[string]string
	for _, e := range entrants {
		path := e.Policy.Program()
		if path == "" {
			continue
		}
		found, err := exec.LookPath(path)
		if err != nil {
			return nil, fmt.Errorf("look for a policy's program: %w", err)
		}
		text, err := os.ReadFile(found)
		if err != nil {
			return nil, fmt.Errorf("read a policy's program: %w", err)
		}
		if all == nil {
			all = map[string]string{}
		}
		all[path] = hashOf(text)
	}
	return all, nil
}

// inWords is what an entrant is ordered to do.
func inWords(e sim.Entrant) string {
	return fmt.Sprintf("%s, guidance %s, at exit %v, gate %s, defer %v then %s, limit %v",
		e.Name(), e.GuidanceName(), e.AtExit, e.Gate, e.MaxDefer, e.OnTimeout, e.Limit)
}

// Pieces is how many of so many pieces a shard has.
func Pieces(s shard.Shard, all int) int {
	n := 0
	for i := range all {
		if s.Has(i) {
			n++
		}
	}
	return n
}

// cell simulates the given moments of a cell.
func (o Order) cell(
	ctx context.Context, t *sim.Trace, c Cell, moments []int, progress func(int),
) (Result, error) {
	var err error
	if c.MemoryBytes > 0 {
		if t, err = t.Grow(int(c.MemoryBytes/pageBytes), c.Growth); err != nil {
			return Result{}, err
		}
	}
	measured := sim.DefaultSetting(t)
	c.Setting.Protection = cmp.Or(c.Setting.Protection, measured.Protection)
	c.Setting.Costs.Pack = cmp.Or(c.Setting.Costs.Pack, measured.Costs.Pack)
	r := resultOf(t, c)
	entrants := slices.Clone(o.Entrants)
	for i := range entrants {
		if c.Limit > 0 {
			entrants[i].Limit = c.Limit
		}
	}
	entrants = simprogram.Start(entrants, c.Setting) // programs are told the cell's limit
	all, err := o.simulate(ctx, c.Setting, t, entrants, moments, progress)
	if err != nil {
		return r, err
	}
	var covered []sim.Validation
	for i, e := range entrants {
		covered = append(covered, sim.CoveredBy(o.Validations, c.Setting, t, e)...)
		r.Rows = append(r.Rows, sim.Row{
			Policy: e.Name(), Guidance: e.GuidanceName(),
			Extrapolated: sim.Extrapolated(o.Validations, c.Setting, t, e),
		})
		for k, moment := range moments {
			r.Moves = append(r.Moves, EntrantMove{i, moment, all[k][i]})
		}
	}
	for _, v := range covered {
		if said := v.String(); !slices.Contains(r.Validated, said) {
			r.Validated = append(r.Validated, said)
		}
	}
	return r, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// simulate simulates the moves of all entrants, moment by moment, on all CPUs.
func (o Order) simulate(
	ctx context.Context, s sim.Setting, t *sim.Trace, entrants []sim.Entrant, ours []int,
	progress func(int),
) ([][]sim.Paired, error) {
	compare := s.Compare
	if o.WithoutOracle {
		compare = s.RunAll
	}
	moments := sim.Moments(t, o.Moments, o.Seed)
	out, errs := make([][]sim.Paired, len(ours)), make([]error, len(ours))
	next := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := range next {
				out[i], errs[i] = compare(ctx.Err, t, entrants, moments[ours[i]])
			}
		})
	}
	for i := range ours {
		if ctx.Err() != nil {
			break
		}
		progress(i)
		next <- i
	}
	close(next)
	workers.Wait()
	return out, cmp.Or(append(errs, context.Cause(ctx))...)
}
