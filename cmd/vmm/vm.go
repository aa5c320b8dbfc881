package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/control"
	"taskguide/control/show"
	"taskguide/migration"
)

const (
	// cancelTimeout is how long a cancelled migration may take to end. A migration past its commit
	// completes first.
	cancelTimeout = 3 * time.Minute
)

// onVM makes a command about one VM. It calls act with a client of that VM.
func onVM(use, short string, act func(context.Context, *control.Client) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " NAME|PATH",
		Short: short,
		Args:  cli.Exactly(1, "the name of a VM, or its control socket"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := control.NewClient(args[0])
			if err != nil {
				return cli.UsageOf(err)
			}
			defer client.Close()
			return suggestVM(cmd.Context(), args[0], act(cmd.Context(), client))
		},
		ValidArgsFunction: completeVM,
	}
}

// within bounds the time of a call.
func within[T any](
	ctx context.Context, timeout time.Duration, call func(context.Context) (T, error),
) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return call(ctx)
}

func newStatus(std cli.Streams) *cobra.Command {
	asJSON := false
	cmd := onVM("status", "show what a VM is doing",
		func(ctx context.Context, c *control.Client) error {
			vm, err := c.VM(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(std.Out, vm)
			}
			show.VM(std.Out, vm)
			return nil
		})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newPause(std cli.Streams) *cobra.Command {
	return onVM("pause", "stop a VM's vCPUs", func(ctx context.Context, c *control.Client) error {
		_, err := c.Pause(ctx)
		return err
	})
}

func newResume(std cli.Streams) *cobra.Command {
	force := false
	cmd := onVM("resume", "let a paused VM run again",
		func(ctx context.Context, c *control.Client) error {
			mode := control.ResumeSafe
			if force {
				mode = control.ResumeForced
			}
			_, err := c.Resume(ctx, mode)
			return err
		})
	cmd.Flags().BoolVar(&force, "force", false,
		"even if a destination that was lost may run the guest: you have seen that it does not")
	return cmd
}

func newStop(std cli.Streams) *cobra.Command {
	force, now := false, false
	stop := func(ctx context.Context, c *control.Client) error {
		mode := control.StopSafe
		switch {
		case force:
			mode = control.StopForced
		case now:
			mode = control.StopNow
		}
		// Wait as long as its process shows that it is alive, because the VM decides how much time
		// its guest has.
		_, err := c.Stop(ctx, mode)
		return err
	}
	cmd := onVM("stop", "end a VM; a migration under way is cancelled first", stop)
	cmd.Flags().BoolVar(&now, "now", false, "at once, without asking the guest to shut down")
	cmd.Flags().BoolVar(&force, "force", false, "even if this may be the only copy of the guest")
	return cmd
}

func newDebug(std cli.Streams) *cobra.Command {
	asJSON := false
	look := func(ctx context.Context, c *control.Client) error {
		debug, err := c.Debug(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(std.Out, debug)
		}
		return show.Debug(std.Out, debug)
	}
	cmd := onVM("debug", "show what a VM's vCPUs are doing, while they go on", look)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newCancel(std cli.Streams) *cobra.Command {
	asJSON := false
	cmd := onVM("cancel", "cancel the migration under way",
		func(ctx context.Context, c *control.Client) error {
			report, err := within(ctx, cancelTimeout, c.CancelMigration)
			if err != nil {
				return err
			}
			if asJSON {
				if err := writeJSON(std.Out, report); err != nil {
					return err
				}
			}
			if report.Status == migration.StatusCompleted {
				return fmt.Errorf("too late to cancel: the guest already runs at %s",
					report.Destination)
			}
			switch vm, err := c.VM(ctx); {
			case err != nil:
			case vm.State == control.StateUnknown, vm.State == control.StateMoved:
				return errors.New("too late to cancel: " + whereabouts(c))
			}
			return nil
		})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the migration's report as JSON")
	return cmd
}

func newList(std cli.Streams) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the VMs of the runtime directory",
		Args:  cli.Exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			vms, err := list(cmd)
			switch {
			case err != nil:
				return err
			case asJSON:
				return writeJSON(std.Out, vms)
			case len(vms) == 0:
				cmd.PrintErrf("no VMs in %s\n", control.RuntimeDir())
				return nil
			}
			return show.VMs(std.Out, vms)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// list returns the VMs of the runtime directory. A VM that does not answer is named on standard
// error and does not hide the others.
func list(cmd *cobra.Command) ([]control.VM, error) {
	names, err := control.Names()
	if err != nil {
		return nil, err
	}
	vms := []control.VM{}
	for _, a := range askAll(cmd.Context(), names) {
		switch {
		case a.err == nil:
			vms = append(vms, a.vm)
		case !errors.Is(a.err, control.ErrNotRunning):
			cmd.PrintErrf("vmm: %v\n", a.err)
		}
	}
	return vms, nil
}

// answer is a VM's description of itself, or the error instead.
type answer struct {
	vm  control.VM
	err error
}

// askAll asks all VMs at the same time.
func askAll(ctx context.Context, names []string) []answer {
	answers := make([]answer, len(names))
	var asking sync.WaitGroup
	for i, name := range names {
		asking.Go(func() { answers[i].vm, answers[i].err = ask(ctx, name) })
	}
	asking.Wait()
	return answers
}

// ask asks the VM of that name. A name that vmm run would refuse counts as not running.
func ask(ctx context.Context, name string) (control.VM, error) {
	client, err := control.NewClient(name)
	if err != nil {
		return control.VM{}, control.ErrNotRunning
	}
	defer client.Close()
	return client.VM(ctx)
}
