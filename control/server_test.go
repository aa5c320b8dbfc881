package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control/version"
	"taskguide/dirtylog/trace"
	"taskguide/migration"
	"taskguide/tagging"
)

// deadline is far beyond what anything here takes; it turns a hang into a failure.
const deadline = 20 * time.Second

// fakeVM is a Backend and Migrations without KVM or engine: a migration runs until finish or a
// cancellation.
type fakeVM struct {
	mu       sync.Mutex
	state    State
	report   *migration.Report
	params   migration.Params // of the last migration
	id       int
	publish  func(Event)
	done     chan struct{}
	onStart  func() // called on the spot, once a migration has started
	follower func(tagging.Transition)
	beats    func(Beat)
	onStop   func()
	stopped  StopMode // the last order
	onTrace  func(context.Context, TraceOrder, trace.Sink) error
	onTags   func() (tagging.Info, error) // unless nil: what Tags does
	onFinish func(time.Time) error        // unless nil: what FinishTrace does
}

func (f *fakeVM) Version() version.Info { return version.Here(version.Machine{}) }

func (f *fakeVM) Info() VM {
	f.mu.Lock()
	defer f.mu.Unlock()
	return VM{Name: "fake", PID: 1, State: f.state, MemoryBytes: 1 << 20, CPUs: 2}
}

func (f *fakeVM) set(from, to State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != from {
		return fmt.Errorf("%w: the VM is %s", ErrConflict, f.state)
	}
	f.state = to
	return nil
}

func (f *fakeVM) Pause() error { return f.set(StateRunning, StatePaused) }
func (f *fakeVM) Stop(mode StopMode) error {
	f.mu.Lock()
	f.stopped = mode
	f.mu.Unlock()
	if f.onStop != nil && f.state == StateUnknown && mode != StopForced {
		return fmt.Errorf("%w: the only copy", ErrConflict)
	}
	if f.onStop == nil {
		return errors.New("stop: two\nlines")
	}
	f.onStop()
	return nil
}

func (f *fakeVM) Resume(mode ResumeMode) error {
	if mode == ResumeForced {
		return f.set(StateUnknown, StateRunning)
	}
	return f.set(StatePaused, StateRunning)
}

func (f *fakeVM) Tags() (tagging.Info, error) {
	if f.onTags != nil {
		return f.onTags()
	}
	return tagging.Info{Epoch: 7, Tasks: []tagging.TaskInfo{}}, nil
}

func (f *fakeVM) Debug(ctx context.Context) (Debug, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		return Debug{}, errors.New("a vCPU may be held for ever")
	}
	return Debug{VCPUs: []VCPUDebug{{ID: 1, RIP: ^Register(0), ISR: []int{236}}},
		Devices: []DeviceDebug{{
			Name: "rng", State: "working", Queues: []QueueDebug{{Size: 64, Ready: true}},
		}},
	}, nil
}

func (f *fakeVM) Trace(ctx context.Context, order TraceOrder, to trace.Sink) error {
	if f.onTrace == nil {
		return fmt.Errorf("%w: a trace is being recorded", ErrConflict)
	}
	return f.onTrace(ctx, order, to)
}

func (f *fakeVM) FinishTrace(begun time.Time) error {
	if f.onFinish == nil {
		return fmt.Errorf("%w: no trace to end", ErrConflict)
	}
	return f.onFinish(begun)
}

func (f *fakeVM) FollowBeats(g func(Beat)) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beats = g
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.beats = nil
	}
}

func (f *fakeVM) FollowTags(g func(tagging.Transition)) (func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.follower = g
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.follower = nil
	}, nil
}

func (f *fakeVM) StartMigration(_ context.Context, p migration.Params) (Started, error) {
	f.mu.Lock()
	if f.report != nil && f.report.Status == migration.StatusRunning {
		f.mu.Unlock()
		return Started{},
			fmt.Errorf("%w: a migration to %s is running", ErrConflict, f.report.Destination)
	}
	f.id++
	r := someReport()
	r.Destination, r.Rule = p.Destination, p.Rule
	f.report, f.params = &r, p
	f.done = make(chan struct{})
	started := Started{ID: f.id, Report: *f.report}
	f.mu.Unlock()
	if f.onStart != nil {
		f.onStart()
	}
	return started, nil
}

