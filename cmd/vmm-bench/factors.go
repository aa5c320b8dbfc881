package main

import (
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
	repetitions int
	against     string
}

func newFactorFlags() factorFlags {
	return factorFlags{
		guidance: cli.WordsOf(bench.GuidanceNames()),
		programs: cli.WordsOf(bench.ProgramNames()),
		trackers: cli.WordsOf(bench.TrackerNames()),
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
	fs.StringVar(&f.against, bench.ByAgainst, "",
		"the level that others are compared with (default: the first)")
	cli.CompleteFlag(cmd, bench.ByAgainst, cobra.NoFileCompletions)
}

// factors returns what was given.
func (f *factorFlags) factors() bench.Factors {
	factors := bench.Factors{
		Guidance: f.guidance.Values, Programs: f.programs.Values, Trackers: f.trackers.Values,
		Repetitions: f.repetitions, Against: f.against,
	}
	for _, p := range f.policies.Choices {
		factors.Policies = append(factors.Policies, p.String())
	}
	return factors
}

// factorNames are the flags' names.
var factorNames = []string{
	bench.ByPolicies, bench.ByGuidance, bench.ByPrograms, bench.ByTracker, bench.ByAgainst,
	bench.ByRepetitions,
}
