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
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog/trace"
	"taskguide/memory"
	"taskguide/tagging"
)

// recorded reads a whole trace.
func recorded(t *testing.T, file io.Reader) (trace.Header, []trace.Record) {
	r, err := trace.NewReader(file)
	require.NoError(t, err)
	var records []trace.Record
	for {
		record, err := r.Next()
		if errors.Is(err, io.EOF) {
			return r.Header, records
		}
		require.NoError(t, err)
		records = append(records, record)
	}
}

// TestTrace: what the backend records arrives, with the events of the time among it, and in order.
func TestTrace(t *testing.T) {
	vm, server, client := start(t)
	header := trace.Header{
		Trace: trace.Version, Pages: 64, PageBytes: memory.PageSize, IntervalUS: 5000,
		Contents: trace.Contents{
			Populated: &trace.Set{Runs: []int{0, 9}}, Zero: &trace.Set{Runs: []int{}},
			Samples: []trace.Sample{},
		},
	}
	noticed := make(chan struct{})
	vm.onTrace = func(ctx context.Context, order TraceOrder, to trace.Sink) error {
		require.Equal(t, TraceOrder{Interval: 5 * time.Millisecond, For: time.Minute}, order)
		require.NoError(t, to.Begin(header))
		require.NoError(t, to.Contents(header.Contents))
		server.Publish(Event{Kind: EventState, State: StatePaused})
		vm.follower(tagging.Transition{Time: time.Now()})
		vm.beats(Beat{Time: time.Now(), Task: 1, ElapsedMS: 2000, GapUS: 7})
		<-noticed
		require.NoError(t, to.Record(trace.Record{AtUS: 1, Dirty: &trace.Set{Runs: []int{1, 1}}}))
		return to.Record(trace.Record{AtUS: 1e9, End: &trace.End{Why: "over"}})
	}
	var file bytes.Buffer
	w := trace.NewWriter(&file)
	order := TraceOrder{Interval: 5 * time.Millisecond, For: time.Minute}
	events := 0
	require.NoError(t, client.Trace(testContext(t), order, hookedSink{w, func(r trace.Record) {
		if r.Event != nil {
			if events++; events == 3 {
				close(noticed)
			}
		}
	}}))
	require.NoError(t, w.Close())
	got, records := recorded(t, &file)
	require.Equal(t, header, got)
	require.Len(t, records, 5)
	require.Contains(t, string(records[0].Event), `"state":"paused"`)
	require.Contains(t, string(records[1].Event), `"kind":"tag"`)
	require.Contains(t, string(records[2].Event), `"kind":"beat"`)
	require.Contains(t, string(records[2].Event), `"elapsed_ms":2000,"passes":0`)
	require.Equal(t, []int{1, 1}, records[3].Dirty.Runs)
	require.GreaterOrEqual(t, records[3].AtUS, records[2].AtUS, "times never go back")
	require.Equal(t, "over", records[4].End.Why)
}

