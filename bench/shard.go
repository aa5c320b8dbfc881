package bench

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"taskguide/bench/shard"
	"taskguide/bench/trial"
)

// ofShard returns the blocks of a shard. So trials that are compared in pairs are always of one
// machine.
func ofShard(s shard.Shard, blocks [][]trial.Spec) [][]trial.Spec {
	var ours [][]trial.Spec
	for i, b := range blocks {
		if s.Has(i) {
			ours = append(ours, b)
		}
	}
	return ours
}

// CheckShard refuses a shard without a block.
func (e Experiment) CheckShard(at Setting) error {
	if n := len(e.Blocks(at)); at.Shard.Of > n {
		return fmt.Errorf("--shard %v: %s has %d blocks, which are not split further: use at most "+
			"that many shards, or more repetitions", at.Shard, e.Name, n)
	}
	return nil
}

// Part is one of the runs that a run was joined from.
type Part struct {
	Dir     string      `json:"dir"`
	Shard   shard.Shard `json:"shard"`
	Seed    uint64      `json:"seed"`
	Started time.Time   `json:"started"`
	Host    Environment `json:"host"`
	// Hosts are both, of a run over ssh. Older builds stored none.
	Hosts *RunHosts `json:"hosts,omitempty"`
	// Resumed lists when that run was resumed, and where.
	Resumed []Resumption `json:"resumed,omitempty"`
}

// begun is how that run began. Its inputs are those of the whole, or it would not have joined.
func (p Part) begun() Resumption {
	return Resumption{Started: p.Started, Host: p.Host, Hosts: p.Hosts}
}

// Errors of folders that do not make one run.
var (
	errOtherRun = errors.New("is of another run: experiment, size, factors, link, file, " +
		"absolute paths of kernels, disks and programs, or number of shards differ")
	errOtherVMM    = errors.New("was run or resumed with another vmm, QEMU or --before")
	errOtherInputs = errors.New("was run or resumed with other contents of the same files")
	errSameShard   = errors.New("has a shard that another folder has, too")
	errNotAShard   = errors.New("is no shard: it was run without --shard")
	errAllOfEmpty  = errors.New("no folder given")
	// errWhole keeps trials that are compared in pairs on the host of their part.
	errWhole = errors.New("was joined from parts: resume those, and join them again")
)

// Join makes one run, in the folder out, of those of several folders, which are shards of it. Some
// shards may be missing; then the report says so.
func Join(out string, dirs []string) error {
	if len(dirs) == 0 {
		return errAllOfEmpty
	}
	var whole Run
	var all []trial.Result
	taken := map[int]bool{}
	for i, dir := range dirs {
		run, results, err := Load(dir)
		if err != nil {
			return err
		}
		if i == 0 {
			whole = run
		}
		if err := joins(whole, run, taken); err != nil {
			return fmt.Errorf("%s %w", dir, err)
		}
		taken[run.Shard.Index] = true
		whole.Parts = append(whole.Parts, Part{
			Dir: dir, Shard: run.Shard, Seed: run.Seed, Started: run.Started, Host: run.Host,
			Hosts: run.Hosts, Resumed: run.Resumed,
		})
		all = append(all, latest(results)...)
	}
	e, err := ExperimentOf(whole)
	if err != nil {
		return err
	}
	whole.Shard, whole.Resumed = shard.Shard{}, nil
	plan := e.Plan(whole.setting(), whole.Seed)
	if err := samePlan(plan, all); err != nil {
		return fmt.Errorf("%w: it was vmm %s that ran them", err, whole.Host.VMM)
	}
	whole.Trials = len(plan)
	return keep(out, whole, all)
}

// keep writes a run that is over.
func keep(dir string, run Run, results []trial.Result) error {
	store, err := Create(dir, run)
	if err != nil {
		return err
	}
	for _, r := range results {
		if err := store.Add(r); err != nil {
			return errors.Join(err, store.Close())
		}
	}
	return store.Close()
}

// joins checks that a run is a shard of the same run as the first, and none that is taken. Results
// of two builds would be published under the name of one.
func joins(first, run Run, taken map[int]bool) error {
	same := func(r Run) string {
		return fmt.Sprint(r.Experiment, r.Size, r.BitsPerSecond, r.Before, r.Shard.Of,
			r.Factors.flags(), r.Hosts != nil, r.Hosts != nil && r.Hosts.Insecure)
	}
	switch {
	case run.Shard.Of == 0:
		return errNotAShard
	case same(run) != same(first), sameCustom(first.Custom, run.Custom) != nil:
		return errOtherRun
	case !sameBuilds(first.Host, run), !slices.Equal(run.Ways, first.Ways):
		return errOtherVMM
	case taken[run.Shard.Index]:
		return errSameShard
	}
	return sameInputs(first.Inputs, run)
}

// parts says where the parts of a joined run were run.
func parts(run Run) string {
	if len(run.Parts) == 0 {
		return ""
	}
	where := map[place]bool{}
	for _, p := range run.Parts {
		for _, at := range builds(p.begun(), p.Resumed) {
			where[at] = true
		}
	}
	hosts := "hosts"
	if run.Parts[0].Hosts != nil {
		hosts = "pairs of hosts"
	}
	kinds := "all on " + hosts + " of one kind"
	if len(where) > 1 {
		kinds = fmt.Sprintf("on %s of %d kinds: run.json has them", hosts, len(where))
	}
	return fmt.Sprintf("; joined from %d of %d shards, %s", len(run.Parts), run.Parts[0].Shard.Of,
		kinds)
}
