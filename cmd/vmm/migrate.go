package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/control"
	"taskguide/control/process"
	"taskguide/control/show"
	"taskguide/migration"
	"taskguide/tagging"
)

// migrateFlags are the flags of vmm migrate that need more than a field of migration.Params.
type migrateFlags struct {
	params       migration.Params
	policy       cli.Policy
	shadow       cli.Policies
	guidance     cli.Choice[migration.Guidance]
	gate         cli.Choice[tagging.Quorum]
	onTimeout    cli.Choice[migration.OnTimeout]
	compress     cli.Choice[migration.Compress]
	bandwidth    cli.Rate
	switchAtExit bool
	json         bool
}

func newMigrateFlags() *migrateFlags {
	return &migrateFlags{
		policy: cli.NewPolicy(),
		guidance: cli.Choose(migration.GuidanceSwitchover, migration.GuidanceSuspend,
			migration.GuidanceStart, migration.GuidanceOff),
		gate:      cli.Choose(tagging.All, tagging.Any),
		onTimeout: cli.Choose(migration.TimeoutForce, migration.TimeoutCancel),
		compress: cli.Choose(migration.CompressAuto, migration.CompressZstd,
			migration.CompressNone),
	}
}

func newMigrate(std cli.Streams) *cobra.Command {
	m := newMigrateFlags()
	cmd := &cobra.Command{
		Use:   "migrate NAME|PATH tcp:HOST:PORT|unix:PATH",
		Short: "move a running VM to a vmm run --incoming",
		Long: `Move a running VM to where vmm run --incoming waits for it. The exit status is 0
only when the guest runs there. Otherwise it is still here, as it was, or paused
if the destination was lost in the last moment or a disk cannot be locked again.
One line says why. Ctrl-C cancels the migration.

` + cli.PolicyHelp(),
		Args: cli.Exactly(2, "a VM and a destination"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := m.order(cmd, args[1])
			if err != nil {
				return cli.UsageOf(err)
			}
			cli.OutliveOutputs()
			cli.PrintNotes(cmd, m.withoutEffect(cmd, p))
			return suggestVM(cmd.Context(), args[0], m.migrate(args[0], p, std))
		},
		ValidArgsFunction: completeMigrate,
	}
	m.define(cmd)
	return cmd
}

func (m *migrateFlags) define(cmd *cobra.Command) {
	f, defaults := cmd.Flags(), migration.Defaults()
	f.Var(&m.policy, "policy", "when pre-copy has converged; see the list above")
	f.Var(&m.policy, "rule", "the same")
	cli.CompleteFlag(cmd, "policy", cli.CompletePolicy)
	cli.CompleteFlag(cmd, "rule", cli.CompletePolicy)
	cli.DurationVar(f, &m.params.PolicyLimit, "policy-limit", migration.DefaultPolicyLimit,
		"how long the program of --policy exec:PROGRAM may lead")
	f.Var(&m.shadow, "shadow", "ask these policies, too, and report what they would have done")
	cli.CompleteFlag(cmd, "shadow", cli.CompletePolicy)
	cli.DurationVar(f, &m.params.DowntimeLimit, "downtime-limit", defaults.DowntimeLimit,
		"limit of the downtime, for policies that have one; 0: until no page is dirty")
	f.IntVar(&m.params.MaxRounds, "max-rounds", 0,
		"end pre-copy after so many rounds, 0: the policy's default")
	f.Var(&m.guidance, "guidance", "what a closed gate holds back, "+m.guidance.List())
	f.Var(&m.gate, "gate", "which tasks must be inside a segment for the gate to be open")
	f.BoolVar(&m.switchAtExit, "switch-at-exit", false, "switch over when the last segment is "+
		"about to close (default on with --guidance switchover)")
	cli.DurationVar(f, &m.params.MaxDefer, "max-defer", defaults.MaxDefer,
		"by how much guidance may defer the migration in total; 0: not at all")
	cli.DurationVar(f, &m.params.StandstillLimit, "standstill-limit", 0,
		"how long the guest may stand still before a switchover is taken back; 0: any time "+
			"(default 10 times --downtime-limit, at least 1s; none once the rule gave up)")
	f.IntVar(&m.params.StandstillRetries, "standstill-retries", defaults.StandstillRetries,
		"the migration fails with so many switchovers taken back")
	f.Var(&m.onTimeout, "on-timeout", "what happens after --max-defer")
	f.Var(&m.bandwidth, "bandwidth", "limit of the page stream, as in 1Gbit (default: none)")
	f.IntVar(&m.params.Channels, "channels", 0,
		"parallel connections, 1 to 16 (default: what fits)")
	f.Var(&m.compress, "compress", "encoding of pages that are not zero")
	f.BoolVar(&m.params.Delta, "delta", false, "send differences to the version sent before")
	f.BoolVar(&m.params.Verify, "verify", false,
		"compare all of RAM and the machine's state on both sides, while paused")
	f.StringVar(&m.params.TLSDir, "tls-dir", "",
		"use TLS, with ca.pem, cert.pem and key.pem of this directory")
	cli.CompleteFlag(cmd, "tls-dir", cli.Folders)
	f.BoolVar(&m.params.Insecure, "insecure", false, "let the guest go to another host without TLS")
	f.BoolVar(&m.json, "json", false,
		"print the final report as JSON, and nothing else, on standard output")
}

