package simrun

import (
	"fmt"
	"slices"
	"strings"

	"taskguide/bench/shard"
	"taskguide/bench/sim"
)

// Comparison is the outcome of a whole order, or of a part.
type Comparison struct {
	Format  int         `json:"simulation"` // of the file, 1
	VMM     string      `json:"vmm"`
	Shard   shard.Shard `json:"shard,omitzero"` // the part, or of a joined one how many there are
	Parts   []int       `json:"parts,omitempty"`
	Moments int         `json:"moments"`
	Seed    uint64      `json:"seed"`
	Orders  []string    `json:"orders"` // of the rows, in words
	// Programs are the SHA-256 of the programs of policies, by their paths.
	Programs map[string]string `json:"programs,omitempty"`
	Map      *Map              `json:"map,omitempty"`
	Results  []Result          `json:"results"`
}

// Result is the outcome for a trace in a cell.
type Result struct {
	Trace     string      `json:"trace"`
	Origin    Origin      `json:"origin"`
	Name      string      `json:"name"`
	Pages     int         `json:"pages"`
	Recorded  int         `json:"recorded_pages"`
	Growth    sim.Growth  `json:"growth"`
	LengthMS  float64     `json:"length_ms"`
	Interval  float64     `json:"interval_ms"`
	Tasks     int         `json:"tasks"`
	Cut       bool        `json:"cut"`         // the trace has no end, so some of it is missing
	Lost      int         `json:"lost_events"` // tags may be among them
	Setting   sim.Setting `json:"setting"`
	LimitMS   float64     `json:"limit_ms,omitempty"`
	Point     *Point      `json:"point,omitempty"`
	Seed      uint64      `json:"seed"`
	Partial   string      `json:"partial,omitempty"` // what is missing
	Not       []string    `json:"not_modelled"`
	Rows      []sim.Row   `json:"rows"`
	Validated []string    `json:"validated"`

	Moves []EntrantMove `json:"-"`
}

func resultOf(t *sim.Trace, c Cell) Result {
	return Result{
		Name: t.Name, Pages: t.Pages, Recorded: t.Recorded, Growth: t.Grown,
		LengthMS: ms(t.Length), Interval: ms(t.Interval), Tasks: t.Tasks(),
		Cut: t.Unfinished, Lost: t.Lost, Setting: c.Setting, LimitMS: ms(c.Limit), Point: c.Point,
		Not: c.Setting.Costs.NotModelled(), Validated: []string{},
	}
}

// Partial says which parts are missing; empty if none is.
func (c Comparison) Partial() string {
	have := c.Parts
	switch {
	case c.Shard.Of == 0:
		return ""
	case c.Shard.Index > 0:
		have = []int{c.Shard.Index}
	}
	var missing []string
	for i := range c.Shard.Of {
		if !slices.Contains(have, i+1) {
			missing = append(missing, fmt.Sprint(i+1))
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("PARTIAL: of %d parts, these are missing: %s", c.Shard.Of,
		strings.Join(missing, ", "))
}

// sumUp makes the rows of the moves.
func (c *Comparison) sumUp() {
	for i := range c.Results {
		r := &c.Results[i]
		r.Seed, r.Partial = c.Seed, c.Partial()
		slices.SortStableFunc(r.Moves, func(a, b EntrantMove) int {
			if a.Row != b.Row {
				return a.Row - b.Row
			}
			return a.Moment - b.Moment
		})
		for k := range r.Rows {
			var own []sim.Paired
			for _, m := range r.Moves {
				if m.Row == k {
					own = append(own, m.Paired)
				}
			}
			r.Rows[k] = r.Rows[k].Of(own)
		}
	}
}
