package stream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/transport"
)

const (
	// peekEvery is how often a round with SkipDirty looks for pages that are already dirty again.
	peekEvery = 20 * time.Millisecond
	// minTakenPace and maxTakenPace bound how often a round looks whether the link has taken its
	// pages.
	minTakenPace = 50 * time.Microsecond
	maxTakenPace = 2 * time.Millisecond
)

// Skipping says what happens to a page that is dirty again before it was sent.
type Skipping int

const (
	SendAll   Skipping = iota
	SkipDirty          // it is left to the next round: Xen's to_skip
)

// Protection says when the pages of a round are protected, with a tracker that leaves that
// to its user.
type Protection int

const (
	AsRead Protection = iota // stretch by stretch, just before they are read
	AtOnce                   // all of them, before the first is read
)

// Guest says what the guest does during a round.
type Guest int

const (
	Running Guest = iota
	Still         // no vCPU runs: nobody writes RAM
)

// Config is what a stream needs.
type Config struct {
	RAM     *memory.RAM
	Tracker dirtylog.Tracker
	// Skip applies to rounds during which the guest runs. SkipDirty makes Protect AtOnce, because a
	// look at the dirty log would otherwise report all pages that are still to be sent.
	Skip    Skipping
	Protect Protection
	// Declared, unless nil, returns the pages that the guest declares to be not worth moving, as
	// they are now. It is called with locks held, in the standstill too, and must not wait.
	Declared func() memory.Spans
	// Failed, unless nil, is called with the round's context and the reason when a channel cannot
	// go on. Others may be stuck in writes then, and the round ends only once their sinks fail too.
	Failed func(ctx context.Context, err error)
	// Turns makes the function that a worker calls between its steps while the guest runs, so that
	// vCPUs get their turn on a CPU. nil stands for that of [memory.Turn].
	Turns func() (yield func())
}

// Stream sends the RAM of one machine, in rounds.
//
// One goroutine, the engine's, begins rounds, sends them and takes dirty pages. Any goroutine may
// call Remaining, AtLeast, Stop, Progress, Rate, Sent and Queued at any time.
//
// Its locks are leaves: while one of them is held, nothing outside is called but the dirty log and
// Config.Declared, and nothing else is waited for. Only round.mu is taken while track is held, and
// track while guard.mu is.
type Stream struct {
	ram     *memory.RAM
	skip    Skipping
	protect Protection
	failed  func(context.Context, error)
	turns   func() (yield func())
	workers []*worker       // one a channel; all are there before the first round
	again   []atomic.Uint64 // copy of next for workers; only with SkipDirty, else nil
	dirtied atomic.Int64    // at most the pages in next; track is held to change it
	stop    atomic.Bool     // the round under way ends early
	round   progress        // has a lock of its own
	rate    rateMeter       // has a lock of its own
	guard   guard           // has a lock of its own
	// pending is what is to be sent. During a round each worker owns its channel's words; at other
	// times the engine's goroutine owns it.
	pending *memory.Bitmap
	aside   aside // belongs to the engine's goroutine

	// track guards everything below. A vCPU that is held at an exit takes it, so nobody may
	// wait for vCPUs while holding it.
	track    sync.Mutex
	tracker  dirtylog.Tracker // guard.mu guards its Protect
	tracking bool
	next     *memory.Bitmap // dirtied since the round began
}

// New returns a stream that has sent nothing yet.
func New(cfg Config) *Stream {
	pages := cfg.RAM.Pages()
	s := &Stream{
		ram:     cfg.RAM,
		skip:    cfg.Skip,
		protect: cfg.Protect,
		failed:  cfg.Failed,
		turns:   cfg.Turns,
		tracker: cfg.Tracker,
		next:    memory.NewBitmap(pages),
		pending: memory.NewBitmap(pages),
	}
	s.guard.round, s.guard.forget = &s.round, s.forget
	s.aside.look = cfg.Declared
	if s.failed == nil {
		s.failed = func(context.Context, error) {}
	}
	if s.turns == nil {
		s.turns = func() func() { return new(memory.Turn).Yield }
	}
	if s.skip == SkipDirty {
		s.protect = AtOnce
		s.again = make([]atomic.Uint64, (pages+63)/64)
	}
	return s
}

// AddChannel gives the stream the sink of its next channel, before the first round.
func (s *Stream) AddChannel(sink Sink) {
	s.workers = append(s.workers, &worker{s: s, channel: len(s.workers), sink: sink})
}

// Close closes the sinks.
func (s *Stream) Close() error {
	var failed error
	for _, w := range s.workers {
		failed = errors.Join(failed, w.sink.Close())
	}
	return failed
}

// Pending is what the next round sends. Look at it between rounds only.
func (s *Stream) Pending() *memory.Bitmap { return s.pending }

// ProtectsAtOnce tells whether a round begins by protecting all its pages, which takes longer with
// more RAM.
func (s *Stream) ProtectsAtOnce() bool { return s.protect == AtOnce && s.tracker.OnDemand() }

// Begin begins a round over what is pending and returns how many pages that is. The caller must
// call Send next. Stop takes effect from here on.
func (s *Stream) Begin() (pages int64) {
	s.aside.begin()
	pages = int64(s.pending.Count())
	s.round.reset(pages)
	s.stop.Store(false)
	return pages
}

