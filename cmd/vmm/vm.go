package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"taskguide/control"
	"taskguide/control/show"
	"taskguide/migration"
)

const (
	// answerTimeout bounds how long a VM's process may take to say how it is doing.
	answerTimeout = 5 * time.Second
	// stopTimeout bounds how long it may take to end; a migration past its commit completes first.
	stopTimeout = 3 * time.Minute
)

// onVM makes a command about one VM, which act is called with a client of.
func onVM(use, short string, act func(context.Context, *control.Client) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " NAME|PATH",
		Short: short,
		Args:  exactly(1, "the name of a VM, or its control socket"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := control.NewClient(args[0])
			if err != nil {
				return usageError{err}
			}
			defer client.Close()
			return act(context.Background(), client)
		},
	}
}

// within bounds a call.
func within[T any](ctx context.Context, timeout time.Duration, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return call(ctx)
}

func newStatus(std streams) *cobra.Command {
	asJSON := false
	cmd := onVM("status", "show what a VM is doing", func(ctx context.Context, c *control.Client) error {
		vm, err := within(ctx, answerTimeout, c.VM)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(std.out, vm)
		}
		show.VM(std.out, vm)
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newPause(std streams) *cobra.Command {
	return onVM("pause", "stop a VM's vCPUs", func(ctx context.Context, c *control.Client) error {
		_, err := within(ctx, answerTimeout, c.Pause)
		return err
	})
}

func newResume(std streams) *cobra.Command {
	force := false
	cmd := onVM("resume", "let a paused VM run again", func(ctx context.Context, c *control.Client) error {
		mode := control.ResumeSafe
		if force {
			mode = control.ResumeForced
		}
		_, err := within(ctx, answerTimeout, func(ctx context.Context) (control.VM, error) { return c.Resume(ctx, mode) })
		return err
	})
	cmd.Flags().BoolVar(&force, "force", false, "even if a destination that was lost may run the guest: you know that it does not")
	return cmd
}

func newStop(std streams) *cobra.Command {
	return onVM("stop", "end a VM; a migration under way is cancelled first", func(ctx context.Context, c *control.Client) error {
		_, err := within(ctx, stopTimeout, c.Stop)
		return err
	})
}

func newCancel(std streams) *cobra.Command {
	asJSON := false
	cmd := onVM("cancel", "cancel the migration under way", func(ctx context.Context, c *control.Client) error {
		report, err := within(ctx, stopTimeout, c.CancelMigration)
		if err != nil {
			return err
		}
		if asJSON {
			if err := writeJSON(std.out, report); err != nil {
				return err
			}
		}
		if report.Status == migration.StatusCompleted {
			return fmt.Errorf("too late to cancel: the guest already runs at %s", report.Destination)
		}
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the migration's report as JSON")
	return cmd
}

func newList(std streams) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the VMs of the runtime directory",
		Args:  exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			vms, err := list(cmd)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(std.out, vms)
			}
			return show.VMs(std.out, vms)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// list asks all VMs. One that does not answer is named on standard error and does not hide the others.
func list(cmd *cobra.Command) ([]control.VM, error) {
	names, err := control.Names()
	if err != nil {
		return nil, err
	}
	vms := []control.VM{}
	for _, name := range names {
		client, err := control.NewClient(name)
		if err != nil {
			continue // not a name that vmm run could have taken
		}
		vm, err := within(cmd.Context(), answerTimeout, client.VM)
		client.Close()
		switch {
		case err == nil:
			vms = append(vms, vm)
		case !errors.Is(err, control.ErrNotRunning):
			cmd.PrintErrf("vmm: %v\n", err)
		}
	}
	return vms, nil
}