// TestTasksOfTheFirstMoment: a trace begins with the tasks that there are, as they are then. What a
// look finds that they did earlier is not in it, and what they do from then on comes after them.
func TestTasksOfTheFirstMoment(t *testing.T) {
	vm, _, client := start(t)
	did := func(event tagging.Change, task, depth uint32) {
		vm.follower(tagging.Transition{
			Time: time.Now(), Event: event, Task: task, Depth: depth, Fast: task == 3,
		})
	}
	looks := 0
	vm.onTags = func() (tagging.Info, error) {
		if looks++; looks == 1 {
			did(tagging.Entered, 3, 2)
		} else {
			did(tagging.Entered, 8, 1)
		}
		return tagging.Info{GateAny: true, Tasks: []tagging.TaskInfo{
			{ID: 3, Depth: 2, Inside: true, Fast: true}, {ID: 8, Depth: 0},
		}}, nil
	}
	vm.onTrace = func(ctx context.Context, order TraceOrder, to trace.Sink) error {
		require.NoError(t, to.Begin(trace.Header{}))
		did(tagging.Registered, 8, 0) // it is in the list
		require.NoError(t, to.Contents(trace.Contents{}))
		did(tagging.Exited, 3, 1)
		return to.Record(trace.Record{AtUS: 1e9, End: &trace.End{Why: "over"}})
	}
	var records []trace.Record
	sink := hookedSink{quits{func() {}}, func(r trace.Record) { records = append(records, r) }}
	require.NoError(t, client.Trace(testContext(t), TraceOrder{Interval: time.Second}, sink))
	require.Len(t, records, 5)
	require.Equal(t, "over", records[4].End.Why)
	for i, want := range []tagging.Transition{
		{Event: tagging.Registered, Task: 3, Depth: 2, Fast: true, GateAny: true},
		{Event: tagging.Registered, Task: 8, GateAny: true},
		{Event: tagging.Entered, Task: 8, Depth: 1},
		{Event: tagging.Exited, Task: 3, Depth: 1, Fast: true},
	} {
		var e Event
		require.NoError(t, json.Unmarshal(records[i].Event, &e))
		require.Equal(t, EventTag, e.Kind)
		require.True(t, e.Time.Equal(e.Tag.Time))
		if want.Event == tagging.Registered {
			require.Zero(t, records[i].AtUS)
		}
		e.Tag.Time = time.Time{}
		require.Equal(t, want, *e.Tag)
	}
}

