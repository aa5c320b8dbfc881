package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"taskguide/cmd/cli"
)

// TestBenchWithoutItsProgram: an error says where vmm-bench was looked for.
func TestBenchWithoutItsProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	self, err := os.Executable()
	require.NoError(t, err)
	for _, args := range [][]string{{"bench", "run", "tagging"}, {"help", "bench", "run"}} {
		status, stdout, stderr := try(t, args...)
		require.Equal(t, cli.StatusFailed, status)
		require.Empty(t, stdout)
		require.Equal(t, "vmm: vmm-bench is neither beside this program, as "+
			filepath.Join(filepath.Dir(self), "vmm-bench")+
			", nor on the PATH: make build and make install make it\n", stderr)
	}
	require.Empty(t, complete(t, "bench", ""))
}

// TestBenchCompletes: vmm-bench answers what a shell asks, with the words as they were typed.
func TestBenchCompletes(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	asked := filepath.Join(dir, "asked")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "vmm-bench"), []byte(`#!/bin/sh
printf '%s,' "$@" >`+asked+`
printf 'tagging\tmatmul and others\nsweep\n:4\n'
`), 0o755))
	require.Equal(t, []string{"tagging", "sweep"},
		complete(t, "bench", "run", "--out", "a b", "--se"))
	words, err := os.ReadFile(asked)
	require.NoError(t, err)
	require.Equal(t, "__complete,run,--out,a b,--se,", string(words))
	complete(t, "help", "bench", "run", "")
	words, err = os.ReadFile(asked)
	require.NoError(t, err)
	require.Equal(t, "__complete,help,run,,", string(words))
}

func TestParseCompletions(t *testing.T) {
	for out, want := range map[string]struct {
		words     cli.Completions
		directive cobra.ShellCompDirective
	}{
		"a\tb c\nd\n:6\n": {cli.Completions{"a\tb c", "d"}, 6},
		":16\n":           {nil, cobra.ShellCompDirectiveFilterDirs},
		"":                {nil, cli.NoFiles},
		"a\n:x\n":         {nil, cli.NoFiles},
	} {
		words, directive := parseCompletions([]byte(out))
		require.Equal(t, want.words, words, out)
		require.Equal(t, want.directive, directive, out)
	}
}
