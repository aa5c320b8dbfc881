package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"taskguide/dirtylog/trace"
	"taskguide/tagging"
)

// TraceOrder is what a client wants recorded.
type TraceOrder struct {
	Interval time.Duration // at least trace.MinInterval
	For      time.Duration // how long; 0: until the client ends it, or goes
}

// ErrGone is what the end of a trace says when the VM ended it.
var ErrGone = errors.New("the guest has ended, or runs elsewhere")

// DefaultInterval is the length of a trace's intervals.
const DefaultInterval = 10 * time.Millisecond

// traceLines sends a trace's lines, as they are in a file before it is compressed. Two goroutines
// write: the recorder, and the one that follows events.
type traceLines struct {
	w    http.ResponseWriter
	out  *http.ResponseController
	tags func() (tagging.Info, error) // [Backend.Tags], which waits for nobody who needs mu

	mu       sync.Mutex
	answered bool      // a line was sent
	first    time.Time // the moment from which times count
	begun    time.Time // from here on events are in the trace; zero until there can be records
	at       int64     // of the last record, in us
}

// Begin implements [trace.Sink].
func (t *traceLines) Begin(h trace.Header) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answered = true
	t.w.Header().Set("Content-Type", "application/x-ndjson")
	t.w.Header().Set("Cache-Control", "no-store")
	t.w.WriteHeader(http.StatusOK)
	return t.line(h)
}

// Contents implements [trace.Sink]. It adds the tasks that there are, at the first moment: a task
// that does nothing during the trace has no transition, and it counts for the gate all the same.
func (t *traceLines) Contents(c trace.Contents) error {
	first := time.Now() // the recorder's intervals count from here, too
	// A look finds what fast tasks have done since the last one, and tells of it as of now. So look
	// before the trace begins, to leave that out of it.
	if _, err := t.present(); err != nil {
		return err
	}
	// A transition from before begun is in the list of tasks, and all others come after the list:
	// nobody else writes a line meanwhile. One that is in both says nothing new.
	t.mu.Lock()
	defer t.mu.Unlock()
	t.first, t.begun = first, time.Now()
	info, err := t.present()
	if err != nil {
		return err
	}
	tasks, err := t.tasks(info)
	if err != nil {
		return err
	}
	if err := t.line(c); err != nil {
		return err
	}
	return t.send(tasks)
}

// present is what the tag port knows now: no task if the guest has gone, which the trace's end will
// say.
func (t *traceLines) present() (tagging.Info, error) {
	info, err := t.tags()
	if errors.Is(err, ErrConflict) {
		return tagging.Info{}, nil
	}
	return info, err
}

// tasks are lines that register the tasks at the first moment, each as deep in segments as it is;
// mu is held. There may be thousands, which go in one piece.
func (t *traceLines) tasks(info tagging.Info) ([]byte, error) {
	var lines []byte
	for _, k := range info.Tasks {
		event, err := json.Marshal(Event{Time: t.begun, Kind: EventTag, Tag: &tagging.Transition{
			Time: t.begun, Event: tagging.Registered, Task: k.ID, Depth: k.Depth, Fast: k.Fast,
			GateAll: info.GateAll, GateAny: info.GateAny,
		}})
		if err != nil {
			return nil, err
		}
		line, err := json.Marshal(trace.Record{Event: event})
		if err != nil {
			return nil, err
		}
		lines = append(append(lines, line...), '\n')
	}
	return lines, nil
}

// Record implements [trace.Sink]. Times never go back: an event's own time may be before that of a
// record which was faster.
func (t *traceLines) Record(r trace.Record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at = max(t.at, r.AtUS)
	r.AtUS = t.at
	return t.line(r)
}

// alive sends an empty line, so that the client knows that the process is alive.
func (t *traceLines) alive() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.answered {
		return nil
	}
	return t.send([]byte("\n"))
}

// event sends an event, which is dropped if it happened before the trace began.
func (t *traceLines) event(e Event) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	t.mu.Lock()
	first, begun := t.first, t.begun
	t.mu.Unlock()
	if begun.IsZero() || e.Time.Before(begun) {
		return nil
	}
	return t.Record(trace.Record{AtUS: e.Time.Sub(first).Microseconds(), Event: text})
}