// TestTraceWithoutTags: a guest that has gone meanwhile leaves a whole trace, which has no tasks.
// Any other error ends the trace.
func TestTraceWithoutTags(t *testing.T) {
	vm, _, client := start(t)
	failed := fmt.Errorf("%w: no guest", ErrConflict)
	vm.onTags = func() (tagging.Info, error) { return tagging.Info{}, failed }
	vm.onTrace = func(ctx context.Context, order TraceOrder, to trace.Sink) error {
		require.NoError(t, to.Begin(trace.Header{}))
		if err := to.Contents(trace.Contents{}); err != nil {
			return err
		}
		return to.Record(trace.Record{End: &trace.End{Why: "over"}})
	}
	require.Equal(t, []string{"over"}, lastWords(t, client))
	failed = errors.New("broken")
	sink := quits{func() {}}
	err := client.Trace(testContext(t), TraceOrder{Interval: time.Second}, sink)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// hookedSink tells of records before it passes them on.
type hookedSink struct {
	trace.Sink
	hook func(trace.Record)
}

func (s hookedSink) Record(r trace.Record) error {
	s.hook(r)
	return s.Sink.Record(r)
}

// TestTraceEndsWithItsVM: a trace says why it ended, and has the events of before, also if the VM's
// last event is noticed before its end is.
func TestTraceEndsWithItsVM(t *testing.T) {
	vm, server, client := start(t)
	vm.onTrace = func(ctx context.Context, order TraceOrder, to trace.Sink) error {
		require.NoError(t, to.Begin(trace.Header{}))
		require.NoError(t, to.Contents(trace.Contents{}))
		server.Publish(Event{Kind: EventState, State: StateMoved})
		server.hub.close()
		<-ctx.Done()
		return to.Record(trace.Record{End: &trace.End{Why: context.Cause(ctx).Error()}})
	}
	require.Equal(t, []string{`"state":"moved"`, ErrGone.Error()}, lastWords(t, client))
}

// TestEventsBeforeTheEnd: all that happened before a trace's end is in it, also that some was lost,
// and a guest that goes on tagging and printing does not keep it from ending.
func TestEventsBeforeTheEnd(t *testing.T) {
	hub := newHub()
	sub, err := hub.subscribe(stateOf(StateRunning))
	require.NoError(t, err)
	for sub.dropped == 0 {
		sub.pushBeat(Beat{Time: time.Now()})
	}
	for len(sub.queue) < queueLimit-1 {
		hub.publish(Event{Time: time.Now(), Kind: EventState, State: StatePaused})
	}
	hub.publish(Event{Time: time.Now(), Kind: EventState, State: StateMoved})
	queued := len(sub.queue)

	out := httptest.NewRecorder()
	earlier := time.Now().Add(-time.Minute)
	lines := &traceLines{
		w: noDeadline{out}, out: http.NewResponseController(noDeadline{out}),
		first: earlier, begun: earlier,
	}
	stopped := 0
	l := endsLast{lines, sub, func() { stopped++ }}
	require.NoError(t, l.Record(trace.Record{Dirty: &trace.Set{Runs: []int{1, 1}}}))
	require.Zero(t, stopped, "an interval is not the end")
	require.NoError(t, l.Record(trace.Record{AtUS: 5, End: &trace.End{Why: "over"}}))
	require.Equal(t, 1, stopped)
	said := strings.Split(strings.TrimSpace(out.Body.String()), "\n")
	require.Len(t, said, 1+1+queued+1)
	require.Contains(t, said[1], `"dropped":1`)
	require.Contains(t, said[len(said)-2], `"state":"moved"`)
	require.Contains(t, said[len(said)-1], "over")
}

// TestEventsCountFromTheFirstMoment: that is when the contents come, as for intervals, however long
// the look at the tags takes.
func TestEventsCountFromTheFirstMoment(t *testing.T) {
	const look = 20 * time.Millisecond
	out := httptest.NewRecorder()
	lines := &traceLines{
		w: noDeadline{out}, out: http.NewResponseController(noDeadline{out}),
		tags: func() (tagging.Info, error) { time.Sleep(look); return tagging.Info{}, nil },
	}
	require.NoError(t, lines.Contents(trace.Contents{}))
	require.NoError(t, lines.event(Event{Time: time.Now(), Kind: EventState}))
	said := strings.Split(strings.TrimSpace(out.Body.String()), "\n")
	var last trace.Record
	require.NoError(t, json.Unmarshal([]byte(said[len(said)-1]), &last))
	require.GreaterOrEqual(t, last.AtUS, 2*look.Microseconds(), "before and after it begins")
}

// noDeadline is an answer that is taken at once.
type noDeadline struct{ *httptest.ResponseRecorder }

func (noDeadline) SetWriteDeadline(time.Time) error { return nil }

// TestFollowersGoBeforeTheEnd: nothing comes into a trace any more once its end is on its way.
func TestFollowersGoBeforeTheEnd(t *testing.T) {
	vm, _, client := start(t)
	vm.onTrace = func(ctx context.Context, order TraceOrder, to trace.Sink) error {
		require.NoError(t, to.Begin(trace.Header{}))
		require.NoError(t, to.Contents(trace.Contents{}))
		return to.Record(trace.Record{End: &trace.End{Why: "over"}})
	}
	require.Equal(t, []string{"over"}, lastWords(t, client))
	require.Nil(t, vm.follower)
	require.Nil(t, vm.beats)
}

// lastWords records a trace, and returns the states that its events have and why it ended.
func lastWords(t *testing.T, client *Client) []string {
	var said []string
	sink := hookedSink{quits{func() {}}, func(r trace.Record) {
		said = append(said, regexp.MustCompile(`"state":"[a-z]*"`).FindString(string(r.Event)))
		if r.End != nil {
			said[len(said)-1] = r.End.Why
		}
	}}
	require.NoError(t, client.Trace(testContext(t), TraceOrder{Interval: time.Second}, sink))
	return said
}

// TestTraceRefused: errors before the first line are answers like all others.
func TestTraceRefused(t *testing.T) {
	_, _, client := start(t)
	err := client.Trace(testContext(t), TraceOrder{Interval: time.Second}, nil)
	require.ErrorContains(t, err, "a trace is being recorded")
	for query, want := range map[string]string{
		"interval_ms=0": "interval_ms: a number", "interval_ms=x": "interval_ms: a number",
		"for_ms=-1": "for_ms: a number", "for_ms=1&for_ms=2": "for_ms: a number",
		"for_ms=99999999999": "up to 30 days",
	} {
		resp, err := client.http.Get("http://vm/v1/trace?" + query)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusBadRequest, resp.StatusCode)
		require.Contains(t, string(body), want)
	}
}

