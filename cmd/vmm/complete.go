package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/control"
	"taskguide/control/units"
)

func newCompletion(std cli.Streams) *cobra.Command {
	write := map[string]func(*cobra.Command) error{
		"bash": func(root *cobra.Command) error { return root.GenBashCompletionV2(std.Out, true) },
		"zsh":  func(root *cobra.Command) error { return root.GenZshCompletion(std.Out) },
		"fish": func(root *cobra.Command) error { return root.GenFishCompletion(std.Out, true) },
	}
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "write a shell's completions of vmm's commands",
		Long: `Write what a shell needs to complete the commands of vmm: names of VMs and
experiments, flags and their values. make install puts it where the shells look.
For one session of bash:

  source <(vmm completion bash)`,
		Args:      cli.Exactly(1, "the name of a shell: bash, zsh or fish"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			writeFor, known := write[args[0]]
			if !known {
				return cli.Usagef("shell %w", cli.Unknown(args[0], shells))
			}
			return writeFor(cmd.Root())
		},
	}
}

// completeAddress completes the beginning of an address.
func completeAddress(_ *cobra.Command, _ []string, typed string) (
	cli.Completions, cobra.ShellCompDirective,
) {
	if strings.Contains(typed, ":") {
		return nil, cli.NoFiles
	}
	return cli.Completions{"tcp:", "unix:"}, cli.GoesOn
}

// completeConsole completes the value of --console.
func completeConsole(_ *cobra.Command, _ []string, typed string) (
	cli.Completions, cobra.ShellCompDirective,
) {
	if strings.HasPrefix(typed, "file:") {
		return nil, cli.NoFiles
	}
	return cli.Completions{"stdio", "file:", "off"}, cli.GoesOn
}

// completeHVC completes the value of --hvc.
func completeHVC(_ *cobra.Command, _ []string, typed string) (
	cli.Completions, cobra.ShellCompDirective,
) {
	if strings.HasPrefix(typed, "file:") || strings.HasPrefix(typed, "unix:") {
		return nil, cli.NoFiles
	}
	return cli.Completions{"off", "stdio", "file:", "unix:"}, cli.GoesOn
}

// completeDisk completes the file of a disk.
func completeDisk(*cobra.Command, []string, string) (cli.Completions, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// completeVM completes the name of a VM, the first argument.
func completeVM(cmd *cobra.Command, args []string, typed string) (
	cli.Completions, cobra.ShellCompDirective,
) {
	switch {
	case len(args) > 0:
		return nil, cli.NoFiles
	case strings.Contains(typed, "/"):
		return nil, cobra.ShellCompDirectiveDefault
	}
	return runningVMs(cmd.Context()), cli.NoFiles
}

// runningVMs returns the VMs that answer at once, with their states.
func runningVMs(ctx context.Context) cli.Completions {
	names, err := control.Names()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, glance)
	defer cancel()
	var all cli.Completions
	for _, a := range askAll(ctx, names) {
		if a.err != nil {
			continue
		}
		what := string(a.vm.State)
		if a.vm.MemoryBytes > 0 {
			what += ", " + units.Bytes(a.vm.MemoryBytes)
		}
		all = append(all, cobra.CompletionWithDesc(a.vm.Name, what))
	}
	return all
}

// completeMigrate completes the VM, then the destination.
func completeMigrate(cmd *cobra.Command, args []string, typed string) (
	cli.Completions, cobra.ShellCompDirective,
) {
	if len(args) == 1 {
		return completeAddress(cmd, nil, typed)
	}
	return completeVM(cmd, args, typed)
}
