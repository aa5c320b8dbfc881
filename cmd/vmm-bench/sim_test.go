package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench"
	"taskguide/bench/simrun"
	"taskguide/cmd/cli"
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
	full := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(full, "mine"), nil, 0o600))
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"sim"}, "no trace given"},
		{[]string{"sim", "x", "--policies", "nonsense"}, "is unknown"},
		{[]string{"sim", "x", "--guidance", "nonsense"}, "nonsense"},
		{[]string{"sim", "x", "--moments", "0"}, "use 1 or more"},
		{[]string{"sim", "x", "--memory", "5000"}, "whole pages"},
		{[]string{"sim", "x", "--out", full}, "is not empty"}, // before it is simulated
		{[]string{"map", "--out", full}, "is not empty"},
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

// TestSimSaysWhatHasNoEffect, as other commands do.
func TestSimSaysWhatHasNoEffect(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "trace")
	status, _, stderr := benchProgram.Try(t, "bench", "trace-gen", "--out", folder,
		"--memory", "16M", "--working-set", "8M", "--hot", "128K", "--busy", "1s", "--for", "3s")
	require.Zero(t, status, stderr)
	given := []string{
		"bench", "sim", folder, "--moments", "1", "--gate", "any", "--on-timeout", "cancel",
		"--grow", "repeated", "--downtime-limit", "1s",
	}
	status, _, stderr = benchProgram.Try(t, append(given, "--policies",
		"xen,downtime:limit=20ms,oracle", "--guidance", "off")...)
	require.Zero(t, status, stderr)
	for _, flags := range []string{"--grow", "--gate, --on-timeout", "--downtime-limit"} {
		require.Contains(t, stderr, "vmm: note: "+flags+": no effect")
	}
	status, _, stderr = benchProgram.Try(t, append(given, "--policies", "xen,downtime",
		"--memory", "32M")...)
	require.Zero(t, status, stderr)
	require.NotContains(t, stderr, "no effect")
}

// TestSweepInParts: a sweep is one command, and its parts are joined by another.
func TestSweepInParts(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "trace")
	status, _, stderr := benchProgram.Try(t, "bench", "trace-gen", "--out", folder,
		"--memory", "16M", "--working-set", "8M", "--hot", "128K", "--busy", "1s",
		"--calm", "300ms", "--dirty-rate", "1Gbit", "--for", "3s")
	require.Zero(t, status, stderr)
	sweep := []string{
		"bench", "sim", folder, "--moments", "2", "--policies", "xen", "--guidance", "off",
		"--bandwidth", "1Gbit,100Gbit", "--memory", "16M,1T", "--rtt", "100us,1ms", "--grow",
		"untouched",
	}
	status, whole, stderr := benchProgram.Try(t, append(sweep, "--json")...)
	require.Zero(t, status, stderr)
	var results []simrun.Result
	require.NoError(t, json.Unmarshal([]byte(whole), &results))
	require.Len(t, results, 8)
	require.Equal(t, 1<<28, results[7].Pages)
	require.EqualValues(t, 100e9, results[7].Setting.BitsPerSecond)
	require.NotEmpty(t, results[7].Rows[0].Extrapolated)
	first, second := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	for shard, out := range map[string]string{"1/2": first, "2/2": second} {
		status, stdout, stderr := benchProgram.Try(t,
			append(sweep, "--shard", shard, "--out", out)...)
		require.Zero(t, status, stderr)
		require.Contains(t, stdout, "PARTIAL")
	}
	joined := filepath.Join(dir, "joined")
	status, stdout, stderr := benchProgram.Try(t, "bench", "report", second, first, "--out",
		joined, "--json")
	require.Zero(t, status, stderr)
	require.JSONEq(t, whole, stdout)
	status, stdout, stderr = benchProgram.Try(t, "bench", "report", joined)
	require.Zero(t, status, stderr)
	require.NotContains(t, stdout, "PARTIAL")
	require.Contains(t, stdout, "1.00 TiB")
	status, page, stderr := benchProgram.Try(t, "bench", "report", first, second, "--out",
		filepath.Join(dir, "again"), "--format", "markdown")
	require.Zero(t, status, stderr)
	require.Equal(t, 8, strings.Count(page, "\n|---|"), "a table for each cell")
	status, stdout, stderr = benchProgram.Try(t, "bench", "report", joined, "--format", "markdown")
	require.Zero(t, status, stderr)
	require.Equal(t, page, stdout)
	for want, args := range map[string][]string{
		"holds no simulation":           {"report", first, dir, "--out", filepath.Join(dir, "x")},
		"has a part that another":       {"report", first, first, "--out", filepath.Join(dir, "x")},
		"parts are joined from folders": {"sim", folder, "--shard", "1/2"},
		"use I/N":                       {"sim", folder, "--shard", "3/2"},
	} {
		status, _, stderr := benchProgram.Try(t, append([]string{"bench"}, args...)...)
		require.NotZero(t, status)
		require.Contains(t, stderr, want)
	}
}

