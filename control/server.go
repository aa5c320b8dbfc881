package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"taskguide/control/version"
	"taskguide/dirtylog/trace"
	"taskguide/docs"
	"taskguide/migration"
	"taskguide/tagging"
)

const (
	maxBody = 64 << 10
	// writeTimeout ends the stream of a client that stopped reading.
	writeTimeout = 10 * time.Second
	// keepAlive lets a stream notice that its client has gone, and the client that this process is
	// alive.
	keepAlive = AnswerTimeout / 4
)

// Backend is the VM as the server sees it. Its methods are called concurrently.
type Backend interface {
	// Version is what the VM's process is a build of.
	Version() version.Info
	Info() VM
	Pause() error
	// Resume lets the vCPUs run. ResumeForced does so even in StateUnknown, once the destination
	// cannot start the guest any more; otherwise it returns ErrConflict.
	Resume(ResumeMode) error
	// Stop orders the end of the VM and returns without waiting for it. In StateUnknown it returns
	// ErrConflict, unless the mode is StopForced.
	Stop(StopMode) error
	// Tags returns the state of the tag port, or ErrConflict while there is no guest.
	Tags() (tagging.Info, error)
	// Debug returns what the vCPUs are doing, or ErrConflict while there is no guest. It takes no
	// longer than ctx lasts.
	Debug(ctx context.Context) (Debug, error)
	// FollowTags calls f for each transition until unsubscribe is called, which returns once f has
	// had all transitions from before, but those that it was too slow for. f must not block, nor
	// call the backend.
	FollowTags(f func(tagging.Transition)) (unsubscribe func(), err error)
	// FollowBeats calls f for each heartbeat that the guest prints, until unsubscribe is called. f
	// must not block.
	FollowBeats(f func(Beat)) (unsubscribe func())
	// Trace records which pages the guest writes, until its time is up, FinishTrace is called, ctx
	// ends or the guest goes. It returns ErrConflict, before it has called to, if that cannot be
	// recorded now.
	Trace(ctx context.Context, order TraceOrder, to trace.Sink) error
	// FinishTrace has the Trace under way end with its last interval, and returns without waiting
	// for that. It returns ErrConflict if there is none, or if begun is neither zero nor what that
	// trace's header has.
	FinishTrace(begun time.Time) error
}

// Migrations moves the VM away. Its methods are called concurrently.
type Migrations interface {
	// StartMigration starts a migration, or returns ErrConflict.
	StartMigration(context.Context, migration.Params) (Started, error)
	// MigrationReport returns the report of the present or last migration, or ErrNotFound.
	MigrationReport() (migration.Report, error)
	// CancelMigration cancels the present migration and returns its final report once it has ended,
	// or ErrConflict if there is none. A migration past its commit completes, and the report says
	// so.
	CancelMigration(context.Context) (migration.Report, error)
}

// ResumeMode says what the caller vouches for.
type ResumeMode int

const (
	ResumeSafe   ResumeMode = iota
	ResumeForced            // the caller knows that the guest runs nowhere else
)

// StopMode says what may be lost.
type StopMode int

const (
	StopSafe   StopMode = iota // a guest that listens is asked to shut down, and has time to
	StopNow                    // it is ended at once
	StopForced                 // it is ended at once, even if it may be the only copy
)

// path is where an order to stop goes.
func (m StopMode) path() string {
	switch m {
	case StopNow:
		return "/v1/vm/stop?now=1"
	case StopForced:
		return "/v1/vm/stop?force=1"
	default:
		return "/v1/vm/stop"
	}
}

// Server serves one VM's control socket.
type Server struct {
	machine    Backend
	migrations Migrations
	hub        *hub
	http       http.Server

	mu       sync.Mutex
	listener net.Listener
	closing  bool
}

// NewServer makes a server of the machine; call Serve next.
func NewServer(machine Backend, migrations Migrations) *Server {
	s := &Server{machine: machine, migrations: migrations, hub: newHub()}
	s.http = http.Server{
		Handler:     refuseTooMany(s.routes()),
		ConnContext: markTooMany,
		// Short, so that a source that takes this socket for a destination soon learns its mistake.
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}
	return s
}

// Serve answers requests until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	s.listener = l
	closing := s.closing
	s.mu.Unlock()
	if closing {
		return l.Close()
	}
	err := s.http.Serve(&limited{Listener: l})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve control socket: %w", err)
}

