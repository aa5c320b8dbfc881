package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/cmd/cli"
)

// TestCPUFiles: run --cpu accepts what doctor --cpu prints.
func TestCPUFiles(t *testing.T) {
	status, stdout, stderr := try(t, "doctor", "--cpu")
	require.Zero(t, status, stderr)
	here := filepath.Join(t.TempDir(), "here.json")
	require.NoError(t, os.WriteFile(here, []byte(stdout), 0o644))
	hosts, err := readCPUs("host," + here)
	require.NoError(t, err)
	require.Nil(t, hosts[0])
	require.Equal(t, here, hosts[1].Name)
	require.NotEmpty(t, hosts[1].Leaves)

	require.NoError(t, os.WriteFile(here, []byte("{}"), 0o644))
	for want, list := range map[string]string{
		"nowhere.json: there is no such file": "host,nowhere.json",

		"not a CPU file of vmm doctor --cpu: version 0, this program knows version 1": here,
	} {
		status, stdout, stderr := try(t, "run", "--cpu", list)
		require.Equal(t, cli.StatusFailed, status)
		require.Empty(t, stdout)
		require.Contains(t, stderr, want)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
	}
}
