package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"taskguide/migration/policy"
)

// Completions are the words that a completion function returns.
type Completions = []cobra.Completion

const (
	NoFiles = cobra.ShellCompDirectiveNoFileComp
	// goesOn: the word is not complete yet.
	GoesOn = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
)

// completeFlags sets how shells complete the values of flags: with the words that a flag takes, and
// with files only if the flag takes one.
func completeFlags(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if _, has := cmd.GetFlagCompletionFunc(f.Name); has {
			return
		}
		var complete cobra.CompletionFunc
		if words, ok := f.Value.(interface{ all() []string }); ok {
			complete = cobra.FixedCompletions(words.all(), NoFiles)
		} else if f.Value.Type() != "string" {
			complete = cobra.NoFileCompletions
		} else {
			return
		}
		CompleteFlag(cmd, f.Name, complete)
	})
	for _, c := range cmd.Commands() {
		completeFlags(c)
	}
}

// CompleteFlag sets how a flag's values are completed.
func CompleteFlag(cmd *cobra.Command, name string, f cobra.CompletionFunc) {
	// It fails if the flag does not exist or already has a function.
	if err := cmd.RegisterFlagCompletionFunc(name, f); err != nil {
		panic(err)
	}
}

// Folders completes names of folders.
func Folders(*cobra.Command, []string, string) (Completions, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// completeCommand completes the names of commands.
func completeCommand(cmd *cobra.Command, args []string, typed string) (
	Completions, cobra.ShellCompDirective,
) {
	about := cmd.Root()
	for i, name := range args {
		for _, c := range about.Commands() {
			if c.Name() == name {
				about = c
			}
		}
		if about.DisableFlagParsing {
			return about.ValidArgsFunction(about, append([]string{"help"}, args[i+1:]...), typed)
		}
	}
	var all Completions
	for _, c := range about.Commands() {
		if c.IsAvailableCommand() {
			all = append(all, cobra.CompletionWithDesc(c.Name(), c.Short))
		}
	}
	return all, NoFiles
}

// CompletePolicy completes a policy's name, the parameters that do not follow it yet, and their
// values if these are words.
func CompletePolicy(_ *cobra.Command, _ []string, typed string) (
	Completions, cobra.ShellCompDirective,
) {
	var all Completions
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
				return valuesOf(name+":"+before+p.Name+"=", p), NoFiles
			case !valued && !strings.Contains(","+before, ","+p.Name+"="):
				word := name + ":" + before + p.Name + "="
				all = append(all, cobra.CompletionWithDesc(word, p.Help))
			}
		}
	}
	if listed {
		return all, GoesOn
	}
	return all, NoFiles
}

// valuesOf returns a parameter's words, each after what is typed, or its default if it has no
// words.
func valuesOf(typed string, p policy.Param) Completions {
	if len(p.Words) == 0 {
		return Completions{cobra.CompletionWithDesc(typed+p.Default, "the default")}
	}
	var all Completions
	for _, w := range p.Words {
		what := ""
		if w == p.Default {
			what = "the default"
		}
		all = append(all, cobra.CompletionWithDesc(typed+w, what))
	}
	return all
}
