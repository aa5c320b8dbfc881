package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"taskguide/bench/sim"
	"taskguide/bench/simrun"
	"taskguide/cmd/cli"
	"taskguide/control/units"
	"taskguide/memory"
	"taskguide/migration/policy"
)

// benchMapFlags are those of vmm bench map.
type benchMapFlags struct {
	busy, limits            cli.List[time.Duration]
	ratios                  cli.List[float64]
	calm, interval          time.Duration
	memory, workingSet, hot cli.Size
	bandwidth               cli.Rate
	jitter                  int
	policy                  string
	guidance                cli.Choice[policy.Guidance]
	maxDefer                time.Duration
	checkFile               string
	costs                   sim.Costs
	output                  simOutput
}

func newBenchMap(std cli.Streams) *cobra.Command {
	f := benchMapFlags{
		busy:   cli.ListOf("D", "250ms,500ms,1s,2s,4s,8s,16s,32s", units.ParseDuration),
		limits: cli.ListOf("D", "30ms,100ms,300ms", units.ParseDuration),
		ratios: cli.ListOf("RATIO", "0.125,0.25,0.5,1,2,4,8", parseRatio),
		memory: cli.NewSize("96M"), workingSet: cli.NewSize("64M"), hot: cli.NewSize("1M"),
		guidance: cli.Choose(policy.GuidanceSwitchover, policy.GuidanceSuspend,
			policy.GuidanceStart),
		costs: hostCosts(),
	}
	cmd := &cobra.Command{
		Use:   "map",
		Short: "draw, by simulation, where guidance pays",
		Long: `Simulate moves of synthetic guests, as vmm bench trace-gen makes them, for each
length of the busy phase, dirty rate and downtime limit. Each cell of the map
compares a guided policy with the best one that needs no tags: xen, downtime,
qemu, ramp, stall or cycle. docs/simulator.md says what is modelled.`,
		Args: cli.Exactly(0, "no arguments, only flags"),
		RunE: func(*cobra.Command, []string) error { return f.run(std) },
	}
	fs := cmd.Flags()
	fs.Var(&f.busy, "busy", "lengths of the busy phase")
	fs.Var(&f.ratios, "rates", "dirty rates of the busy phase, as parts of the bandwidth")
	fs.Var(&f.limits, "downtime-limits", "downtime limits, each for a panel of its own")
	cli.DurationVar(fs, &f.calm, "calm", time.Second, "length of the calm phase")
	fs.Var(&f.memory, "memory", "RAM of the guests")
	fs.Var(&f.workingSet, "working-set", "what busy phases rewrite, page by page")
	fs.Var(&f.hot, "hot", "part of it that calm phases rewrite, all of it each ms")
	_ = f.bandwidth.Set("1Gbit")
	fs.Var(&f.bandwidth, "bandwidth", "of the page stream")
	fs.IntVar(&f.jitter, "jitter", 20, "percent by which a phase is at most longer or shorter")
	cli.DurationVar(fs, &f.interval, "interval", 10*time.Millisecond,
		"length of a trace's interval")
	fs.StringVar(&f.policy, "policy", policy.Default, "that has the tags")
	fs.Var(&f.guidance, "guidance", "of it")
	cli.DurationVar(fs, &f.maxDefer, "max-defer", time.Minute, "how long guidance may defer a move")
	defineCosts(cmd, &f.costs)
	fs.StringVar(&f.checkFile, "check-file", "",
		"write six of the cells as an experiment for vmm bench custom, into this new file")
	f.output.define(cmd, 40)
	return cmd
}

// parseRatio reads a positive number.
func parseRatio(s string) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v > 0 && v <= 1000) {
		return 0, fmt.Errorf("%q: use a number above 0 and up to 1000", s)
	}
	return v, nil
}

func (f *benchMapFlags) run(std cli.Streams) error {
	m, err := f.order()
	if err != nil {
		return err
	}
	o, made, err := m.Order()
	if err != nil {
		return err
	}
	if f.checkFile == "" {
		return f.output.run(o, &made, std)
	}
	// The file is made first: an hour of simulation for a name that cannot be written is too much.
	file, err := os.OpenFile(f.checkFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return cli.Usagef("--check-file: %w", err)
	}
	f.output.checks = func(s simrun.MapSummary) error { return s.WriteCheck(file) }
	if err := f.output.run(o, &made, std); err != nil {
		file.Close()
		os.Remove(f.checkFile)
		return err
	}
	return file.Close()
}

// order refuses what makes no map.
func (f *benchMapFlags) order() (simrun.MapOrder, error) {
	guided, err := policy.Parse(f.policy)
	switch {
	case err != nil:
		return simrun.MapOrder{}, cli.Usagef("--policy: %w", err)
	case f.bandwidth.BitsPerSecond <= 0:
		return simrun.MapOrder{}, cli.Usagef("--bandwidth: the map's rates are parts of it: " +
			"use more than 0")
	case f.checkFile != "" && f.output.shard.shard.Of > 0:
		return simrun.MapOrder{}, cli.Usagef("--check-file: it wants the whole map: leave out " +
			"--shard")
	case f.jitter < 0 || f.jitter > 100:
		return simrun.MapOrder{}, cli.Usagef("--jitter %d: use 0 to 100", f.jitter)
	case f.workingSet.Bytes < memory.PageSize:
		return simrun.MapOrder{}, cli.Usagef("--working-set %s: use at least a page",
			f.workingSet.String())
	case f.workingSet.Bytes > f.memory.Bytes:
		return simrun.MapOrder{}, cli.Usagef("--working-set %s: it is more than --memory %s",
			f.workingSet.String(), f.memory.String())
	case f.hot.Bytes > f.workingSet.Bytes:
		return simrun.MapOrder{}, cli.Usagef("--hot %s: it is more than --working-set %s",
			f.hot.String(), f.workingSet.String())
	}
	if err := f.output.check(); err != nil {
		return simrun.MapOrder{}, err
	}
	if err := f.costs.Check(); err != nil {
		return simrun.MapOrder{}, cli.Usagef("%w", err)
	}
	order := sim.DefaultOrder(guided, f.guidance.Value)
	order.MaxDefer = f.maxDefer
	m := simrun.MapOrder{
		Busy: f.busy.Values, Ratios: f.ratios.Values, Limits: f.limits.Values, Guided: order,
		Guest: sim.Synthetic{
			Pages:      int(f.memory.Bytes / memory.PageSize),
			WorkingSet: int(f.workingSet.Bytes / memory.PageSize),
			Hot:        int(f.hot.Bytes / memory.PageSize), Calm: f.calm,
			// Nearly as fast as the embedded guest, by which --check-file checks the map.
			CalmRate: 1000 * float64(f.hot.Bytes/memory.PageSize),
			Jitter:   float64(f.jitter) / 100, Packed: memory.PageSize, Interval: f.interval,
			Seed: f.output.seed,
		},
		Setting: sim.Setting{
			BitsPerSecond: f.bandwidth.BitsPerSecond, RTT: 100 * time.Microsecond,
			Compress: sim.CompressNone, Protection: sim.OnDemand, Costs: f.costs,
		},
	}
	return m, nil
}
