package peer

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"sync"
	"time"

	"taskguide/transport"
)

// Config says who the destination is and what is asked of it.
type Config struct {
	// Dial makes a connection to the destination.
	Dial func(context.Context) (net.Conn, error)
	// Offers are the features that this side wants to use.
	Offers transport.Features
	// Clock counts the times of a handover; nil means [Boottime].
	Clock func() time.Duration
	// RAMBytes is the size of the machine's RAM, which bounds how long the destination may work.
	RAMBytes int64
}

// Peer is a source's destination: the connections to it, its messages, and what it is told while it
// waits.
type Peer struct {
	Links
	cfg        Config
	id         transport.ID
	replies    chan Reply
	connected  context.Context // ends with the connection, with why as its cause
	disconnect context.CancelCauseFunc

	// Only the engine's goroutine uses these three. terms are those of all channels; attempt counts
	// switchovers that the destination was asked to forget.
	// roundTrip is the shortest that a greeting took, 0 before the first.
	terms     transport.Terms
	attempt   uint32
	roundTrip time.Duration

	mu        sync.Mutex // guards what follows; a leaf
	announced time.Time  // when a wait was last announced to the destination
}

// Reply is a message from the destination.
type Reply struct {
	Header  transport.Header
	Payload []byte
}

// New returns the peer of a new migration. Nothing is dialled yet.
func New(cfg Config) *Peer {
	if cfg.Clock == nil {
		cfg.Clock = Boottime
	}
	p := &Peer{cfg: cfg, replies: make(chan Reply, 4)}
	p.connected, p.disconnect = context.WithCancelCause(context.Background())
	rand.Read(p.id[:])
	return p
}

// ID names the migration.
func (p *Peer) ID() transport.ID { return p.id }

// Terms are what both sides go by, once the first connection is open.
func (p *Peer) Terms() transport.Terms { return p.terms }

// queueBytes is how much a connection may hold that the link has not taken yet. It must last until
// a waiting worker has its turn again; at 10 Gbit/s it lasts 0.2 ms.
const queueBytes = 256 << 10

// Open makes the connection of one channel, channel 0 first.
func (p *Peer) Open(ctx context.Context, channel, channels int) error {
	nc, terms, took, err := p.greet(ctx, transport.Hello{
		Purpose:  transport.PurposeMigrate,
		Channel:  uint16(channel),
		Channels: uint16(channels),
		ID:       p.id,
		Features: p.cfg.Offers,
	})
	if err != nil {
		return err
	}
	if p.roundTrip == 0 || took < p.roundTrip {
		p.roundTrip = took
	}
	c := transport.NewConn(nc)
	if channel == 0 {
		p.terms = terms
	} else if terms != p.terms {
		err = fmt.Errorf("%w: channel %d on other terms than channel 0",
			transport.ErrNotOurs, channel)
	}
	if err == nil {
		err = c.BoundQueue(queueBytes)
	}
	if err != nil {
		c.Close()
		return err
	}
	p.Put(channel, c)
	return nil
}

// RoundTrip is how long the destination took to answer a greeting, the shortest time of all
// channels. It is 0 before the first answer. Only the engine's goroutine may ask.
//
// TCP's own measurement would end at the first relay or tunnel, and a switchover's messages wait
// for the destination's process as a greeting does. A destination that is busy with the migration
// before lets a greeting wait, so this can be far too long. It is an estimate, and whoever uses it
// bounds it.
func (p *Peer) RoundTrip() time.Duration { return p.roundTrip }

