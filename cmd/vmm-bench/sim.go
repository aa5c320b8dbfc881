package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"taskguide/bench"
	"taskguide/bench/sim"
	"taskguide/bench/simrun"
	"taskguide/cmd/cli"
	"taskguide/control/process"
	"taskguide/control/version"
	"taskguide/dirtylog/trace"
	"taskguide/memory"
	"taskguide/migration/policy"
)

// benchSimFlags are those of vmm bench sim.
type benchSimFlags struct {
	policies        string
	guidance        cli.Words
	bandwidth       cli.Rate
	rtt             time.Duration
	memory          cli.Size
	growth          cli.Choice[sim.Growth]
	compress        cli.Choice[sim.Compress]
	gate            cli.Choice[sim.Quorum]
	onTimeout       cli.Choice[policy.OnTimeout]
	maxDefer, limit time.Duration
	handover        time.Duration
	atExit          bool
	moments         int
	seed            uint64
	asJSON          bool
	out             string
}

func newBenchSim(std cli.Streams) *cobra.Command {
	f := benchSimFlags{
		growth:    cli.Choose(sim.Untouched, sim.Repeated),
		compress:  cli.Choose(sim.CompressAuto, sim.CompressZstd, sim.CompressNone),
		gate:      cli.Choose(sim.All, sim.Any),
		onTimeout: cli.Choose(policy.TimeoutForce, policy.TimeoutCancel),
		guidance:  cli.WordsOf(bench.GuidanceNames()),
	}
	f.guidance.Values = []string{string(policy.GuidanceOff), string(policy.GuidanceSwitchover)}
	cmd := &cobra.Command{
		Use:   "sim TRACE...",
		Short: "replay traces through policies, in virtual time",
		Long: `Simulate moves of recorded guests: the same policies decide as in a real move,
a model stands for rounds and link, and time is virtual. A TRACE is a folder
that vmm trace or vmm bench trace-gen has made. docs/simulator.md says what is
modelled, and which figures were compared with real moves.`,
		Args:              someTraces,
		ValidArgsFunction: cli.Folders,
		RunE: func(_ *cobra.Command, args []string) error {
			return f.run(args, std)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.policies, "policies", "xen,downtime,oracle",
		"policies, each as --policy has it, and oracle, which knows the trace")
	fs.Var(&f.guidance, "guidance", "guidance of each policy")
	_ = f.bandwidth.Set("1Gbit")
	fs.Var(&f.bandwidth, "bandwidth", "of the page stream, as in 10Gbit")
	cli.DurationVar(fs, &f.rtt, "rtt", 100*time.Microsecond, "round trip of the link")
	fs.Var(&f.memory, "memory", "RAM of the guest (default: as recorded)")
	fs.Var(&f.growth, "grow", "what is in the RAM beyond what was recorded")
	fs.Var(&f.compress, "compress", "encoding of pages, by the trace's samples")
	fs.Var(&f.gate, "gate", "how many tasks must be in a segment")
	fs.BoolVar(&f.atExit, "switch-at-exit", true,
		"with guidance switchover: switch over as the gate closes")
	cli.DurationVar(fs, &f.limit, "downtime-limit", 0,
		"what the rest must fit (default: the policy's)")
	cli.DurationVar(fs, &f.maxDefer, "max-defer", time.Minute, "how long guidance may defer a move")
	fs.Var(&f.onTimeout, "on-timeout", "what happens then")
	cli.DurationVar(fs, &f.handover, "handover", sim.DefaultCosts().Handover,
		"part of a downtime that depends on neither pages nor link")
	fs.IntVar(&f.moments, "moments", 20, "how many moments of request, spread over the trace")
	fs.Uint64Var(&f.seed, "seed", 1, "of the moments")
	fs.BoolVar(&f.asJSON, "json", false, "print the summary as JSON")
	fs.StringVar(&f.out, "out", "", "folder for summary.json and moves.csv, new or empty")
	cli.CompleteFlag(cmd, "out", cli.Folders)
	return cmd
}

func someTraces(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cli.Usagef("no trace given: name a folder that vmm trace has made")
	}
	return nil
}

func (f *benchSimFlags) run(traces []string, std cli.Streams) error {
	o, err := f.order(traces)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	results, err := simrun.Run(ctx, o, showSimulated(std.Err))
	cli.EraseEcho(std.Err)
	if err != nil {
		return err
	}
	if f.out != "" {
		if err := simrun.Save(f.out, results); err != nil {
			return err
		}
	}
	if f.asJSON {
		return json.NewEncoder(std.Out).Encode(results)
	}
	for i, r := range results {
		if i > 0 {
			fmt.Fprintln(std.Out)
		}
		if err := r.Write(std.Out); err != nil {
			return err
		}
	}
	return nil
}

