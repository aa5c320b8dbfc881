// Command stockkvm runs anybody's commands on emulated hosts with a stock KVM: on one, on two that
// share a network, or from a shell on one. It also runs the project's KVM-dependent test suites
// there. docs/rig.md is the manual.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"taskguide/integration/stockkvm/agent"
)

// These are the statuses of the rig's own failures, as timeout and docker run have them.
const (
	statusUsage   = 2
	statusTimeout = 124
	statusRig     = 125
)

// usageError is a mistake in what the user typed.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitStatus ends the program with a command's own status and prints nothing.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// interrupted is the cause of a context that a signal ended.
type interrupted syscall.Signal

func (i interrupted) Error() string { return syscall.Signal(i).String() }

// errTimeout is the cause of a context that --timeout ended.
var errTimeout = errors.New("not done in the time that --timeout gives")

func main() {
	// In an emulated host this program is process 1.
	if filepath.Base(os.Args[0]) == agent.Name {
		fmt.Fprintln(os.Stderr, "agent:", agent.Serve())
		os.Exit(1)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	endBySignal(cancel)
	os.Exit(execute(ctx, os.Args[1:]))
}

// endBySignal ends the context at the first signal. A second signal ends the program in the default
// way, and QEMU dies with it.
func endBySignal(cancel context.CancelCauseFunc) {
	signals := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) { // as nohup has it, and shells without job control
			signal.Notify(signals, s)
		}
	}
	go func() {
		s := <-signals
		signal.Stop(signals)
		cancel(interrupted(s.(syscall.Signal)))
	}()
}

// execute runs one command line and returns the program's exit status.
func execute(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var (
		status exitStatus
		signal interrupted
		usage  usageError
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.As(context.Cause(ctx), &signal):
		// The signal is the cause of any other error.
		return 128 + int(signal)
	}
	fmt.Fprintln(os.Stderr, "stockkvm:", err)
	switch {
	case errors.As(err, &usage):
		return statusUsage
	case errors.Is(err, errTimeout):
		return statusTimeout
	}
	return statusRig
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "stockkvm",
		Short: "run commands and tests on emulated hosts with a stock KVM",
		Long: `Run commands and tests on emulated hosts with a stock KVM: kvm_amd of Debian's
kernel, on a processor that QEMU emulates. It needs no KVM and no root, and is
much slower than metal.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q: see stockkvm --help", args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			return usagef("no command given: see stockkvm --help")
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
	})
	root.AddCommand(newExec(), newPair(), newShell(), newTest())
	return root
}
