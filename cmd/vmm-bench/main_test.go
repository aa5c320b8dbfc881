package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/cmd/cli"
	"taskguide/cmd/cli/clitest"
)

// benchProgram is this program, in tests: its arguments begin with bench, as vmm's do.
var benchProgram = clitest.Program(newRoot)

// TestHelpFits: help fits a terminal of the default width.
func TestHelpFits(t *testing.T) { benchProgram.RequireHelpFits(t, 5) }

// TestCommandsAreDocumented: the manual's synopsis has every command and every flag, and no others.
func TestCommandsAreDocumented(t *testing.T) {
	benchProgram.RequireDocumented(t, "../../docs/bench.md",
		func(command string) bool { return command == "bench" })
}

// TestArguments: what vmm-bench is given means what it means after vmm bench.
func TestArguments(t *testing.T) {
	for _, c := range []struct{ given, want []string }{
		{nil, []string{"bench"}},
		{[]string{"run", "help"}, []string{"bench", "run", "help"}},
		{[]string{"--help"}, []string{"bench", "--help"}},
		{[]string{"help", "run"}, []string{"help", "bench", "run"}},
		{[]string{"__complete", "run", ""}, []string{"__complete", "bench", "run", ""}},
		{[]string{"--version"}, []string{"--version"}},
	} {
		require.Equal(t, c.want, ofRoot(c.given))
	}
	status, stdout, _ := benchProgram.Try(t, "--version")
	require.Zero(t, status)
	require.Contains(t, stdout, "vmm-bench ")
}

func TestCompletion(t *testing.T) {
	require.Equal(t, experimentNames(), benchProgram.Complete(t, "bench", "run", ""))
	require.Empty(t, benchProgram.Complete(t, "bench", "run", "tagging", ""))
	require.Contains(t, benchProgram.Complete(t, "help", "bench", ""), "report")
	require.Contains(t, benchProgram.Complete(t, "bench", "run", "--re"), "--resume")
}

// TestFindsVMM: trials run the vmm that started this program, else the one beside it.
func TestFindsVMM(t *testing.T) {
	t.Setenv(cli.VMMVariable, "/somewhere/vmm")
	path, err := findVMM()
	require.NoError(t, err)
	require.Equal(t, "/somewhere/vmm", path)

	t.Setenv(cli.VMMVariable, "")
	t.Setenv("PATH", t.TempDir())
	_, err = findVMM()
	require.ErrorContains(t, err, "vmm is neither beside this program, as ")
}

// TestOtherBuildIsRefused: a run does not name one build and measure another.
func TestOtherBuildIsRefused(t *testing.T) {
	vmm := filepath.Join(t.TempDir(), "vmm")
	require.NoError(t, os.WriteFile(vmm, []byte(`#!/bin/sh
echo '{"version": "v0.0.1", "revision": "abc", "modified": true}'
`), 0o755))
	err := checkBuild(vmm)
	require.ErrorIs(t, err, errOtherBuild)
	require.ErrorContains(t, err, "vmm is of build v0.0.1 abc+, and vmm-bench of ")

	require.NoError(t, os.WriteFile(vmm, []byte("#!/bin/sh\nexit 1\n"), 0o755))
	err = checkBuild(vmm)
	require.Error(t, err)
	require.False(t, errors.Is(err, errOtherBuild))
}
