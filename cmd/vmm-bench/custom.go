package main

import (
	"github.com/spf13/cobra"

	"taskguide/bench"
	"taskguide/cmd/cli"
	"taskguide/control/text"
)

func newBenchCustom(std cli.Streams) *cobra.Command {
	f := benchRunFlags{print: bench.PrintHeadlines}
	cmd := &cobra.Command{
		Use:   "custom FILE",
		Short: "run an experiment that a file describes",
		Long: `Run an experiment that a file describes: guests with their kernels, command
lines, disks, memory and vCPUs; rates, policies, guidance, moments and peers.
The file is YAML, or JSON; examples/bench has one, and docs/bench.md every key.
Results are as those of vmm bench run.`,
		Args: cli.Exactly(1, "the file of an experiment"),
		RunE: func(cmd *cobra.Command, args []string) error {
			custom, err := bench.ReadCustom(args[0])
			if err != nil {
				return cli.UsageOf(err)
			}
			return f.run(cmd, custom.Experiment(), "vmm bench custom "+text.ShellWord(args[0]), std)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) (
			cli.Completions, cobra.ShellCompDirective,
		) {
			if len(args) > 0 {
				return nil, cli.NoFiles
			}
			return cli.Completions{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	fs := cmd.Flags()
	f.defineOutput(cmd)
	f.hosts.define(cmd)
	fs.StringVar(&f.programs.QEMU, "qemu", "",
		"QEMU's program, to compare with (default: the installed one)")
	f.factors.defineRepetitions(cmd)
	return cmd
}
