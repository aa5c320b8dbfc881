// Package cli is what the programs vmm and vmm-bench share of a command line: values of flags,
// words for mistakes, help, completions and manual pages. Both programs speak as one: what
// vmm-bench says begins with "vmm: ", because its users type vmm bench.
package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"taskguide/control/text"
	"taskguide/migration"
)

// The exit statuses of a command that did not do what it was told.
const (
	StatusFailed = 1
	StatusUsage  = 2
)

// UsageError is a mistake in what the user typed.
type UsageError struct{ error }

// Unwrap returns what was wrong.
func (e UsageError) Unwrap() error { return e.error }

// UsageOf makes a UsageError of an error.
func UsageOf(err error) error { return UsageError{err} }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// ExitStatus ends the program with that status and prints nothing.
type ExitStatus int

func (e ExitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Streams are the standard streams of commands.
type Streams struct {
	In, Out, Err *os.File
}

// Root makes a command the root of a program: it completes and checks flags, shows help, and
// reports mistakes as all of this project's programs do.
func Root(root *cobra.Command, std Streams) {
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.Args = OfCommands
	root.RunE = WithoutCommand
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return refuseEmpty(cmd) }
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(),
		".FlagUsages", ".FlagUsagesWrapped "+strconv.Itoa(text.Columns)))
	root.SetIn(std.In)
	root.SetOut(std.Out)
	root.SetErr(std.Err)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(flagError)
	completeFlags(root)
}

// Execute runs one command line and returns the program's exit status.
func Execute(root *cobra.Command, args []string, std Streams) int {
	root.SetArgs(args)
	err := root.Execute()
	var status ExitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	Say(std.Err, "vmm: "+migration.OneLine(strings.TrimSpace(err.Error())))
	var usage UsageError
	if errors.As(err, &usage) {
		return StatusUsage
	}
	return StatusFailed
}

// Exactly requires n arguments. what names them.
func Exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		path := cmd.CommandPath()
		switch {
		case len(args) == n:
			return nil
		case len(args) > n:
			return Usagef("%s wants %s: %q is too much: see %s --help", path, what, args[n], path)
		}
		return Usagef("%s wants %s: see %s --help", path, what, path)
	}
}

// OfCommands refuses arguments of a command that only has subcommands, because none of them
// matches.
func OfCommands(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return NoCommand(cmd, args[0])
	}
	return nil
}

// WithoutCommand runs if a command that only has subcommands is called without one.
func WithoutCommand(cmd *cobra.Command, _ []string) error {
	return Usagef("no command given: see %s --help", cmd.CommandPath())
}

// NewHelp is cobra's help command, with our own error for unknown commands. A command that parses
// no flags is another program's, and so is its help.
func NewHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "show how to use a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about := cmd.Root()
			for n, name := range args {
				i := slices.IndexFunc(about.Commands(), func(c *cobra.Command) bool {
					return c.Name() == name && c.IsAvailableCommand()
				})
				if i < 0 {
					return NoCommand(about, name)
				}
				if about = about.Commands()[i]; about.DisableFlagParsing {
					return about.RunE(about, append([]string{"help"}, args[n+1:]...))
				}
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
		ValidArgsFunction: completeCommand,
	}
}

// NoCommand refuses a word that is not a subcommand of cmd.
func NoCommand(cmd *cobra.Command, typed string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if near := Nearest(typed, names); near != "" {
		return Usagef("unknown command %q: did you mean %s %s?", typed, cmd.CommandPath(), near)
	}
	return Usagef("unknown command %q: see %s --help", typed, cmd.CommandPath())
}