func (f *fakeVM) finish(status migration.Status) migration.Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.Status = status
	r := *f.report
	f.publish(FromMigration(f.id, migration.Notice{Kind: migration.NoticeDone, Report: &r}))
	close(f.done)
	return r
}

func (f *fakeVM) MigrationReport() (migration.Report, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.report == nil {
		return migration.Report{}, fmt.Errorf("%w: no migration yet", ErrNotFound)
	}
	return *f.report, nil
}

func (f *fakeVM) CancelMigration(context.Context) (migration.Report, error) {
	if r, err := f.MigrationReport(); err != nil || r.Status != migration.StatusRunning {
		return r, fmt.Errorf("%w: no migration to cancel", ErrConflict)
	}
	return f.finish(migration.StatusCancelled), nil
}

func start(t *testing.T) (*fakeVM, *Server, *Client) {
	t.Helper()
	vm := &fakeVM{state: StateRunning}
	server := NewServer(vm, vm)
	vm.publish = server.Publish
	server.http.Handler = described(t, server.http.Handler)
	path := filepath.Join(t.TempDir(), "vm.sock")
	l, err := Listen(path)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, shutdown(server))
		require.NoError(t, <-served)
	})
	client, err := NewClient(path)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return vm, server, client
}

func shutdown(s *Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return s.Shutdown(ctx)
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// TestRequests speaks HTTP by hand, to test the contract and not our client.
func TestRequests(t *testing.T) {
	_, _, client := start(t)
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string // part of the answer
	}{
		{"GET", "/v1/vm", "", 200, `"state":"running","memory_bytes":1048576,"cpus":2`},
		{"GET", "/v1/version", "", 200, `"protocol":{"lowest_version":`},
		{"PUT", "/v1/version", "", 405, `use GET`},
		{"PUT", "/v1/vm/resume", "", 409, `{"error":"the VM is running"}`},
		{"PUT", "/v1/vm/pause", "", 200, `"state":"paused"`},
		{"PUT", "/v1/vm/pause", "", 409, `{"error":"the VM is paused"}`},
		{"PUT", "/v1/vm/resume", "", 200, `"state":"running"`},
		{"PUT", "/v1/vm/resume?force=1", "", 409, `{"error":"the VM is running"}`},
		{"PUT", "/v1/vm/stop", "", 500, `{"error":"stop: two; lines"}`},
		{"GET", "/v1/vm/stop", "", 405, `use PUT`},
		{"GET", "/v1/tags", "", 200, `"epoch":7`},
		{"GET", "/v1/debug", "", 200, `"rip":"0xffffffffffffffff"`},
		{"GET", "/v2/vm", "", 404, `{"error":"no such path: /v2/vm"}`},
		{"GET", "/v1/migration", "", 404, `{"error":"no migration yet"}`},
		{"DELETE", "/v1/migration", "", 409, `{"error":"no migration to cancel"}`},
		{"DELETE", "/v1/trace", "", 409, `{"error":"no trace to end"}`},
		{"PUT", "/v1/trace", "", 405, `use DELETE, GET`},
		{
			"POST", "/v1/migration", `{"destination":"unix:/d","rule":"best"}`, 400,
			`rule \"best\" is unknown`,
		},
		{"POST", "/v1/migration", `{}`, 400, `no destination given`},
		{"POST", "/v1/migration", `{"destination":"unix:/d","speed":9}`, 400, `unknown field`},
		{
			"POST", "/v1/migration", `{"destination":"unix:/d","max_defer":"3"}`,
			400, `max_defer: \"3\" is no time`,
		},
		{
			"POST", "/v1/migration", `{"destination":"unix:/d","max_defer":"1s","max_defer_ns":0}`,
			400, `use one of them`,
		},
		{"POST", "/v1/migration", `{"destination":"unix:/d"} {}`, 400, `more than one`},
		{"POST", "/v1/migration", `{"destination":`, 400, `unexpected EOF`},
		{"POST", "/v1/migration", "", 400, `nothing there`},
		{
			"POST", "/v1/migration", `{"destination":"` + strings.Repeat("x", maxBody) + `"}`, 400,
			`too large`,
		},
		{
			"POST", "/v1/migration", `{"destination":"unix:/d","rule":"xen"}`, 202,
			`"id":1,"status":"running"`,
		},
		{"GET", "/v1/migration", "", 200, `"status":"running"`},
		{
			"POST", "/v1/migration", `{"destination":"unix:/e"}`, 409,
			`a migration to unix:/d is running`,
		},
		{"DELETE", "/v1/migration", "", 200, `"status":"cancelled"`},
		{"POST", "/v1/migration", `{"destination":"unix:/e"}`, 202, `"id":2`},
		{"PATCH", "/v1/migration", "", 405, `use DELETE, GET, POST`},
	} {
		req, err := http.NewRequestWithContext(testContext(t), c.method, "http://vm"+c.path,
			strings.NewReader(c.body))
		require.NoError(t, err)
		resp, err := client.http.Do(req)
		require.NoError(t, err, c.path)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		name := c.method + " " + c.path + " " + c.body[:min(len(c.body), 40)]
		require.Equal(t, c.code, resp.StatusCode, "%s: %s", name, body)
		require.Contains(t, string(body), c.want, name)
		require.True(t, json.Valid(body), name)
		require.Equal(t, 1, bytes.Count(body, []byte("\n")), name)
		require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	}
}

