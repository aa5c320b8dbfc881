package control

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTooManyConnections: silent connections cost a VM's process a bounded number of file
// descriptors, and later ones get a refusal. Once they have gone, new ones are served again.
func TestTooManyConnections(t *testing.T) {
	_, _, client := start(t)
	var silent []net.Conn
	for range maxConnections {
		conn, err := net.Dial("unix", client.nameOrPath)
		require.NoError(t, err)
		defer conn.Close()
		silent = append(silent, conn)
	}
	_, err := client.VM(testContext(t))
	var refused *StatusError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, http.StatusServiceUnavailable, refused.Code)
	require.ErrorContains(t, err, "too many connections")
	for _, conn := range silent {
		conn.Close()
	}
	ctx := testContext(t)
	for {
		if _, err = client.VM(ctx); err == nil {
			return
		}
		require.NoError(t, ctx.Err(), err)
		time.Sleep(time.Millisecond)
	}
}

// TestStopAmongManyFollowers: clients that follow a VM's events cannot keep it from being stopped.
func TestStopAmongManyFollowers(t *testing.T) {
	vm, server, client := start(t)
	for range maxSubscribers {
		_, err := server.hub.subscribe(stateOf(StateRunning))
		require.NoError(t, err)
	}
	//nolint:errcheck // again in the cleanup, where it is checked
	vm.onStop = func() { go shutdown(server) }
	_, err := client.Stop(testContext(t), 0)
	require.NoError(t, err)
	require.NoFileExists(t, client.nameOrPath)
}

// stateOf is the state of a VM that keeps it.
func stateOf(s State) func() State { return func() State { return s } }
