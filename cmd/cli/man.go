//go:build man

package cli

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"taskguide/control/version"
)

// ManCommands returns the command that writes the manual pages of a command and of those below it.
// sections are those of the command's page beyond those that every page has.
func ManCommands(of *cobra.Command, sections string) []*cobra.Command {
	return []*cobra.Command{{
		Use:    "man DIR",
		Short:  "write the manual pages",
		Hidden: true,
		Args:   Exactly(1, "the folder for the pages"),
		RunE: func(cmd *cobra.Command, args []string) error {
			date, err := sourceDate()
			if err != nil {
				return err
			}
			cmd.Root().DisableAutoGenTag = true
			of.DisableAutoGenTag = true
			forMan(of)
			of.Long += sections
			return doc.GenManTree(of, &doc.GenManHeader{
				Section: "1", Date: &date, Source: "vmm " + version.Here(version.Machine{}).Version,
				Manual: "vmm manual",
			}, args[0])
		},
	}}
}

// sourceDate is the date on the pages: SOURCE_DATE_EPOCH, so that two builds of the same sources
// give the same pages, or else today.
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Now().UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q: use seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// forMan keeps indented lines as they are, because the generator reads text as Markdown. It hides a
// default of 0, as help does, because the flag's text says what 0 means.
func forMan(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.DefValue == "0" {
			f.DefValue = ""
		}
	})
	lines := strings.Split(cmd.Long, "\n")
	within := false
	for i, line := range lines {
		indented := strings.HasPrefix(line, "  ")
		if indented {
			lines[i] = "    " + line
		}
		if indented && !within {
			lines[i] = "\n" + lines[i] // a block begins after an empty line
		}
		within = indented
	}
	cmd.Long = strings.Join(lines, "\n")
	for _, c := range cmd.Commands() {
		forMan(c)
	}
}
