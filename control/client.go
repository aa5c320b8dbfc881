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
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/migration"
	"taskguide/tagging"
)

// ErrNotRunning is returned if nobody serves the VM's control socket.
var ErrNotRunning = errors.New("no such VM is running")

// ErrNotAnswering is returned if the VM's process exists and does not answer: it is stopped
// (SIGSTOP, a debugger) or starved.
var ErrNotAnswering = errors.New("does not answer")

// AnswerTimeout is how long a client waits for a sign of life from a VM's process. An event stream
// is never silent for longer than a third of that.
const AnswerTimeout = 10 * time.Second

// orderGrace is how long a client that is interrupted waits yet for the answer to its order.
const orderGrace = 2 * time.Second

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
	patience   time.Duration // AnswerTimeout, except in tests
	endWithin  time.Duration // for a trace that was ended: AnswerTimeout, except in tests
	pid        atomic.Int64  // of the process that serves the socket, once known
}

// NewClient makes a client of the VM with that name, or with that socket if nameOrPath contains a
// '/'. It does not connect yet.
func NewClient(nameOrPath string) (*Client, error) {
	path, err := SocketPath(nameOrPath)
	if err != nil {
		return nil, err
	}
	if path != nameOrPath {
		if err := checkRuntimeDir(RuntimeDir()); err != nil {
			return nil, err
		}
	}
	c := &Client{nameOrPath: nameOrPath, patience: AnswerTimeout, endWithin: AnswerTimeout}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			c.pid.Store(int64(peerPID(conn)))
		}
		return conn, err
	}
	c.http.Transport = &http.Transport{DialContext: dial}
	return c, nil
}

// peerPID returns the process that listens at the other end, even if it is stopped, or 0 if the
// kernel does not tell.
func peerPID(conn net.Conn) (pid int32) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			pid = cred.Pid
		}
	})
	return pid
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// VM returns what the VM is and how it is doing.
func (c *Client) VM(ctx context.Context) (VM, error) {
	return call[VM](ctx, c, "GET", "/v1/vm", nil)
}

// Pause stops the vCPUs.
func (c *Client) Pause(ctx context.Context) (VM, error) {
	return call[VM](ctx, c, "PUT", "/v1/vm/pause", nil)
}

// Resume lets the vCPUs run again. See [StateUnknown] for the forced mode.
func (c *Client) Resume(ctx context.Context, mode ResumeMode) (VM, error) {
	return call[VM](ctx, c, "PUT", forcing("/v1/vm/resume", mode == ResumeForced), nil)
}

func forcing(path string, forced bool) string {
	if forced {
		return path + "?force=1"
	}
	return path
}

// errNotStopped is returned if an order to stop was withdrawn.
var errNotStopped = fmt.Errorf("%w: not stopped: its migration ended, and nobody knows whether "+
	"the destination runs the guest", ErrConflict)

// errMovedInstead is returned if the VM has ended, and its guest has not.
var errMovedInstead = fmt.Errorf("%w: the guest was not ended: it was too late to cancel its "+
	"migration, and the guest runs at the destination", ErrConflict)

// Stop ends the VM and returns once its name is free again. It first cancels a migration under way.
// ErrConflict means that the VM may be the guest's only copy, and lives on, or that its guest has
// moved, and lives on elsewhere.
func (c *Client) Stop(ctx context.Context, mode StopMode) (VM, error) {
	events, err := c.Events(ctx)
	var refused *StatusError
	if errors.As(err, &refused) && refused.Code == http.StatusServiceUnavailable {
		return c.stopUnseen(ctx, mode)
	}
	if err != nil {
		return VM{}, err
	}
	defer events.Close()
	vm, err := call[VM](ctx, c, "PUT", mode.path(), nil)
	if err != nil {
		return vm, err
	}
	for moved := false; ; {
		// Any other end of the stream means that the process has closed it.
		e, err := events.Next()
		switch {
		case errors.Is(err, ErrNotAnswering):
			return vm, err
		case err != nil && moved:
			return vm, errMovedInstead
		case err != nil:
			return vm, ctx.Err()
		}
		moved = moved || e.Kind == EventState && e.State == StateMoved
		if mode != StopForced && e.Kind == EventState && e.State == StateUnknown {
			return vm, errNotStopped
		}
	}
}

