package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"taskguide/migration"
	"taskguide/tagging"
)

const (
	maxBody = 64 << 10
	// writeTimeout ends the stream of a client that stopped reading.
	writeTimeout = 10 * time.Second
	// keepAlive lets a stream notice that its client has gone.
	keepAlive = 15 * time.Second
)

// Machine is the VM as the server sees it. Its methods are called concurrently.
type Machine interface {
	Info() VM
	Pause() error
	// Resume lets the vCPUs run. With ResumeForced it does so even in StateUnknown.
	Resume(ResumeMode) error
	// Stop orders the end of the VM and returns without waiting for it.
	Stop() error
	// Tags is the state of the tag port, or ErrConflict while there is no guest.
	Tags() (tagging.Info, error)
	// FollowTags calls f for each transition until unsubscribed.
	FollowTags(f func(tagging.Transition)) (unsubscribe func(), err error)
}

// Migrations moves the VM away. Its methods are called concurrently.
type Migrations interface {
	// StartMigration starts one, or returns ErrConflict.
	StartMigration(migration.Params) (Started, error)
	// MigrationReport is the last or present migration's, or ErrNotFound.
	MigrationReport() (migration.Report, error)
	// CancelMigration cancels the present migration and returns its final report once it has ended, or
	// ErrConflict if there is none. A migration past its commit completes: the report says which it was.
	CancelMigration(context.Context) (migration.Report, error)
}

// ResumeMode says what the caller vouches for.
type ResumeMode int

const (
	ResumeSafe   ResumeMode = iota
	ResumeForced            // the caller knows that the guest runs nowhere else
)

// Server serves one VM's control socket.
type Server struct {
	machine    Machine
	migrations Migrations
	hub        *hub
	http       http.Server

	mu       sync.Mutex
	listener net.Listener
	closing  bool
}

// NewServer makes a server of the machine; call Serve next.
func NewServer(machine Machine, migrations Migrations) *Server {
	s := &Server{machine: machine, migrations: migrations, hub: newHub()}
	s.http = http.Server{
		Handler: s.routes(),
		// Short, so that a source that takes this socket for a destination hears soon that it is none.
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
	err := s.http.Serve(l)
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

// Shutdown removes the socket, lets the event streams deliver what is queued and running requests finish, until ctx
// ends; then it cuts them off.
func (s *Server) Shutdown(ctx context.Context) error {
	// The socket goes first: a client whose event stream ended finds the name free.
	s.mu.Lock()
	s.closing = true
	if s.listener != nil {
		s.listener.Close() //nolint:errcheck // closed before, then
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

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	table := map[string]map[string]http.HandlerFunc{
		"/v1/vm":        {"GET": reply(s.getVM)},
		"/v1/vm/pause":  {"PUT": reply(s.change(s.machine.Pause))},
		"/v1/vm/resume": {"PUT": reply(s.resume)},
		"/v1/vm/stop":   {"PUT": reply(s.change(s.machine.Stop))},
		"/v1/migration": {"POST": reply(s.startMigration), "GET": reply(s.getMigration), "DELETE": reply(s.cancelMigration)},
		"/v1/tags":      {"GET": reply(s.getTags)},
		"/v1/events":    {"GET": s.events},
	}
	for path, methods := range table {
		mux.HandleFunc(path, byMethod(methods))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusNotFound, errorBody{fmt.Sprintf("no such path: %s", r.URL.Path)})
	})
	return mux
}

func byMethod(methods map[string]http.HandlerFunc) http.HandlerFunc {
	allowed := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
	return func(w http.ResponseWriter, r *http.Request) {
		h, ok := methods[r.Method]
		if !ok {
			w.Header().Set("Allow", allowed)
			writeJSON(w, http.StatusMethodNotAllowed, errorBody{fmt.Sprintf("%s %s: use %s", r.Method, r.URL.Path, allowed)})
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
			code, v = statusOf(err), errorBody{message(err)}
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

// message is the text of err on one line, without the sentinel's own words, which the status code says.
func message(err error) string {
	text := err.Error()
	for _, sentinel := range []error{ErrConflict, ErrNotFound, ErrInvalid} {
		text = strings.TrimPrefix(text, sentinel.Error()+": ")
	}
	return strings.ReplaceAll(text, "\n", "; ")
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		code, body = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(body, '\n')) //nolint:errcheck // the client has gone: nobody to tell
}

func (s *Server) getVM(*http.Request) (int, any, error) {
	return http.StatusOK, s.machine.Info(), nil
}

// change answers with the VM as it is after f.
func (s *Server) change(f func() error) endpoint {
	return func(r *http.Request) (int, any, error) {
		if err := f(); err != nil {
			return 0, nil, err
		}
		return http.StatusOK, s.machine.Info(), nil
	}
}

func (s *Server) resume(r *http.Request) (int, any, error) {
	mode := ResumeSafe
	if r.URL.Query().Get("force") == "1" {
		mode = ResumeForced
	}
	return s.change(func() error { return s.machine.Resume(mode) })(r)
}

func (s *Server) startMigration(r *http.Request) (int, any, error) {
	p, err := readParams(r.Body)
	if err != nil {
		return 0, nil, err
	}
	started, err := s.migrations.StartMigration(p)
	return http.StatusAccepted, started, err
}

// readParams reads exactly one JSON object without unknown fields and checks what it asks for.
func readParams(body io.Reader) (migration.Params, error) {
	var p migration.Params
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, fmt.Errorf("%w: migration parameters: %w", ErrInvalid, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return p, fmt.Errorf("%w: migration parameters: more than one JSON object", ErrInvalid)
	}
	p, err := p.WithDefaults()
	if err != nil {
		return p, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return p, nil
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

// events streams what happens as server-sent events (HTML standard, section 9.2) until the client or the VM goes.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	sub, err := s.hub.subscribe(Event{Time: time.Now(), Kind: EventState, State: s.machine.Info().State})
	if err != nil {
		writeJSON(w, statusOf(err), errorBody{err.Error()})
		return
	}
	defer sub.cancel()
	if r.URL.Query().Get("tags") == "1" {
		unfollow, err := s.machine.FollowTags(sub.pushTag)
		if err != nil {
			writeJSON(w, statusOf(err), errorBody{message(err)})
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
