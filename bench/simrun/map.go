package simrun

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"taskguide/bench/shard"
	"taskguide/bench/sim"
	"taskguide/migration/policy"
)

// Map says what a map of guidance spans: each length of the busy phase, with each dirty rate, under
// each downtime limit. The guests are synthetic.
type Map struct {
	BusyMS   []float64 `json:"busy_ms"`
	Ratios   []float64 `json:"rate_over_bandwidth"` // of the busy phase
	LimitsMS []float64 `json:"limits_ms"`

	Guest sim.Synthetic `json:"guest"` // but for Busy, Rate and Length
	// Guided is the row of the guided policy. All others are those of policies without tags.
	Guided int `json:"guided_row"`
}

// Point is a cell's place on a map.
type Point struct {
	BusyMS float64 `json:"busy_ms"`
	Ratio  float64 `json:"rate_over_bandwidth"`
}

// MapOrder is what a map is made of.
type MapOrder struct {
	Busy   []time.Duration
	Ratios []float64 // dirty rate of the busy phase, by the bandwidth
	Limits []time.Duration
	Guest  sim.Synthetic // but for Busy, Rate and Length
	// Guided is the order of the policy that has the tags. The others are the same without them.
	Guided  sim.Order
	Setting sim.Setting
	Moments int
	Seed    uint64
	Shard   shard.Shard
	VMM     string

	Validations []sim.Validation
}

// withoutTags are the policies that the guided one is compared with.
var withoutTags = []string{"xen", "downtime", "qemu", "ramp", "stall", "cycle"}

// The length of a map's traces: so many cycles, and not less than shortest.
const (
	cycles   = 4
	shortest = 20 * time.Second
)

// MapOrder returns the comparison that makes the map.
func (m MapOrder) Order() (Order, Map, error) {
	from := m.Guided
	from.AtExit = false
	entrants, err := sim.Entrants(withoutTags, []policy.Guidance{policy.GuidanceOff}, from)
	if err != nil {
		return Order{}, Map{}, err
	}
	o := Order{
		Entrants: append(entrants, sim.Entrant{Order: m.Guided}), Moments: m.Moments, Seed: m.Seed,
		Shard: m.Shard, WithoutOracle: true, Validations: m.Validations, VMM: m.VMM,
	}
	made := Map{Guest: m.Guest, Guided: len(entrants), Ratios: m.Ratios}
	for _, l := range m.Limits {
		made.LimitsMS = append(made.LimitsMS, ms(l))
	}
	for _, busy := range m.Busy {
		made.BusyMS = append(made.BusyMS, ms(busy))
		for _, ratio := range m.Ratios {
			p := Point{ms(busy), ratio}
			var cells []Cell
			for _, l := range m.Limits {
				cells = append(cells, Cell{Setting: m.Setting, Limit: l, Point: &p})
			}
			o.Subjects = append(o.Subjects, Generated(m.guest(busy, ratio), cells))
		}
	}
	return o, made, nil
}

// guest is the one of a cell.
func (m MapOrder) guest(busy time.Duration, ratio float64) sim.Synthetic {
	g := m.Guest
	g.Name = fmt.Sprintf("busy %v, rate %g", busy, ratio)
	g.Busy, g.Rate = busy, ratio*float64(m.Setting.BitsPerSecond)/8/pageBytes
	cycle := g.Busy + g.Calm
	g.Length = max(cycles*cycle, shortest).Truncate(g.Interval)
	return g
}

// check refuses what Order does not make.
func (m Map) check(c Comparison) error {
	if len(c.Results) != len(m.BusyMS)*len(m.Ratios)*len(m.LimitsMS) {
		return fmt.Errorf("%w: a map of %d cells", errFile, len(c.Results))
	}
	if m.Guided < 0 || m.Guided >= len(c.Orders) {
		return fmt.Errorf("%w: a map without a guided policy", errFile)
	}
	for _, r := range c.Results {
		if m.Guided >= len(r.Rows) {
			return fmt.Errorf("%w: a map without a guided row", errFile)
		}
	}
	return nil
}