// stopUnseen is Stop if too many others follow the VM's events: it asks until the process has gone.
func (c *Client) stopUnseen(ctx context.Context, mode StopMode) (VM, error) {
	vm, err := call[VM](ctx, c, "PUT", mode.path(), nil)
	if err != nil {
		return vm, err
	}
	// A process that ends answers what it was asked before, so this is how one learns of a move.
	report, err := c.CancelMigration(ctx)
	if err == nil && report.Status == migration.StatusCompleted {
		return vm, errMovedInstead
	}
	for {
		now, err := c.VM(ctx)
		if err == nil && now.PID != vm.PID {
			return vm, nil // somebody else already has its name
		}
		switch {
		case err == nil && now.State == StateMoved:
			return vm, errMovedInstead
		case err == nil && mode != StopForced && now.State == StateUnknown:
			return vm, errNotStopped
		}
		if err != nil {
			if errors.Is(err, ErrNotAnswering) || ctx.Err() != nil {
				return vm, err
			}
			return vm, nil
		}
		select {
		case <-ctx.Done():
			return vm, ctx.Err()
		case <-time.After(c.patience / 100):
		}
	}
}

// Migration returns the report of the present or last migration.
func (c *Client) Migration(ctx context.Context) (migration.Report, error) {
	return call[migration.Report](ctx, c, "GET", "/v1/migration", nil)
}

// StartMigration starts a migration and returns at once; [Client.Migrate] waits for its end. It
// leaves defaults to the VM's process, which may be older than this client and know fewer fields.
func (c *Client) StartMigration(ctx context.Context, p migration.Params) (Started, error) {
	o, err := newOrder(p)
	if err != nil {
		return Started{}, err
	}
	started, err := call[Started](ctx, c, "POST", "/v1/migration", o)
	var refused *StatusError
	unknown := errors.As(err, &refused) && refused.Code == http.StatusBadRequest &&
		strings.Contains(refused.Message, "unknown field")
	if !unknown {
		return started, err
	}
	if older := o.inOlderWords(); older != nil {
		started, err = call[Started](ctx, c, "POST", "/v1/migration", older)
	}
	if errors.As(err, &refused) && strings.Contains(refused.Message, "unknown field") {
		refused.Message += ": the VM's process is older than this program: " +
			"do without, or move the VM first"
	}
	return started, err
}

// CancelMigration cancels the present migration, waits for its end and returns its final report. It
// waits as long as the VM's process shows that it is alive.
func (c *Client) CancelMigration(ctx context.Context) (migration.Report, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go c.watch(ctx, end)
	report, err := call[migration.Report](ctx, c, "DELETE", "/v1/migration", nil)
	if cause := context.Cause(ctx); errors.Is(cause, ErrNotAnswering) {
		return report, cause
	}
	return report, err
}

// watch ends a wait once the VM's process no longer answers.
func (c *Client) watch(ctx context.Context, end context.CancelCauseFunc) {
	for {
		if _, err := c.VM(ctx); errors.Is(err, ErrNotAnswering) {
			end(err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.patience / 10):
		}
	}
}

// Tags returns the state of the tag port.
func (c *Client) Tags(ctx context.Context) (tagging.Info, error) {
	return call[tagging.Info](ctx, c, "GET", "/v1/tags", nil)
}

// Debug returns what the vCPUs are doing.
func (c *Client) Debug(ctx context.Context) (Debug, error) {
	return call[Debug](ctx, c, "GET", "/v1/debug", nil)
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

// send returns only successful answers. Other answers become errors.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		payload = bytes.NewReader(b)
	}
	patience := c.patience
	switch method {
	case "GET":
	case "DELETE":
		patience = 0 // answered once a migration has ended: see CancelMigration
		fallthrough
	default:
		// If the process is stopped, it must not find this order when it goes on, long after the
		// client gave up. So ask first whether it answers.
		if _, err := c.VM(ctx); err != nil {
			return nil, err
		}
	}
	h := hearing(ctx, patience)
	req, err := http.NewRequestWithContext(h.ctx, method, "http://vm"+path, payload)
	if err != nil {
		h.end()
		return nil, fmt.Errorf("make request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	h.begin()
	resp, err := c.http.Do(req)
	if err = h.heard(err); err != nil {
		h.end()
		return nil, c.lost(err)
	}
	resp.Body = &heardBody{resp.Body, h}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var e errorBody
	if json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&e) != nil || e.Error == "" {
		e.Error = "the control socket answered " + resp.Status
	}
	return nil,
		&StatusError{Code: resp.StatusCode, Message: fmt.Sprintf("%s: %s", c.nameOrPath, e.Error)}
}

// lost says in our own words that there is no VM to talk to.
func (c *Client) lost(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w: vmm list shows those that are", c.nameOrPath, ErrNotRunning)
	case errors.Is(err, ErrNotAnswering), errors.Is(err, syscall.EAGAIN):
		// EAGAIN: the backlog is full of clients that wait for this process.
		process := "its process"
		if pid := c.pid.Load(); pid > 0 {
			process = fmt.Sprintf("its process %d", pid)
		}
		return fmt.Errorf("%s: %s %w: "+
			"it may be stopped (kill -CONT lets it go on) or starved; "+
			"kill -KILL ends it and its guest", c.nameOrPath, process, ErrNotAnswering)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: no permission for its control socket: "+
			"only the user who runs the VM, and root, may use it", c.nameOrPath)
	case errors.Is(err, context.Canceled):
		return &givenUp{c.nameOrPath + ": interrupted before its process had answered", err}
	case errors.Is(err, context.DeadlineExceeded):
		return &givenUp{c.nameOrPath + ": its process has not done it in time", err}
	default:
		return fmt.Errorf("%s: lost contact with the VM's process: %w", c.nameOrPath, err)
	}
}

