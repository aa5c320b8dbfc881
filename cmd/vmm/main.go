// Command vmm runs virtual machines and moves them, running, to other processes and hosts.
//
// Flags come in here and words go out; what the commands do is in package control and below. docs/cli.md is the
// manual.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
)

const (
	statusFailed = 1
	statusUsage  = 2
)

// usageError is an error in what the user typed.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitStatus ends the program with that status and nothing to say.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// streams are where commands read and write.
type streams struct {
	in, out, err *os.File
}

// The thread of main stays that of main, which gives the process its name: those of vCPUs have names of their own.
func init() { runtime.LockOSThread() }

func main() {
	os.Exit(execute(os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

// execute runs one command line and returns the program's exit status.
func execute(args []string, std streams) int {
	root := newRoot(std)
	root.SetArgs(args)
	err := root.Execute()
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	fmt.Fprintln(std.err, "vmm: "+strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
	var usage usageError
	if errors.As(err, &usage) {
		return statusUsage
	}
	return statusFailed
}

func newRoot(std streams) *cobra.Command {
	root := &cobra.Command{
		Use:           "vmm",
		Short:         "run virtual machines and move them while they run",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q: see vmm --help", args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error { return usagef("no command given: see vmm --help") },
	}
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w: see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(
		newRun(std), newMigrate(std), newStatus(std), newPause(std), newResume(std), newStop(std), newCancel(std),
		newTags(std), newList(std), newDoctor(std), newBench(std),
	)
	return root
}

// exactly wants that many arguments, which what names.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s wants %s: see %s --help", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return nil
	}
}