// Publish sends an event to all clients that follow. It never blocks.
func (s *Server) Publish(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	s.hub.publish(e)
}

// Shutdown removes the socket, and lets the event streams deliver queued events and running
// requests finish, until ctx ends. Then it cuts them off.
func (s *Server) Shutdown(ctx context.Context) error {
	// Remove the socket first: a client whose event stream has ended must find the name free.
	s.mu.Lock()
	s.closing = true
	if s.listener != nil {
		s.listener.Close() //nolint:errcheck // it was closed before Serve
	}
	s.mu.Unlock()
	s.hub.close()
	if err := s.http.Shutdown(ctx); err != nil && !errors.Is(err, net.ErrClosed) {
		s.http.Close()
		return fmt.Errorf("close control socket: %w", err)
	}
	return nil
}

// endpoint answers a request with a status code and something to encode, or an error.
type endpoint func(*http.Request) (int, any, error)

// table has every path with the methods that it takes, as docs/openapi.yaml describes them.
func (s *Server) table() map[string]map[string]http.HandlerFunc {
	return map[string]map[string]http.HandlerFunc{
		"/v1/version":   {"GET": reply(s.getVersion)},
		"/v1/vm":        {"GET": reply(s.getVM)},
		"/v1/vm/pause":  {"PUT": reply(s.change(s.machine.Pause))},
		"/v1/vm/resume": {"PUT": reply(s.resume)},
		"/v1/vm/stop":   {"PUT": reply(s.stop)},
		"/v1/migration": {
			"POST": reply(s.startMigration), "GET": reply(s.getMigration),
			"DELETE": reply(s.cancelMigration),
		},
		"/v1/tags":   {"GET": reply(s.getTags)},
		"/v1/debug":  {"GET": reply(s.getDebug)},
		"/v1/events": {"GET": s.events},
		"/v1/trace":  {"GET": s.trace, "DELETE": reply(s.finishTrace)},

		"/v1/openapi.yaml": {"GET": getDescription},
	}
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for path, methods := range s.table() {
		mux.HandleFunc(path, byMethod(path, methods))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusNotFound, errorBody{fmt.Sprintf("no such path: %s", r.URL.Path)})
	})
	return mux
}

// parameters are those that a request may have, as docs/openapi.yaml describes them.
var parameters = map[string][]string{
	"PUT /v1/vm/resume": {"force"},
	"PUT /v1/vm/stop":   {"force", "now"},
	"GET /v1/events":    {"tags"},
	"GET /v1/trace":     {"for_ms", "interval_ms"},
	"DELETE /v1/trace":  {"begun"},
}

// checkParameters refuses what nobody would look at: an order that is carried out otherwise than it
// was meant is worse than none.
func checkParameters(r *http.Request, known []string) error {
	given, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	for name := range given {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%w: %s: no such parameter of %s %s", ErrInvalid, name, r.Method,
				r.URL.Path)
		}
	}
	return nil
}

