package migration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"taskguide/memory"
	"taskguide/transport"
)

// joinTimeout bounds how long a migration's connections may take to arrive.
const joinTimeout = 30 * time.Second

// join waits for the attempt's other channels.
func (d *Destination) join(ctx context.Context, a *attempt) error {
	timeout := time.NewTimer(joinTimeout)
	defer timeout.Stop()
	for missing := len(a.taken) - 1; missing > 0; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			return fmt.Errorf("%w: %d channels did not arrive", transport.ErrTimeout, missing)
		case j := <-a.joins:
			a.links.Put(j.channel, j.conn)
			missing--
		}
	}
	return nil
}

// receivePages applies pages on all channels until each has been flushed, and
// returns the machine's state, which follows on channel 0. Before the state comes, the
// source may take its switchover back and send more pages, as often as it likes.
func receivePages(ctx context.Context, conns []*transport.Conn, machine Incoming,
	reached *atomic.Int64) (transport.Header, []byte, error) {
	main := conns[0]
	receivers := transport.NewReceivers(conns, machine.RAM())
	for attempt := uint32(0); ; attempt++ {
		if err := receiveFlushed(ctx, receivers, attempt, reached); err != nil {
			return transport.Header{}, nil, err
		}
		// All pages are in place, so the source may send the state.
		if err := main.WriteMessage(transport.TypeFlush, attempt, nil); err != nil {
			return transport.Header{}, nil, err
		}
		h, err := main.Next()
		if err != nil {
			return h, nil, err
		}
		if h.Type != transport.TypeRewind {
			state, err := readPayload(main, h, transport.TypeState)
			return h, state, err
		}
		if err := readAttempt(main, h, transport.TypeRewind, attempt+1); err != nil {
			return h, nil, err
		}
	}
}

// receiveFlushed applies pages on all channels until each has been flushed for the
// same attempt to switch over.
func receiveFlushed(ctx context.Context, receivers []*transport.Receiver, attempt uint32,
	reached *atomic.Int64) error {
	// A channel that fails ends the others too. Its error is the cause, whichever goroutine ends
	// first.
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	stop := context.AfterFunc(ctx, func() {
		for _, r := range receivers {
			r.Conn().InterruptRead()
		}
	})
	defer stop()
	var receiving sync.WaitGroup
	for _, r := range receivers {
		receiving.Go(func() {
			if err := receiveChannel(r, attempt, reached); err != nil {
				fail(err)
			}
		})
	}
	receiving.Wait()
	return context.Cause(ctx)
}

// receiveChannel applies the pages of one channel until its flush. It tells how far
// into RAM it has come.
func receiveChannel(r *transport.Receiver, attempt uint32, reached *atomic.Int64) error {
	var turn memory.Turn
	for {
		h, err := r.Conn().Next()
		if err != nil {
			return err
		}
		switch h.Type {
		case transport.TypePages:
			err = r.Apply(h)
			r.Conn().Acknowledge()
			turn.Yield()
			if p := r.Reached(); p > reached.Load() {
				reached.Store(p) // other channels store too; an estimate is enough
			}
		case transport.TypeFlush:
			return readAttempt(r.Conn(), h, transport.TypeFlush, attempt)
		default:
			_, err = readPayload(r.Conn(), h, transport.TypePages)
		}
		if err != nil {
			return err
		}
	}
}

// readAttempt receives the rest of a message, which must have the given type, no payload, and the
// number of this attempt to switch over.
func readAttempt(c *transport.Conn, h transport.Header, want transport.Type, attempt uint32) error {
	if _, err := readPayload(c, h, want); err != nil {
		return err
	}
	if h.Arg != attempt || h.Length != 0 {
		return fmt.Errorf("%w: message of type %d for attempt %d with %d bytes, in attempt %d",
			transport.ErrFrame, h.Type, h.Arg, h.Length, attempt)
	}
	return nil
}

// readMessage receives a message of one type.
func readMessage(c *transport.Conn, want transport.Type) ([]byte, error) {
	h, err := c.Next()
	if err != nil {
		return nil, err
	}
	return readPayload(c, h, want)
}

// readPayload receives the rest of a message, which must have the given type. The source's farewell
// becomes the error.
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
