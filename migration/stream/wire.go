package stream

import (
	"context"
	"errors"
	"time"

	"taskguide/memory"
	"taskguide/transport"
)

// frameLimit is how long a frame may be filled before it is sent. Zero pages do not fill a frame,
// however many of them a worker looks through, and to the destination only what arrives is
// progress.
const frameLimit = transport.IdleTimeout / 6

// deltaCacheBytes bounds the memory for deltas of all channels together.
const deltaCacheBytes = 1 << 30

// Wire is a [Sink] that sends pages to a destination. It packs each frame in the way that
// is fastest on this link.
type Wire struct {
	conn    *transport.Conn
	sender  *transport.Sender
	choice  *packingChoice
	deltas  *transport.DeltaCache // nil: none
	flushed time.Time             // when a frame was last sent, whatever was in it
}

// WireConfig is what the channels to one destination have in common.
type WireConfig struct {
	RAM      *memory.RAM
	Channels int
	Packings []transport.Packing // to choose from, by effort
	Deltas   bool                // pages are sent as differences where that is shorter
	// Limiter keeps all channels together below BitsPerSecond; nil and 0 mean no limit.
	Limiter       *transport.Limiter
	BitsPerSecond int64
}

// NewWire returns a sink that sends the pages of one channel over c.
func NewWire(ctx context.Context, c *transport.Conn, channel int, cfg WireConfig) (*Wire, error) {
	w := &Wire{
		conn:   c,
		sender: transport.NewSender(c, cfg.Limiter),
	}
	w.choice = newPackingChoice(cfg.Packings, w.sender.FrameData())
	w.choice.shareLimit(cfg.BitsPerSecond, cfg.Channels)
	if !cfg.Deltas {
		return w, nil
	}
	size := int64(deltaCacheBytes)
	if cfg.RAM.Size() > deltaCacheBytes {
		size /= int64(cfg.Channels)
	}
	cache, err := transport.NewDeltaCache(size, cfg.RAM.Pages(), channel, cfg.Channels)
	if err != nil {
		return nil, err
	}
	w.deltas = cache
	if err := w.sender.UseDeltas(ctx); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Close implements [Sink]. It leaves the connection to its owner.
func (w *Wire) Close() error {
	if w.deltas == nil {
		return nil
	}
	return w.deltas.Close()
}

// Begin implements [Sink].
func (w *Wire) Begin(guest Guest) { w.choice.standstill(guest == Still) }

// Ready implements [Sink]: it sends a frame that took too long to fill and chooses the
// packing of the next one.
func (w *Wire) Ready(ctx context.Context) (int, error) {
	if time.Since(w.flushed) >= frameLimit {
		if err := w.Flush(ctx); err != nil {
			return 0, err
		}
	}
	packing, trial := w.choice.next(w.sender.Last())
	if err := w.sender.SetPacking(ctx, packing); err != nil {
		return 0, err
	}
	if trial {
		w.sender.SetFrame(trialBytes)
	} else {
		w.sender.SetFrame(0)
	}
	return w.sender.Room(), nil
}

// Zeros implements [Sink].
func (w *Wire) Zeros(ctx context.Context, first, count int) error {
	if w.deltas != nil {
		for p := first; p < first+count; p++ {
			w.deltas.Forget(p)
		}
	}
	return w.sender.Zeros(ctx, first, count)
}

// Content implements [Sink]. It sends deltas where they are shorter. When a page comes for the
// first time there is no version to compare it with, but this one is kept for the next time.
func (w *Wire) Content(ctx context.Context, first int, mem []byte) (deltas int, err error) {
	if w.deltas == nil {
		return 0, w.sender.Content(ctx, first, mem)
	}
	for p := first; len(mem) > 0; p++ {
		delta, content := w.deltas.Update(p, mem[:memory.PageSize:memory.PageSize])
		if content != nil {
			err = w.sender.Content(ctx, p, content)
		} else {
			deltas++
			err = w.sender.Delta(ctx, p, delta)
		}
		if err != nil {
			return deltas, err
		}
		mem = mem[memory.PageSize:]
	}
	return deltas, nil
}

// Flush implements [Sink].
func (w *Wire) Flush(ctx context.Context) error {
	err := w.sender.Flush(ctx)
	w.flushed = time.Now()
	return err
}

// Sent implements [Sink]. It also counts what else goes over the connection.
func (w *Wire) Sent() int64 { return w.conn.BytesSent() }

// Queued implements [Sink].
func (w *Wire) Queued() int64 { return w.conn.Queued() }

var _ Sink = (*Wire)(nil)
