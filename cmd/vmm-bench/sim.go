package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"taskguide/bench"
	"taskguide/bench/sim"
	"taskguide/bench/simrun"
	"taskguide/cmd/cli"
	"taskguide/control/process"
	"taskguide/control/units"
	"taskguide/control/version"
	"taskguide/dirtylog/trace"
	"taskguide/memory"
	"taskguide/migration/policy"
)

// benchSimFlags are those of vmm bench sim.
type benchSimFlags struct {
	policies        string
	guidance        cli.Words
	bandwidth       cli.List[int64]
	rtt             cli.List[time.Duration]
	memory          cli.List[int64]
	growth          cli.Choice[sim.Growth]
	compress        cli.Choice[sim.Compress]
	gate            cli.Choice[sim.Quorum]
	onTimeout       cli.Choice[policy.OnTimeout]
	maxDefer, limit time.Duration
	costs           sim.Costs
	atExit          bool
	output          simOutput
}

// simOutput are the flags that simulations have in common.
type simOutput struct {
	moments int
	seed    uint64
	shard   shardFlag
	asJSON  bool
	out     string
	// checks writes the cells of a map that real moves can check, unless it is nil.
	checks func(simrun.MapSummary) error
}

func (f *simOutput) define(cmd *cobra.Command, moments int) {
	fs := cmd.Flags()
	fs.IntVar(&f.moments, "moments", moments,
		"how many moments of request, spread over the trace")
	fs.Uint64Var(&f.seed, "seed", 1, "of all that is random")
	fs.Var(&f.shard, "shard", "simulate part I of N; vmm bench report joins parts")
	fs.BoolVar(&f.asJSON, "json", false, "print the summary as JSON")
	fs.StringVar(&f.out, "out", "", "folder for the results, new or empty")
	cli.CompleteFlag(cmd, "out", cli.Folders)
}

func (f *simOutput) check() error {
	switch {
	case f.moments < 1:
		return cli.Usagef("--moments %d: use 1 or more", f.moments)
	case f.shard.shard.Of > 0 && f.out == "":
		return cli.Usagef("--shard: parts are joined from folders: name one with --out")
	case f.out == "":
		return nil
	}
	// Before an hour of simulation, whose results would have no place.
	if err := simrun.Vacant(f.out); err != nil {
		return cli.Usagef("--out: %w", err)
	}
	return nil
}

// run carries an order out. Its map, if it has one, is made of the results.
func (f *simOutput) run(o simrun.Order, m *simrun.Map, std cli.Streams) error {
	ctx, stop := cli.UntilSignal(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o.Moments, o.Seed, o.Shard = f.moments, f.seed, f.shard.shard
	o.VMM, o.Validations = version.Here(version.Machine{}).Short(), sim.Validations
	c, err := simrun.Run(ctx, o, showSimulated(std.Err))
	cli.EraseEcho(std.Err)
	if err != nil {
		return err
	}
	c.Map = m
	var unsaved, unchecked error
	if f.out != "" {
		unsaved = c.Save(f.out)
	}
	if f.checks != nil {
		unchecked = f.checks(c.MapSummary())
	}
	// What cannot be kept is printed all the same.
	return errors.Join(printSimulation(std.Out, c, f.asJSON), unsaved, unchecked)
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
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, args, std)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.policies, "policies", "xen,downtime,oracle",
		"policies, each as --policy has it, and oracle, which knows the trace")
	fs.Var(&f.guidance, "guidance", "guidance of each policy")
	f.bandwidth = cli.ListOf("RATE", "1Gbit", units.ParseBitRate)
	f.rtt = cli.ListOf("D", "100us", units.ParseDuration)
	f.memory = cli.ListOf("SIZE", "", units.ParseBytes)
	fs.Var(&f.bandwidth, "bandwidth", "of the page stream, as in 1Gbit,10Gbit: each of them")
	fs.Var(&f.rtt, "rtt", "round trip of the link")
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
	f.costs = hostCosts()
	defineCosts(cmd, &f.costs)
	f.output.define(cmd, 20)
	return cmd
}

// hostCosts are the costs but for those that a trace has of its own host.
func hostCosts() sim.Costs {
	costs := sim.DefaultCosts()
	costs.Pack = 0
	return costs
}