func TestClientCalls(t *testing.T) {
	_, _, client := start(t)
	ctx := testContext(t)
	vm, err := client.Pause(ctx)
	require.NoError(t, err)
	require.Equal(t, StatePaused, vm.State)
	_, err = client.Pause(ctx)
	var refused *StatusError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 409, refused.Code)
	vm, err = client.Resume(ctx, ResumeSafe)
	require.NoError(t, err)
	require.Equal(t, StateRunning, vm.State)
	tags, err := client.Tags(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 7, tags.Epoch)
	_, err = client.Migration(ctx)
	require.ErrorContains(t, err, "no migration yet")
}

func TestClientOfNobody(t *testing.T) {
	client, err := NewClient(filepath.Join(t.TempDir(), "none.sock"))
	require.NoError(t, err)
	_, err = client.VM(testContext(t))
	require.ErrorIs(t, err, ErrNotRunning)

	_, err = NewClient("../x y")
	require.NoError(t, err, "a path")
	_, err = NewClient("x y")
	require.ErrorContains(t, err, "name \"x y\"")
}

func TestEventStream(t *testing.T) {
	vm, server, client := start(t)
	events, err := client.Events(testContext(t))
	require.NoError(t, err)
	defer events.Close()
	e, err := events.Next()
	require.NoError(t, err)
	require.Equal(t, EventState, e.Kind)
	require.Equal(t, StateRunning, e.State)

	server.Publish(Event{Kind: EventState, State: StatePaused})
	server.Publish(FromMigration(3, migration.Notice{Kind: migration.NoticeGate, GateOpen: false}))
	server.Publish(FromMigration(3, migration.Notice{
		Kind: migration.NoticeRound, Round: &migration.Round{N: 4, Phase: migration.PhasePreCopy},
	}))
	e, err = events.Next()
	require.NoError(t, err)
	require.Equal(t, StatePaused, e.State)
	require.False(t, e.Time.IsZero())
	e, err = events.Next()
	require.NoError(t, err)
	require.Equal(t, 3, e.MigrationID)
	require.NotNil(t, e.GateOpen)
	require.False(t, *e.GateOpen)
	e, err = events.Next()
	require.NoError(t, err)
	require.Equal(t, 4, e.Round.N)
	require.Nil(t, vm.follower, "tags come only when asked for")

	require.NoError(t, shutdown(server))
	_, err = events.Next()
	require.ErrorIs(t, err, io.EOF)
}

func TestTagEvents(t *testing.T) {
	vm, _, client := start(t)
	events, err := client.TagEvents(testContext(t))
	require.NoError(t, err)
	defer events.Close()
	_, err = events.Next()
	require.NoError(t, err)
	vm.follower(tagging.Transition{Event: tagging.Entered, Task: 5})
	e, err := events.Next()
	require.NoError(t, err)
	require.Equal(t, EventTag, e.Kind)
	require.EqualValues(t, 5, e.Tag.Task)
}

// TestSlowClient floods a client that reads nothing: publishing must not block, memory must stay
// bounded, and the client must learn that it lost events and still get the last one.
func TestSlowClient(t *testing.T) {
	h := newHub()
	sub, err := h.subscribe(stateOf(StateRunning))
	require.NoError(t, err)
	const flood = 10 * queueLimit
	for i := range flood {
		h.publish(Event{Kind: "round", MigrationID: i + 1})
	}
	require.LessOrEqual(t, len(sub.queue), queueLimit)
	h.publish(Event{Kind: "done"})
	h.close()

	dropped, seen, last := 0, 0, Event{}
	for {
		e, err := sub.next(testContext(t))
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if e.Kind == EventLagged {
			dropped += e.Dropped
			continue
		}
		if e.MigrationID != 0 {
			require.Greater(t, e.MigrationID, last.MigrationID, "order")
		}
		seen, last = seen+1, e
	}
	require.Positive(t, dropped)
	require.Equal(t, flood+2, dropped+seen)
	require.Equal(t, "done", last.Kind)
}