// line sends a line; mu is held.
func (t *traceLines) line(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return t.send(append(text, '\n'))
}

// send sends text; mu is held. A client that does not read ends its trace.
func (t *traceLines) send(text []byte) error {
	if err := t.out.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := t.w.Write(text); err != nil {
		return err
	}
	return t.out.Flush()
}

// trace streams a trace until its time is up, a client has it finished, or the client or the guest
// goes.
func (s *Server) trace(w http.ResponseWriter, r *http.Request) {
	order, err := readTraceOrder(r)
	lines := &traceLines{w: w, out: http.NewResponseController(w), tags: s.machine.Tags}
	if err == nil {
		err = s.record(r.Context(), order, lines)
	}
	if err != nil && !lines.answered {
		writeJSON(w, statusOf(err), errorBody{Message(err)})
	}
}

func (s *Server) record(ctx context.Context, order TraceOrder, lines *traceLines) error {
	sub, err := s.hub.subscribe(func() State { return s.machine.Info().State })
	if err != nil {
		return err
	}
	defer sub.cancel()
	noTags, err := s.machine.FollowTags(sub.pushTag)
	if err != nil {
		return err
	}
	noBeats := s.machine.FollowBeats(sub.pushBeat)
	ctx, cancel := context.WithCancelCause(ctx)
	followed := make(chan struct{})
	stop := sync.OnceFunc(func() {
		noTags()
		noBeats()
		sub.cancel()
		cancel(nil)
		<-followed
	})
	defer stop()
	go func() {
		defer close(followed)
		err := error(nil)
		for err == nil && ctx.Err() == nil {
			err = followTrace(ctx, sub, lines)
		}
		if errors.Is(err, io.EOF) {
			err = ErrGone // the VM closes its events; that may be noticed before its end is
		}
		cancel(err)
	}()
	return s.machine.Trace(ctx, order, endsLast{lines, sub, stop})
}

// endsLast is a Sink whose last line is the trace's end: it sends the events of before first.
type endsLast struct {
	*traceLines
	sub  *subscriber
	stop func() // once it returns, nobody else reads sub or writes lines; little comes into it yet
}

// Record implements [trace.Sink].
func (l endsLast) Record(r trace.Record) error {
	if r.End == nil {
		return l.traceLines.Record(r)
	}
	l.stop()
	for e, ok, _ := l.sub.pop(); ok; e, ok, _ = l.sub.pop() {
		if err := l.event(e); err != nil {
			return err
		}
	}
	return l.traceLines.Record(r)
}

// followTrace passes on an event, or a sign of life if there is none for a while. It fails once the
// client or the VM has gone.
func followTrace(ctx context.Context, sub *subscriber, lines *traceLines) error {
	wait, cancel := context.WithTimeout(ctx, keepAlive)
	defer cancel()
	e, err := sub.next(wait)
	switch {
	case err == nil:
		return lines.event(e)
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return lines.alive()
	default:
		return err
	}
}

func readTraceOrder(r *http.Request) (TraceOrder, error) {
	interval, err := milliseconds(r, "interval_ms", DefaultInterval)
	if err != nil {
		return TraceOrder{}, err
	}
	if interval < trace.MinInterval {
		return TraceOrder{}, fmt.Errorf("%w: interval_ms: at least %d", ErrInvalid,
			trace.MinInterval.Milliseconds())
	}
	length, err := milliseconds(r, "for_ms", 0)
	return TraceOrder{Interval: interval, For: length}, err
}

// finishTrace ends the trace under way, or only the one that the client means.
func (s *Server) finishTrace(r *http.Request) (int, any, error) {
	begun, err := readBegun(r)
	if err != nil {
		return 0, nil, err
	}
	return s.change(func() error { return s.machine.FinishTrace(begun) })(r)
}

// readBegun reads when the trace that the client means began. It returns zero, which means any, if
// the client does not say. So one who says zero is refused.
func readBegun(r *http.Request) (time.Time, error) {
	values, given := r.URL.Query()["begun"]
	if !given {
		return time.Time{}, nil
	}
	begun, err := time.Parse(time.RFC3339Nano, values[0])
	if err != nil || len(values) != 1 || begun.IsZero() {
		return time.Time{}, fmt.Errorf("%w: begun: the time that the trace's header has",
			ErrInvalid)
	}
	return begun, nil
}

