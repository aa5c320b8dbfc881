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
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"taskguide/bench"
	"taskguide/bench/peer/qemu"
	"taskguide/cmd/cli"
	"taskguide/control/process"
	"taskguide/control/text"
)

func newBenchList(std cli.Streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the experiments, and what would run on this host",
		Args:  cli.Exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return json.NewEncoder(std.Out).Encode(bench.Announcements())
			}
			for _, a := range bench.Announcements() {
				a.Write(std.Out)
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
	netns               cli.Rate
	programs            bench.Programs
	seed                uint64
	shard               shardFlag
	hosts               hostFlags
	factors             factorFlags
	// print writes the results to standard output.
	print func(w io.Writer, dir string) error
}

func newBenchRun(std cli.Streams) *cobra.Command {
	f := benchRunFlags{print: bench.PrintHeadlines, factors: newFactorFlags()}
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "run an experiment and write its report",
		Long: `Run an experiment; vmm bench list says how long each may take. Results are kept
as they come, in --out; Ctrl-C ends the run in order, and --resume goes on with
it. The report is report.html there, beside pictures, CSV and JSON.

Experiment policies compares what you name, your own stop rule too:

  vmm bench run policies --policies xen,exec:./mine --programs kv -n 10`,
		Args: cli.Exactly(1, "the name of an experiment, as vmm bench list has them"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := findExperiment(args[0])
			if err != nil {
				return err
			}
			return f.run(cmd, e, "vmm bench run "+e.Name, std)
		},
	}
	cmd.ValidArgsFunction = completeExperiment
	f.define(cmd)
	f.factors.define(cmd)
	f.hosts.define(cmd)
	cmd.Flags().Var(&f.netns, "netns",
		"migrate over a link of that rate between two network namespaces, as in 1Gbit (needs root)")
	return cmd
}

// defineOutput defines the flags about the order of a run and its results.
func (f *benchRunFlags) defineOutput(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.out, "out", "", "folder for the results (default bench-NAME-TIME)")
	fs.BoolVar(&f.resume, "resume", false, "go on with the run in --out")
	fs.BoolVar(&f.repeatNoisy, "repeat-noisy", false, "with --resume: run the noisy trials again")
	fs.BoolVar(&f.json, "json", false,
		"print the summary as JSON, and nothing else, on standard output")
	fs.Var(&f.shard, "shard", "run only part I of N, to be joined by vmm bench report")
	fs.Uint64Var(&f.seed, "seed", 0, "of the order of trials (default: a new one)")
	cli.CompleteFlag(cmd, "out", cli.Folders)
}

func (f *benchRunFlags) define(cmd *cobra.Command) {
	f.defineOutput(cmd)
	fs := cmd.Flags()
	fs.BoolVar(&f.quick, "quick", false, "fewer and smaller trials, to see that all is well")
	fs.StringVar(&f.programs.QEMU, "qemu", "",
		"QEMU's program, to compare with (default: the installed one)")
	fs.StringVar(&f.programs.Before, "before", "",
		"another build of vmm, to compare with in the same run")
	f.factors.defineRepetitions(cmd)
}

