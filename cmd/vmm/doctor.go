package main

import (
	"github.com/spf13/cobra"

	"taskguide/control/show"
	"taskguide/vmm"
)

func newDoctor(std streams) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "show what this host's KVM offers, and what follows from it",
		Args:  exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			h, err := vmm.Probe()
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(std.out, h)
			}
			return show.Host(std.out, h)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
