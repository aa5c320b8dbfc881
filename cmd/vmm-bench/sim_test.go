package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/simrun"
)

// TestSim: a synthetic trace is simulated, as a table, as JSON and into a folder.
func TestSim(t *testing.T) {
	folder, out := filepath.Join(t.TempDir(), "trace"), filepath.Join(t.TempDir(), "out")
	status, stdout, stderr := benchProgram.Try(t, "bench", "trace-gen", "--out", folder,
		"--memory", "16M", "--working-set", "8M", "--hot", "128K", "--busy", "1s",
		"--calm", "300ms", "--dirty-rate", "1Gbit", "--for", "3s", "--jitter", "10")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "generated with seed 1")
	sim := []string{"bench", "sim", folder, "--moments", "2", "--max-defer", "2s"}
	status, stdout, stderr = benchProgram.Try(t, append(sim, "--out", out)...)
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "oracle")
	require.Contains(t, stdout, "switchover")
	require.FileExists(t, filepath.Join(out, simrun.MovesName))
	status, stdout, stderr = benchProgram.Try(t, append(sim, "--json", "--memory", "32M", "--grow",
		"repeated", "--policies", "downtime:limit=9ms,polish=off", "--guidance", "suspend")...)
	require.Zero(t, status, stderr)
	var results []simrun.Result
	require.NoError(t, json.Unmarshal([]byte(stdout), &results))
	require.Len(t, results[0].Rows, 1)
	require.Equal(t, "suspend", results[0].Rows[0].Guidance)
	require.Equal(t, 8192, results[0].Pages)
	require.NotEmpty(t, results[0].Not)
}

// TestSimRefuses what makes no sense.
func TestSimRefuses(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"sim"}, "no trace given"},
		{[]string{"sim", "x", "--policies", "nonsense"}, "is unknown"},
		{[]string{"sim", "x", "--guidance", "nonsense"}, "nonsense"},
		{[]string{"sim", "x", "--moments", "0"}, "use 1 or more"},
		{[]string{"sim", "x", "--memory", "5000"}, "whole pages"},
		{[]string{"trace-gen"}, "no folder given"},
		{[]string{"trace-gen", "--out", "x", "--packed", "0"}, "use 1 to 100"},
		{[]string{"trace-gen", "--out", "x", "--interval", "100us"}, "whole milliseconds"},
	} {
		status, _, stderr := benchProgram.Try(t, append([]string{"bench"}, c.args...)...)
		require.Equal(t, 2, status, "%v", c.args)
		require.Contains(t, stderr, c.want)
	}
	status, _, stderr := benchProgram.Try(t, "bench", "sim", filepath.Join(t.TempDir(), "none"))
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "no such trace")
}