// TestBeatsDisplaceNothing: a guest that floods its console with heartbeats loses some of these,
// and no tag.
func TestBeatsDisplaceNothing(t *testing.T) {
	h := newHub()
	sub, err := h.subscribe(stateOf(StateRunning))
	require.NoError(t, err)
	const floods, beats = 4, 2 * queueLimit
	for i := range floods {
		for range beats {
			sub.pushBeat(Beat{})
		}
		sub.pushTag(tagging.Transition{Task: uint32(i)})
	}
	h.close()
	lost, kept, tags := 0, 0, 0
	for {
		e, err := sub.next(testContext(t))
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		switch e.Kind {
		case EventLagged:
			lost += e.Dropped
		case EventBeat:
			kept++
		case EventTag:
			require.EqualValues(t, tags, e.Tag.Task, "order")
			tags++
		}
	}
	require.Equal(t, floods, tags)
	require.Positive(t, lost)
	require.Equal(t, floods*beats, lost+kept)
}

func TestProgressIsCoalesced(t *testing.T) {
	h := newHub()
	sub, err := h.subscribe(stateOf(StateRunning))
	require.NoError(t, err)
	for i := range int64(1000) {
		h.publish(Event{Kind: "progress", Progress: &migration.Progress{DonePages: i}})
	}
	_, err = sub.next(testContext(t))
	require.NoError(t, err)
	e, err := sub.next(testContext(t))
	require.NoError(t, err)
	require.EqualValues(t, 999, e.Progress.DonePages)
	require.Empty(t, sub.queue)
	require.Zero(t, sub.dropped)
}

func TestTooManySubscribers(t *testing.T) {
	h := newHub()
	var last *subscriber
	for range maxSubscribers {
		sub, err := h.subscribe(stateOf(StateRunning))
		require.NoError(t, err)
		last = sub
	}
	_, err := h.subscribe(stateOf(StateRunning))
	require.ErrorIs(t, err, errTooManyClients)
	last.cancel()
	_, err = h.subscribe(stateOf(StateRunning))
	require.NoError(t, err)
}

// TestMigrateOutlivesSource ends the migration and shuts the server down at once, as the process of
// a VM that moved away does. The client must still get the whole report.
func TestMigrateOutlivesSource(t *testing.T) {
	vm, server, client := start(t)
	vm.onStart = func() {
		for n := range 5 {
			server.Publish(FromMigration(1, migration.Notice{
				Kind:  migration.NoticeRound,
				Round: &migration.Round{N: n + 1, Phase: migration.PhasePreCopy},
			}))
		}
		vm.finish(migration.StatusCompleted)
		go shutdown(server) //nolint:errcheck // again in the cleanup, where it is checked
	}
	var kinds []string
	report, err := client.Migrate(testContext(t), migration.Params{Destination: "unix:/d"},
		func(e Event) {
			kinds = append(kinds, e.Kind)
		})
	require.NoError(t, err)
	require.Equal(t, migration.StatusCompleted, report.Status)
	require.Equal(t, "unix:/d", report.Destination)
	require.Equal(t, []string{"round", "round", "round", "round", "round", "done"}, kinds)
}

func TestMigrateIgnoresAnEarlierEnd(t *testing.T) {
	vm, server, client := start(t)
	vm.id = 6
	vm.onStart = func() {
		old := someReport()
		old.Status = migration.StatusFailed
		server.Publish(FromMigration(6, migration.Notice{Kind: migration.NoticeDone, Report: &old}))
		vm.finish(migration.StatusCompleted)
	}
	report, err := client.Migrate(testContext(t), migration.Params{Destination: "unix:/d"},
		func(Event) {})
	require.NoError(t, err)
	require.Equal(t, migration.StatusCompleted, report.Status)
}