// givenUp is the end of a context, in words for the person who ended it.
type givenUp struct {
	text  string
	cause error
}

func (e *givenUp) Error() string { return e.text }
func (e *givenUp) Unwrap() error { return e.cause }

// Events is a stream of what happens to a VM.
type Events struct {
	client *Client
	body   io.ReadCloser
	in     *bufio.Reader
}

// Events subscribes to all kinds of events but tags. The stream has everything that happens after
// Events returns.
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

// Next waits for the next event. It returns io.EOF once the VM's process has closed the stream.
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
			continue // the data has the kind, too; the rest is comments and separators
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return e, fmt.Errorf("%s: %w: %w", s.client.nameOrPath, errNoEvent, err)
		}
		return e, nil
	}
}

// errNoEvent says that a stream has something else than events.
var errNoEvent = errors.New("event that is none")

// Migrate starts a migration, passes its events to watch as they happen, and returns the final
// report. If ctx ends, Migrate cancels the migration and waits for its end. Its error is about the
// control socket or a refusal to start. The report's status says how the migration ended.
func (c *Client) Migrate(
	ctx context.Context, p migration.Params, watch func(Event),
) (migration.Report, error) {
	// The stream must outlive ctx, because it brings the outcome of the cancellation.
	streamCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	// But ctx does end an attempt to start.
	untilStarted := context.AfterFunc(ctx, stop)
	defer untilStarted()
	events, err := c.Events(streamCtx)
	if err != nil {
		return migration.Report{}, err
	}
	defer func() { events.Close() }()
	if !untilStarted() {
		return migration.Report{}, &givenUp{
			c.nameOrPath + ": interrupted before the migration began", ctx.Err(),
		}
	}
	// An order that is under way when ctx ends is waited for, or it would go on with nobody to
	// cancel it.
	startCtx, giveUp := context.WithCancel(streamCtx)
	defer giveUp()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(orderGrace, giveUp) })()
	started, err := c.StartMigration(startCtx, p)
	if err != nil {
		return migration.Report{}, err
	}
	cancelOnEnd := context.AfterFunc(ctx, func() {
		// If the cancellation fails, because the migration has ended meanwhile, the report shows
		// that.
		_, _ = c.CancelMigration(streamCtx)
	})
	defer cancelOnEnd()
	for {
		e, err := events.Next()
		if err != nil {
			next, report, err := c.withoutStream(streamCtx, started.ID, err)
			if next == nil {
				return report, err
			}
			events.Close()
			events = next
			continue
		}
		if e.MigrationID != started.ID {
			continue // the end of an earlier migration, or a change of state
		}
		watch(e)
		if e.Kind == string(migration.NoticeDone) && e.Report != nil {
			return *e.Report, nil
		}
	}
}

// withoutStream asks for the report after the stream broke, in case only the stream did: the VM's
// process cuts it if this program does not read, as when it was stopped for a while. While the
// migration goes on, there is another stream.
func (c *Client) withoutStream(
	ctx context.Context, id int, cause error,
) (*Events, migration.Report, error) {
	if errors.Is(cause, ErrNotAnswering) {
		return nil, migration.Report{}, fmt.Errorf("%w; the migration is where that left it", cause)
	}
	time.Sleep(c.patience / 1000) // if streams break at once, this is no tight loop
	next, errNext := c.Events(ctx)
	report, err := c.Migration(ctx) // after Events, so that nothing is missed
	// And last whose report that is: numbers only grow.
	if vm, errVM := c.VM(ctx); errVM == nil && vm.Migration != nil && vm.Migration.ID != id {
		cause, err = errors.New("another one has begun since"), ErrConflict
	}
	over := err == nil && report.Status != migration.StatusRunning
	broken := errNext == nil && !errors.Is(cause, errNoEvent)
	if err == nil && !over && broken {
		return next, report, nil
	}
	if errNext == nil {
		next.Close()
	}
	if over {
		return nil, report, nil
	}
	if errors.Is(cause, io.EOF) {
		cause = errors.New("its process closed the connection")
	}
	return nil, report, fmt.Errorf("%s: the outcome of the migration is unknown: %w: see whether "+
		"the guest runs at the destination", c.nameOrPath, cause)
}