// unfinished is what a backend does whose trace ends only with its client.
func unfinished(ended chan<- struct{}) func(context.Context, TraceOrder, trace.Sink) error {
	return func(ctx context.Context, _ TraceOrder, to trace.Sink) error {
		defer close(ended)
		_ = to.Begin(trace.Header{})
		_ = to.Contents(trace.Contents{})
		<-ctx.Done()
		return ctx.Err()
	}
}

// TestTraceEndsWithItsClient: nobody records for a client that has gone.
func TestTraceEndsWithItsClient(t *testing.T) {
	vm, _, client := start(t)
	ended := make(chan struct{})
	vm.onTrace = unfinished(ended)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://vm/v1/trace", nil)
	require.NoError(t, err)
	resp, err := client.http.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	cancel()
	<-ended
}

// TestInterruptedTrace: a client that is interrupted has its own trace finished, and gets the last
// interval and the end, also if the trace ends by itself at that moment.
func TestInterruptedTrace(t *testing.T) {
	// Its text has a '+', which means something else in an address.
	begun := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 2*60*60))
	for name, answer := range map[string]error{
		"finished": nil, "just over": fmt.Errorf("%w: no trace to end", ErrConflict),
	} {
		t.Run(name, func(t *testing.T) {
			vm, _, client := start(t)
			asked, meant := make(chan struct{}), make(chan time.Time, 1)
			vm.onFinish = func(which time.Time) error {
				meant <- which
				close(asked)
				return answer
			}
			vm.onTrace = func(ctx context.Context, _ TraceOrder, to trace.Sink) error {
				_ = to.Begin(trace.Header{Begun: begun})
				_ = to.Contents(trace.Contents{})
				select {
				case <-asked:
					time.Sleep(100 * time.Millisecond) // the answer to the order comes first
				case <-ctx.Done():
					return ctx.Err()
				}
				_ = to.Record(trace.Record{AtUS: 1, Dirty: &trace.Set{Runs: []int{1, 1}}})
				return to.Record(trace.Record{AtUS: 2, End: &trace.End{Why: "over"}})
			}
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			var records []trace.Record
			sink := hookedSink{quits{cancel}, func(r trace.Record) { records = append(records, r) }}
			require.NoError(t, client.Trace(ctx, TraceOrder{Interval: time.Second}, sink))
			require.Len(t, records, 2)
			require.Equal(t, []int{1, 1}, records[0].Dirty.Runs)
			require.Equal(t, "over", records[1].End.Why)
			require.True(t, begun.Equal(<-meant), "its own")
		})
	}
}

// TestFinishWhichTrace: an order may say which trace it means, as the header has it. One that means
// another, or says it otherwise, ends none.
func TestFinishWhichTrace(t *testing.T) {
	vm, _, client := start(t)
	underWay := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	text, err := json.Marshal(trace.Header{Begun: underWay})
	require.NoError(t, err)
	const own = "2026-01-02T03:04:05.0000006Z"
	require.Contains(t, string(text), `"begun":"`+own+`"`)
	vm.onFinish = func(begun time.Time) error {
		if !begun.IsZero() && !begun.Equal(underWay) {
			return fmt.Errorf("%w: another one", ErrConflict)
		}
		return nil
	}
	for query, want := range map[string]struct {
		code int
		says string
	}{
		"":                                      {http.StatusOK, `"name":"fake"`},
		"?begun=" + own:                         {http.StatusOK, `"name":"fake"`},
		"?begun=2026-01-02T03:04:05.000000601Z": {http.StatusConflict, "another one"},
		"?begun=":                               {http.StatusBadRequest, "begun: the time"},
		"?begun=today":                          {http.StatusBadRequest, "begun: the time"},
		"?begun=0001-01-01T00:00:00Z":           {http.StatusBadRequest, "begun: the time"},
		"?begun=" + own + "&begun=" + own:       {http.StatusBadRequest, "begun: the time"},
	} {
		req, err := http.NewRequestWithContext(testContext(t), http.MethodDelete,
			"http://vm/v1/trace"+query, nil)
		require.NoError(t, err)
		resp, err := client.http.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, want.code, resp.StatusCode, query)
		require.Contains(t, string(body), want.says, query)
	}
}