// milliseconds reads a parameter, which may be left out.
func milliseconds(r *http.Request, name string, otherwise time.Duration) (time.Duration, error) {
	values, given := r.URL.Query()[name]
	if !given {
		return otherwise, nil
	}
	const longest = 30 * 24 * time.Hour
	n, err := strconv.ParseInt(values[0], 10, 64)
	if err != nil || len(values) != 1 || n <= 0 || n > longest.Milliseconds() {
		return 0, fmt.Errorf("%w: %s: a number of milliseconds, up to 30 days", ErrInvalid, name)
	}
	return time.Duration(n) * time.Millisecond, nil
}

// FinishTrace has the trace end that began at that time, as its header has it, or with zero the one
// under way, whoever records it. It returns at once: the trace's own stream still brings the last
// interval and the end. A VM's process of an older version ends the one under way in any case.
func (c *Client) FinishTrace(ctx context.Context, begun time.Time) (VM, error) {
	path := "/v1/trace"
	if !begun.IsZero() {
		// As encoding/json writes it, and so the header.
		path += "?begun=" + url.QueryEscape(begun.Format(time.RFC3339Nano))
	}
	return call[VM](ctx, c, http.MethodDelete, path, nil)
}

// Trace records a trace into to, until the VM ends it or ctx ends. If ctx ends, Trace has the VM's
// process finish the trace and reads on, so that the last record has an end in either case. It
// returns the error of ctx if the trace had not begun, or if the process does not take that order.
func (c *Client) Trace(ctx context.Context, order TraceOrder, to trace.Sink) error {
	// The stream must outlive ctx, because it brings what was written until then.
	streamCtx, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	begun := make(chan time.Time, 1)
	defer context.AfterFunc(ctx, func() {
		select {
		case own := <-begun:
			c.finishOwn(streamCtx, own, cut)
		default:
			cut()
		}
	})()
	err := c.readTrace(streamCtx, order, to, begun)
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return c.lost(ctx.Err())
	}
	return err
}

// finishOwn ends the client's own trace, which has that begun in its header, if need be by cutting
// its stream off.
func (c *Client) finishOwn(ctx context.Context, begun time.Time, cut context.CancelFunc) {
	ctx, giveUp := context.WithTimeout(ctx, orderGrace)
	defer giveUp()
	_, err := c.FinishTrace(ctx, begun)
	var refused *StatusError
	if errors.As(err, &refused) && refused.Code == http.StatusConflict {
		// It has just ended by itself, and its last lines are on their way. Somebody else's may be
		// under way by now.
		return
	}
	if err != nil {
		cut()
		return
	}
	time.AfterFunc(c.endWithin, cut) // should the end never come
}

// readTrace reads a trace to its end. It sends when the trace began, once, as soon as it knows: by
// that, the trace could be finished. begun has room for it.
func (c *Client) readTrace(
	ctx context.Context, order TraceOrder, to trace.Sink, begun chan<- time.Time,
) error {
	path := fmt.Sprintf("/v1/trace?interval_ms=%d", order.Interval.Milliseconds())
	if order.For > 0 {
		path += fmt.Sprintf("&for_ms=%d", order.For.Milliseconds())
	}
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	var h trace.Header
	if err := c.nextLine(lines, &h); err != nil {
		return err
	}
	begun <- h.Begun
	if err := to.Begin(h); err != nil {
		return err
	}
	if err := c.nextLine(lines, &h.Contents); err != nil {
		return err
	}
	if err := to.Contents(h.Contents); err != nil {
		return err
	}
	for {
		var r trace.Record
		if err := c.nextLine(lines, &r); err != nil {
			return err
		}
		if err := to.Record(r); err != nil {
			return err
		}
		if r.End != nil {
			return nil
		}
	}
}

// nextLine reads the next line that is more than a sign of life.
func (c *Client) nextLine(lines *bufio.Reader, v any) error {
	text, err := []byte(nil), error(nil)
	for len(text) <= 1 && err == nil {
		text, err = lines.ReadBytes('\n')
	}
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // the VM's process has gone
		}
		return c.lost(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: a line of a trace that is none: %w", c.nameOrPath, err)
	}
	return nil
}