// MapCell is a cell of a map. Times are ms.
type MapCell struct {
	Point
	LimitMS float64 `json:"limit_ms"`
	Moves   int     `json:"moves"`
	Moved   int     `json:"moved"` // guided
	// Best is the policy without tags that has the least median downtime, and BestTail the one that
	// has the least p99. Of those within 1 ms of the least, it is the one with the least total
	// time.
	Best     string `json:"best"`
	BestTail string `json:"best_tail"`
	// The downtimes, and how many times the best one's is the guided one's.
	GuidedP50MS float64 `json:"guided_downtime_p50_ms"`
	BestP50MS   float64 `json:"best_downtime_p50_ms"`
	GainP50     float64 `json:"gain_p50"`
	GuidedP99MS float64 `json:"guided_downtime_p99_ms"`
	BestP99MS   float64 `json:"best_tail_downtime_p99_ms"`
	GainP99     float64 `json:"gain_p99"`
	// TotalMS is the guided policy's median total time minus that of Best.
	TotalMS      float64 `json:"total_difference_ms"`
	Extrapolated string  `json:"extrapolated,omitempty"`
}

// MapSummary is a map in numbers.
type MapSummary struct {
	Map
	VMM     string      `json:"vmm"`
	Seed    uint64      `json:"seed"`
	Setting sim.Setting `json:"setting"`
	Orders  []string    `json:"orders"`
	Partial string      `json:"partial,omitempty"`
	Not     []string    `json:"not_modelled"`
	Cells   []MapCell   `json:"cells"`
}

// MapSummary makes the map's cells of the moves.
func (c Comparison) MapSummary() MapSummary {
	s := MapSummary{
		Map: *c.Map, VMM: c.VMM, Seed: c.Seed, Orders: c.Orders, Partial: c.Partial(),
		Not: []string{}, Cells: []MapCell{},
	}
	for _, r := range c.Results {
		s.Setting, s.Not = r.Setting, r.Not
		s.Cells = append(s.Cells, c.Map.cell(r))
	}
	return s
}

func (m Map) cell(r Result) MapCell {
	guided := r.Rows[m.Guided]
	others := slices.Delete(slices.Clone(r.Rows), m.Guided, m.Guided+1)
	c := MapCell{
		Point: *r.Point, LimitMS: r.LimitMS, Moves: guided.Moves, Moved: guided.Moved,
	}
	// The best one is only known if all that compete for it are.
	for _, row := range r.Rows {
		c.Extrapolated = cmp.Or(c.Extrapolated, row.Extrapolated)
	}
	median := func(r sim.Row) float64 { return r.DowntimeMS.P50 }
	tail := func(r sim.Row) float64 { return r.DowntimeMS.P99 }
	best, errBest := bestOf(others, median)
	slow, errTail := bestOf(others, tail)
	if errors.Join(errBest, errTail) != nil || guided.Moved < max(1, best.Moved) {
		return c // figures of the few that ended would say nothing of those that did not
	}
	c.Best, c.BestTail = best.Policy, slow.Policy
	c.GuidedP50MS, c.BestP50MS = median(guided), median(best)
	c.GuidedP99MS, c.BestP99MS = tail(guided), tail(slow)
	c.GainP50, c.GainP99 = c.BestP50MS/c.GuidedP50MS, c.BestP99MS/c.GuidedP99MS
	c.TotalMS = guided.TotalMS.P50 - best.TotalMS.P50
	return c
}

var errNobodyMoved = errors.New("no policy moved the guest")

// alike is how many ms of downtime do not matter to the choice of the best.
const alike = 1

// bestOf returns the row of the least downtime, among those that moved most often.
func bestOf(rows []sim.Row, downtime func(sim.Row) float64) (sim.Row, error) {
	moved, least := 1, math.Inf(1)
	for _, r := range rows {
		moved = max(moved, r.Moved)
	}
	for _, r := range rows {
		if r.Moved == moved {
			least = min(least, downtime(r))
		}
	}
	found, best := false, sim.Row{}
	for _, r := range rows {
		if r.Moved < moved || downtime(r) > least+alike {
			continue
		}
		if !found || r.TotalMS.P50 < best.TotalMS.P50 {
			found, best = true, r
		}
	}
	if !found {
		return best, errNobodyMoved
	}
	return best, nil
}
