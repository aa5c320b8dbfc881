package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHostsAreRefused: flags that two hosts do not go with are named before anything runs.
func TestHostsAreRefused(t *testing.T) {
	both := []string{"--source", "ssh:a", "--destination", "ssh:b"}
	for want, args := range map[string][]string{
		"give both":                    {"tagging", "--source", "ssh:a"},
		"give both, and this host too": {"tagging", "--destination", "ssh:b"},
		"use ssh:[USER@]HOST":          {"tagging", "--source", "a", "--destination", "ssh:b"},
		"--insecure: it is about two":  {"tagging", "--insecure"},
		"--netns":                      append([]string{"tagging", "--netns", "1Gbit"}, both...),
		"--qemu: it is of one host":    append([]string{"tagging", "--qemu", "/bin/true"}, both...),
		"--before: it is of one host": append([]string{
			"before", "--before", "/bin/true",
		}, both...),
		"the loopback of one host":    append([]string{"sweep"}, both...),
		"a disk, for which the hosts": append([]string{"disk"}, both...),
		"moves back and forth":        append([]string{"moves"}, both...),
		"a policy's program": append([]string{
			"policies", "--policies", "exec:/bin/true",
		}, both...),
	} {
		status, _, stderr := benchProgram.Try(t, append([]string{"bench", "run"}, args...)...)
		require.Equal(t, 2, status, "%v: %s", args, stderr)
		require.Contains(t, stderr, want)
	}
}

// TestFileWithPeersAtTwoHosts: QEMU runs at this host alone.
func TestFileWithPeersAtTwoHosts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "e.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`
guests: [{name: g, cmdline: workload=phased}]
peers: [qemu]
`), 0o644))
	status, _, stderr := benchProgram.Try(t, "bench", "custom", file, "--source", "ssh:a",
		"--destination", "ssh:b")
	require.Equal(t, 2, status)
	require.Contains(t, stderr, "QEMU")
}
