// Command vmm-bench is what vmm bench starts: experiments on migrations, with their pictures and
// reports. It is a program of its own so that a vmm that only runs machines does not carry them.
//
// Its users type vmm bench. So help and errors name its commands as those of vmm.
//
// This package reads flags and prints words. Package bench does the work; docs/bench.md is the
// manual.
package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/control/version"
)

func main() {
	std := cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	os.Exit(cli.Execute(newRoot(std), ofRoot(os.Args[1:]), std))
}

// ofRoot turns the arguments of vmm-bench into those of newRoot, where bench is a command of vmm.
func ofRoot(args []string) []string {
	const bench = "bench"
	if len(args) == 0 {
		return []string{bench}
	}
	switch first := args[0]; {
	case first == "help", strings.HasPrefix(first, "__complete"):
		return append([]string{first, bench}, args[1:]...)
	case first == "--version", first == "man":
		return args
	}
	return append([]string{bench}, args...)
}

// newRoot makes vmm with bench as its only command.
func newRoot(std cli.Streams) *cobra.Command {
	root := &cobra.Command{
		Use:     "vmm",
		Short:   "run virtual machines and move them while they run",
		Version: version.Here(version.Machine{}).Short(),
	}
	root.SetVersionTemplate("vmm-bench {{.Version}}\n")
	root.SetHelpCommand(cli.NewHelp())
	bench := newBench(std)
	root.AddCommand(bench)
	root.AddCommand(cli.ManCommands(bench, "")...)
	cli.Root(root, std)
	return root
}

func newBench(std cli.Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "run experiments on migrations, and compare with others",
		Args:  cli.OfCommands,
		RunE:  cli.WithoutCommand,
	}
	cmd.AddCommand(newBenchList(std), newBenchRun(std), newBenchCustom(std),
		newBenchSpeed(std), newBenchReport(std), newBenchSim(std), newBenchMap(std),
		newBenchTraceGen(std), newBenchHand())
	return cmd
}