func byMethod(path string, methods map[string]http.HandlerFunc) http.HandlerFunc {
	allowed := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
	return func(w http.ResponseWriter, r *http.Request) {
		h, ok := methods[r.Method]
		if !ok {
			w.Header().Set("Allow", allowed)
			writeJSON(w, http.StatusMethodNotAllowed,
				errorBody{fmt.Sprintf("%s %s: use %s", r.Method, r.URL.Path, allowed)})
			return
		}
		if err := checkParameters(r, parameters[r.Method+" "+path]); err != nil {
			writeJSON(w, statusOf(err), errorBody{Message(err)})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		h(w, r)
	}
}

func reply(f endpoint) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		code, v, err := f(r)
		if err != nil {
			code, v = statusOf(err), errorBody{Message(err)}
		}
		writeJSON(w, code, v)
	}
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrConflict):
		return http.StatusConflict
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, errTooManyClients):
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// Message is the text of err on one line, without the sentinel's own words, because the status code
// says the same.
func Message(err error) string {
	text := err.Error()
	for _, sentinel := range []error{ErrConflict, ErrNotFound, ErrInvalid} {
		text = strings.TrimPrefix(text, sentinel.Error()+": ")
	}
	return migration.OneLine(text)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		code = http.StatusInternalServerError
		body = []byte(`{"error":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(body, '\n')) //nolint:errcheck // the client has gone: nobody to tell
}

func getDescription(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	w.Write(docs.OpenAPI) //nolint:errcheck // the client has gone: nobody to tell
}

func (s *Server) getVersion(*http.Request) (int, any, error) {
	return http.StatusOK, s.machine.Version(), nil
}

func (s *Server) getVM(*http.Request) (int, any, error) {
	return http.StatusOK, s.machine.Info(), nil
}

// change calls f and answers with the VM as it is afterwards.
func (s *Server) change(f func() error) endpoint {
	return func(r *http.Request) (int, any, error) {
		if err := f(); err != nil {
			return 0, nil, err
		}
		return http.StatusOK, s.machine.Info(), nil
	}
}

func (s *Server) resume(r *http.Request) (int, any, error) {
	force, err := asks(r, "force")
	if err != nil {
		return 0, nil, err
	}
	mode := ResumeSafe
	if force {
		mode = ResumeForced
	}
	return s.change(func() error { return s.machine.Resume(mode) })(r)
}

func (s *Server) stop(r *http.Request) (int, any, error) {
	force, errForce := asks(r, "force")
	now, errNow := asks(r, "now")
	if err := cmp.Or(errForce, errNow); err != nil {
		return 0, nil, err
	}
	mode := StopSafe
	switch {
	case force:
		mode = StopForced
	case now:
		mode = StopNow
	}
	return s.change(func() error { return s.machine.Stop(mode) })(r)
}

// asks tells whether a request has a parameter with value 1. Another value is an error, because an
// order that seems to be carried out otherwise than it was meant is worse than none.
func asks(r *http.Request, name string) (bool, error) {
	values, given := r.URL.Query()[name]
	if given && (len(values) != 1 || values[0] != "1") {
		return false, fmt.Errorf("%w: %s=%s: use %s=1, or leave it out", ErrInvalid, name,
			strings.Join(values, ","), name)
	}
	return given, nil
}

func (s *Server) startMigration(r *http.Request) (int, any, error) {
	p, err := readParams(r.Body)
	if err != nil {
		return 0, nil, err
	}
	started, err := s.migrations.StartMigration(r.Context(), p)
	return http.StatusAccepted, started, err
}

func (s *Server) getMigration(*http.Request) (int, any, error) {
	report, err := s.migrations.MigrationReport()
	return http.StatusOK, report, err
}

func (s *Server) cancelMigration(r *http.Request) (int, any, error) {
	report, err := s.migrations.CancelMigration(r.Context())
	return http.StatusOK, report, err
}

func (s *Server) getTags(*http.Request) (int, any, error) {
	tags, err := s.machine.Tags()
	return http.StatusOK, tags, err
}

// debugTime is how long a look at the vCPUs may take. It usually takes microseconds, but a vCPU may
// be held in an access to a device. It is less than a client waits for an answer.
const debugTime = AnswerTimeout / 5

func (s *Server) getDebug(r *http.Request) (int, any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), debugTime)
	defer cancel()
	debug, err := s.machine.Debug(ctx)
	return http.StatusOK, debug, err
}

// events streams events as server-sent events (HTML standard, section 9.2) until the client or the
// VM goes.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	tags, err := asks(r, "tags")
	if err != nil {
		writeJSON(w, statusOf(err), errorBody{Message(err)})
		return
	}
	sub, err := s.hub.subscribe(func() State { return s.machine.Info().State })
	if err != nil {
		writeJSON(w, statusOf(err), errorBody{err.Error()})
		return
	}
	defer sub.cancel()
	if tags {
		unfollow, err := s.machine.FollowTags(sub.pushTag)
		if err != nil {
			writeJSON(w, statusOf(err), errorBody{Message(err)})
			return
		}
		defer unfollow()
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	for {
		text, err := nextText(r.Context(), sub)
		if err != nil {
			return
		}
		// Each write has its own deadline: a stream may last for days.
		if out.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil {
			return
		}
		if _, err := w.Write(text); err != nil {
			return
		}
		if out.Flush() != nil {
			return
		}
	}
}

// nextText is the next event in its wire form, or a comment if nothing happens for a while.
func nextText(ctx context.Context, sub *subscriber) ([]byte, error) {
	wait, cancel := context.WithTimeout(ctx, keepAlive)
	defer cancel()
	e, err := sub.next(wait)
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			return []byte(": keep-alive\n\n"), nil
		}
		return nil, err
	}
	data, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", e.Kind, data), nil
}
