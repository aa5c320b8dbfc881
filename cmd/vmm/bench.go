package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"taskguide/bench"
	"taskguide/control/host"
)

func newBench(std streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "run experiments on migrations, and compare with others",
		Args:  exactly(0, "one of its commands: list, run, speed, report"),
		RunE:  func(*cobra.Command, []string) error { return usagef("no command given: see vmm bench --help") },
	}
	cmd.AddCommand(newBenchList(std), newBenchRun(std), newBenchSpeed(std), newBenchReport(std))
	return cmd
}

func newBenchList(std streams) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the experiments",
		Args:  exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			w := tabwriter.NewWriter(std.out, 0, 8, 2, ' ', 0)
			for _, e := range bench.Experiments() {
				fmt.Fprintf(w, "%s\t%d trials\t%d with --quick\t%s\n", e.Name, len(e.Plan(bench.Here(bench.Full), 0)), len(e.Plan(bench.Here(bench.Quick), 0)), e.Summary)
			}
			return w.Flush()
		},
	}
}

type benchRunFlags struct {
	quick, resume, json bool
	out                 string
	netns               rateFlag
	seed                uint64
	// print says on standard output what was found.
	print func(w io.Writer, dir string) error
}

func newBenchRun(std streams) *cobra.Command {
	f := benchRunFlags{print: bench.PrintHeadlines}
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "run an experiment and write its report",
		Long: `Run an experiment: under 20 minutes, or under 3 with --quick. Results are kept as they come, in --out; Ctrl-C ends the run
in order, and --resume goes on with it. The report is report.html there, beside pictures, CSV and JSON.`,
		Args: exactly(1, "the name of an experiment: see vmm bench list"),
		RunE: func(_ *cobra.Command, args []string) error { return f.run(args[0], std) },
	}
	f.define(cmd)
	cmd.Flags().Var(&f.netns, "netns", "migrate over a link of that rate between two network namespaces, as in 1Gbit (needs root)")
	return cmd
}

func (f *benchRunFlags) define(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.BoolVar(&f.quick, "quick", false, "fewer and smaller trials, to see that all is well")
	fs.StringVar(&f.out, "out", "", "folder for the results (default bench-NAME-TIME)")
	fs.BoolVar(&f.resume, "resume", false, "go on with the run in --out")
	fs.BoolVar(&f.json, "json", false, "print the summary as JSON, and nothing else, on standard output")
	fs.Uint64Var(&f.seed, "seed", 0, "of the order of trials (default: a new one)")
}

func (f *benchRunFlags) run(name string, std streams) error {
	e, err := bench.Find(name)
	if err != nil {
		return usageError{err}
	}
	if f.resume && f.out == "" {
		return usagef("--resume: say with --out which folder")
	}
	if f.netns.bitsPerSecond > 0 && e.LoopbackOnly {
		return usagef("--netns: %s sees to its rates itself, over the loopback: leave it out", name)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// After the first signal things are cleaned up. Whoever will not wait for that presses Ctrl-C again; the guests go with
	// this process. A moment must lie between the two, for there are those who send a signal twice, to a process and its group.
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, func() { signal.Reset(os.Interrupt) }) })
	dir := f.out
	if dir == "" {
		dir = "bench-" + name + "-" + time.Now().Format("20060102-150405")
	}
	order := bench.Order{Experiment: e, Setting: bench.Here(f.size()), Seed: f.seed, Progress: f.progress(std)}
	order.BitsPerSecond = f.netns.bitsPerSecond
	if order.Binary, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	if order.Seed == 0 {
		order.Seed = rand.Uint64N(1 << 32)
	}
	session := bench.Session{Dir: dir, Order: order, Resume: f.resume}
	page, err := session.Run(ctx)
	if page != "" {
		if errJSON := f.finish(std, dir, page); errJSON != nil {
			return errors.Join(err, errJSON)
		}
	}
	if errors.Is(err, bench.ErrInterrupted) || errors.Is(err, bench.ErrTimeUp) {
		return fmt.Errorf("%w: what was done is kept: vmm bench run %s --resume --out %s goes on", err, name, dir)
	}
	return err
}

func (f *benchRunFlags) size() bench.Size {
	if f.quick {
		return bench.Quick
	}
	return bench.Full
}

func (f *benchRunFlags) progress(std streams) bench.Progress {
	out := std.out
	if f.json {
		out = std.err
	}
	if host.IsTerminal(out) {
		return bench.NewLive(out)
	}
	return bench.NewPlain(out)
}

// finish says where the results are.
func (f *benchRunFlags) finish(std streams, dir, page string) error {
	if f.json {
		return bench.CopySummary(std.out, dir)
	}
	if err := f.print(std.out, dir); err != nil {
		return err
	}
	fmt.Fprintf(std.out, "report: %s\n", page)
	return nil
}

func newBenchSpeed(std streams) *cobra.Command {
	f := benchRunFlags{print: bench.PrintSpeed}
	cmd := &cobra.Command{
		Use:   "speed",
		Short: "compare the copy loop with raw TCP, memcpy and QEMU, in a table",
		Long: `Move several guests in several ways, beside raw TCP, memcpy and, if it is installed, QEMU, all in one run; medians of 5, or
of 1 with --quick. The same as vmm bench run speed, with the tables as text.`,
		Args: exactly(0, "no arguments, only flags"),
		RunE: func(*cobra.Command, []string) error { return f.run(bench.Speed().Name, std) },
	}
	f.define(cmd)
	return cmd
}

func newBenchReport(std streams) *cobra.Command {
	return &cobra.Command{
		Use:   "report DIR",
		Short: "write the report of a run's results once more",
		Args:  exactly(1, "the folder of a run's results"),
		RunE: func(_ *cobra.Command, args []string) error {
			page, err := bench.WriteReport(args[0])
			if err != nil {
				return err
			}
			if err := bench.PrintHeadlines(std.out, args[0]); err != nil {
				return err
			}
			fmt.Fprintf(std.out, "report: %s\n", page)
			return nil
		},
	}
}
