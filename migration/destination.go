package migration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"taskguide/transport"
)

const (
	// helloTimeout bounds how long a new connection may take to say what it wants.
	helloTimeout = 10 * time.Second
	// joinTimeout bounds how long a migration's connections may take to arrive.
	joinTimeout = 30 * time.Second
	// answerFor is how long a destination whose guest runs still tells its source so.
	answerFor = 2 * queryTimeout
	// maxGreetings is how many connections may be saying hello at the same time.
	maxGreetings = 64
	// maxDiscarded is how many failed migrations are remembered, for their sources
	// to ask about.
	maxDiscarded = 1024
)

// Destination receives a machine. Its zero value needs only a Builder.
type Destination struct {
	Builder Builder
	// Arrived, unless nil, is called with the machine once it runs, or is paused as it was, and before the source is
	// told so: who hears from the source that the guest has moved finds it here.
	Arrived func(Incoming)
	// Log is told of attempts that come and fail; nil discards.
	Log *slog.Logger

	mu       sync.Mutex
	current  *attempt
	outcomes map[transport.ID]transport.Outcome
	// discarded are the failed migrations in outcomes, oldest first.
	discarded []transport.ID
	attempts  sync.WaitGroup
}

// attempt is one source's try.
type attempt struct {
	id    transport.ID
	conns []*transport.Conn // by channel, nil until it joined
	taken []bool            // channels that were admitted; guarded by Destination.mu
	joins chan joined       // has room for every channel

	populator sync.WaitGroup
}

type joined struct {
	channel int
	conn    *transport.Conn
}

// arrival is what became of an attempt.
type arrival struct {
	machine Incoming
	err     error
}

// Serve receives migrations at ln until one has been committed and its machine
// runs, which it returns. An attempt that fails is logged and forgotten, and the
// next one may come. Serve closes ln; after a success it does so only when the
// source had the time to ask how the migration ended.
func (d *Destination) Serve(ctx context.Context, ln net.Listener) (Incoming, error) {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	d.outcomes = make(map[transport.ID]transport.Outcome)
	// Answers to a source that asks outlive this call, and so ctx.
	serving, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { end(context.Cause(ctx)); ln.Close() })
	arrivals := make(chan arrival)
	refused := make(chan error, 1)
	go func() { refused <- d.accept(serving, ln, arrivals) }()
	for {
		select {
		case a := <-arrivals:
			if a.err == nil {
				stop()
				time.AfterFunc(answerFor, func() { end(nil); ln.Close() })
				return a.machine, nil
			}
			d.Log.Warn("incoming migration failed, still waiting for one", "error", a.err)
		case err := <-refused:
			end(err)
			return nil, err
		}
	}
}

// accept greets connections until the listener is closed.
func (d *Destination) accept(ctx context.Context, ln net.Listener, arrivals chan<- arrival) error {
	slots := make(chan struct{}, maxGreetings)
	var greeting sync.WaitGroup
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				// An attempt whose commit was read ends with a running guest all the same.
				greeting.Wait()
				d.attempts.Wait()
				return cmp.Or(context.Cause(ctx), err)
			}
			d.Log.Warn("accept an incoming connection", "error", err)
			time.Sleep(10 * time.Millisecond) // out of file descriptors, say: do not spin
			continue
		}
		select {
		case slots <- struct{}{}:
			greeting.Go(func() {
				defer func() { <-slots }()
				d.greet(ctx, nc, arrivals)
			})
		default:
			nc.Close()
		}
	}
}

// greet finds out what a connection is for.
func (d *Destination) greet(ctx context.Context, nc net.Conn, arrivals chan<- arrival) {
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	nc.SetDeadline(time.Now().Add(helloTimeout))
	hello, err := transport.ReadHello(nc)
	if err != nil {
		d.Log.Warn("turned an incoming connection away", "error", err)
		// Whoever speaks another version of our protocol can read why.
		_ = transport.WriteRefusal(nc, err.Error())
		nc.Close()
		return
	}
	if hello.Purpose == transport.PurposeQuery {
		d.answer(nc, hello.ID)
		return
	}
	a, err := d.admit(hello)
	if err != nil {
		_ = transport.WriteRefusal(nc, err.Error())
		nc.Close()
		return
	}
	if transport.WriteWelcome(nc) != nil || nc.SetDeadline(time.Time{}) != nil {
		nc.Close()
		if hello.Channel == 0 {
			d.conclude(a, transport.OutcomeDiscarded)
		}
		return
	}
	conn := transport.NewConn(nc)
	if hello.Channel > 0 {
		d.hand(a, joined{int(hello.Channel), conn})
		return
	}
	a.conns[0] = conn
	d.attempts.Go(func() {
		machine, err := d.receive(ctx, a)
		arrivals <- arrival{machine, err}
	})
}