// run runs an experiment. again is the command that runs it, without flags.
func (f *benchRunFlags) run(
	cmd *cobra.Command, e bench.Experiment, again string, std cli.Streams,
) (err error) {
	cli.OutliveOutputs()
	if f.resume && f.out == "" {
		return cli.Usagef("--resume: say with --out which folder")
	}
	if err := f.checkHosts(cmd, e); err != nil {
		return err
	}
	if f.repeatNoisy && !f.resume {
		return cli.Usagef("--repeat-noisy: it is for a run that there is: add --resume and --out")
	}
	if f.netns.BitsPerSecond > 0 && e.LoopbackOnly {
		return cli.Usagef("--netns: %s sees to its rates itself, over the loopback: leave it out",
			e.Name)
	}
	if err := f.checkPrograms(e); err != nil {
		return err
	}
	for name, value := range map[string]int{
		bench.ByRepetitions: f.factors.repetitions, bench.ByCPUs: f.factors.cpus,
	} {
		if cmd.Flags().Changed(name) && value == 0 {
			return cli.Usagef("--%s 0: use 1 or more", name)
		}
	}
	setting := f.setting()
	setting.Shard = f.shard.shard
	if setting.Factors, err = f.factors.factors(); err != nil {
		return cli.UsageOf(err)
	}
	if err := e.CheckFactors(setting); err != nil {
		return cli.UsageOf(err)
	}
	if f.hosts.Set() {
		if err := e.CheckHosts(setting); err != nil {
			return cli.UsageOf(err)
		}
	}
	if err := e.CheckShard(setting); err != nil {
		return cli.UsageOf(err)
	}
	fixed := append([]string{"quick", "seed", "netns", "shard"}, factorNames...)
	if flags := cli.Given(cmd, fixed...); f.resume && len(flags) > 0 {
		cli.PrintNotes(cmd, []cli.Note{{
			Flags: flags, Why: "no effect with --resume, which goes on as the run began",
		}})
	}
	ctx, stop := cli.UntilSignal(context.Background(),
		os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// The first signal starts the cleanup. A user who will not wait for it presses Ctrl-C again,
	// and the guests end with this process. A pause must lie between the two, because some programs
	// send a signal twice, to a process and to its group.
	context.AfterFunc(ctx, func() {
		cli.EndLine(f.screen(std), std.Err)
		time.AfterFunc(time.Second, func() {
			if !signal.Ignored(os.Interrupt) {
				signal.Reset(os.Interrupt)
			}
		})
	})
	dir := f.out
	if dir == "" {
		dir = "bench-" + e.Name + "-" + time.Now().Format("20060102-150405")
	}
	order := bench.Order{
		Experiment: e, Setting: setting, Seed: f.seed,
		Progress: f.progress(std), RepeatNoisy: f.repeatNoisy, Hosts: f.hosts.TwoHosts,
	}
	order.BitsPerSecond = f.netns.BitsPerSecond
	if f.programs.QEMU != "" && order.QEMU == "" && !f.hosts.Set() {
		return cli.Usagef("--qemu: %s does not tell its version: name QEMU's program",
			f.programs.QEMU)
	}
	if f.programs.VMM, err = findVMM(); err != nil {
		return err
	}
	if err := checkBuild(f.programs.VMM); err != nil {
		return err
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
	return f.withResume(err, again, dir)
}

// setting is where trials run. What this host's QEMU can do has no part in moves between two hosts:
// parts of one experiment may have controllers with different ones.
func (f *benchRunFlags) setting() bench.Setting {
	if f.hosts.Set() {
		return bench.Setting{Size: f.size()}
	}
	return bench.Here(f.size(), f.programs)
}

// withResume adds to the error of a run that can go on how it does.
func (f *benchRunFlags) withResume(err error, again, dir string) error {
	if errors.Is(err, bench.ErrInterrupted) || errors.Is(err, bench.ErrTimeUp) {
		return fmt.Errorf("%w: what was done is kept: %s goes on", err, f.resumeCommand(again, dir))
	}
	return err
}

// resumeCommand is the command that goes on with the run in dir, which again began. It has the
// flags that a run does not keep; all others come from its folder.
func (f *benchRunFlags) resumeCommand(again, dir string) string {
	words := []string{again, "--resume"}
	if f.repeatNoisy {
		words = append(words, "--repeat-noisy")
	}
	for _, given := range []struct{ flag, value string }{
		{"out", dir}, {"qemu", f.programs.QEMU}, {"before", f.programs.Before},
		{sourceFlag, target{&f.hosts.Source}.String()},
		{destinationFlag, target{&f.hosts.Destination}.String()},
	} {
		if given.value != "" {
			words = append(words, "--"+given.flag, text.ShellWord(given.value))
		}
	}
	if f.hosts.Insecure {
		words = append(words, "--"+insecureFlag)
	}
	if f.json {
		words = append(words, "--json")
	}
	return strings.Join(words, " ")
}

// checkPrograms refuses programs that the experiment does not use, and asks for one that it needs.
func (f *benchRunFlags) checkPrograms(e bench.Experiment) error {
	switch {
	case e.Custom != nil && e.Custom.NeedsQEMU() && bench.Here(bench.Full, f.programs).QEMU == "":
		return cli.Usagef("the file compares with QEMU, which is not installed: leave out peers, " +
			"or name its program with --qemu")
	case f.programs.QEMU != "" && !e.Uses(withQEMU):
		return cli.Usagef("--qemu: %s does not compare with QEMU: leave it out", e.Name)
	case f.programs.Before != "" && !e.Uses(func(at *bench.Setting) { at.Before = true }):
		return cli.Usagef("--before: %s compares with no other vmm: leave it out", e.Name)
	case f.programs.Before == "" && e.NeedsBefore:
		return cli.Usagef(
			"%s compares two builds of vmm: name the other one's program with --before", e.Name)
	}
	return nil
}

// withQEMU changes a setting to one with a QEMU that can do everything. The report says what the
// real one lacks.
func withQEMU(at *bench.Setting) { at.QEMU, at.Ways = "some", qemu.AllWays }

func (f *benchRunFlags) size() bench.Size {
	if f.quick {
		return bench.Quick
	}
	return bench.Full
}

// screen is where the progress is shown: never on the standard output of --json.
func (f *benchRunFlags) screen(std cli.Streams) *os.File {
	if f.json {
		return std.Err
	}
	return std.Out
}

func (f *benchRunFlags) progress(std cli.Streams) bench.Progress {
	w := f.screen(std)
	if process.IsTerminal(w) {
		return bench.NewLive(w)
	}
	return bench.NewPlain(w)
}

// finish says where the results are.
func (f *benchRunFlags) finish(std cli.Streams, dir, page string) error {
	if f.json {
		return bench.CopySummary(std.Out, dir)
	}
	if err := f.print(std.Out, dir); err != nil {
		return err
	}
	fmt.Fprintf(std.Out, "report: %s\n", page)
	return nil
}

func newBenchSpeed(std cli.Streams) *cobra.Command {
	f := benchRunFlags{print: bench.PrintSpeed}
	cmd := &cobra.Command{
		Use:   "speed",
		Short: "compare the copy loop with raw TCP, memcpy and QEMU, in a table",
		Long: `Move several guests in several ways, beside raw TCP, memcpy and, if it is
installed, QEMU, all in one run; medians of 6, or of 1 with --quick. The same as
vmm bench run speed, with the tables as text.`,
		Args: cli.Exactly(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, bench.Speed(), "vmm bench speed", std)
		},
	}
	f.define(cmd)
	return cmd
}
