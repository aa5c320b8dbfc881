//go:build !man

package cli

import "github.com/spf13/cobra"

// ManCommands returns no command, so that a shipped program does not carry the generator of its
// manual pages.
func ManCommands(*cobra.Command, string) []*cobra.Command { return nil }
