package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/guestkernel/heartbeat"
)

// A run that is interrupted in the middle of a trial keeps the finished trials, ends its guests and
// its network namespaces, leaves no files but its results, and can be resumed.
func TestInterruptedBenchGoesOn(t *testing.T) {
	b := newBox(t)
	out := b.path("out")
	run := []string{"bench", "run", "tagging", "--quick", "--seed", "1", "--out", out}
	if mayBuildLinks(t) {
		run = append(run, "--netns", "1Gbit")
	}
	b.interruptBench(run, syscall.SIGINT)
	before, results := b.benchResults(out)
	require.NotEmpty(t, results)
	require.FileExists(t, filepath.Join(out, "report.html"))

	r := b.vmm(run...)
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "already holds results")

	b.interruptBench(append(run[:8:8], "--resume"), syscall.SIGTERM)
	after, more := b.benchResults(out)
	require.Greater(t, len(more), len(results))
	require.Equal(t, results, more[:len(results)])
	require.Len(t, after["resumed"], 1)
	delete(after, "resumed")
	require.Equal(t, before, after, "the same seed, size and link")
	for _, r := range more {
		if void, is := r["error"]; is { // as the bench allows for a busy host
			require.Contains(t, void, "stood still")
		}
	}
	require.Contains(t, b.ok("bench", "report", out), "report.html")
}

// benchResults reads the results that a run has kept.
func (b *box) benchResults(dir string) (run map[string]any, trials []map[string]any) {
	b.t.Helper()
	file, err := os.ReadFile(filepath.Join(dir, "run.json"))
	require.NoError(b.t, err)
	require.NoError(b.t, json.Unmarshal(file, &run))
	raw, err := os.ReadFile(filepath.Join(dir, "raw.jsonl"))
	require.NoError(b.t, err)
	for line := range bytes.Lines(raw) {
		var r map[string]any
		require.NoError(b.t, json.Unmarshal(line, &r))
		trials = append(trials, r)
	}
	return run, trials
}

// interruptBench starts a bench, and ends it by a signal during its second trial.
func (b *box) interruptBench(args []string, sig syscall.Signal) {
	b.t.Helper()
	temporary := b.path("tmp")
	require.NoError(b.t, os.MkdirAll(temporary, 0o755))
	cmd := b.command(args...)
	cmd.Env = append(cmd.Env, "TMPDIR="+temporary)
	var stdout, stderr heartbeat.Log
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(b.t, cmd.Start())
	running, end := context.WithCancel(b.ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		end()
	}()
	require.NoError(b.t, stdout.WaitText(running, "total    left"), stderr.String())
	b.until("the next trial's guests", func() bool { return len(processesOf(temporary)) > 0 })
	require.NoError(b.t, cmd.Process.Signal(sig))
	require.Error(b.t, <-ended)
	require.Equal(b.t, 1, cmd.ProcessState.ExitCode(), stderr.String())
	require.Contains(b.t, stderr.String(), "--resume")
	require.Empty(b.t, processesOf(temporary))
	left, err := os.ReadDir(temporary)
	require.NoError(b.t, err)
	require.Empty(b.t, left)
}

// mayBuildLinks tells whether this process may make network namespaces and devices in them: the
// effective capabilities of proc_pid_status(5), by their numbers in capabilities(7)'s header.
func mayBuildLinks(t *testing.T) bool {
	t.Helper()
	const netAdmin, sysAdmin = 1 << 12, 1 << 21
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, after, ok := strings.Cut(string(status), "CapEff:")
	require.True(t, ok)
	caps, err := strconv.ParseUint(strings.Fields(after)[0], 16, 64)
	require.NoError(t, err)
	return caps&netAdmin != 0 && caps&sysAdmin != 0
}

// processesOf lists the processes whose command lines contain a folder.
func processesOf(dir string) []string {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is right
	var found []string
	for _, f := range files {
		if line, err := os.ReadFile(f); err == nil && strings.Contains(string(line), dir) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}
