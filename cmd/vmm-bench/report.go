package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"taskguide/bench"
	"taskguide/bench/shard"
	"taskguide/bench/simrun"
	"taskguide/cmd/cli"
)

// shardFlag is a part of a run as I/N.
type shardFlag struct{ shard shard.Shard }

// Type is what help shows behind the flag.
func (f *shardFlag) Type() string { return "I/N" }

func (f *shardFlag) String() string {
	if f.shard.Of == 0 {
		return ""
	}
	return f.shard.String()
}

// Set reads the part.
func (f *shardFlag) Set(s string) (err error) {
	f.shard, err = shard.Parse(s)
	return err
}

// reportFlags are those of vmm bench report.
type reportFlags struct {
	json   bool
	format cli.Choice[bench.Format] // or validationFormat
	out    string
	tail   string
}

func newBenchReport(std cli.Streams) *cobra.Command {
	f := reportFlags{format: cli.Choose(append(slices.Clone(bench.Formats), validationFormat)...)}
	cmd := &cobra.Command{
		Use:   "report DIR...",
		Short: "write the report of a run's results once more, or join its shards",
		Long: `Write the report of a run's results once more. Several folders are shards of one
run (vmm bench run --shard): they are joined in a new one, --out. Parts of a
simulation (vmm bench sim --shard, map --shard) are joined and printed likewise.
Of a simulation, --format markdown and latex print the tables in that form.

--format validation writes no page. Of a run of simulated that reached its
target it prints the entry for bench/sim/validated.json, and fails for others.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cli.Exactly(1, "the folder of a run's results")(cmd, args)
			}
			return nil
		},
		ValidArgsFunction: cli.Folders,
		RunE: func(cmd *cobra.Command, args []string) error {
			if slices.ContainsFunc(args, simrun.Is) {
				return f.joinSimulations(cmd, args, std)
			}
			return f.run(args, std)
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.json, "json", false,
		"print the summary as JSON, and nothing else, on standard output")
	fs.Var(&f.format, "format", "the form of the page, "+f.format.List()+
		": report.html, report.md, report.tex, or an entry on standard output")
	fs.StringVar(&f.out, "out", "",
		"join into this folder, a new one (default, for several: bench-joined-TIME)")
	fs.StringVar(&f.tail, "tail-from", "",
		"a run of moves: show p90 and p99 of simulated moves if its tail agrees with theirs")
	cli.CompleteFlag(cmd, "out", cli.Folders)
	cli.CompleteFlag(cmd, "tail-from", cli.Folders)
	return cmd
}

// joinSimulations joins parts of a simulation, or prints one once more.
func (f *reportFlags) joinSimulations(cmd *cobra.Command, dirs []string, std cli.Streams) error {
	if err := f.checkSimulation(cmd); err != nil {
		return err
	}
	c, err := f.simulation(dirs)
	if err != nil {
		return err
	}
	if cmd.Flags().Changed("format") {
		return bench.WriteSimulation(std.Out, c, f.format.Value)
	}
	return printSimulation(std.Out, c, f.json)
}

// checkSimulation refuses what cannot be had of a simulation.
func (f *reportFlags) checkSimulation(cmd *cobra.Command) error {
	if cmd.Flags().Changed("tail-from") {
		return cli.Usagef("--tail-from: no effect on a simulation: leave it out")
	}
	if !cmd.Flags().Changed("format") {
		return nil
	}
	switch format := f.format.Value; {
	case format == validationFormat:
		return cli.Usagef("--format validation: a simulation has no real moves: name a run of " +
			"vmm bench run simulated")
	case !slices.Contains(bench.SimulationFormats, format):
		return cli.Usagef("--format %s: a simulation has tables alone: use markdown or latex",
			format)
	case f.json:
		return cli.Usagef("--json: --format %s prints tables: leave one of both out", format)
	}
	return nil
}

// simulation reads the one in a folder, or joins those in several and keeps the whole.
func (f *reportFlags) simulation(dirs []string) (simrun.Comparison, error) {
	if len(dirs) == 1 && f.out == "" {
		return simrun.Open(dirs[0])
	}
	c, err := simrun.Join(dirs)
	if err != nil {
		return c, err
	}
	out := f.out
	if out == "" {
		out = "bench-joined-" + time.Now().Format("20060102-150405")
	}
	return c, c.Save(out)
}

func (f *reportFlags) run(dirs []string, std cli.Streams) error {
	// What the command line alone rules out is refused before there is a joined folder.
	if err := f.checkValidation(); err != nil {
		return err
	}
	var tail *bench.Tail
	if f.tail != "" {
		var err error
		if tail, err = bench.TailFrom(f.tail); err != nil {
			return cli.UsageOf(fmt.Errorf("--tail-from: %w", err))
		}
	}
	dir := dirs[0]
	if len(dirs) > 1 || f.out != "" {
		if dir = f.out; dir == "" {
			dir = "bench-joined-" + time.Now().Format("20060102-150405")
		}
		if err := bench.Join(dir, dirs); err != nil {
			return err
		}
	}
	if f.format.Value == validationFormat {
		return f.printValidation(dir, std)
	}
	page, err := bench.WriteReportWith(dir, f.format.Value, tail)
	if errors.Is(err, bench.ErrNoTail) {
		return cli.Usagef("--tail-from: no effect on %w: leave it out", err)
	}
	if err != nil {
		return err
	}
	if f.json {
		return bench.CopySummary(std.Out, dir)
	}
	if err := bench.PrintHeadlines(std.Out, dir); err != nil {
		return err
	}
	fmt.Fprintf(std.Out, "report: %s\n", page)
	return nil
}

// validationFormat is no page, but what the simulator's list of validations has.
const validationFormat bench.Format = "validation"

// checkValidation refuses what --format validation has no use for.
func (f *reportFlags) checkValidation() error {
	switch {
	case f.format.Value != validationFormat:
	case f.json:
		return cli.Usagef("--json: --format validation is JSON: leave one of both out")
	case f.tail != "":
		return cli.Usagef("--tail-from: no effect on --format validation: leave it out")
	}
	return nil
}

// printValidation prints the entries that a run makes, and nothing else. It fails if that is not
// all of the run.
func (f *reportFlags) printValidation(dir string, std cli.Streams) error {
	entries, failed := bench.ValidationsOf(dir)
	for _, v := range entries {
		text, err := bench.ValidationJSON(v)
		if err == nil {
			_, err = std.Out.Write(text)
		}
		if err != nil {
			return err
		}
	}
	return failed
}
