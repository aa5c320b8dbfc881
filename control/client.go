package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"

	"taskguide/migration"
	"taskguide/tagging"
)

// ErrNotRunning: nobody serves the VM's control socket.
var ErrNotRunning = errors.New("no such VM is running")

// StatusError is a refusal by the server.
type StatusError struct {
	Code    int // HTTP status code
	Message string
}

func (e *StatusError) Error() string { return e.Message }

// Client talks to one VM's control socket.
type Client struct {
	nameOrPath string
	http       http.Client
}

// NewClient makes a client of the VM with that name, or with that socket if there is a '/' in it. It does not
// connect yet.
func NewClient(nameOrPath string) (*Client, error) {
	path, err := SocketPath(nameOrPath)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{nameOrPath: nameOrPath, http: http.Client{Transport: &http.Transport{DialContext: dial}}}, nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// VM asks what the VM is and how it is doing.
func (c *Client) VM(ctx context.Context) (VM, error) {
	return call[VM](ctx, c, "GET", "/v1/vm", nil)
}

// Pause stops the vCPUs.
func (c *Client) Pause(ctx context.Context) (VM, error) {
	return call[VM](ctx, c, "PUT", "/v1/vm/pause", nil)
}

// Resume lets the vCPUs run again.
func (c *Client) Resume(ctx context.Context, mode ResumeMode) (VM, error) {
	path := "/v1/vm/resume"
	if mode == ResumeForced {
		path += "?force=1"
	}
	return call[VM](ctx, c, "PUT", path, nil)
}

// Stop ends the VM and returns once its name is free again. A migration that is going on is cancelled first.
func (c *Client) Stop(ctx context.Context) (VM, error) {
	events, err := c.Events(ctx)
	if err != nil {
		return VM{}, err
	}
	defer events.Close()
	vm, err := call[VM](ctx, c, "PUT", "/v1/vm/stop", nil)
	if err != nil {
		return vm, err
	}
	for {
		// However the stream ends, the process has let go of it.
		if _, err := events.Next(); err != nil {
			return vm, ctx.Err()
		}
	}
}

// Migration returns the report of the present or last migration.
func (c *Client) Migration(ctx context.Context) (migration.Report, error) {
	return call[migration.Report](ctx, c, "GET", "/v1/migration", nil)
}

// StartMigration starts a migration and returns at once; see Migrate for the whole of it.
func (c *Client) StartMigration(ctx context.Context, p migration.Params) (Started, error) {
	return call[Started](ctx, c, "POST", "/v1/migration", p)
}

// CancelMigration cancels the present migration, waits until it ended and returns its final report.
func (c *Client) CancelMigration(ctx context.Context) (migration.Report, error) {
	return call[migration.Report](ctx, c, "DELETE", "/v1/migration", nil)
}

// Tags returns the state of the tag port.
func (c *Client) Tags(ctx context.Context) (tagging.Info, error) {
	return call[tagging.Info](ctx, c, "GET", "/v1/tags", nil)
}

func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var v T
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		return v, c.lost(fmt.Errorf("read answer: %w", err))
	}
	return v, nil
}

// send returns only answers that are a success.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://vm"+path, payload)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.lost(err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var e errorBody
	if json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&e) != nil || e.Error == "" {
		e.Error = "the control socket answered " + resp.Status
	}
	return nil, &StatusError{Code: resp.StatusCode, Message: fmt.Sprintf("%s: %s", c.nameOrPath, e.Error)}
}

// lost says in words of ours that there is no VM to talk to.
func (c *Client) lost(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w: vmm list shows those that are", c.nameOrPath, ErrNotRunning)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", c.nameOrPath, err)
	default:
		return fmt.Errorf("%s: lost contact with the VM's process: %w", c.nameOrPath, err)
	}
}

// Events is a stream of what happens to a VM.
type Events struct {
	client *Client
	body   io.ReadCloser
	in     *bufio.Reader
}

// Events subscribes to all kinds of events but tags. What happens after it returns is in the stream.
func (c *Client) Events(ctx context.Context) (*Events, error) {
	return c.subscribe(ctx, "/v1/events")
}

// TagEvents subscribes to all kinds of events, tags included.
func (c *Client) TagEvents(ctx context.Context) (*Events, error) {
	return c.subscribe(ctx, "/v1/events?tags=1")
}

func (c *Client) subscribe(ctx context.Context, path string) (*Events, error) {
	resp, err := c.send(ctx, "GET", path, nil)
	if err != nil {
		return nil, err
	}
	return eventsFrom(c, resp.Body), nil
}

func eventsFrom(c *Client, body io.ReadCloser) *Events {
	return &Events{client: c, body: body, in: bufio.NewReader(body)}
}

// Close ends the subscription.
func (s *Events) Close() { s.body.Close() }

// Next waits for the next event. It returns io.EOF when the VM's process closed the stream.
func (s *Events) Next() (Event, error) {
	var e Event
	for {
		line, err := s.in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return e, io.EOF
		}
		if err != nil {
			return e, s.client.lost(err)
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue // the kind is in the data, too; the rest is comments and separators
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return e, fmt.Errorf("%s: event that is none: %w", s.client.nameOrPath, err)
		}
		return e, nil
	}
}

// Migrate starts a migration, hands its events to watch as they happen, and returns the final report. If ctx ends, it
// cancels the migration and waits for what became of it. The error is about the control socket or a refusal to
// start; how the migration ended is in the report's status.
func (c *Client) Migrate(ctx context.Context, p migration.Params, watch func(Event)) (migration.Report, error) {
	// The stream must survive the end of ctx: the outcome of the cancellation comes through it.
	streamCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	events, err := c.Events(streamCtx)
	if err != nil {
		return migration.Report{}, err
	}
	defer events.Close()
	started, err := c.StartMigration(ctx, p)
	if err != nil {
		return migration.Report{}, err
	}
	cancelOnEnd := context.AfterFunc(ctx, func() {
		// A failure to cancel (it ended in the meantime) shows in the report that follows.
		_, _ = c.CancelMigration(streamCtx)
	})
	defer cancelOnEnd()
	for {
		e, err := events.Next()
		if err != nil {
			return c.outcomeWithoutStream(streamCtx, err)
		}
		if e.MigrationID != started.ID {
			continue // the end of an earlier one, or a change of state
		}
		watch(e)
		if e.Kind == string(migration.EventDone) && e.Report != nil {
			return *e.Report, nil
		}
	}
}

// outcomeWithoutStream asks for the report once the stream broke, in case only the stream did.
func (c *Client) outcomeWithoutStream(ctx context.Context, cause error) (migration.Report, error) {
	report, err := c.Migration(ctx)
	if err == nil && report.Status != migration.StatusRunning {
		return report, nil
	}
	if errors.Is(cause, io.EOF) {
		cause = errors.New("its process closed the connection")
	}
	return report, fmt.Errorf("%s: the outcome of the migration is unknown: %w: see whether the guest runs at the destination", c.nameOrPath, cause)
}
