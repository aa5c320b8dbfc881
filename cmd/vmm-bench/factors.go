package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"taskguide/bench"
	"taskguide/cmd/cli"
)

// factorFlags say what a run compares.
type factorFlags struct {
	policies    cli.Policies
	guidance    cli.Words
	programs    cli.Words
	trackers    cli.Words
	rtts        cli.Durations
	compress    cli.Words
	repetitions int
	against     string
	shadows     bool // of programs, too
	kernel      string
	memory      cli.Size
	cpus        int
}

func newFactorFlags() factorFlags {
	return factorFlags{
		guidance: cli.WordsOf(bench.GuidanceNames()),
		programs: cli.WordsOf(bench.ProgramNames()),
		trackers: cli.WordsOf(bench.TrackerNames()),
		compress: cli.WordsOf(bench.CompressNames()),
	}
}

// defineRepetitions defines the flag that every experiment takes.
func (f *factorFlags) defineRepetitions(cmd *cobra.Command) {
	cmd.Flags().IntVarP(&f.repetitions, bench.ByRepetitions, "n", 0,
		"trials of each configuration (default: the experiment's)")
}

// define defines the flags that some experiments take.
func (f *factorFlags) define(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.Var(&f.policies, bench.ByPolicies, "compare these, as vmm migrate --policy has them")
	fs.Var(&f.guidance, bench.ByGuidance, "compare these kinds of guidance")
	fs.Var(&f.programs, bench.ByPrograms, "move these programs")
	fs.Var(&f.trackers, bench.ByTracker, "compare these, as vmm run --dirty-log has them")
	fs.Var(&f.rtts, bench.ByRTT, "compare these round trips, made by a relay; 0 is without one")
	fs.Var(&f.compress, bench.ByCompress, "compare these encodings of pages")
	fs.StringVar(&f.against, bench.ByAgainst, "",
		"the level that others are compared with (default: the first)")
	fs.BoolVar(&f.shadows, bench.ByShadowPrograms, false,
		"ask the programs of --policies in the others' moves, too; that takes CPU time")
	fs.StringVar(&f.kernel, bench.ByKernel, "",
		"a kernel that runs these programs (default: the embedded guest)")
	fs.Var(&f.memory, bench.ByMemory, "RAM of each guest (default: the experiment's)")
	fs.IntVar(&f.cpus, bench.ByCPUs, 0, "vCPUs of each guest, each with a task (default 1)")
	cli.CompleteFlag(cmd, bench.ByAgainst, cobra.NoFileCompletions)
}

// factors returns what was given.
func (f *factorFlags) factors() (factors bench.Factors, err error) {
	factors = bench.Factors{
		MemoryBytes: f.memory.Bytes, CPUs: f.cpus,
		Guidance: f.guidance.Values, Programs: f.programs.Values, Trackers: f.trackers.Values,
		RTTs: f.rtts.Values, Encoding: f.compress.Values,
		Repetitions: f.repetitions, Against: cli.NameOf(f.against), ShadowPrograms: f.shadows,
	}
	for _, p := range f.policies.Choices {
		factors.Policies = append(factors.Policies, p.String())
	}
	if f.kernel == "" {
		return factors, nil
	}
	if factors.Kernel, err = filepath.Abs(f.kernel); err == nil {
		_, err = os.Stat(f.kernel)
	}
	return factors, err
}

// factorNames are the flags' names.
var factorNames = []string{
	bench.ByPolicies, bench.ByGuidance, bench.ByPrograms, bench.ByTracker, bench.ByRTT,
	bench.ByCompress, bench.ByAgainst, bench.ByShadowPrograms, bench.ByRepetitions, bench.ByKernel,
	bench.ByMemory, bench.ByCPUs,
}