func (f *benchSimFlags) order(traces []string) (simrun.Order, error) {
	var guidance []policy.Guidance
	for _, word := range f.guidance.Values {
		guidance = append(guidance, policy.Guidance(word))
	}
	entrants, err := sim.Entrants(sim.SplitPolicies(f.policies), guidance, sim.Order{
		AtExit: f.atExit, Gate: f.gate.Value, MaxDefer: f.maxDefer, OnTimeout: f.onTimeout.Value,
		Limit: f.limit,
	})
	switch {
	case err != nil:
		return simrun.Order{}, cli.Usagef("--policies: %w", err)
	case f.moments < 1:
		return simrun.Order{}, cli.Usagef("--moments %d: use 1 or more", f.moments)
	case f.memory.Bytes%memory.PageSize != 0:
		return simrun.Order{}, cli.Usagef("--memory %s: use whole pages of 4 KiB",
			f.memory.String())
	}
	costs := sim.DefaultCosts()
	costs.Handover = f.handover
	return simrun.Order{
		Traces: traces, Entrants: entrants, MemoryBytes: f.memory.Bytes, Growth: f.growth.Value,
		Setting: sim.Setting{
			BitsPerSecond: f.bandwidth.BitsPerSecond, RTT: f.rtt, Compress: f.compress.Value,
			Costs: costs,
		},
		Moments: f.moments, Seed: f.seed, Validations: sim.Validations,
	}, nil
}

// showSimulated keeps a line of progress up to date, at a terminal.
func showSimulated(screen *os.File) func(done, all int) {
	shown := time.Now()
	return func(done, all int) {
		if process.IsTerminal(screen) && time.Since(shown) > time.Second/4 {
			shown = time.Now()
			fmt.Fprintf(screen, "\r\x1b[K%d of %d moments", done, all)
		}
	}
}

// traceGenFlags are those of vmm bench trace-gen.
type traceGenFlags struct {
	sim.Synthetic
	out                     string
	memory, workingSet, hot cli.Size
	dirtyRate, calmRate     cli.Rate
	packed, jitter          int
}

func newBenchTraceGen(std cli.Streams) *cobra.Command {
	f := traceGenFlags{
		memory: cli.NewSize("512M"), workingSet: cli.NewSize("64M"), hot: cli.NewSize("1M"),
	}
	cmd := &cobra.Command{
		Use:   "trace-gen",
		Short: "write the trace of a guest that nobody recorded",
		Long: `Write a synthetic trace, in the format of vmm trace: a guest that rewrites its
working set in busy phases, and a few hot pages in calm ones, which one task
tags as segments. The same flags always give the same trace.`,
		Args: cli.Exactly(0, "no arguments, only flags"),
		RunE: func(*cobra.Command, []string) error { return f.run(std) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.out, "out", "", "folder for the trace, which must be new or empty")
	cli.CompleteFlag(cmd, "out", cli.Folders)
	fs.StringVar(&f.Name, "name", "synthetic", "of the guest")
	fs.Var(&f.memory, "memory", "RAM")
	fs.Var(&f.workingSet, "working-set", "what busy phases rewrite, page by page")
	fs.Var(&f.hot, "hot", "part of it that calm phases rewrite")
	cli.DurationVar(fs, &f.Busy, "busy", 4*time.Second, "length of a busy phase")
	cli.DurationVar(fs, &f.Calm, "calm", time.Second, "length of a calm one")
	_, _ = f.dirtyRate.Set("2Gbit"), f.calmRate.Set("1Gbit")
	fs.Var(&f.dirtyRate, "dirty-rate", "what busy phases write, as in 2Gbit")
	fs.Var(&f.calmRate, "calm-rate", "what calm phases write")
	fs.IntVar(&f.jitter, "jitter", 0, "percent by which a phase is at most longer or shorter")
	fs.IntVar(&f.packed, "packed", 100, "percent of a page that zstd leaves")
	cli.DurationVar(fs, &f.Interval, "interval", 10*time.Millisecond, "length of an interval")
	cli.DurationVar(fs, &f.Length, "for", time.Minute, "length of the trace")
	fs.Uint64Var(&f.Seed, "seed", 1, "of the jitter")
	return cmd
}

func (f *traceGenFlags) run(std cli.Streams) error {
	if f.out == "" {
		return cli.Usagef("no folder given: vmm bench trace-gen wants --out DIR")
	}
	switch {
	case f.packed < 1 || f.packed > 100:
		return cli.Usagef("--packed %d: use 1 to 100", f.packed)
	case f.Interval%time.Millisecond != 0 || f.Interval < trace.MinInterval:
		return cli.Usagef("--interval %v: whole milliseconds, at least %v", f.Interval,
			trace.MinInterval)
	}
	g := f.Synthetic
	g.Rate = float64(f.dirtyRate.BitsPerSecond) / 8 / memory.PageSize
	g.CalmRate = float64(f.calmRate.BitsPerSecond) / 8 / memory.PageSize
	g.Pages = int(f.memory.Bytes / memory.PageSize)
	g.WorkingSet = int(f.workingSet.Bytes / memory.PageSize)
	g.Hot = int(f.hot.Bytes / memory.PageSize)
	g.Jitter, g.Packed = float64(f.jitter)/100, f.packed*memory.PageSize/100
	name, err := simrun.Generate(f.out, version.Here(version.Machine{}).Version, g)
	if err != nil {
		return err
	}
	fmt.Fprintf(std.Out, "%s: %v, generated with seed %d\n", name, f.Length, f.Seed)
	return nil
}