func TestMigrateCancelled(t *testing.T) {
	vm, _, client := start(t)
	ctx, cancel := context.WithCancel(testContext(t))
	vm.onStart = cancel // before the client has the answer to its order
	report, err := client.Migrate(ctx, migration.Params{Destination: "unix:/d"}, func(Event) {})
	require.NoError(t, err)
	require.Equal(t, migration.StatusCancelled, report.Status)
}

// TestStopInDoubt: only force ends what may be the only copy. A client that asked for its end
// earlier learns that it lives on.
func TestStopInDoubt(t *testing.T) {
	vm, server, client := start(t)
	vm.onStop = func() {}
	vm.state = StateUnknown
	_, err := client.Stop(testContext(t), StopSafe)
	require.ErrorContains(t, err, "the only copy")
	vm.onStop = func() { go shutdown(server) } //nolint:errcheck // again in the cleanup
	_, err = client.Stop(testContext(t), StopForced)
	require.NoError(t, err)

	vm, server, client = start(t)
	vm.onStop = func() { server.Publish(Event{Kind: EventState, State: StateUnknown}) }
	_, err = client.Stop(testContext(t), StopSafe)
	require.ErrorIs(t, err, ErrConflict)
	require.ErrorContains(t, err, "nobody knows whether the destination runs the guest")
}

// TestStopModes: the VM gets the mode that the client ordered.
func TestStopModes(t *testing.T) {
	for _, mode := range []StopMode{StopSafe, StopNow, StopForced} {
		vm, server, client := start(t)
		vm.onStop = func() { go shutdown(server) } //nolint:errcheck // again in the cleanup
		_, err := client.Stop(testContext(t), mode)
		require.NoError(t, err)
		vm.mu.Lock()
		require.Equal(t, mode, vm.stopped)
		vm.mu.Unlock()
	}
}

// TestOrdersThatSayNeitherYesNorNo: nothing is done, and the answer says what was meant.
func TestOrdersThatSayNeitherYesNorNo(t *testing.T) {
	vm, server, _ := start(t)
	vm.onStop = func() { t.Error("stopped") }
	for _, c := range []struct{ method, path, says string }{
		{"PUT", "/v1/vm/resume?force=maybe", "force=maybe: use force=1, or leave it out"},
		{"PUT", "/v1/vm/stop?force=0", "force=0: use force=1, or leave it out"},
		{"PUT", "/v1/vm/stop?now=", "now=: use now=1, or leave it out"},
		{"PUT", "/v1/vm/stop?now=1&now=1", "now=1,1: use now=1, or leave it out"},
		{"GET", "/v1/events?tags=2", "tags=2: use tags=1, or leave it out"},
		{"PUT", "/v1/vm/stop?Now=1", "Now: no such parameter of PUT /v1/vm/stop"},
		{"PUT", "/v1/vm/stop?now=1;x", "semicolon"},
		{"PUT", "/v1/vm/pause?now=1", "now: no such parameter"},
		{"DELETE", "/v1/trace?began=T", "began: no such parameter"},
	} {
		w := httptest.NewRecorder()
		server.routes().ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		require.Equal(t, http.StatusBadRequest, w.Code, c.path)
		require.Contains(t, w.Body.String(), c.says)
	}
}

// TestStopFreesTheName: after Stop has returned, another VM can take the name.
func TestStopFreesTheName(t *testing.T) {
	vm, server, client := start(t)
	//nolint:errcheck // again in the cleanup, where it is checked
	vm.onStop = func() { go shutdown(server) }
	_, err := client.Stop(testContext(t), StopSafe)
	require.NoError(t, err)
	require.NoFileExists(t, client.nameOrPath)
}

func TestResumeForced(t *testing.T) {
	vm, _, client := start(t)
	vm.state = StateUnknown
	_, err := client.Resume(testContext(t), ResumeSafe)
	require.Error(t, err)
	after, err := client.Resume(testContext(t), ResumeForced)
	require.NoError(t, err)
	require.Equal(t, StateRunning, after.State)
}

func TestMigrateRefused(t *testing.T) {
	_, _, client := start(t)
	ctx := testContext(t)
	_, err := client.StartMigration(ctx, migration.Params{Destination: "unix:/d"})
	require.NoError(t, err)
	_, err = client.Migrate(ctx, migration.Params{Destination: "unix:/e"}, func(Event) {})
	require.ErrorContains(t, err, "a migration to unix:/d is running")
}

