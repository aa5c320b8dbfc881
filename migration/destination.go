package migration

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"taskguide/migration/peer"
	"taskguide/transport"
)

// Destination receives a machine. Its zero value needs only a Builder.
type Destination struct {
	Builder Builder
	// Arrived, unless nil, is called with the machine once it runs, or stays paused as it was at
	// the source. The source is told afterwards, so whoever hears from it that the guest has moved
	// finds the guest here.
	Arrived func(Incoming)
	// Admit, unless nil, returns an error for a peer that may neither send a guest nor ask about
	// one.
	Admit func(transport.Peer) error
	// Log gets the beginning and the end of each attempt, and the peers that were turned away; nil
	// discards.
	Log *slog.Logger

	// clock counts lifetimes; nil means CLOCK_BOOTTIME.
	clock func() time.Duration
	// features are the protocol features that it knows; 0 stands for all that this program knows.
	features transport.Features

	admission *admission // set when Serve begins, as is refusals
	refusals  *refusals
	attempts  sync.WaitGroup
}

// attempt is one source's try to send its guest.
type attempt struct {
	id    transport.ID
	log   *slog.Logger    // with who sends, and the id
	terms transport.Terms // of every channel
	links peer.Links
	taken []bool        // channels that were admitted; guarded by admission.mu
	joins chan joined   // has room for every channel
	ended chan struct{} // closed once the attempt is cleared away and the next one may come

	ctx    context.Context // its cause ends the attempt, unless it was told to run
	end    context.CancelCauseFunc
	fenced bool          // it must never run; guarded by admission.mu
	until  time.Duration // by the clock; 0 before prepared; its own goroutine's
	told   time.Time     // when the commit was read; its own goroutine's

	populator sync.WaitGroup
}

type joined struct {
	channel int
	conn    *transport.Conn
}

// arrival is the result of an attempt.
type arrival struct {
	log     *slog.Logger
	machine Incoming
	err     error
}

// Serve receives migrations at ln until one has been committed and its machine runs, and returns
// that machine. An attempt that fails is logged and forgotten, and the next one may come. Without a
// success Serve closes ln and returns an error. After a success it goes on at ln, until its caller
// closes ln, to answer sources that ask how their migration ended: a source may be in doubt for as
// long as the guest runs here.
func (d *Destination) Serve(ctx context.Context, ln net.Listener) (Incoming, error) {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.clock == nil {
		d.clock = peer.Boottime
	}
	if d.features == 0 {
		d.features = transport.Spoken().Features
	}
	d.admission, d.refusals = newAdmission(d.clock), newRefusals()
	// Answers to a source that asks outlive this call, so they must not end with ctx.
	serving, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { end(context.Cause(ctx)); ln.Close() })
	arrivals := make(chan arrival)
	refused := make(chan error, 1)
	go func() { refused <- d.accept(serving, ln, arrivals) }()
	for {
		select {
		case a := <-arrivals:
			if a.err == nil {
				a.log.Info("incoming migration completed: the guest has arrived")
				stop()
				go func() { end(d.settle(arrivals, refused)) }()
				return a.machine, nil
			}
			a.log.Warn("incoming migration failed, still waiting for one", "error", a.err)
		case err := <-refused:
			end(err)
			return nil, err
		}
	}
}

// settle takes the results of attempts that failed before the guest arrived and report only after
// it, until the listener is closed. It returns accept's error; accept waits for these attempts.
func (d *Destination) settle(arrivals <-chan arrival, refused <-chan error) error {
	for {
		select {
		case a := <-arrivals:
			a.log.Warn("incoming migration failed", "error", a.err)
		case err := <-refused:
			return err
		}
	}
}

// receive carries out an attempt and returns the machine, which runs.
func (d *Destination) receive(ctx context.Context, a *attempt) (Incoming, error) {
	machine, err := d.fill(ctx, a)
	if cause := context.Cause(a.ctx); err != nil && cause != nil {
		err = cause // the step failed because the attempt was ended
	}
	a.end(nil)
	if err == nil {
		if d.Arrived != nil {
			d.Arrived(machine)
		}
		d.admission.conclude(a, transport.OutcomeRunning)
		// If this does not arrive, the source asks.
		_ = a.links.Main().WriteMessage(transport.TypeRunning, 0, a.worked(a.told))
	} else {
		a.populator.Wait() // it must end before RAM is freed
		if machine != nil {
			machine.Discard()
		}
		// Only now, because a source that is told so may resume its guest.
		d.admission.conclude(a, transport.OutcomeDiscarded)
		_ = a.links.Main().WriteLast(transport.TypeError, []byte(err.Error()))
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
	a.links.Close()
	a.populator.Wait()
	return machine, err
}

// fill builds the machine, receives it, and runs it when told so. On an error the
// machine, if there is one, does not run.
func (d *Destination) fill(serving context.Context, a *attempt) (Incoming, error) {
	main, ctx := a.links.Main(), a.ctx
	defer context.AfterFunc(serving, func() { a.end(context.Cause(serving)) })()
	// A commit that was already read still counts, unless start refuses it.
	stop := context.AfterFunc(ctx, func() { main.InterruptRead() })
	defer stop()
	w := peer.NewWatch(ctx, &a.links, a.end)
	machine, extents, err := d.build(ctx, main, w)
	if err != nil {
		return machine, err
	}
	if err := d.join(ctx, a); err != nil {
		return machine, err
	}
	a.log.Info("receiving the guest", "channels", len(a.taken), "ram_bytes", machine.RAM().Size(),
		"protocol", a.terms.Version, "features", a.terms.Features)
	var reached atomic.Int64
	a.populator.Go(func() { populateAhead(ctx, machine.RAM(), extents, &reached) })
	header, state, err := receivePages(ctx, a.links.All(), machine, &reached)
	if err != nil {
		return machine, err
	}
	w.Ours()
	return machine, d.takeOver(ctx, a, machine, header, state, w)
}

// build builds the machine that the source describes, and receives the extents that have content.
// On an error the machine, if there is one, is of no use.
func (d *Destination) build(ctx context.Context, main *transport.Conn, w *peer.Watch) (
	machine Incoming, extents []byte, err error,
) {
	w.Theirs()
	config, err := readMessage(main, transport.TypeConfig)
	if err != nil {
		return nil, nil, err
	}
	w.Ours()
	// From here on slow steps are announced and keep-alives hold the connection.
	go main.KeepAlive(ctx)
	if err := main.Announce(peer.BuildAhead); err != nil {
		return nil, nil, err
	}
	machine, err = d.Builder.Build(config)
	if err != nil {
		return nil, nil, err
	}
	w.Knows(machine.RAM().Size())
	w.Theirs()
	if err := main.WriteMessage(transport.TypeAccept, 0, nil); err != nil {
		return machine, nil, err
	}
	extents, err = readMessage(main, transport.TypeExtents)
	if err == nil {
		err = checkExtents(extents, machine.RAM().Pages())
	}
	return machine, extents, err
}
