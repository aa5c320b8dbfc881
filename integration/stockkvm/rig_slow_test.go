//go:build stockkvm

// These tests check the rig itself: it must be green when all is well, and red whenever it is not.
// They boot emulated hosts, which takes a few seconds each.
package stockkvm

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/guestkernel/heartbeat"
)

var (
	goodSuite = Suite{
		Name: "good", Package: "./integration/stockkvm/selftest", Timeout: time.Minute,
	}
	brokenSuite = Suite{
		Name: "broken", Package: "./integration/stockkvm/selftest", Tags: "stockkvm_broken",
		Timeout: time.Minute,
	}
)

// testRig returns a rig and an initramfs with both suites.
func testRig(t *testing.T) (*Rig, string) {
	t.Helper()
	rig, err := NewRig(t.Context(), t.TempDir())
	require.NoError(t, err)
	files, err := rig.SuiteFiles(t.Context(), []Suite{goodSuite, brokenSuite})
	require.NoError(t, err)
	initramfs, err := rig.Initramfs("test", files)
	require.NoError(t, err)
	return rig, initramfs
}

func bootHost(t *testing.T, rig *Rig, initramfs string) *Host {
	t.Helper()
	cfg, err := rig.HostConfig(strings.ReplaceAll(t.Name(), "/", "-"), initramfs)
	require.NoError(t, err)
	h, err := StartHost(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(h.Close)
	return h
}

func broken(test string) Suite {
	s := brokenSuite
	s.Run = "^" + test + "$"
	return s
}

func TestSuitesOnAHealthyHost(t *testing.T) {
	rig, initramfs := testRig(t)
	h := bootHost(t, rig, initramfs)
	require.Equal(t, "kvm_amd", h.Hello().KVM)
	none := goodSuite
	none.Run = "^TestOfNoSuchName$"
	var progress bytes.Buffer
	results := h.RunSuites(t.Context(), []Suite{
		goodSuite,
		broken("TestBrokenFails"),
		broken("TestBrokenLeavesEarly"),
		none,
		{Name: "missing"},
		broken("TestBrokenHangs"),
		goodSuite,
	}, &progress, t.TempDir())
	t.Log(progress.String())

	require.True(t, results[0].OK(), "the good suite passes")
	require.GreaterOrEqual(t, results[0].Passed, 2)

	require.False(t, results[1].OK(), "a failing test")
	require.Equal(t, 1, results[1].Failed)
	require.Contains(t, progress.String(), "broken on purpose")

	require.False(t, results[2].OK(), "a test that leaves with status 0")
	require.Equal(t, 1, results[2].Failed)

	require.ErrorIs(t, results[3].Err, ErrNoTests)
	require.Error(t, results[4].Err, "a suite that is not in the host")

	require.False(t, results[5].OK(), "a test that hangs")
	require.Contains(t, progress.String(), "test timed out")

	require.True(t, results[6].OK(), "and the host carries on after all that")
	var summary bytes.Buffer
	require.False(t, Summary(&summary, results))
}

// answerOnceHeard tells a broken test that one of its lines is in the suite's log, so that its next
// action cannot overtake the line.
func answerOnceHeard(ctx context.Context, h *Host, log, line string) {
	for ctx.Err() == nil {
		if text, err := os.ReadFile(log); err == nil && strings.Contains(string(text), line) {
			_, _ = h.Run(ctx, "touch", "/tmp/heard") // the host may die of it before it answers
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestKernelPanicInsideIsRed(t *testing.T) {
	rig, initramfs := testRig(t)
	h := bootHost(t, rig, initramfs)
	panics := broken("TestBrokenPanicsKernel")
	panics.Timeout = time.Minute
	var progress bytes.Buffer
	logs := t.TempDir()
	go answerOnceHeard(t.Context(), h,
		filepath.Join(logs, "broken.log"), "=== RUN   TestBrokenPanicsKernel")
	results := h.RunSuites(t.Context(), []Suite{panics, goodSuite}, &progress, logs)
	require.ErrorIs(t, results[0].Err, ErrDied)
	require.ErrorContains(t, results[0].Err, "kernel panic inside: sysrq triggered crash")
	require.Equal(t, 1, results[0].Failed, "the test that was running")
	require.ErrorIs(t, results[1].Err, ErrDidNotRun)
	require.False(t, Summary(&progress, results))
}

func TestSuiteThatStandsStillIsRed(t *testing.T) {
	rig, initramfs := testRig(t)
	h := bootHost(t, rig, initramfs)
	stopped := broken("TestBrokenStops")
	stopped.Timeout = 20 * time.Second // it must stop itself before that is over
	var progress bytes.Buffer
	results := h.RunSuites(t.Context(), []Suite{stopped, goodSuite}, &progress, t.TempDir())
	require.ErrorIs(t, results[0].Err, ErrHung)
	require.Equal(t, 1, results[0].Failed, "the test that was running")
	require.ErrorIs(t, results[1].Err, ErrDidNotRun)
}

func TestRebootInsideIsRed(t *testing.T) {
	rig, initramfs := testRig(t)
	h := bootHost(t, rig, initramfs)
	_, err := h.Run(t.Context(), "reboot", "-f")
	require.ErrorIs(t, err, ErrDied)
	_, err = h.Start(Command{Argv: []string{"true"}})
	require.ErrorIs(t, err, ErrDied, "no job starts on a dead host")
}

func TestHostThatNeverComesUpIsRed(t *testing.T) {
	rig, initramfs := testRig(t)
	garbage := filepath.Join(t.TempDir(), "kernel")
	require.NoError(t, os.WriteFile(garbage, []byte("this is no kernel"), 0o644))
	for name, tc := range map[string]struct {
		breakIt func(*HostConfig)
		says    string
	}{
		"no kernel": {func(c *HostConfig) { c.Kernel = garbage }, "QEMU says"},
		"wrong init": {
			func(c *HostConfig) { c.Append = []string{"rdinit=/no-such-init"} },
			"kernel panic inside",
		},
		"no KVM inside": {func(c *HostConfig) { c.CPU = "EPYC-Milan,-svm" }, "kernel panic inside"},
		"stuck early": {
			func(c *HostConfig) {
				c.Append = []string{"rdinit=/bin/busybox", "sleep", "1000"}
				c.BootTimeout = 20 * time.Second
			},
			"no sign of life",
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := rig.HostConfig(strings.ReplaceAll(t.Name(), "/", "-"), initramfs)
			require.NoError(t, err)
			tc.breakIt(&cfg)
			h, err := StartHost(t.Context(), cfg)
			require.ErrorIs(t, err, ErrNeverCameUp)
			require.ErrorContains(t, err, tc.says)
			require.Nil(t, h)
		})
	}
}

func TestJobsHaveInputAndSignals(t *testing.T) {
	rig, initramfs := testRig(t)
	h := bootHost(t, rig, initramfs)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()

	var out bytes.Buffer
	cat, err := h.Start(Command{Argv: []string{"head", "-n", "1"}, Input: true, Stdout: &out})
	require.NoError(t, err)
	require.NoError(t, cat.Input([]byte("hello\n")))
	exit, err := cat.Wait(ctx)
	require.NoError(t, err)
	require.Zero(t, exit.Code)
	require.Equal(t, "hello\n", out.String())

	none, err := h.Run(ctx, "cat")
	require.NoError(t, err, "without Input there is nothing to read, and no waiting for it")
	require.Zero(t, none.Exit.Code)

	sleeper, err := h.Start(Command{Argv: []string{"sleep", "1000"}})
	require.NoError(t, err)
	require.NoError(t, sleeper.Signal(9))
	exit, err = sleeper.Wait(ctx)
	require.NoError(t, err)
	require.Contains(t, exit.Reason, "killed")
	require.Equal(t, 128+9, exit.Status())

	result, err := h.Run(ctx, "sh", "-c", "echo out; echo err >&2; exit 7")
	require.NoError(t, err)
	require.Equal(t, []string{"out\n", "err\n"}, []string{result.Stdout, result.Stderr})
	require.Equal(t, 7, result.Exit.Code)

	offset, uncertainty, err := h.SetClock(ctx)
	require.NoError(t, err)
	require.Less(t, offset.Abs(), uncertainty+50*time.Millisecond,
		"the inner clock follows the outer one")
}

func TestShellHasKVM(t *testing.T) {
	rig, initramfs := testRig(t)
	cfg, err := rig.HostConfig("shell", initramfs)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	in, typed, err := os.Pipe()
	require.NoError(t, err)
	defer in.Close()
	defer typed.Close()
	var out heartbeat.Log
	go func() {
		if out.WaitText(ctx, "stock-kvm:/root# ") == nil {
			_, _ = io.WriteString(typed, "test -c /dev/kvm && echo KVM is $((6 * 7)); exit\n")
		}
	}()
	err = Shell(ctx, cfg, in, &out)
	require.NoError(t, err, out.String())
	require.Contains(t, out.String(), "KVM is 42")
}