// TestMapByCommand: a small map, and an experiment that checks six of its cells.
func TestMapByCommand(t *testing.T) {
	out, check := filepath.Join(t.TempDir(), "map"), filepath.Join(t.TempDir(), "check.yaml")
	args := []string{
		"bench", "map", "--busy", "500ms,1s,2s", "--rates", "0.5,2", "--downtime-limits", "100ms",
		"--working-set", "4M", "--hot", "64K", "--memory", "8M", "--moments", "2", "--bandwidth",
		"200Mbit", "--max-defer", "5s", "--out", out, "--check-file", check,
	}
	status, stdout, stderr := benchProgram.Try(t, args...)
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "gain p99")
	require.FileExists(t, filepath.Join(out, "map-p99.svg"))
	custom, err := bench.ReadCustom(check)
	require.NoError(t, err)
	require.Len(t, custom.Guests, 6)
	require.Contains(t, custom.Guests[0].Cmdline, "workload=phased fill=random ws=4096K hot=64K ")
	require.Contains(t, custom.Policies, "downtime")
	require.EqualValues(t, 5*time.Second, custom.MaxDefer)
	status, stdout, stderr = benchProgram.Try(t, "bench", "report", out, "--format", "latex")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, `\title{Where guidance pays}`)
	require.Contains(t, stdout, "& gain p99 &")
	require.Contains(t, stdout, "All of it is extrapolated: ")
	status, _, stderr = benchProgram.Try(t, args...)
	require.Equal(t, 2, status)
	require.Contains(t, stderr, "is not empty")
	status, _, stderr = benchProgram.Try(t, append(args, "--out", out+"-again")...)
	require.Equal(t, 2, status)
	require.Contains(t, stderr, "--check-file")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--bandwidth", "0"}, "use more than 0"},
		{[]string{"--rates", "0"}, "use a number above 0"},
		{[]string{"--policy", "nonsense"}, "is unknown"},
		{[]string{"--jitter", "101"}, "use 0 to 100"},
		{[]string{"--working-set", "1K"}, "at least a page"},
		{[]string{"--working-set", "1G"}, "--working-set 1G: it is more than --memory 96M"},
		{[]string{"--hot", "65M"}, "--hot 65M: it is more than --working-set 64M"},
		{[]string{"--moments", "0"}, "use 1 or more"},
		{[]string{"--processors", "-1"}, "-1 processors: use 0 to 4096"},
		{[]string{"--shard", "1/2", "--out", "x", "--check-file", "y"}, "leave out --shard"},
	} {
		status, _, stderr := benchProgram.Try(t, append([]string{"bench", "map"}, c.args...)...)
		require.Equal(t, 2, status, "%v", c.args)
		require.Contains(t, stderr, c.want)
	}
}

// TestSimErrorOnce: what is wrong at every moment is said once.
func TestSimErrorOnce(t *testing.T) {
	status, _, stderr := benchProgram.Try(t, "bench", "map", "--busy", "1s", "--rates", "0.5",
		"--downtime-limits", "300ms", "--moments", "8", "--policy", "exec:/missing")
	require.Equal(t, cli.StatusFailed, status)
	require.Equal(t, 1, strings.Count(stderr, "no such file"), stderr)
}

// TestSimListsHaveNothingTwice, because it would count twice.
func TestSimListsHaveNothingTwice(t *testing.T) {
	for flag, list := range map[string]string{
		"--rates": "1,1.0", "--busy": "1s,1000ms", "--downtime-limits": "300ms,300ms",
	} {
		status, _, stderr := benchProgram.Try(t, "bench", "map", flag, list)
		require.Equal(t, cli.StatusUsage, status)
		require.Contains(t, stderr, flag+": ")
		require.Contains(t, stderr, "is there twice")
	}
}