// order returns the parameters that the flags give.
func (m *migrateFlags) order(cmd *cobra.Command, destination string) (migration.Params, error) {
	p := m.params
	p.Rule = migration.Rule(m.policy.Choice.String())
	p.Shadow = m.shadow.String()
	p.Guidance, p.Gate = m.guidance.Value, m.gate.Value
	p.OnTimeout, p.Compress = m.onTimeout.Value, m.compress.Value
	p.BitsPerSecond = m.bandwidth.BitsPerSecond
	changed := cmd.Flags().Changed
	if changed("policy") && changed("rule") {
		return p, errors.New("--policy and --rule are the same: use one of them")
	}
	if changed("policy-limit") && p.PolicyLimit <= 0 {
		return p, fmt.Errorf("--policy-limit %v: use more than 0", p.PolicyLimit)
	}
	if !changed("policy-limit") {
		p.PolicyLimit = 0 // the default, which a process from before it knows nothing of
	}
	if changed("switch-at-exit") {
		p.SwitchAtExit = &m.switchAtExit
	}
	if p.MaxRounds < 0 {
		return p, fmt.Errorf("--max-rounds %d: use 1 or more, or 0 for the policy's default",
			p.MaxRounds)
	}
	if changed("channels") && (p.Channels < 1 || p.Channels > migration.MaxChannels) {
		return p, fmt.Errorf("--channels %d: use 1 to %d", p.Channels, migration.MaxChannels)
	}
	if changed("bandwidth") && p.BitsPerSecond == 0 {
		return p, errors.New("--bandwidth 0: nothing would be sent: leave it out for no limit")
	}
	if p.StandstillRetries < 1 {
		return p, fmt.Errorf("--standstill-retries %d: use 1 or more; "+
			"with 1 the migration fails with the first", p.StandstillRetries)
	}
	if changed("standstill-limit") && p.StandstillLimit == 0 {
		p.StandstillLimit = migration.NoStandstillLimit
	}
	// In Params 0 stands for the default, but a user who types 0 means it.
	for _, d := range []*time.Duration{&p.DowntimeLimit, &p.MaxDefer} {
		if *d == 0 {
			*d = migration.NoTime
		}
	}
	if !changed("downtime-limit") {
		p.DowntimeLimit = 0 // the policy has its own default
	}
	var err error
	if p.Destination, err = process.AbsoluteAddress(destination); err != nil {
		return p, err
	}
	if p.TLSDir != "" {
		if p.TLSDir, err = filepath.Abs(p.TLSDir); err != nil {
			return p, fmt.Errorf("--tls-dir: %w", err)
		}
	}
	if p.Insecure && p.TLSDir != "" {
		return p, errors.New("--insecure with --tls-dir: use one of them")
	}
	if err := p.CheckWay(); err != nil {
		return p, err
	}
	return p.WithDefaults()
}

func (m *migrateFlags) migrate(name string, p migration.Params, std cli.Streams) error {
	client, err := control.NewClient(name)
	if err != nil {
		return cli.UsageOf(err)
	}
	defer client.Close()
	ctx, stop := cli.UntilSignal(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second Ctrl-C ends this program at once. The cancellation goes on without it.
	echoed := make(chan struct{})
	uninterrupted := context.AfterFunc(ctx, func() {
		defer close(echoed)
		stop()
		cli.EndLine(m.screen(std), std.Err)
	})
	progress := m.progress(std)
	report, err := client.Migrate(ctx, p, progress.Event)
	progress.Close()
	if !uninterrupted() {
		<-echoed
		cli.EraseEcho(m.screen(std))
	}
	if err != nil {
		return err
	}
	if m.json {
		if err := writeJSON(std.Out, report); err != nil {
			// The exit status says what became of the guest, so this error must not change it.
			cli.Say(std.Err, fmt.Sprintf("vmm: the report cannot be written: %v", err))
		}
	} else if report.Status == migration.StatusCompleted {
		show.Outcome(std.Out, report)
	}
	if report.Status != migration.StatusCompleted {
		return fmt.Errorf("migration %s; %s", outcome(report), whereabouts(client))
	}
	return nil
}

// outcome says how a migration that did not complete ended, and adds the reason if that says more.
func outcome(r migration.Report) string {
	if r.Error == string(r.Status) {
		return r.Error
	}
	return fmt.Sprintf("%s: %s", r.Status, r.Error)
}

// screen is where the progress is shown: never on the standard output of --json.
func (m *migrateFlags) screen(std cli.Streams) *os.File {
	if m.json {
		return std.Err
	}
	return std.Out
}

// progress chooses how to show the progress: live on a terminal, in lines otherwise.
func (m *migrateFlags) progress(std cli.Streams) show.Progress {
	w := m.screen(std)
	switch {
	case process.IsTerminal(w):
		return show.NewLive(w)
	case m.json:
		return show.Discard{}
	}
	return show.NewPlain(w)
}

// whereabouts says what became of a guest that did not move.
func whereabouts(client *control.Client) string {
	vm, err := client.VM(context.Background())
	switch {
	case errors.Is(err, control.ErrNotAnswering):
		return err.Error()
	case err != nil, vm.State == control.StateStopped, vm.Stopping:
		return "the VM was stopped or has ended, and its guest with it"
	}
	switch vm.State {
	case control.StateRunning:
		return "the guest still runs here"
	case control.StatePaused:
		return "the guest is still here, paused; vmm resume lets it run"
	case control.StateUnknown:
		return "the guest is kept paused here, as it may run there, and the destination is asked " +
			"on; or see there, then vmm stop --force or vmm resume --force"
	default:
		return "the VM is " + string(vm.State)
	}
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