// Stop ends the round that was begun early, on whole frames. It does not wait.
func (s *Stream) Stop() { s.stop.Store(true) }

// Stopped tells whether the round under way, or the last one, was stopped.
func (s *Stream) Stopped() bool { return s.stop.Load() }

// InRound tells whether a round was begun whose dirty pages were not taken yet.
func (s *Stream) InRound() bool { return s.round.running() }

// Progress is how far the round has come.
func (s *Stream) Progress() Progress { return s.round.now() }

// Rate is how fast rounds have got through.
func (s *Stream) Rate() Rate { return s.rate.now() }

// DoubtRate sets the rate to that of the round under way so far, until the link has taken a whole
// round. It changes nothing if this round has sent no page of content.
func (s *Stream) DoubtRate() {
	s.round.mu.Lock()
	begin := s.round.begin
	s.round.mu.Unlock()
	s.rate.doubt(s.round.content.Load(), time.Since(begin))
}

// Sent is how many bytes all channels have written.
func (s *Stream) Sent() int64 {
	sum := int64(0)
	for _, w := range s.workers {
		sum += w.sink.Sent()
	}
	return sum
}

// Queued is how many of the bytes sent the link has not taken yet.
func (s *Stream) Queued() int64 {
	sum := int64(0)
	for _, w := range s.workers {
		sum += w.sink.Queued()
	}
	return sum
}

// Round is the result of a round, in pages.
type Round struct {
	Content int64
	Zero    int64
	Skipped int64
	// Declared pages are not in this round, because the guest declares them to be not worth moving.
	// Those that earlier rounds have counted are not in it.
	Declared int64
	Holes    int64 // of Zero, as known without a look at the page
	Deltas   int64 // of Content
	Bytes    int64 // sent
	Elapsed  time.Duration
}

// Send sends the round that Begin has begun, or the part of it before a Stop. While the guest runs
// it returns only once the link has taken everything.
func (s *Stream) Send(ctx context.Context, guest Guest) (Round, error) {
	begin, sent := time.Now(), s.Sent()
	err := s.runWorkers(ctx, guest)
	taken := false
	if err == nil && guest == Running {
		taken, err = s.awaitTaken(ctx)
	}
	if err != nil {
		return Round{}, err
	}
	r := Round{
		Content: s.round.content.Load(),
		Zero:    s.round.zero.Load(),
		Skipped: s.round.skipped.Load(),
		Holes:   s.round.holes.Load(),
		Deltas:  s.round.deltas.Load(),
		Bytes:   s.Sent() - sent,
		Elapsed: time.Since(begin),
	}
	r.Declared = s.aside.ofRound
	if taken {
		s.rate.learn(r.Content, r.Bytes, r.Elapsed)
	}
	return r, nil
}

// runWorkers runs one round on all channels.
func (s *Stream) runWorkers(ctx context.Context, guest Guest) error {
	skip := s.skip
	if guest == Still {
		skip = SendAll
	}
	if guest == Running {
		if err := s.protectAside(); err != nil {
			return err
		}
	}
	s.guard.begin(s.tracker, s.pending, guest)
	if s.protect == AtOnce {
		if err := s.guard.protect(s.pending.Len()); err != nil {
			return fmt.Errorf("protect the round's pages: %w", err)
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, w := range s.workers {
		w.sink.Begin(guest)
		g.Go(func() error {
			// A guest that stands still waits for the copying, not for a CPU, so workers do not
			// yield.
			yield := func() {}
			if guest == Running {
				yield = s.turns()
			}
			err := w.send(gctx, skip, yield)
			if err != nil && gctx.Err() == nil {
				s.failed(ctx, err)
			}
			return err
		})
	}
	if skip == SendAll {
		return g.Wait()
	}
	peekCtx, stop := context.WithCancel(gctx)
	peeked := make(chan error, 1)
	go func() { peeked <- s.peek(peekCtx) }()
	err := g.Wait()
	stop()
	if errPeek := <-peeked; err == nil {
		err = errPeek
	}
	return err
}

// peek looks, until ctx ends, for pages that are dirty again, which the workers then skip.
func (s *Stream) peek(ctx context.Context) error {
	tick := time.NewTicker(peekEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := s.Remaining(); err != nil {
				s.Stop()
				return err
			}
		}
	}
}

// awaitTaken returns once the link has taken what a round wrote, or the round is stopped. Buffers
// take pages at the speed of memory. Without this wait a round that fits into them would suggest a
// fast link, and delay the stop-and-copy behind it.
func (s *Stream) awaitTaken(ctx context.Context) (taken bool, err error) {
	least, since := int64(math.MaxInt64), time.Now()
	for pace := minTakenPace; ; pace = min(2*pace, maxTakenPace) {
		queued := s.Queued()
		switch {
		case queued == 0:
			return true, nil
		case s.stop.Load():
			return false, nil
		case queued < least:
			least, since = queued, time.Now()
		case time.Since(since) > transport.IdleTimeout:
			return false, fmt.Errorf("%w: it took nothing for %v",
				transport.ErrTimeout, transport.IdleTimeout)
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(pace):
		}
	}
}