// answer tells a source that lost its connection how its migration ended.
func (d *Destination) answer(nc net.Conn, id transport.ID) {
	defer nc.Close()
	d.mu.Lock()
	outcome, known := d.outcomes[id]
	d.mu.Unlock()
	if !known {
		// A destination that was restarted cannot know: it must not claim that the
		// guest never ran.
		_ = transport.WriteRefusal(nc, "this destination knows nothing of that migration")
		return
	}
	if transport.WriteWelcome(nc) == nil {
		_ = transport.NewConn(nc).WriteMessage(transport.TypeOutcome, uint32(outcome), nil)
	}
}

// admit opens an attempt for channel 0, or finds the one that another channel
// belongs to.
func (d *Destination) admit(h transport.Hello) (*attempt, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.Channels == 0 || int(h.Channels) > MaxChannels || h.Channel >= h.Channels {
		return nil, fmt.Errorf("channel %d of %d: use at most %d", h.Channel, h.Channels, MaxChannels)
	}
	if h.Channel > 0 {
		if d.current == nil || d.current.id != h.ID || int(h.Channels) != len(d.current.conns) {
			return nil, errors.New("this channel belongs to no migration under way")
		}
		if d.current.taken[h.Channel] {
			return nil, fmt.Errorf("channel %d is here already", h.Channel)
		}
		d.current.taken[h.Channel] = true
		return d.current, nil
	}
	for _, o := range d.outcomes {
		if o == transport.OutcomeRunning {
			return nil, errors.New("a guest runs here already")
		}
	}
	if d.current != nil {
		return nil, errors.New("busy with another migration")
	}
	if _, again := d.outcomes[h.ID]; again {
		return nil, errors.New("that migration was here before")
	}
	d.current = &attempt{
		id:    h.ID,
		conns: make([]*transport.Conn, h.Channels),
		taken: make([]bool, h.Channels),
		joins: make(chan joined, h.Channels),
	}
	d.outcomes[h.ID] = transport.OutcomePending
	return d.current, nil
}

// hand gives a channel to its attempt, unless that is over. It does not block:
// every channel is admitted once.
func (d *Destination) hand(a *attempt, j joined) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != a {
		j.conn.Close()
		return
	}
	a.joins <- j
}

// conclude writes down how an attempt ended. From then on queries are told so, and
// no channel joins it any more.
func (d *Destination) conclude(a *attempt, o transport.Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.outcomes[a.id] = o
	d.current = nil
	if o != transport.OutcomeDiscarded {
		return
	}
	// Bounded, for anybody may come and fail. A source whose outcome is forgotten is
	// told that it is unknown, which is safe.
	if d.discarded = append(d.discarded, a.id); len(d.discarded) > maxDiscarded {
		delete(d.outcomes, d.discarded[0])
		d.discarded = d.discarded[1:]
	}
}

// receive carries an attempt through. The machine it returns runs.
func (d *Destination) receive(ctx context.Context, a *attempt) (Incoming, error) {
	machine, err := d.fill(ctx, a)
	if err == nil {
		if d.Arrived != nil {
			d.Arrived(machine)
		}
		d.conclude(a, transport.OutcomeRunning)
		// If this does not arrive, the source asks.
		_ = a.conns[0].WriteMessage(transport.TypeRunning, 0, nil)
	} else {
		a.populator.Wait() // it must not touch RAM that is gone
		if machine != nil {
			machine.Discard()
		}
		// Only now: a source that is told so may resume its guest.
		d.conclude(a, transport.OutcomeDiscarded)
		_ = a.conns[0].WriteLast(transport.TypeError, []byte(err.Error()))
		machine = nil
	}
	for {
		select {
		case j := <-a.joins:
			j.conn.Close()
			continue
		default:
		}
		break
	}
	for _, c := range a.conns {
		if c != nil {
			c.Close()
		}
	}
	a.populator.Wait()
	return machine, err
}

