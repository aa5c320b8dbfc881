//go:build man

package main

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

// manCommands returns the command that `make man` runs.
func manCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use:    "man DIR",
		Short:  "write the manual pages",
		Hidden: true,
		Args:   exactly(1, "the folder for the pages"),
		RunE: func(cmd *cobra.Command, args []string) error {
			date, err := sourceDate()
			if err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			forMan(root)
			root.Long += rootSections
			return doc.GenManTree(root, &doc.GenManHeader{
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

// rootSections are the sections of vmm(1) beyond those that every page has.
const rootSections = `

# EXIT STATUS
2 for a mistake in the command line, 1 for any other failure, 0 otherwise. **vmm run** exits with
the byte that the guest wrote to its exit port; with 0 when it was told to stop by **vmm stop** or
SIGTERM; with 130 or 129 on SIGINT or SIGHUP; with **--moved-status** once the guest was moved away.

# ENVIRONMENT
**VMM_RUNTIME_DIR**: the folder of the control sockets, instead of the ones below.

# FILES
*$XDG_RUNTIME_DIR/vmm/NAME.sock*, or */run/vmm/NAME.sock* where that variable is not set: the
control socket of the VM NAME.
`
