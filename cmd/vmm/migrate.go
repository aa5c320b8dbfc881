package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"taskguide/control"
	"taskguide/control/host"
	"taskguide/control/show"
	"taskguide/migration"
	"taskguide/tagging"
)

// migrateFlags are those of vmm migrate that need more than a field of migration.Params.
type migrateFlags struct {
	params       migration.Params
	rule         choice[migration.Rule]
	guidance     choice[migration.Guidance]
	gate         choice[tagging.Policy]
	onTimeout    choice[migration.OnTimeout]
	compress     choice[migration.Compress]
	bandwidth    rateFlag
	switchAtExit bool
	json         bool
}

func newMigrateFlags() *migrateFlags {
	return &migrateFlags{
		rule: choose(migration.RuleDowntime, migration.RuleXen),
		guidance: choose(migration.GuidanceSwitchover, migration.GuidanceSuspend, migration.GuidanceStart,
			migration.GuidanceOff),
		gate:      choose(tagging.All, tagging.Any),
		onTimeout: choose(migration.TimeoutForce, migration.TimeoutCancel),
		compress:  choose(migration.CompressAuto, migration.CompressZstd, migration.CompressNone),
	}
}

func newMigrate(std streams) *cobra.Command {
	m := newMigrateFlags()
	cmd := &cobra.Command{
		Use:   "migrate NAME|PATH tcp:HOST:PORT|unix:PATH",
		Short: "move a running VM to a vmm run --incoming",
		Long: `Move a running VM to where vmm run --incoming waits for it. The exit status is 0 only when the guest runs there; on
any other outcome it still runs here, and one line says why. Ctrl-C cancels the migration.`,
		Args: exactly(2, "a VM and a destination"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := m.order(cmd, args[1])
			if err != nil {
				return usageError{err}
			}
			return m.migrate(args[0], p, std)
		},
	}
	m.define(cmd)
	return cmd
}

func (m *migrateFlags) define(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(&m.rule, "rule", "when pre-copy has converged: the rest fits --downtime-limit, or Xen's classic rules")
	f.DurationVar(&m.params.DowntimeLimit, "downtime-limit", migration.DefaultDowntimeLimit, "for --rule downtime; 0: until no page is dirty")
	f.IntVar(&m.params.MaxRounds, "max-rounds", 0, "end pre-copy after so many rounds (default: 29 with --rule xen, else no limit)")
	f.Var(&m.guidance, "guidance", "what a closed gate holds back")
	f.Var(&m.gate, "gate", "which tasks must be inside a segment for the gate to be open")
	f.BoolVar(&m.switchAtExit, "switch-at-exit", false, "switch over when the last segment is about to close (default on with --guidance switchover)")
	f.DurationVar(&m.params.MaxDefer, "max-defer", migration.DefaultMaxDefer, "how long in total the gate may hold the migration back; 0: not at all")
	f.Var(&m.onTimeout, "on-timeout", "what happens after --max-defer")
	f.Var(&m.bandwidth, "bandwidth", "limit of the page stream, as in 1Gbit (default: none)")
	f.IntVar(&m.params.Channels, "channels", 0, "parallel connections, 1 to 16 (default: what fits)")
	f.Var(&m.compress, "compress", "encoding of pages that are not zero")
	f.BoolVar(&m.params.Delta, "delta", false, "send differences to the version sent before")
	f.BoolVar(&m.params.Verify, "verify", false, "compare all of RAM and the machine's state on both sides, while paused")
	f.StringVar(&m.params.TLSDir, "tls-dir", "", "use TLS, with ca.pem, cert.pem and key.pem of this directory")
	f.BoolVar(&m.json, "json", false, "print the final report as JSON, and nothing else, on standard output")
}

// order turns the flags into parameters.
func (m *migrateFlags) order(cmd *cobra.Command, destination string) (migration.Params, error) {
	p := m.params
	p.Rule, p.Guidance, p.Gate = m.rule.value, m.guidance.value, m.gate.value
	p.OnTimeout, p.Compress, p.BitsPerSecond = m.onTimeout.value, m.compress.value, m.bandwidth.bitsPerSecond
	changed := cmd.Flags().Changed
	if changed("switch-at-exit") {
		p.SwitchAtExit = &m.switchAtExit
	}
	if changed("channels") && p.Channels == 0 {
		return p, fmt.Errorf("--channels 0: use 1 to %d", migration.MaxChannels)
	}
	if changed("bandwidth") && p.BitsPerSecond == 0 {
		return p, errors.New("--bandwidth 0: nothing would be sent: leave it out for no limit")
	}
	// In Params 0 stands for the default; who types 0 wants as little as can be.
	for _, d := range []*time.Duration{&p.DowntimeLimit, &p.MaxDefer} {
		if *d == 0 {
			*d = time.Nanosecond
		}
	}
	var err error
	if p.Destination, err = host.AbsoluteAddress(destination); err != nil {
		return p, err
	}
	if p.TLSDir != "" {
		if p.TLSDir, err = filepath.Abs(p.TLSDir); err != nil {
			return p, fmt.Errorf("--tls-dir: %w", err)
		}
	}
	return p.WithDefaults()
}

func (m *migrateFlags) migrate(name string, p migration.Params, std streams) error {
	client, err := control.NewClient(name)
	if err != nil {
		return usageError{err}
	}
	defer client.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second Ctrl-C ends this program at once; the cancellation goes on without it.
	context.AfterFunc(ctx, stop)
	progress := m.progress(std)
	report, err := client.Migrate(ctx, p, progress.Event)
	progress.Close()
	if err != nil {
		return err
	}
	if m.json {
		if err := writeJSON(std.out, report); err != nil {
			return err
		}
	} else if report.Status == migration.StatusCompleted {
		show.Outcome(std.out, report)
	}
	if report.Status != migration.StatusCompleted {
		return fmt.Errorf("migration %s: %s; %s", report.Status, report.Error, whereabouts(client))
	}
	return nil
}

// progress chooses how to show the way: live on a terminal, in lines otherwise, and never on the standard output of
// --json.
func (m *migrateFlags) progress(std streams) show.Progress {
	switch {
	case m.json && host.IsTerminal(std.err):
		return show.NewLive(std.err)
	case m.json:
		return show.Discard{}
	case host.IsTerminal(std.out):
		return show.NewLive(std.out)
	default:
		return show.NewPlain(std.out)
	}
}

// whereabouts says what has become of a guest that did not move.
func whereabouts(client *control.Client) string {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	vm, err := client.VM(ctx)
	if err != nil {
		return "its process has ended"
	}
	switch vm.State {
	case control.StateRunning:
		return "the guest still runs here"
	case control.StatePaused:
		return "the guest is still here, paused as before"
	case control.StateUnknown:
		return "the guest is kept paused here, as it may run there: see there, then vmm stop or vmm resume --force"
	default:
		return "the VM is " + string(vm.State)
	}
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
