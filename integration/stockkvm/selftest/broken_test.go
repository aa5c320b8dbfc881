//go:build stockkvm_broken

// These tests break on purpose, each in one way that the rig must report. Only the rig's own tests
// build and run them, inside an emulated host.
package selftest

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestBrokenFails(t *testing.T) {
	m := newMachine(t, code)
	require.Equal(t, exitHlt, m.exit(t), "broken on purpose: the first exit is the port")
}

func TestBrokenHangs(*testing.T) { time.Sleep(time.Hour) }

func TestBrokenLeavesEarly(*testing.T) { os.Exit(0) }

// TestBrokenStops hangs beyond the reach of the test binary's own timeout.
func TestBrokenStops(t *testing.T) {
	require.NoError(t, unix.Kill(os.Getpid(), unix.SIGSTOP))
}

// heard is a file that the rig makes inside once it has read that the test runs, because a panic
// can overtake the line that says so on its way out of the host.
const heard = "/tmp/heard"

func TestBrokenPanicsKernel(t *testing.T) {
	for _, err := os.Stat(heard); err != nil; _, err = os.Stat(heard) {
		time.Sleep(10 * time.Millisecond)
	}
	require.NoError(t, os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0))
	time.Sleep(time.Hour)
}
