package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/cmd/cli"
)

// TestNoValidation: a folder that validates nothing is an error, and nothing is printed that
// somebody could take for an entry.
func TestNoValidation(t *testing.T) {
	dir := t.TempDir()
	status, stdout, stderr := benchProgram.Try(t, "bench", "report", "--format", "validation", dir)
	require.Equal(t, cli.StatusFailed, status)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "holds no results")
	status, stdout, stderr = benchProgram.Try(t, "bench", "report", "--format", "validation",
		"--json", dir)
	require.Equal(t, cli.StatusUsage, status)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "--json: --format validation is JSON")
	status, _, stderr = benchProgram.Try(t, "bench", "report", "--format", "validation",
		"--tail-from", dir, dir)
	require.Equal(t, cli.StatusUsage, status)
	require.Contains(t, stderr, "--tail-from: no effect on --format validation")
}

// TestTailFrom: what is no run of moves is refused, by the flag's name.
func TestTailFrom(t *testing.T) {
	status, stdout, stderr := benchProgram.Try(t, "bench", "report", "--tail-from", t.TempDir(),
		t.TempDir())
	require.Equal(t, cli.StatusUsage, status)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "--tail-from: ")
	require.Contains(t, stderr, "holds no results")
}
