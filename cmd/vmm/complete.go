package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"taskguide/bench"
	"taskguide/control"
	"taskguide/control/units"
	"taskguide/migration/policy"
)

// completions are the words that a completion function returns.
type completions = []cobra.Completion

const (
	noFiles = cobra.ShellCompDirectiveNoFileComp
	// goesOn: the word is not complete yet.
	goesOn = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
)

func newCompletion(std streams) *cobra.Command {
	write := map[string]func(*cobra.Command) error{
		"bash": func(root *cobra.Command) error { return root.GenBashCompletionV2(std.out, true) },
		"zsh":  func(root *cobra.Command) error { return root.GenZshCompletion(std.out) },
		"fish": func(root *cobra.Command) error { return root.GenFishCompletion(std.out, true) },
	}
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "write a shell's completions of vmm's commands",
		Long: `Write what a shell needs to complete the commands of vmm: names of VMs and
experiments, flags and their values. make install puts it where the shells look.
For one session of bash:

  source <(vmm completion bash)`,
		Args:      exactly(1, "the name of a shell: bash, zsh or fish"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			writeFor, known := write[args[0]]
			if !known {
				return usagef("shell %w", unknown(args[0], shells))
			}
			return writeFor(cmd.Root())
		},
	}
}

// completeFlags sets how shells complete the values of flags: with the words that a flag takes, and
// with files only if the flag takes one.
func completeFlags(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if _, has := cmd.GetFlagCompletionFunc(f.Name); has {
			return
		}
		var complete cobra.CompletionFunc
		if words, ok := f.Value.(interface{ all() []string }); ok {
			complete = cobra.FixedCompletions(words.all(), noFiles)
		} else if f.Value.Type() != "string" {
			complete = cobra.NoFileCompletions
		} else {
			return
		}
		completeFlag(cmd, f.Name, complete)
	})
	for _, c := range cmd.Commands() {
		completeFlags(c)
	}
}

// completeFlag sets how a flag's values are completed.
func completeFlag(cmd *cobra.Command, name string, f cobra.CompletionFunc) {
	// It fails if the flag does not exist or already has a function.
	if err := cmd.RegisterFlagCompletionFunc(name, f); err != nil {
		panic(err)
	}
}

// folders completes names of folders.
func folders(*cobra.Command, []string, string) (completions, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// completeAddress completes the beginning of an address.
func completeAddress(_ *cobra.Command, _ []string, typed string) (
	completions, cobra.ShellCompDirective,
) {
	if strings.Contains(typed, ":") {
		return nil, noFiles
	}
	return completions{"tcp:", "unix:"}, goesOn
}

// completeConsole completes the value of --console.
func completeConsole(_ *cobra.Command, _ []string, typed string) (
	completions, cobra.ShellCompDirective,
) {
	if strings.HasPrefix(typed, "file:") {
		return nil, noFiles
	}
	return completions{"stdio", "file:", "off"}, goesOn
}

// completeHVC completes the value of --hvc.
func completeHVC(_ *cobra.Command, _ []string, typed string) (
	completions, cobra.ShellCompDirective,
) {
	if strings.HasPrefix(typed, "file:") || strings.HasPrefix(typed, "unix:") {
		return nil, noFiles
	}
	return completions{"off", "stdio", "file:", "unix:"}, goesOn
}

// completeDisk completes the file of a disk.
func completeDisk(*cobra.Command, []string, string) (completions, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// completeVM completes the name of a VM, the first argument.
func completeVM(cmd *cobra.Command, args []string, typed string) (
	completions, cobra.ShellCompDirective,
) {
	switch {
	case len(args) > 0:
		return nil, noFiles
	case strings.Contains(typed, "/"):
		return nil, cobra.ShellCompDirectiveDefault
	}
	return runningVMs(cmd.Context()), noFiles
}

// runningVMs returns the VMs that answer at once, with their states.
func runningVMs(ctx context.Context) completions {
	names, err := control.Names()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, glance)
	defer cancel()
	var all completions
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
	completions, cobra.ShellCompDirective,
) {
	if len(args) == 1 {
		return completeAddress(cmd, nil, typed)
	}
	return completeVM(cmd, args, typed)
}

// completeExperiment completes the name of an experiment.
func completeExperiment(_ *cobra.Command, args []string, _ string) (
	completions, cobra.ShellCompDirective,
) {
	var all completions
	if len(args) == 0 {
		for _, e := range bench.Experiments() {
			all = append(all, cobra.CompletionWithDesc(e.Name, e.Summary))
		}
	}
	return all, noFiles
}

// completeCommand completes the names of commands.
func completeCommand(cmd *cobra.Command, args []string, _ string) (
	completions, cobra.ShellCompDirective,
) {
	about := cmd.Root()
	for _, name := range args {
		for _, c := range about.Commands() {
			if c.Name() == name {
				about = c
			}
		}
	}
	var all completions
	for _, c := range about.Commands() {
		if c.IsAvailableCommand() {
			all = append(all, cobra.CompletionWithDesc(c.Name(), c.Short))
		}
	}
	return all, noFiles
}

// completePolicy completes a policy's name, the parameters that do not follow it yet, and their
// values if these are words.
func completePolicy(_ *cobra.Command, _ []string, typed string) (
	completions, cobra.ShellCompDirective,
) {
	var all completions
	name, list, listed := strings.Cut(typed, ":")
	for _, s := range policy.All() {
		if !listed {
			all = append(all, cobra.CompletionWithDesc(s.Name, s.Help))
			continue
		}
		if s.Name != name {
			continue
		}
		before := list[:strings.LastIndex(list, ",")+1]
		last := strings.TrimPrefix(list, before)
		for _, p := range s.Parameters() {
			switch given, _, valued := strings.Cut(last, "="); {
			case valued && given == p.Name:
				return valuesOf(name+":"+before+p.Name+"=", p), noFiles
			case !valued && !strings.Contains(","+before, ","+p.Name+"="):
				word := name + ":" + before + p.Name + "="
				all = append(all, cobra.CompletionWithDesc(word, p.Help))
			}
		}
	}
	if listed {
		return all, goesOn
	}
	return all, noFiles
}

// valuesOf returns a parameter's words, each after what is typed, or its default if it has no
// words.
func valuesOf(typed string, p policy.Param) completions {
	if len(p.Words) == 0 {
		return completions{cobra.CompletionWithDesc(typed+p.Default, "the default")}
	}
	var all completions
	for _, w := range p.Words {
		what := ""
		if w == p.Default {
			what = "the default"
		}
		all = append(all, cobra.CompletionWithDesc(typed+w, what))
	}
	return all
}
