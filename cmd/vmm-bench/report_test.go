package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/sim"
	"taskguide/bench/simrun"
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

// savedSimulation is the folder of a simulation with one figure that somebody made up.
func savedSimulation(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "simulated")
	c := simrun.Comparison{
		Format: 1, VMM: "v1", Moments: 2, Seed: 1, Results: []simrun.Result{{
			Trace: "web_1", Seed: 1, Not: sim.Costs{}.NotModelled(), Rows: []sim.Row{{
				Policy: "xen", Guidance: "off", Moves: 2, Moved: 2, Extrapolated: "never compared",
				DowntimeMS: sim.Quantiles{P50: 12.5, Max: 480},
			}},
		}},
	}
	require.NoError(t, c.Save(folder))
	return folder
}

// TestSimulationFormats: the tables of a simulation go to standard output, in the form of the page
// that an experiment has.
func TestSimulationFormats(t *testing.T) {
	folder := savedSimulation(t)
	for format, want := range map[string][]string{
		"markdown": {
			"# Policies in simulated moves\n",
			"\n| xen | off | 12.5 * | 480 * | 0.0 * | - | - |\n",
			"\n\\* extrapolated: never compared.\n",
		},
		"latex": {
			"\\documentclass", "\n{}xen & off & 12.5 * & 480 * & 0.0 * & - & - \\\\\n",
			"\n* extrapolated: never compared.\n",
		},
	} {
		status, stdout, stderr := benchProgram.Try(t, "bench", "report", folder, "--format", format)
		require.Zero(t, status, stderr)
		require.True(t, strings.HasPrefix(stdout, want[0]), stdout)
		for _, text := range append(want, sim.Costs{}.ProcessorsNote()) {
			require.Contains(t, stdout, text)
		}
	}
}

// TestNoPageOfASimulation: what cannot be had of a simulation is refused, and nothing is joined.
func TestNoPageOfASimulation(t *testing.T) {
	folder, out := savedSimulation(t), filepath.Join(t.TempDir(), "out")
	for want, flags := range map[string][]string{
		"--format validation: a simulation has no real moves":  {"--format", "validation"},
		"--format html: a simulation has tables alone":         {"--format", "html"},
		"--json: --format latex prints tables":                 {"--format", "latex", "--json"},
		"--tail-from: no effect on a simulation: leave it out": {"--tail-from", folder},
	} {
		args := append([]string{"bench", "report", folder, "--out", out}, flags...)
		status, stdout, stderr := benchProgram.Try(t, args...)
		require.Equal(t, cli.StatusUsage, status)
		require.Empty(t, stdout)
		require.Contains(t, stderr, want)
	}
	require.NoDirExists(t, out)
}