// greet dials the destination and sends the greeting. It also returns how long the answer took.
func (p *Peer) greet(ctx context.Context, h transport.Hello) (
	nc net.Conn, terms transport.Terms, took time.Duration, err error,
) {
	if nc, err = p.cfg.Dial(ctx); err != nil {
		return nil, terms, 0, err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	begin := time.Now()
	terms, err = exchange(nc, h)
	if err != nil {
		nc.Close()
		return nil, terms, 0, fmt.Errorf("greet the destination: %w", err)
	}
	return nc, terms, time.Since(begin), nil
}

// exchange says hello on a new connection and hears the terms.
func exchange(nc net.Conn, h transport.Hello) (terms transport.Terms, err error) {
	if err := nc.SetDeadline(time.Now().Add(transport.DialTimeout)); err != nil {
		return terms, err
	}
	if err := transport.WriteHello(nc, h); err != nil {
		return terms, err
	}
	if terms, err = transport.ReadWelcome(nc, h.Features); err != nil {
		return terms, err
	}
	return terms, nc.SetDeadline(time.Time{})
}

// Send sends a message.
func (p *Peer) Send(t transport.Type, arg uint32, payload []byte) error {
	return p.Main().WriteMessage(t, arg, payload)
}

// Listen hands the destination's messages to Await, until the connection ends. It passes the error
// to fail.
func (p *Peer) Listen(fail context.CancelCauseFunc) {
	c := p.Main()
	for {
		h, err := c.Next()
		var payload []byte
		if err == nil {
			payload, err = c.ReadMessage(h)
		}
		if err == nil && h.Type == transport.TypeError {
			err = fmt.Errorf("%w: %s", transport.ErrRefused, transport.Printable(payload))
		}
		if err != nil {
			err = fmt.Errorf("destination: %w", err)
			p.disconnect(err)
			fail(err)
			return
		}
		select {
		case p.replies <- Reply{h, payload}:
		default:
			fail(fmt.Errorf("destination: %w: more messages than anybody asked for",
				transport.ErrFrame))
			return
		}
	}
}

// Await waits for a message of one type. It waits as long as the link still takes what was sent, or
// the destination has announced that it works.
func (p *Peer) Await(ctx context.Context, want transport.Type) (Reply, error) {
	main := p.Main()
	progress := func() int64 { return main.Progress() - p.Queued() }
	patience := newPatience(ProgressTimeout, WorkLimit(p.cfg.RAMBytes), progress())
	look := time.NewTicker(Pace)
	defer look.Stop()
	for {
		select {
		case r := <-p.replies:
			if r.Header.Type != want {
				return r, wrongType(r.Header, want)
			}
			return r, nil
		case <-ctx.Done():
			return Reply{}, context.Cause(ctx)
		case <-look.C:
			if patience.over(progress(), main) {
				return Reply{}, fmt.Errorf("%w within %v", transport.ErrTimeout, ProgressTimeout)
			}
		}
	}
}

func wrongType(h transport.Header, want transport.Type) error {
	return fmt.Errorf("%w: message of type %d where %d was due", transport.ErrFrame, h.Type, want)
}

// AnnounceWait tells the destination that no page may come for up to atMost, on purpose. Code that
// waits calls it every AnnouncePace.
func (p *Peer) AnnounceWait(atMost time.Duration) error {
	now := time.Now()
	p.mu.Lock()
	due := now.Sub(p.announced) >= AnnouncePace
	if due {
		p.announced = now
	}
	p.mu.Unlock()
	if !due {
		return nil
	}
	return p.Main().Announce(atMost)
}

// ForgetWait says that the destination waits for nothing announced any more, because a frame came.
func (p *Peer) ForgetWait() {
	p.mu.Lock()
	p.announced = time.Time{}
	p.mu.Unlock()
}

// AnnounceWork tells the destination that no page may come while this side goes through all of RAM.
func (p *Peer) AnnounceWork() error { return p.Main().Announce(WorkLimit(p.cfg.RAMBytes)) }

// Flush tells the destination on every channel that no page of this attempt to
// switch over follows.
func (p *Peer) Flush() error {
	for _, c := range p.All() {
		if err := c.WriteMessage(transport.TypeFlush, p.attempt, nil); err != nil {
			return err
		}
	}
	return nil
}

// AwaitFlushed waits until the destination has received the flush on every channel, and
// with it every page.
func (p *Peer) AwaitFlushed(ctx context.Context) error {
	r, err := p.Await(ctx, transport.TypeFlush)
	if err == nil && r.Header.Arg != p.attempt {
		err = fmt.Errorf("%w: a flush of attempt %d in attempt %d", transport.ErrFrame,
			r.Header.Arg, p.attempt)
	}
	return err
}

// Rewind tells the destination that pages of the next attempt follow. Call Rewound once its answer
// to the flush is here.
func (p *Peer) Rewind() error { return p.Send(transport.TypeRewind, p.attempt+1, nil) }

// Rewound begins the next attempt.
func (p *Peer) Rewound() { p.attempt++ }

// Interrupt ends writes that are stuck. A farewell can still be sent.
func (p *Peer) Interrupt() {
	conns := p.All()
	// The guest may stand still until channel 0 is free, so nothing comes before it.
	conns[0].Interrupt()
	for _, c := range conns[1:] {
		c.Abort() // nothing more is said on it
	}
}

// Farewell tells the destination why nothing more comes. That is a courtesy, because it would
// notice by itself.
func (p *Peer) Farewell(why error) {
	if len(p.All()) > 0 {
		_ = p.Main().WriteLast(transport.TypeError, []byte(why.Error()))
	}
}

// Close closes all connections.
func (p *Peer) Close() {
	p.Links.Close()
	p.disconnect(nil)
}

// lastWords is how long the reason for a broken connection may take to arrive.
const lastWords = 500 * time.Millisecond

// Explain replaces an error that only follows from the migration's end by the cause of that end.
func Explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	// A destination that gives up says why before it closes its connection.
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(lastWords):
		return fmt.Errorf("send pages: %w", err)
	}
}
