package main

import (
	"github.com/spf13/cobra"

	"taskguide/bench"
	"taskguide/cmd/cli"
)

// completeExperiment completes the name of an experiment.
func completeExperiment(_ *cobra.Command, args []string, _ string) (
	cli.Completions, cobra.ShellCompDirective,
) {
	var all cli.Completions
	if len(args) == 0 {
		for _, e := range bench.Experiments() {
			all = append(all, cobra.CompletionWithDesc(e.Name, e.Summary))
		}
	}
	return all, cli.NoFiles
}

// findExperiment is bench.Find with an error for the command line.
func findExperiment(name string) (bench.Experiment, error) {
	e, err := bench.Find(name)
	if err != nil {
		return e, cli.Usagef("experiment %w", cli.Unknown(name, experimentNames()))
	}
	return e, nil
}

func experimentNames() []string {
	var names []string
	for _, e := range bench.Experiments() {
		names = append(names, e.Name)
	}
	return names
}
