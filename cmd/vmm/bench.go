package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"taskguide/bench"
	"taskguide/control/process"
)

func newBench(std streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "run experiments on migrations, and compare with others",
		Args:  ofCommands,
		RunE:  withoutCommand,
	}
	cmd.AddCommand(newBenchList(std), newBenchRun(std), newBenchSpeed(std), newBenchReport(std))
	return cmd
}

func newBenchList(std streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the experiments, and what would run on this host",
		Args:  exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return json.NewEncoder(std.out).Encode(bench.Announcements())
			}
			for _, a := range bench.Announcements() {
				a.Write(std.out)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return cmd
}

type benchRunFlags struct {
	quick, resume, json bool
	repeatNoisy         bool
	out                 string
	netns               rateFlag
	programs            bench.Programs
	seed                uint64
	// print writes the results to standard output.
	print func(w io.Writer, dir string) error
}

func newBenchRun(std streams) *cobra.Command {
	f := benchRunFlags{print: bench.PrintHeadlines}
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "run an experiment and write its report",
		Long: `Run an experiment; vmm bench list says how long each may take. Results are kept
as they come, in --out; Ctrl-C ends the run in order, and --resume goes on with
it. The report is report.html there, beside pictures, CSV and JSON.`,
		Args: exactly(1, "the name of an experiment, as vmm bench list has them"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0], std) },
	}
	cmd.ValidArgsFunction = completeExperiment
	f.define(cmd)
	cmd.Flags().Var(&f.netns, "netns",
		"migrate over a link of that rate between two network namespaces, as in 1Gbit (needs root)")
	return cmd
}

func (f *benchRunFlags) define(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.BoolVar(&f.quick, "quick", false, "fewer and smaller trials, to see that all is well")
	fs.StringVar(&f.out, "out", "", "folder for the results (default bench-NAME-TIME)")
	fs.BoolVar(&f.resume, "resume", false, "go on with the run in --out")
	fs.BoolVar(&f.repeatNoisy, "repeat-noisy", false, "with --resume: run the noisy trials again")
	fs.BoolVar(&f.json, "json", false,
		"print the summary as JSON, and nothing else, on standard output")
	fs.StringVar(&f.programs.QEMU, "qemu", "",
		"QEMU's program, to compare with (default: the installed one)")
	fs.StringVar(&f.programs.Before, "before", "",
		"another build of vmm, to compare with in the same run")
	fs.Uint64Var(&f.seed, "seed", 0, "of the order of trials (default: a new one)")
	completeFlag(cmd, "out", folders)
}

func (f *benchRunFlags) run(cmd *cobra.Command, name string, std streams) error {
	e, err := findExperiment(name)
	if err != nil {
		return err
	}
	outliveOutputs()
	if f.resume && f.out == "" {
		return usagef("--resume: say with --out which folder")
	}
	if f.repeatNoisy && !f.resume {
		return usagef("--repeat-noisy: it is for a run that there is: add --resume and --out")
	}
	if f.netns.bitsPerSecond > 0 && e.LoopbackOnly {
		return usagef("--netns: %s sees to its rates itself, over the loopback: leave it out", name)
	}
	if err := f.checkPrograms(e); err != nil {
		return err
	}
	if flags := given(cmd, "quick", "seed", "netns"); f.resume && len(flags) > 0 {
		printNotes(cmd, []note{{flags, "no effect with --resume, which goes on as the run began"}})
	}
	ctx, stop := signal.NotifyContext(context.Background(),
		os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// The first signal starts the cleanup. A user who will not wait for it presses Ctrl-C again,
	// and the guests end with this process. A pause must lie between the two, because some programs
	// send a signal twice, to a process and to its group.
	// those who send a signal twice, to a process and its group.
	context.AfterFunc(ctx, func() {
		endLine(f.screen(std), std.err)
		time.AfterFunc(time.Second, func() { signal.Reset(os.Interrupt) })
	})
	dir := f.out
	if dir == "" {
		dir = "bench-" + name + "-" + time.Now().Format("20060102-150405")
	}
	order := bench.Order{
		Experiment: e, Setting: bench.Here(f.size(), f.programs), Seed: f.seed,
		Progress: f.progress(std), RepeatNoisy: f.repeatNoisy,
	}
	order.BitsPerSecond = f.netns.bitsPerSecond
	if f.programs.QEMU != "" && order.QEMU == "" {
		return usagef("--qemu: %s does not tell its version: name QEMU's program", f.programs.QEMU)
	}
	if f.programs.VMM, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	order.Programs = f.programs
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
		return fmt.Errorf("%w: what was done is kept: vmm bench run %s --resume --out %s goes on",
			err, name, dir)
	}
	return err
}

// checkPrograms refuses programs that the experiment does not use, and asks for one that it needs.
func (f *benchRunFlags) checkPrograms(e bench.Experiment) error {
	switch {
	case f.programs.QEMU != "" && !e.Uses(func(at *bench.Setting) { at.QEMU = "some" }):
		return usagef("--qemu: %s does not compare with QEMU: leave it out", e.Name)
	case f.programs.Before != "" && !e.Uses(func(at *bench.Setting) { at.Before = true }):
		return usagef("--before: %s compares with no other vmm: leave it out", e.Name)
	case f.programs.Before == "" && e.NeedsBefore:
		return usagef("%s compares two builds of vmm: name the other one's program with --before",
			e.Name)
	}
	return nil
}

func (f *benchRunFlags) size() bench.Size {
	if f.quick {
		return bench.Quick
	}
	return bench.Full
}

// screen is where the progress is shown: never on the standard output of --json.
func (f *benchRunFlags) screen(std streams) *os.File {
	if f.json {
		return std.err
	}
	return std.out
}

func (f *benchRunFlags) progress(std streams) bench.Progress {
	w := f.screen(std)
	if process.IsTerminal(w) {
		return bench.NewLive(w)
	}
	return bench.NewPlain(w)
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
		Long: `Move several guests in several ways, beside raw TCP, memcpy and, if it is
installed, QEMU, all in one run; medians of 5, or of 1 with --quick. The same as
vmm bench run speed, with the tables as text.`,
		Args: exactly(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, bench.Speed().Name, std)
		},
	}
	f.define(cmd)
	return cmd
}

func newBenchReport(std streams) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:               "report DIR",
		Short:             "write the report of a run's results once more",
		Args:              exactly(1, "the folder of a run's results"),
		ValidArgsFunction: folders,
		RunE: func(_ *cobra.Command, args []string) error {
			page, err := bench.WriteReport(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return bench.CopySummary(std.out, args[0])
			}
			if err := bench.PrintHeadlines(std.out, args[0]); err != nil {
				return err
			}
			fmt.Fprintf(std.out, "report: %s\n", page)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false,
		"print the summary as JSON, and nothing else, on standard output")
	return cmd
}
