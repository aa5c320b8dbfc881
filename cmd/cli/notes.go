package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// Note says that flags have no effect, because a user who gives one relies on it. It is not an
// error, because scripts give all of their flags and vary one.
type Note struct {
	Flags []string
	Why   string
}

// PrintNotes prints notes to standard error, one in each line.
func PrintNotes(cmd *cobra.Command, notes []Note) {
	for _, n := range notes {
		cmd.PrintErrf("vmm: note: --%s: %s\n", strings.Join(n.Flags, ", --"), n.Why)
	}
}

// Given returns those of the flags that are on the command line.
func Given(cmd *cobra.Command, names ...string) []string {
	var flags []string
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			flags = append(flags, name)
		}
	}
	return flags
}
