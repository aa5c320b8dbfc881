package control

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration"
)

// at is the request at which a process is stopped, as by SIGSTOP.
type at struct {
	method   string // empty: it was stopped before the first
	answered bool   // the request itself is still answered
}

// frozen is the client of a process that is stopped. changes counts the requests that would change
// something when it goes on.
func frozen(t *testing.T, when at) (c *Client, changes *atomic.Int64) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vm.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	ended := make(chan struct{})
	var stopped atomic.Bool
	stopped.Store(when.method == "")
	changes = new(atomic.Int64)
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" {
			changes.Add(1)
		}
		answered := !stopped.Load()
		if r.Method == when.method {
			stopped.Store(true)
			answered = answered && when.answered
		}
		events := r.URL.Path == "/v1/events"
		switch {
		case answered && events:
			fmt.Fprint(w, "data: {\"kind\":\"state\"}\n\n")
			_ = http.NewResponseController(w).Flush()
		case answered:
			fmt.Fprintln(w, `{"name":"vm","id":1}`)
			return
		}
		<-ended
	})}
	go server.Serve(l) //nolint:errcheck // ends with the test
	t.Cleanup(func() { close(ended); server.Close() })
	c, err = NewClient(path)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	c.patience = time.Second
	return c, changes
}

// second returns the error of an answer.
func second[T any](_ T, err error) error { return err }

// TestProcessDoesNotAnswer: every request to a stopped process ends, names the process, and leaves
// no order behind for when it goes on.
func TestProcessDoesNotAnswer(t *testing.T) {
	params := migration.Params{Destination: "unix:/d"}
	type call = func(context.Context, *Client) error
	for name, c := range map[string]struct {
		begun at // when it has begun to wait
		call  call
	}{
		"status": {at{}, func(ctx context.Context, c *Client) error { return second(c.VM(ctx)) }},
		"pause": {at{}, func(ctx context.Context, c *Client) error {
			return second(c.Pause(ctx))
		}},
		"resume": {at{}, func(ctx context.Context, c *Client) error {
			return second(c.Resume(ctx, 0))
		}},
		"tags": {at{}, func(ctx context.Context, c *Client) error { return second(c.Tags(ctx)) }},
		"cancel": {at{"DELETE", false}, func(ctx context.Context, c *Client) error {
			return second(c.CancelMigration(ctx))
		}},
		"stop": {at{"PUT", true}, func(ctx context.Context, c *Client) error {
			return second(c.Stop(ctx, 0))
		}},
		"migrate": {at{"POST", true}, func(ctx context.Context, c *Client) error {
			return second(c.Migrate(ctx, params, func(Event) {}))
		}},
		"follow": {at{"GET", true}, func(ctx context.Context, c *Client) error {
			events, err := c.Events(ctx)
			for err == nil {
				_, err = events.Next()
			}
			return err
		}},
	} {
		for _, when := range []at{{}, c.begun} {
			t.Run(fmt.Sprintf("%s at %q", name, when.method), func(t *testing.T) {
				t.Parallel()
				ctx := testContext(t)
				client, changes := frozen(t, when)
				err := c.call(ctx, client)
				require.ErrorIs(t, err, ErrNotAnswering, "%s, frozen at %+v", name, when)
				says := fmt.Sprintf("its process %d does not answer", os.Getpid())
				require.ErrorContains(t, err, says)
				require.NoError(t, ctx.Err())
				if when.method == "" {
					require.Zero(t, changes.Load(), name)
				}
			})
		}
	}
}

// TestStreamsAreNeverSilent: a client that follows a VM to which nothing happens learns in time
// that its process is alive.
func TestStreamsAreNeverSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sub, err := newHub().subscribe(stateOf(StateRunning))
		require.NoError(t, err)
		_, err = nextText(t.Context(), sub)
		require.NoError(t, err)
		begin := time.Now()
		text, err := nextText(t.Context(), sub)
		require.NoError(t, err)
		require.Equal(t, ": keep-alive\n\n", string(text))
		require.Less(t, time.Since(begin), AnswerTimeout/3)
	})
}

// TestNoPermission: a socket without permission does not count as a process that has gone.
func TestNoPermission(t *testing.T) {
	c := &Client{nameOrPath: "vm"}
	err := c.lost(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)})
	require.ErrorContains(t, err, "no permission for its control socket")
	require.NotContains(t, err.Error(), "lost contact")
}

// TestClientThatWasStopped: the time for which this program did not run itself is not the server's
// silence.
func TestClientThatWasStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hearing(t.Context(), time.Minute)
		defer h.end()
		h.begin()
		h.mu.Lock()
		h.due = h.due.Add(-time.Hour) // as if it had been stopped before the first look
		h.mu.Unlock()
		begin := time.Now()
		<-h.ctx.Done()
		require.ErrorIs(t, h.heard(context.Cause(h.ctx)), ErrNotAnswering)
		require.Equal(t, time.Minute+time.Minute/looksOfPatience, time.Since(begin))

		h = hearing(t.Context(), time.Minute)
		defer h.end()
		h.begin()
		begin = time.Now()
		<-h.ctx.Done()
		require.Equal(t, time.Minute, time.Since(begin))
	})
}
