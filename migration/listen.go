package migration

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"taskguide/transport"
)

const (
	// helloTimeout bounds how long a new connection may take to say what it wants.
	helloTimeout = 10 * time.Second
	// maxGreetings is how many connections may be saying hello at the same time. When more want to,
	// the oldest one is closed once it has had pressedTimeout.
	maxGreetings   = 64
	pressedTimeout = 2 * time.Second
	// pressedPace is how often a connection that waits for room looks for it.
	pressedPace = 20 * time.Millisecond
)

// accept greets connections until the listener is closed.
func (d *Destination) accept(ctx context.Context, ln net.Listener, arrivals chan<- arrival) error {
	var g greetings
	pace := rate.Sometimes{First: toldAway, Interval: toldPace}
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				// An attempt whose commit was already read may still end with a running guest.
				g.all.Wait()
				d.attempts.Wait()
				return cmp.Or(context.Cause(ctx), err)
			}
			pace.Do(func() { d.Log.Warn("accept an incoming connection", "error", err) })
			time.Sleep(10 * time.Millisecond) // out of file descriptors, say: do not spin
			continue
		}
		g.begin(nc, func() { d.greet(ctx, nc, arrivals) })
	}
}

// greet finds out what a connection is for.
func (d *Destination) greet(ctx context.Context, nc net.Conn, arrivals chan<- arrival) {
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	nc.SetDeadline(time.Now().Add(helloTimeout))
	hello, terms, log, err := d.meet(nc)
	if err != nil {
		d.refusals.tell(log, err)
		// A peer that speaks another version of the protocol, or no TLS, can read why.
		_ = transport.Refuse(nc, err)
		nc.Close()
		return
	}
	if hello.Purpose != transport.PurposeMigrate {
		d.answer(nc, hello, terms)
		return
	}
	a, err := d.admission.admitSoon(ctx, hello, terms)
	if err != nil {
		d.refusals.tell(log, err)
		nc.SetDeadline(time.Now().Add(helloTimeout))
		_ = transport.WriteRefusal(nc, err.Error())
		nc.Close()
		return
	}
	if transport.WriteWelcome(nc, terms) != nil || nc.SetDeadline(time.Time{}) != nil {
		nc.Close()
		if hello.Channel == 0 {
			d.admission.conclude(a, transport.OutcomeDiscarded)
		}
		return
	}
	conn := transport.NewConn(nc)
	if hello.Channel > 0 {
		d.admission.hand(a, joined{int(hello.Channel), conn})
		return
	}
	a.log = log
	a.links.Put(0, conn)
	log.Info("incoming migration begins")
	d.attempts.Go(func() {
		machine, err := d.receive(ctx, a)
		arrivals <- arrival{log, machine, err}
	})
}

// meet reads what a connection is for, and finds out who is at its other end and on which terms it
// can be served. The log that it returns names the peer, and the migration by the id that both ends
// use.
func (d *Destination) meet(nc net.Conn) (
	hello transport.Hello, terms transport.Terms, log *slog.Logger, err error,
) {
	hello, err = transport.ReadHello(nc)
	from := transport.PeerOf(nc, err)
	log = d.Log.With(about(from)...)
	if err == nil && d.Admit != nil {
		err = d.Admit(from)
	}
	if err != nil {
		return hello, terms, log, err
	}
	terms, err = hello.Agree(d.features)
	return hello, terms, log.With("migration", hello.ID.String()), err
}

const (
	// toldAway is how many refused connections are logged at once. After that one is logged in each
	// toldPace, because anybody may connect as often as they like.
	toldAway = 20
	toldPace = time.Second
)

// refusals logs refused connections at a bounded pace.
type refusals struct {
	mu    sync.Mutex // guards everything below
	pace  rate.Sometimes
	quiet int // refusals not logged since the last that was
}

func newRefusals() *refusals {
	return &refusals{pace: rate.Sometimes{First: toldAway, Interval: toldPace}}
}

func (r *refusals) tell(log *slog.Logger, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := false
	r.pace.Do(func() {
		if r.quiet > 0 {
			log = log.With("not_logged_before", r.quiet)
		}
		log.Warn("turned an incoming connection away", "error", why)
		told, r.quiet = true, 0
	})
	if !told {
		r.quiet++
	}
}

// about returns a peer's attributes for the log. Without a certificate the name is only what the
// peer claims.
func about(p transport.Peer) []any {
	var attrs []any
	if p.Address != "" {
		attrs = append(attrs, "peer", p.Address)
	}
	switch {
	case p.Proven:
		attrs = append(attrs, "name", p.Title())
	case len(p.Names) > 0:
		attrs = append(attrs, "claims", p.Title())
	}
	return attrs
}

// answer tells a source that lost its connection how its migration ended.
func (d *Destination) answer(nc net.Conn, hello transport.Hello, terms transport.Terms) {
	defer nc.Close()
	outcome, known := d.admission.outcome(hello)
	nc.SetDeadline(time.Now().Add(helloTimeout))
	if !known {
		// A destination that was restarted cannot know, so it must not claim that the guest never
		// ran.
		_ = transport.WriteRefusal(nc, "this destination knows nothing of that migration")
		return
	}
	if transport.WriteWelcome(nc, terms) == nil {
		_ = transport.NewConn(nc).WriteMessage(transport.TypeOutcome, uint32(outcome), nil)
	}
}

// greetings are the connections that have not said yet what they want, or are being answered. Their
// number is bounded, because anybody may open connections and say nothing. Later connections must
// still get in, above all those of a source in doubt.
type greetings struct {
	all  sync.WaitGroup
	mu   sync.Mutex  // guards open
	open []*greeting // oldest first
}

type greeting struct {
	nc    net.Conn
	begun time.Time
}

// begin runs greet for a connection. Without room it waits until the oldest connection has had
// pressedTimeout, and closes that one.
func (g *greetings) begin(nc net.Conn, greet func()) {
	o := g.enter(nc)
	for o == nil {
		time.Sleep(pressedPace)
		o = g.enter(nc)
	}
	g.all.Go(func() {
		defer g.leave(o)
		greet()
	})
}

// enter returns nil if there is no room yet.
func (g *greetings) enter(nc net.Conn) *greeting {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.open) >= maxGreetings {
		if time.Since(g.open[0].begun) < pressedTimeout {
			return nil
		}
		g.open[0].nc.Close() // its greeting ends with that
		g.open = g.open[1:]
	}
	o := &greeting{nc, time.Now()}
	g.open = append(g.open, o)
	return o
}

func (g *greetings) leave(o *greeting) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = slices.DeleteFunc(g.open, func(other *greeting) bool { return other == o })
}
