package bench

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"taskguide/bench/trial"
	"taskguide/control/units"
	registry "taskguide/migration/policy"
)

// Inputs are the hashes of the files that trials read, by their paths: kernels, initrds, disks and
// programs of policies. A path alone does not say what was measured, because people edit programs
// and build kernels again.
type Inputs map[string]string

// inputs hashes the files of an order. All of a disk is read, as each trial does that copies it.
func (o Order) inputs(ctx context.Context) (Inputs, error) {
	files := inputFiles(o.Experiment.Plan(o.Setting, o.Seed))
	if note := hashingNote(files); note != "" {
		o.Progress.Say(note)
	}
	all := Inputs{}
	for _, f := range files {
		hash, err := hashUntil(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("read what the trials need: %w", err)
		}
		all[f] = hash
	}
	return all, nil
}

// inputFiles lists the files that trials read, each once.
func inputFiles(plan []trial.Spec) []string {
	var all []string
	for _, s := range plan {
		all = append(all, s.Guest.Kernel, s.Guest.Initrd)
		all = append(all, s.Guest.Disks...)
		if program, is := strings.CutPrefix(string(s.Params.Rule), registry.Exec+":"); is {
			all = append(all, program)
		}
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(f string) bool { return f == "" })
}

// longHashing is how many bytes take about a second to hash.
const longHashing = 512 << 20

// hashingNote says what takes so long, or is empty if nothing does.
func hashingNote(files []string) string {
	bytes := int64(0)
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			bytes += info.Size()
		}
	}
	if bytes < longHashing {
		return ""
	}
	return "hashing " + units.Bytes(bytes) + " of kernels, disks and programs"
}

// changed lists the files that have another hash now. A file that either side does not know, as in
// runs of older builds, passes for unchanged.
func (i Inputs) changed(now Inputs) []string {
	var all []string
	for _, file := range slices.Sorted(maps.Keys(i)) {
		if hash, known := now[file]; known && hash != i[file] {
			all = append(all, file)
		}
	}
	return all
}

// sameInputs refuses a run that was begun or resumed with other contents of another run's files.
func sameInputs(first Inputs, run Run) error {
	for _, r := range append([]Resumption{run.begun()}, run.Resumed...) {
		if files := first.changed(r.Inputs); len(files) > 0 {
			return fmt.Errorf("%w: %s", errOtherInputs, strings.Join(files, ", "))
		}
	}
	return nil
}
