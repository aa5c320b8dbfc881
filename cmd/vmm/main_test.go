package main

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"taskguide/migration"
	"taskguide/tagging"
)

// try runs a command line and returns its exit status and what it wrote.
func try(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	t.Setenv("VMM_RUNTIME_DIR", t.TempDir())
	file := func(name string) *os.File {
		f, err := os.Create(t.TempDir() + "/" + name)
		require.NoError(t, err)
		return f
	}
	out, errs := file("out"), file("err")
	status = execute(args, streams{nil, out, errs})
	read := func(f *os.File) string {
		_, err := f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		b, err := io.ReadAll(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		return string(b)
	}
	return status, read(out), read(errs)
}

func TestUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"no command":               {},
		"unknown command":          {"fly"},
		"unknown flag":             {"migrate", "a", "tcp:h:1", "--fast"},
		"use one of downtime, xen": {"migrate", "a", "tcp:h:1", "--rule", "best"},
		"use one of switchover, suspend, start, off": {"migrate", "a", "tcp:h:1", "--guidance", "on"},
		"use one of all, any":                        {"migrate", "a", "tcp:h:1", "--gate", "most"},
		"use one of force, cancel":                   {"migrate", "a", "tcp:h:1", "--on-timeout", "wait"},
		"use one of auto, zstd, none":                {"migrate", "a", "tcp:h:1", "--compress", "gzip"},
		"use bit/s or kbit, Mbit, Gbit":              {"migrate", "a", "tcp:h:1", "--bandwidth", "1G"},
		"--bandwidth 0":                              {"migrate", "a", "tcp:h:1", "--bandwidth", "0"},
		"--channels 0":                               {"migrate", "a", "tcp:h:1", "--channels", "0"},
		"17 channels":                                {"migrate", "a", "tcp:h:1", "--channels", "17"},
		"max rounds -1":                              {"migrate", "a", "tcp:h:1", "--max-rounds", "-1"},
		"invalid argument \"3\"":                     {"migrate", "a", "tcp:h:1", "--max-defer", "3"},
		"negative":                                   {"migrate", "a", "tcp:h:1", "--downtime-limit", "-1s"},
		"a VM and a destination":                     {"migrate", "a"},
		"use tcp:HOST:PORT":                          {"migrate", "a", "h:1"},
		"name \"a b\"":                               {"pause", "a b"},
		"the name of a VM":                           {"tags"},
		"vmm list wants no arguments":                {"list", "a"},
		"vmm doctor wants no arguments":              {"doctor", "a"},
	} {
		status, stdout, stderr := try(t, args...)
		require.Equal(t, statusUsage, status, "%v: %s", args, stderr)
		require.Empty(t, stdout)
		require.Contains(t, stderr, want, "%v", args)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"run", "--help"}, {"migrate", "-h"}} {
		status, stdout, stderr := try(t, args...)
		require.Zero(t, status)
		require.Contains(t, stdout, "Usage:")
		require.Empty(t, stderr)
	}
}

func TestNobodyThere(t *testing.T) {
	for _, args := range [][]string{{"status", "a"}, {"pause", "a"}, {"resume", "a"}, {"stop", "a"}, {"cancel", "a"}, {"tags", "a"}, {"tags", "a", "--follow"}, {"migrate", "a", "tcp:h:1"}} {
		status, stdout, stderr := try(t, args...)
		require.Equal(t, statusFailed, status, "%v", args)
		require.Empty(t, stdout)
		require.Contains(t, stderr, "no such VM is running", "%v", args)
	}
	status, stdout, _ := try(t, "list", "--json")
	require.Zero(t, status)
	require.Equal(t, "[]\n", stdout)
}

// ordered are the parameters that a command line of vmm migrate makes.
func ordered(t *testing.T, args ...string) migration.Params {
	t.Helper()
	m := newMigrateFlags()
	cmd := &cobra.Command{}
	m.define(cmd)
	require.NoError(t, cmd.ParseFlags(args))
	p, err := m.order(cmd, "tcp:h:1")
	require.NoError(t, err)
	return p
}

func TestMigrateDefaults(t *testing.T) {
	on := true
	require.Equal(t, migration.Params{
		Destination: "tcp:h:1", Rule: migration.RuleDowntime, DowntimeLimit: 300 * time.Millisecond,
		Guidance: migration.GuidanceSwitchover, Gate: tagging.All, SwitchAtExit: &on, MaxDefer: time.Minute,
		OnTimeout: migration.TimeoutForce, Compress: migration.CompressAuto,
	}, ordered(t))
}

func TestMigrateFlags(t *testing.T) {
	off := false
	dir := t.TempDir()
	require.Equal(t, migration.Params{
		Destination: "tcp:h:1", Rule: migration.RuleXen, DowntimeLimit: time.Nanosecond, MaxRounds: 7,
		Guidance: migration.GuidanceSwitchover, Gate: tagging.Any, SwitchAtExit: &off, MaxDefer: 2 * time.Second,
		OnTimeout: migration.TimeoutCancel, BitsPerSecond: 1e9, Channels: 4, Compress: migration.CompressNone,
		Delta: true, Verify: true, TLSDir: dir,
	}, ordered(t, "--rule", "xen", "--downtime-limit", "0s", "--max-rounds", "7", "--gate", "any", "--switch-at-exit=false",
		"--max-defer", "2s", "--on-timeout", "cancel", "--bandwidth", "1Gbit", "--channels", "4", "--compress", "none",
		"--delta", "--verify", "--tls-dir", dir))
	require.False(t, *ordered(t, "--guidance", "suspend").SwitchAtExit, "off by default but with switchover")
	require.True(t, *ordered(t, "--guidance", "suspend", "--switch-at-exit").SwitchAtExit)
}

// TestMigrateNoTime: a limit of 0 is none of the defaults, which 0 means in Params, but as little as there is.
func TestMigrateNoTime(t *testing.T) {
	p := ordered(t, "--downtime-limit", "0", "--max-defer", "0")
	require.Equal(t, time.Nanosecond, p.DowntimeLimit)
	require.Equal(t, time.Nanosecond, p.MaxDefer)
}