// TestTraceThatIsNotFinished: a client whose order to end the trace is refused leaves.
func TestTraceThatIsNotFinished(t *testing.T) {
	vm, _, client := start(t)
	ended := make(chan struct{})
	vm.onTrace = unfinished(ended)
	vm.onFinish = func(time.Time) error { return errors.New("broken") }
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	err := client.Trace(ctx, TraceOrder{Interval: time.Second}, quits{cancel})
	require.ErrorIs(t, err, context.Canceled)
	<-ended
}

// TestTraceWhoseEndNeverComes: a client that is interrupted leaves in the end, though the trace
// that was to end goes on and on.
func TestTraceWhoseEndNeverComes(t *testing.T) {
	vm, _, client := start(t)
	client.endWithin = 300 * time.Millisecond
	vm.onFinish = func(time.Time) error { return nil }
	left := make(chan struct{})
	vm.onTrace = func(ctx context.Context, _ TraceOrder, to trace.Sink) error {
		defer close(left)
		_ = to.Begin(trace.Header{})
		_ = to.Contents(trace.Contents{})
		for at := int64(1); ctx.Err() == nil; at++ {
			_ = to.Record(trace.Record{AtUS: at, Dirty: &trace.Set{Runs: []int{1, 1}}})
			time.Sleep(10 * time.Millisecond)
		}
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	err := client.Trace(ctx, TraceOrder{Interval: time.Second}, quits{cancel})
	require.ErrorIs(t, err, context.Canceled)
	<-left
}

// quits is a client that is interrupted once the trace has begun.
type quits struct{ quit func() }

func (q quits) Begin(trace.Header) error      { return nil }
func (q quits) Contents(trace.Contents) error { q.quit(); return nil }
func (q quits) Record(trace.Record) error     { return nil }

// TestInterruptedBeforeItBegan: a client that is interrupted while it waits for its trace leaves at
// once, and does not end a trace that somebody else may be recording.
func TestInterruptedBeforeItBegan(t *testing.T) {
	vm, _, client := start(t)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	finished, left := make(chan struct{}), make(chan error, 1)
	vm.onFinish = func(time.Time) error {
		close(finished)
		return nil
	}
	vm.onTrace = func(asked context.Context, _ TraceOrder, _ trace.Sink) error {
		cancel()
		select {
		case <-asked.Done():
			left <- nil
		case <-finished:
			left <- errors.New("a trace was ended")
		case <-time.After(deadline):
			left <- errors.New("the client is still there")
		}
		return fmt.Errorf("%w: not yet", ErrConflict)
	}
	err := client.Trace(ctx, TraceOrder{Interval: time.Second}, quits{cancel})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, <-left)
}

// hookedAnswers has something done whenever an answer is read.
type hookedAnswers struct {
	http.RoundTripper
	hook func()
}

func (h hookedAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := h.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = hookedAnswer{resp.Body, h.hook}
	}
	return resp, err
}

type hookedAnswer struct {
	io.ReadCloser
	hook func()
}

func (a hookedAnswer) Read(p []byte) (int, error) {
	a.hook()
	return a.ReadCloser.Read(p)
}

// TestInterruptedBeforeTheHeader: a client that has its answer, and does not know yet which trace
// is its own, leaves and has none ended.
func TestInterruptedBeforeTheHeader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	left := make(chan struct{})
	var ended atomic.Bool
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodDelete:
			ended.Store(true)
		case r.URL.Path == "/v1/trace":
			defer close(left)
			_ = http.NewResponseController(w).Flush() // so the client has the 200, and no line
			<-r.Context().Done()
			return
		}
		fmt.Fprintln(w, `{"name":"vm"}`)
	})}
	go server.Serve(l) //nolint:errcheck // ends with the test
	t.Cleanup(func() { server.Close() })
	client, err := NewClient(path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	client.http.Transport = hookedAnswers{client.http.Transport, cancel}
	err = client.Trace(ctx, TraceOrder{Interval: time.Second}, quits{cancel})
	require.ErrorIs(t, err, context.Canceled)
	<-left
	require.False(t, ended.Load())
}
