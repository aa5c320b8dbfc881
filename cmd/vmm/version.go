package main

import (
	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/control/show"
	"taskguide/control/version"
	"taskguide/vmm"
)

func newVersion(std cli.Streams) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "version",
		Short: "show what this vmm is, and what it understands of others",
		Long: `Show the version and revision of this vmm, and what decides whether guests can
move between it and another one: the versions of the migration protocol and of
the sections of a machine's state.`,
		Args: cli.Exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			info := version.Here(version.Machine(vmm.Understood()))
			if asJSON {
				return writeJSON(std.Out, info)
			}
			show.Version(std.Out, info)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
