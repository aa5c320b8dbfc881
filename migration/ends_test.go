package migration

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/peer"
	"taskguide/tagging"
	"taskguide/transport"
)

// ends is a source and a destination. Use it inside a synctest bubble.
type ends struct {
	t        *testing.T
	m        *fakeMachine
	in       *fakeIncoming
	ln       *memListener
	served   chan Incoming
	stop     context.CancelFunc
	stopFor  context.CancelCauseFunc
	dial     func(context.Context) (net.Conn, error)
	onArrive func() // before the source is told
	onBuild  func() // before the destination's machine is there
	onEvent  func(Notice)
	// sourceClock and offers belong to the source.
	sourceClock func() time.Duration
	offers      transport.Features
	paused      bool // the guest's user has paused it
	log         bytes.Buffer
	eventsMu    sync.Mutex
	events      []Notice
	begun       time.Time
	asleep      atomic.Int64
}

type buildFunc func([]byte) (Incoming, error)

func (f buildFunc) Build(config []byte) (Incoming, error) { return f(config) }

func newEnds(t *testing.T, script func(*guest)) *ends { return newEndsKnowing(t, script, 0) }

// newEndsKnowing is newEnds with a destination that knows features of the protocol.
func newEndsKnowing(t *testing.T, script func(*guest), knows transport.Features) *ends {
	return newEndsOf(t, script, func(d *Destination) { d.features = knows })
}

// newEndsOf is newEnds with another destination.
func newEndsOf(t *testing.T, script func(*guest), change func(d *Destination)) *ends {
	b := &ends{t: t, m: newFakeMachine(t, script), ln: newMemListener()}
	b.begun, b.served = time.Now(), make(chan Incoming, 1)
	b.dial, b.sourceClock = b.ln.dial, b.clock
	b.in = &fakeIncoming{fakeMachine: newFakeMachine(t, script)}
	d := Destination{Builder: buildFunc(func(config []byte) (Incoming, error) {
		require.Equal(t, "a machine", string(config))
		if b.onBuild != nil {
			b.onBuild()
		}
		if b.in.discarded.Load() {
			old := b.in
			b.in = &fakeIncoming{fakeMachine: newFakeMachine(t, script)}
			b.in.failRun, b.in.failLoad = old.failRun, old.failLoad
			old.ram.Close()
		}
		return b.in, nil
	}), Arrived: func(Incoming) {
		if b.onArrive != nil {
			b.onArrive()
		}
	}, Log: slog.New(slog.NewTextHandler(&b.log, nil)), clock: b.clock}
	change(&d)
	ctx, cancel := context.WithCancelCause(context.Background())
	b.stop, b.stopFor = func() { cancel(nil) }, cancel
	go func() {
		in, err := d.Serve(ctx, b.ln)
		if err == nil {
			b.served <- in
		}
		close(b.served)
	}()
	return b
}

// close ends everything in the bubble.
func (b *ends) close() {
	b.m.end()
	b.stop()
	b.ln.Close()
	for range b.served {
	}
	time.Sleep(2 * time.Minute) // virtual: whoever still answers or sleeps ends
	synctest.Wait()
	b.m.ram.Close()
	b.in.ram.Close()
}

func (b *ends) source(p Params) *Source {
	return newSource(b.m, b.complete(p), b.observe, b.peer())
}

// connected returns a source that has reached its first round, and the context that it runs in. It
// is for moments between two steps of the engine that a guest cannot hit reliably.
func (b *ends) connected(p Params) (context.Context, *Source) {
	ctx, cancel := context.WithCancel(context.Background())
	b.t.Cleanup(cancel)
	s := b.source(p)
	ctx = s.start(ctx)
	require.NoError(b.t, s.setup(ctx))
	return ctx, s
}

// complete fills in what a test leaves out of an order.
func (b *ends) complete(p Params) Params {
	p.Destination = "tcp:test:1"
	if p.Channels == 0 {
		p.Channels = 1 // whatever the number of CPUs here
	}
	p, err := p.WithDefaults()
	require.NoError(b.t, err)
	return p
}

func (b *ends) observe(e Notice) {
	b.eventsMu.Lock()
	b.events = append(b.events, e)
	b.eventsMu.Unlock()
	if b.onEvent != nil {
		b.onEvent(e)
	}
}

// peer returns the destination's configuration for a source.
func (b *ends) peer() peer.Config {
	return peer.Config{Dial: b.dial, Clock: b.sourceClock, Offers: b.offers}
}

// identified returns where the migration's id appears, read from the source's greetings.
func (b *ends) identified() *transport.ID {
	id, dial := new(transport.ID), b.dial
	b.dial = func(ctx context.Context) (net.Conn, error) {
		nc, err := dial(ctx)
		return hookConn{nc, func(written []byte) {
			if len(written) == greetingBytes {
				copy(id[:], written[20:])
			}
		}}, err
	}
	return id
}

// clock is virtual, like all time in a synctest bubble, unlike CLOCK_BOOTTIME; asleep is
// how long this host slept in between.
func (b *ends) clock() time.Duration {
	return time.Since(b.begun) + time.Duration(b.asleep.Load())
}

// checkMoved checks that the whole guest is at the destination, and only there.
func (b *ends) checkMoved(s *Source, r Report) {
	b.t.Helper()
	require.Equal(b.t, StatusCompleted, r.Status, r.Error)
	require.Equal(b.t, FateMoved, s.Fate())
	in, ok := <-b.served
	require.True(b.t, ok)
	require.Same(b.t, b.in, in)
	require.True(b.t, b.in.ran.Load())
	require.False(b.t, b.in.discarded.Load())
	require.False(b.t, b.m.isRunning(), "the source must not run")
	here, err := b.m.ram.Digest()
	require.NoError(b.t, err)
	there, err := b.in.ram.Digest()
	require.NoError(b.t, err)
	require.Equal(b.t, here, there, "RAM differs")
	require.Equal(b.t, b.m.steps, b.in.steps)
	require.Equal(b.t, b.paused, b.in.paused)
	if !b.in.paused {
		stood := ms(b.in.ranAt.Sub(b.m.wantedAt))
		require.GreaterOrEqual(b.t, r.DowntimeMS, stood, "the guest stood still for longer")
	}
	require.Equal(b.t, uint32(1), b.in.port.Read(tagging.RegEpoch, 4))
	require.False(b.t, b.m.tracker.logging())
}

// checkStays checks that the guest runs at the source as if nothing had happened, and only there.
func (b *ends) checkStays(s *Source, r Report) {
	b.t.Helper()
	require.NotEqual(b.t, StatusCompleted, r.Status)
	require.NotEmpty(b.t, r.Error)
	requireWaterfall(b.t, r)
	require.Equal(b.t, FateStays, s.Fate())
	require.True(b.t, b.m.isRunning(), "the source must run on")
	require.False(b.t, b.in.ran.Load(), "the destination must not run")
	require.False(b.t, b.m.tracker.logging(), "dirty logging must be off")
	require.False(b.t, b.m.storage.isDrained(), "the devices must work")
	require.Equal(b.t, uint32(tagging.StateNone), b.m.port.Read(tagging.RegState, 4))
	before := b.m.stepCount()
	time.Sleep(5 * time.Millisecond)
	require.Greater(b.t, b.m.stepCount(), before)
}

// once returns a dial that works once. After that the other end cannot be reached.
func once(dial func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	var dialled atomic.Bool
	return func(ctx context.Context) (net.Conn, error) {
		if dialled.Swap(true) {
			return nil, errors.New("no route to host")
		}
		return dial(ctx)
	}
}
