package cli

import (
	"os/signal"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestUntilSignal ends with a signal that counts, and leaves one alone that is ignored.
func TestUntilSignal(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	ctx, stop := UntilSignal(t.Context(), syscall.SIGUSR1, syscall.SIGHUP)
	defer stop()
	require.True(t, signal.Ignored(syscall.SIGHUP))
	require.NoError(t, ctx.Err())
	require.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGUSR1))
	<-ctx.Done()

	ctx, stop = UntilSignal(t.Context(), syscall.SIGHUP)
	require.True(t, signal.Ignored(syscall.SIGHUP))
	stop()
	require.Error(t, ctx.Err())
}
