package migration

import (
	"cmp"
	"slices"

	"taskguide/tagging"
)

// Holder is a task that was outside its segments while the migration waited for the gate.
type Holder struct {
	Task uint32  `json:"task"`
	Name string  `json:"name"`
	MS   float64 `json:"ms"` // for how long
}

// keptHolders is how many a report names, those that held longest first.
const keptHolders = 16

// holders adds up for how long tasks are outside in one wait.
type holders struct {
	total   map[uint32]*Holder
	outside map[uint32]float64 // of each task, at the last look
}

// newHolders begins, with those of waits before, and where the tasks are now.
func newHolders(before []Holder, tasks []tagging.TaskInfo) *holders {
	h := &holders{make(map[uint32]*Holder), make(map[uint32]float64, len(tasks))}
	for _, one := range before {
		h.total[one.Task] = &one
	}
	for _, t := range tasks {
		h.outside[t.ID] = t.OutsideMS
	}
	return h
}

// look adds what has passed since the last look. It is to be called often enough that the time of a
// task that ends meanwhile is not lost.
func (h *holders) look(tasks []tagging.TaskInfo) {
	before := h.outside
	h.outside = make(map[uint32]float64, len(tasks)) // without tasks that have ended
	for _, t := range tasks {
		passed := t.OutsideMS - before[t.ID]
		h.outside[t.ID] = t.OutsideMS
		if passed <= 0 {
			continue // it was inside, or has begun anew
		}
		if h.total[t.ID] == nil {
			h.total[t.ID] = &Holder{Task: t.ID}
		}
		h.total[t.ID].Name = t.Name
		h.total[t.ID].MS += passed
	}
}

// longest returns those that held longest.
func (h *holders) longest() []Holder {
	all := make([]Holder, 0, len(h.total))
	for _, one := range h.total {
		all = append(all, *one)
	}
	slices.SortFunc(all, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(b.MS, a.MS), cmp.Compare(a.Task, b.Task))
	})
	all = all[:min(len(all), keptHolders)]
	if len(h.total) > tagging.MaxTasks { // ids that a guest makes up, in any number
		clear(h.total)
		for _, one := range all {
			h.total[one.Task] = &one
		}
	}
	return all
}
