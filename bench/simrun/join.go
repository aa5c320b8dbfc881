package simrun

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"taskguide/bench/sim"
)

// Errors of folders that do not make one comparison.
var (
	errOther = errors.New("is of another simulation: traces, policies, contents of their " +
		"programs, settings, moments, seed or number of parts differ")
	errOtherVMM  = errors.New("was simulated by another vmm")
	errSamePart  = errors.New("has a part that another folder has, too")
	errNoPart    = errors.New("is no part: it was simulated without --shard")
	errNoFolders = errors.New("no folder given")
)

// Join makes one comparison of those of several folders, which are parts of it. Some parts may be
// missing; then [Comparison.Partial] says so.
func Join(folders []string) (Comparison, error) {
	if len(folders) == 0 {
		return Comparison{}, errNoFolders
	}
	var whole Comparison
	for i, folder := range folders {
		part, err := Open(folder)
		if err != nil {
			return whole, err
		}
		if i == 0 {
			whole = part
			whole.Shard.Index = 0
		}
		if err := whole.joins(part); err != nil {
			return whole, fmt.Errorf("%s %w", folder, err)
		}
		whole.Parts = append(whole.Parts, part.Shard.Index)
		for k := range whole.Results {
			if i > 0 {
				r := &whole.Results[k]
				r.Moves = append(r.Moves, part.Results[k].Moves...)
			}
		}
	}
	slices.Sort(whole.Parts)
	whole.sumUp()
	return whole, whole.check()
}

// joins checks that a part is of the same comparison, and none that is there.
func (c Comparison) joins(part Comparison) error {
	switch {
	case part.Shard.Of == 0 || part.Shard.Index == 0:
		return errNoPart
	case part.VMM != c.VMM:
		return errOtherVMM
	case part.Shard.Of != c.Shard.Of, !slices.Equal(part.plan(), c.plan()):
		return errOther
	case slices.Contains(c.Parts, part.Shard.Index):
		return errSamePart
	}
	return nil
}

// plan is what parts of a comparison have in common. Where a trace lies is not among it.
func (c Comparison) plan() []byte {
	c.Shard.Index, c.Parts = 0, nil
	c.Results = slices.Clone(c.Results)
	for i := range c.Results {
		r := &c.Results[i]
		r.Trace, r.Partial = "", ""
		r.Rows = slices.Clone(r.Rows)
		for k, row := range r.Rows {
			r.Rows[k] = sim.Row{
				Policy: row.Policy, Guidance: row.Guidance, Extrapolated: row.Extrapolated,
			}
		}
	}
	text, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("a comparison of numbers and words: %v", err))
	}
	return text
}
