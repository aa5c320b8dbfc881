package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/simrun"
)

// TestSlurmScripts: the scripts of examples/slurm give the flags that they should, when Slurm's
// variables are set.
func TestSlurmScripts(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "vmm"),
		[]byte("#!/bin/sh\necho \"$@\"\n"), 0o755))
	results := filepath.Join(dir, "results")
	script := func(name string, env ...string) string {
		cmd := exec.CommandContext(t.Context(), "sh", "../../examples/slurm/"+name)
		cmd.Env = append(env, "PATH="+dir+":"+os.Getenv("PATH"), "RESULTS="+results)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	task := []string{
		"SLURM_ARRAY_JOB_ID=17", "SLURM_ARRAY_TASK_ID=2", "SLURM_ARRAY_TASK_COUNT=6",
		"EXPERIMENT=policies",
	}
	out := filepath.Join(results, "17", "2")
	require.Equal(t, "bench run policies --out "+out+" --shard 2/6\n", script("array.sh", task...))
	require.NoError(t, os.MkdirAll(out, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(out, "run.json"), nil, 0o600))
	require.Equal(t, "bench run policies --out "+out+" --resume --shard 2/6\n",
		script("array.sh", task...), "a task that was requeued")

	sim := []string{
		"SLURM_ARRAY_JOB_ID=18", "SLURM_ARRAY_TASK_ID=1", "SLURM_ARRAY_TASK_COUNT=3",
		"EXPERIMENT=sim", "FLAGS=trace --moments 5",
	}
	out = filepath.Join(results, "18", "1")
	want := "bench sim trace --moments 5 --out " + out + " --shard 1/3\n"
	require.Equal(t, want, script("array.sh", sim...))
	require.NoError(t, os.MkdirAll(out, 0o755))
	require.Equal(t, want, script("array.sh", sim...), "a part that was cut off begins again")
	require.NoDirExists(t, out)
	require.NoError(t, os.MkdirAll(out, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(out, simrun.FileName), nil, 0o600))
	require.Empty(t, script("array.sh", sim...), "a part that is there")

	parts := filepath.Join(results, "17")
	for _, part := range []string{"10", "3", "joined"} {
		require.NoError(t, os.MkdirAll(filepath.Join(parts, part), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(parts, "10", simrun.FileName), nil, 0o600))
	require.Equal(t, "left out, because it has no results: "+parts+"/3\n"+
		"bench report "+parts+"/10 "+parts+"/2 --out "+parts+"/joined\n",
		script("join.sh", "ARRAY=17"))
}

// TestJoinByCommand: several folders make one run, and a folder that is no shard is refused.
func TestJoinByCommand(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	for _, args := range [][]string{
		{"bench", "report", t.TempDir(), t.TempDir(), "--out", out},
		{"bench", "report", t.TempDir(), "--out", out},
	} {
		status, stdout, stderr := benchProgram.Try(t, args...)
		require.Equal(t, 1, status)
		require.Empty(t, stdout)
		require.Contains(t, stderr, "holds no results of vmm bench run")
		require.NoDirExists(t, out)
	}
	for want, args := range map[string][]string{
		`--shard: "3/2": use I/N`: {"bench", "run", "tagging", "--shard", "3/2"},
		"--shard 1/7: tagging has 6 blocks": {
			"bench", "run", "tagging", "--shard", "1/7",
		},
	} {
		status, _, stderr := benchProgram.Try(t, args...)
		require.Equal(t, 2, status)
		require.Contains(t, stderr, want)
	}
}
