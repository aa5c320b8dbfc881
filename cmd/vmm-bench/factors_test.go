package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench"
	"taskguide/cmd/cli"
)

// factorsOf returns the factors of a command line.
func factorsOf(t *testing.T, args ...string) bench.Factors {
	t.Helper()
	f := newFactorFlags()
	cmd := newBenchList(cli.Streams{})
	f.define(cmd)
	f.defineRepetitions(cmd)
	require.NoError(t, cmd.ParseFlags(args))
	factors, err := f.factors()
	require.NoError(t, err)
	return factors
}

// TestFactorFlags: a policy's commas belong to it, and its program is found where the user is.
func TestFactorFlags(t *testing.T) {
	require.Empty(t, factorsOf(t))
	program := filepath.Join(t.TempDir(), "mine")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755))
	t.Chdir(filepath.Dir(program))
	require.Equal(t, bench.Factors{
		Policies: []string{"qemu:limit=1s,skip=on", "xen", "exec:" + program},
		Guidance: []string{"off", "switchover"}, Programs: []string{"kv"},
		Trackers: []string{"ring", "auto"}, RTTs: []time.Duration{0, 2 * time.Millisecond},
		Encoding:    []string{"zstd", "auto"},
		Repetitions: 7, Against: "xen", ShadowPrograms: true, Kernel: program,
		MemoryBytes: 1 << 30, CPUs: 2,
	}, factorsOf(t, "--policies", "qemu:limit=1s,skip=on,xen,exec:./mine",
		"--guidance", "off,switchover", "--programs", "kv", "--tracker", "ring,auto",
		"--rtt", "0,2ms", "--compress", "zstd,auto", "-n", "7",
		"--against", "xen", "--shadow-programs", "--kernel", "mine", "--memory", "1G",
		"--cpus", "2"))
	for typed, want := range map[string]string{
		"exec:./mine": "exec:" + program, "qemu:skip=on,limit=1s": "qemu:limit=1s,skip=on",
		"switchover": "switchover",
	} {
		require.Equal(t, want, factorsOf(t, "--against", typed).Against)
	}
}

// TestFactorsAreChecked: what has no effect, or is no level, is refused before anything runs.
func TestFactorsAreChecked(t *testing.T) {
	for want, args := range map[string][]string{
		"--policies: no effect on sweep": {"sweep", "--policies", "xen"},
		"--against: no effect on disk":   {"disk", "--against", "xen"},
		`"best" is unknown`:              {"policies", "--policies", "best"},
		`--guidance: "" is unknown`:      {"policies", "--guidance", "off,"},
		"--repetitions 0: use 1 or more": {"peers", "-n", "0"},
		"--kernel: no effect on speed":   {"speed", "--kernel", "/dev/null"},
		"no such file":                   {"tagging", "--kernel", "/nowhere"},
		"--rtt: no effect on sweep":      {"sweep", "--rtt", "2ms"},
		"--rtt: 3s: use 0 to 2s":         {"policies", "--rtt", "3s"},
		`--rtt: "2ms" is there twice`:    {"policies", "--rtt", "2ms,2ms"},
		`--rtt: duration "2": no unit`:   {"simulated", "--rtt", "2"},
		"is there twice":                 {"policies", "--policies", "xen,xen"},
		"--cpus: no effect on simulated": {"simulated", "--cpus", "2"},
		"--shadow-programs: no effect: name a program": {
			"policies", "--policies", "xen,stall", "--shadow-programs",
		},
		"--shadow-programs: no effect on moves": {"moves", "--shadow-programs"},
	} {
		out := filepath.Join(t.TempDir(), "out")
		status, stdout, stderr := benchProgram.Try(t,
			append([]string{"bench", "run", "--out", out}, args...)...)
		require.Equal(t, cli.StatusUsage, status, stderr)
		require.Empty(t, stdout)
		require.Contains(t, stderr, want)
		require.NoDirExists(t, out)
	}
}
