package control

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

const (
	// maxConnections bounds the connections of a control socket at a time. Each takes a file
	// descriptor, and a migration needs descriptors, too. Silent connections are closed soon.
	maxConnections = 256
	// spareConnections is how many more connections get a refusal. Further ones are closed without
	// an answer.
	spareConnections = 32
)

// limited is a listener that turns connections away once there are too many.
type limited struct {
	net.Listener
	open atomic.Int64
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		n := l.open.Add(1)
		if n <= maxConnections+spareConnections {
			release := sync.OnceFunc(func() { l.open.Add(-1) })
			return &counted{Conn: conn, tooMany: n > maxConnections, release: release}, nil
		}
		l.open.Add(-1)
		conn.Close()
	}
}

// counted is a connection that frees its place when it is closed.
type counted struct {
	net.Conn
	tooMany bool
	release func()
}

func (c *counted) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// tooManyKey is set in the context of requests on a connection beyond maxConnections.
type tooManyKey struct{}

func markTooMany(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*counted); ok && c.tooMany {
		return context.WithValue(ctx, tooManyKey{}, true)
	}
	return ctx
}

// refuseTooMany refuses requests on connections beyond maxConnections, instead of next.
func refuseTooMany(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(tooManyKey{}) == nil {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close")
		writeJSON(w, http.StatusServiceUnavailable, errorBody{"too many connections to this VM's " +
			"control socket: close some, or try again in a minute"})
	})
}