// defineCosts defines flags for what steps cost on another host than the one of the defaults.
func defineCosts(cmd *cobra.Command, c *sim.Costs) {
	fs := cmd.Flags()
	cli.DurationVar(fs, &c.Handover, "handover", c.Handover,
		"part of a downtime that depends on neither pages nor link")
	cli.DurationVar(fs, &c.Page, "page-cost", c.Page,
		"of a host, to look at a page and to copy it")
	fs.IntVar(&c.Processors, "processors", c.Processors,
		"that the guest and both ends of its move share; 0 is as many as they need")
}

func someTraces(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cli.Usagef("no trace given: name a folder that vmm trace has made")
	}
	return nil
}

func (f *benchSimFlags) run(cmd *cobra.Command, traces []string, std cli.Streams) error {
	o, err := f.order(traces)
	if err != nil {
		return err
	}
	cli.PrintNotes(cmd, f.withoutEffect(cmd, o.Entrants))
	return f.output.run(o, nil, std)
}

// withoutEffect returns the notes about a command line.
func (f *benchSimFlags) withoutEffect(cmd *cobra.Command, all []sim.Entrant) []cli.Note {
	var notes []cli.Note
	add := func(why string, names ...string) {
		if flags := cli.Given(cmd, names...); len(flags) > 0 {
			notes = append(notes, cli.Note{Flags: flags, Why: why})
		}
	}
	if len(f.memory.Values) == 0 {
		add("no effect without --memory: the guest has its own RAM", "grow")
	}
	guided := func(e sim.Entrant) bool { return e.Guidance != policy.GuidanceOff }
	if !slices.ContainsFunc(all, guided) {
		add("no effect without guidance, where nothing waits for the gate",
			"gate", "switch-at-exit", "max-defer", "on-timeout")
	}
	limited := func(e sim.Entrant) bool {
		return !e.Knows && e.Policy.Value("limit", nil) != "" &&
			!strings.Contains(e.Policy.String(), "limit=")
	}
	if !slices.ContainsFunc(all, limited) {
		add("no effect: every policy with a limit has one of its own", "downtime-limit")
	}
	return notes
}

func (f *benchSimFlags) order(traces []string) (simrun.Order, error) {
	if err := f.output.check(); err != nil {
		return simrun.Order{}, err
	}
	if err := f.costs.Check(); err != nil {
		return simrun.Order{}, cli.Usagef("%w", err)
	}
	var guidance []policy.Guidance
	for _, word := range f.guidance.Values {
		guidance = append(guidance, policy.Guidance(word))
	}
	entrants, err := sim.Entrants(sim.SplitPolicies(f.policies), guidance, sim.Order{
		AtExit: f.atExit, Gate: f.gate.Value, MaxDefer: f.maxDefer, OnTimeout: f.onTimeout.Value,
		Limit: f.limit,
	})
	if err != nil {
		return simrun.Order{}, cli.Usagef("--policies: %w", err)
	}
	cells, err := f.cells()
	if err != nil {
		return simrun.Order{}, err
	}
	o := simrun.Order{Entrants: entrants}
	for _, t := range traces {
		o.Subjects = append(o.Subjects, simrun.Recorded(t, cells))
	}
	return o, nil
}

// cells are all combinations of memory, bandwidth and round trip.
func (f *benchSimFlags) cells() ([]simrun.Cell, error) {
	sizes := f.memory.Values
	if len(sizes) == 0 {
		sizes = []int64{0}
	}
	var cells []simrun.Cell
	for _, size := range sizes {
		if size%memory.PageSize != 0 {
			return nil, cli.Usagef("--memory %d: use whole pages of 4 KiB", size)
		}
		for _, rate := range f.bandwidth.Values {
			for _, rtt := range f.rtt.Values {
				cells = append(cells, simrun.Cell{
					MemoryBytes: size, Growth: f.growth.Value, Setting: sim.Setting{
						BitsPerSecond: rate, RTT: rtt, Compress: f.compress.Value, Costs: f.costs,
					},
				})
			}
		}
	}
	return cells, nil
}

// printSimulation prints a comparison, as tables or as JSON.
func printSimulation(w io.Writer, c simrun.Comparison, asJSON bool) error {
	switch {
	case asJSON && c.Map != nil:
		return json.NewEncoder(w).Encode(c.MapSummary())
	case asJSON:
		return json.NewEncoder(w).Encode(c.Results)
	}
	return c.Write(w)
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