// fill builds the machine, receives it, and runs it when told so. On an error the
// machine, if there is one, does not run.
func (d *Destination) fill(ctx context.Context, a *attempt) (Incoming, error) {
	main := a.conns[0]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A commit that was read is acted on all the same.
	stop := context.AfterFunc(ctx, func() { main.InterruptRead() })
	defer stop()

	config, err := readMessage(main, transport.TypeConfig)
	if err != nil {
		return nil, err
	}
	// From here on: to build a machine and to populate its RAM may take long.
	go main.KeepAlive(ctx)
	machine, err := d.Builder.Build(config)
	if err != nil {
		return nil, err
	}
	if err := main.WriteMessage(transport.TypeAccept, 0, nil); err != nil {
		return machine, err
	}
	extents, err := readMessage(main, transport.TypeExtents)
	if err == nil {
		err = checkExtents(extents, machine.RAM().Pages())
	}
	if err != nil {
		return machine, err
	}
	if err := d.join(ctx, a); err != nil {
		return machine, err
	}
	d.Log.Info("incoming migration", "channels", len(a.conns), "ram_bytes", machine.RAM().Size())
	var reached atomic.Int64
	a.populator.Go(func() { populateAhead(ctx, machine.RAM(), extents, &reached) })
	header, state, err := receivePages(ctx, a.conns, machine, &reached)
	if err != nil {
		return machine, err
	}
	prepared, err := prepare(machine, state, header.Arg&stateVerify != 0)
	if err != nil {
		return machine, err
	}
	if err := main.WriteMessage(transport.TypePrepared, 0, prepared); err != nil {
		return machine, err
	}
	if _, err := readMessage(main, transport.TypeCommit); err != nil {
		return machine, fmt.Errorf("not told to run the guest: %w", err)
	}
	if err := machine.Run(header.Arg&statePaused != 0); err != nil {
		return machine, fmt.Errorf("run the guest: %w", err)
	}
	return machine, nil
}

// prepare loads the state, and sums up what arrived if the source wants to verify
// it. RAM comes first: KVM updates its clock pages in guest RAM when vCPU state is
// loaded.
func prepare(machine Incoming, state []byte, verify bool) ([]byte, error) {
	var d digests
	var err error
	if verify {
		if d.ram, err = machine.RAM().Digest(); err != nil {
			return nil, fmt.Errorf("digest of RAM: %w", err)
		}
	}
	if err := machine.LoadState(state); err != nil {
		return nil, fmt.Errorf("load the machine's state: %w", err)
	}
	if !verify {
		return nil, nil
	}
	if d.state, err = machine.StateDigest(); err != nil {
		return nil, fmt.Errorf("digest of the machine's state: %w", err)
	}
	return d.bytes(), nil
}

// join waits for the attempt's other channels.
func (d *Destination) join(ctx context.Context, a *attempt) error {
	timeout := time.NewTimer(joinTimeout)
	defer timeout.Stop()
	for missing := len(a.conns) - 1; missing > 0; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			return fmt.Errorf("%w: %d channels did not arrive", transport.ErrTimeout, missing)
		case j := <-a.joins:
			a.conns[j.channel] = j.conn
			missing--
		}
	}
	return nil
}

// receivePages applies pages on all channels until each has been flushed, and
// returns the machine's state, which follows on channel 0.
func receivePages(ctx context.Context, conns []*transport.Conn, machine Incoming, reached *atomic.Int64) (transport.Header, []byte, error) {
	// A channel that fails takes the others along. Its error is the cause, whichever
	// goroutine ends first.
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer context.AfterFunc(ctx, func() {
		for _, c := range conns {
			c.InterruptRead()
		}
	})()
	var receiving sync.WaitGroup
	for _, r := range transport.NewReceivers(conns, machine.RAM()) {
		receiving.Go(func() {
			if err := receiveChannel(r, reached); err != nil {
				fail(err)
			}
		})
	}
	receiving.Wait()
	if err := context.Cause(ctx); err != nil {
		return transport.Header{}, nil, err
	}
	h, err := conns[0].Next()
	if err != nil {
		return h, nil, err
	}
	state, err := readPayload(conns[0], h, transport.TypeState)
	return h, state, err
}

// receiveChannel applies the pages of one channel until its flush. It tells how far
// into RAM it has come.
func receiveChannel(r *transport.Receiver, reached *atomic.Int64) error {
	for {
		h, err := r.Conn().Next()
		if err != nil {
			return err
		}
		switch h.Type {
		case transport.TypePages:
			err = r.Apply(h)
			r.Conn().Acknowledge()
			if p := r.Reached(); p > reached.Load() {
				reached.Store(p) // about right is enough: other channels store too
			}
		case transport.TypeFlush:
			_, err = readPayload(r.Conn(), h, transport.TypeFlush)
			return err
		default:
			_, err = readPayload(r.Conn(), h, transport.TypePages)
		}
		if err != nil {
			return err
		}
	}
}

// readMessage receives a message of one type.
func readMessage(c *transport.Conn, want transport.Type) ([]byte, error) {
	h, err := c.Next()
	if err != nil {
		return nil, err
	}
	return readPayload(c, h, want)
}

// readPayload receives the rest of a message, which must be of one type, or may
// be the source's farewell.
func readPayload(c *transport.Conn, h transport.Header, want transport.Type) ([]byte, error) {
	if h.Type == transport.TypeError {
		why, err := c.ReadMessage(h)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, err
		}
		return nil, fmt.Errorf("the source gave up: %s", transport.Printable(why))
	}
	if h.Type != want {
		return nil, fmt.Errorf("%w: type %d where %d was due", transport.ErrFrame, h.Type, want)
	}
	return c.ReadMessage(h)
}
