// Command vmm runs virtual machines and moves them, running, to other processes and hosts.
//
// This package reads flags and prints words. The commands' work is in package control and below.
// docs/cli.md is the manual.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"taskguide/control/text"
	"taskguide/control/version"
	"taskguide/migration"
)

const (
	statusFailed = 1
	statusUsage  = 2
)

// usageError is a mistake in what the user typed.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitStatus ends the program with that status and prints nothing.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// streams are the standard streams of commands.
type streams struct {
	in, out, err *os.File
}

// The main goroutine keeps the main thread, which gives the process its name. vCPUs name their
// threads.
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
	say(std.err, "vmm: "+migration.OneLine(strings.TrimSpace(err.Error())))
	var usage usageError
	if errors.As(err, &usage) {
		return statusUsage
	}
	return statusFailed
}

func newRoot(std streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "vmm",
		Short: "run virtual machines and move them while they run",
		Long: `Run virtual machines and move them, while they run, to other processes and
hosts.

vmm run starts a VM, or waits for one to come; vmm migrate moves it. A VM is
found by its name, through its control socket in $VMM_RUNTIME_DIR, else
$XDG_RUNTIME_DIR/vmm, else /run/vmm.`,
		Version:       version.Here(version.Machine{}).Short(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          ofCommands,
		RunE:          withoutCommand,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return refuseEmpty(cmd)
		},
	}
	root.SetVersionTemplate("vmm {{.Version}}\n")
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(),
		".FlagUsages", ".FlagUsagesWrapped "+strconv.Itoa(text.Columns)))
	root.SetHelpCommand(newHelp())
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.CompletionOptions.DisableDefaultCmd = true // ours is newCompletion
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		newRun(std), newMigrate(std), newStatus(std), newPause(std), newResume(std), newStop(std),
		newCancel(std), newTags(std), newTrace(std), newDebug(std), newList(std), newDoctor(std),
		newBench(std), newTLS(std), newVersion(std), newCompletion(std),
	)
	root.AddCommand(manCommands()...)
	completeFlags(root)
	return root
}

// exactly requires n arguments. what names them.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		path := cmd.CommandPath()
		switch {
		case len(args) == n:
			return nil
		case len(args) > n:
			return usagef("%s wants %s: %q is too much: see %s --help", path, what, args[n], path)
		}
		return usagef("%s wants %s: see %s --help", path, what, path)
	}
}

// ofCommands refuses arguments of a command that only has subcommands, because none of them
// matches.
func ofCommands(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return noCommand(cmd, args[0])
	}
	return nil
}

// withoutCommand runs if a command that only has subcommands is called without one.
func withoutCommand(cmd *cobra.Command, _ []string) error {
	return usagef("no command given: see %s --help", cmd.CommandPath())
}

// newHelp is cobra's help command, with our own error for unknown commands.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "show how to use a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about := cmd.Root()
			for _, name := range args {
				i := slices.IndexFunc(about.Commands(), func(c *cobra.Command) bool {
					return c.Name() == name && c.IsAvailableCommand()
				})
				if i < 0 {
					return noCommand(about, name)
				}
				about = about.Commands()[i]
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
		ValidArgsFunction: completeCommand,
	}
}
