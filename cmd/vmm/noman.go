//go:build !man

package main

import "github.com/spf13/cobra"

// manCommands is empty, so that a shipped vmm does not carry the generator of its manual pages.
func manCommands() []*cobra.Command { return nil }
