package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"run", "--help"}, {"migrate", "-h"}} {
		status, stdout, stderr := try(t, args...)
		require.Zero(t, status)
		require.Contains(t, stdout, "Usage:")
		require.Empty(t, stderr)
	}
}

// TestHelpFits: help fits a terminal of the default width.
func TestHelpFits(t *testing.T) { vmmProgram.RequireHelpFits(t, 16) }

// TestCommandsAreDocumented: the manual's synopsis has every command and every flag, and no others.
func TestCommandsAreDocumented(t *testing.T) {
	vmmProgram.RequireDocumented(t, "../../docs/cli.md",
		func(command string) bool { return command != "bench" })
}