// TestMigrateLosesSource: the process dies in the middle. The client must not claim any outcome.
func TestMigrateLosesSource(t *testing.T) {
	vm, server, client := start(t)
	vm.onStart = func() { go server.http.Close() }
	_, err := client.Migrate(testContext(t), migration.Params{Destination: "unix:/d"},
		func(Event) {})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\n")
}

func FuzzReadParams(f *testing.F) {
	f.Add(
		[]byte(`{"destination":"tcp:h:1","rule":"xen","bits_per_second":1000000000,"verify":true}`),
	)
	f.Add([]byte(`{"destination":"unix:/p","switch_at_exit":false,"max_defer_ns":-1}`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`{"destination":"unix:/p","downtime_limit":"0s","max_defer":"1m","MAX_ROUNDS":3}`))
	f.Add([]byte(`{"destination":"unix:/p","rule":"downtime:limit=1s","standstill_limit":"0s"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := readParams(bytes.NewReader(body))
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		require.NotEmpty(t, p.Destination)
		require.NotNil(t, p.SwitchAtExit)
		// The order that a client makes of it means the same.
		o, err := newOrder(p)
		require.NoError(t, err)
		again, err := json.Marshal(o)
		require.NoError(t, err)
		q, err := readParams(bytes.NewReader(again))
		require.NoError(t, err, "%s", again)
		require.Equal(t, p, q, "%s", again)
	})
}

// FuzzEvents: the client survives any bytes that a peer streams to it.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("event: state\ndata: {\"kind\":\"state\",\"state\":\"running\"}\n\n"))
	f.Add([]byte(": keep-alive\n\ndata: {\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		here, there := net.Pipe()
		go func() {
			there.Write(stream) //nolint:errcheck // the reader may leave early
			there.Close()
		}()
		defer here.Close()
		events := eventsFrom(&Client{nameOrPath: "vm"}, here)
		for range bytes.Count(stream, []byte("\n")) + 1 {
			if _, err := events.Next(); err != nil {
				return
			}
		}
		t.Fatal("more events than lines")
	})
}

// TestStreamBeginsWithThePresent: a change just as a stream begins is in it, before or after its
// first event.
func TestStreamBeginsWithThePresent(t *testing.T) {
	h := newHub()
	sub, err := h.subscribe(func() State {
		h.publish(Event{Kind: EventState, State: StatePaused}) // after the state was looked at
		return StateRunning
	})
	require.NoError(t, err)
	for _, want := range []State{StateRunning, StatePaused} {
		e, err := sub.next(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, e.State)
	}
}

// TestStopThatComesTooLate: a VM that ends because its guest has moved did not end its guest.
func TestStopThatComesTooLate(t *testing.T) {
	for _, mode := range []StopMode{StopSafe, StopNow, StopForced} {
		vm, server, client := start(t)
		vm.onStop = func() {
			server.Publish(Event{Kind: EventState, State: StateMoved, Ending: EndMoved})
			go shutdown(server) //nolint:errcheck // again in the cleanup
		}
		_, err := client.Stop(testContext(t), mode)
		require.ErrorIs(t, err, errMovedInstead)
	}
}

// TestStreamThatIsCut: a client that did not read for a while is cut off, and then follows the
// migration that still goes on.
func TestStreamThatIsCut(t *testing.T) {
	vm := &fakeVM{state: StateRunning}
	server := NewServer(vm, vm)
	vm.publish = server.Publish
	var streams, looks atomic.Int64
	cutting := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/events" && streams.Add(1) == 1 {
			ctx, cut := context.WithCancel(r.Context())
			vm.onStart = cut
			r = r.WithContext(ctx)
		}
		server.routes().ServeHTTP(w, r)
		if r.URL.Path == "/v1/migration" && r.Method == "GET" && looks.Add(1) == 1 {
			vm.finish(migration.StatusCompleted) // after the client has seen that it goes on
		}
	})}
	path := filepath.Join(t.TempDir(), "vm.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	go cutting.Serve(l) //nolint:errcheck // ends with the test
	defer cutting.Close()
	client, err := NewClient(path)
	require.NoError(t, err)
	defer client.Close()
	report, err := client.Migrate(testContext(t), migration.Params{Destination: "unix:/d"},
		func(Event) {})
	require.NoError(t, err)
	require.Equal(t, migration.StatusCompleted, report.Status)
	require.EqualValues(t, 2, streams.Load())
	require.EqualValues(t, 1, looks.Load())
}
