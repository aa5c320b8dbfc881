package migration

import (
	"context"
	"fmt"
	"time"

	"taskguide/memory"
	"taskguide/migration/peer"
	"taskguide/migration/policy"
	"taskguide/migration/stream"
	"taskguide/transport"
)

// setup connects, and makes the destination build its machine. A machine that has lost its disks is
// refused before that: its RAM is out of date, and it could not release them in the end.
func (s *Source) setup(ctx context.Context) error {
	if err := s.m.TakeDisks(ctx); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("the guest is here without its disks: %w", err)
	}
	config, err := s.m.Config()
	if err != nil {
		return fmt.Errorf("describe the machine: %w", err)
	}
	channels := s.p.Channels
	if channels == 0 {
		channels = defaultChannels(s.p)
	}
	if err := s.peer.Open(ctx, 0, channels); err != nil {
		return err
	}
	s.mu.Lock()
	s.report.Protocol = s.peer.Terms()
	s.mu.Unlock()
	context.AfterFunc(ctx, s.interrupt)
	go s.peer.Listen(s.cancel)
	if err := s.peer.Send(transport.TypeConfig, 0, config); err != nil {
		return fmt.Errorf("send the machine's configuration: %w", err)
	}
	// The destination builds its machine meanwhile.
	if err := s.stream.FindContent(); err != nil {
		return err
	}
	if _, err := s.peer.Await(ctx, transport.TypeAccept); err != nil {
		return fmt.Errorf("have the destination build the machine: %w", err)
	}
	s.warnOfLeftOut()
	extents := packExtents(s.worthMoving(s.stream.Pending()))
	if err := s.peer.Send(transport.TypeExtents, 0, extents); err != nil {
		return fmt.Errorf("announce the content of RAM: %w", err)
	}
	for i := 1; i < channels; i++ {
		if err := s.peer.Open(ctx, i, channels); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.report.DowntimeFixed.RoundTripsMS = switchoverTrips * ms(s.peer.RoundTrip())
	s.mu.Unlock()
	for _, c := range s.peer.All() {
		go c.KeepAlive(ctx)
	}
	return s.openStream(ctx)
}

// interrupt ends writes that are stuck, unless it is too late to cancel.
func (s *Source) interrupt() {
	if !s.Committed() {
		s.peer.Interrupt()
	}
}

// oneChannelKeepsUp is the greatest limit, in bit/s, at which a single connection
// cannot be what a migration waits for.
const oneChannelKeepsUp = 5e9

// defaultChannels is how many connections a migration uses by default. It is two where CPU time may
// be scarcer than the link, because two CPUs then look for zero pages and copy. More would take
// CPUs away from the guest.
func defaultChannels(p Params) int {
	if p.BitsPerSecond > 0 && p.BitsPerSecond <= oneChannelKeepsUp {
		return 1
	}
	return min(2, memory.Workers())
}

// streamConfig is the stream's configuration for a policy's traits.
func (s *Source) streamConfig(traits policy.Traits) stream.Config {
	cfg := stream.Config{
		RAM:     s.m.RAM(),
		Tracker: s.m.Tracker(),

		Declared: s.declared,
		Failed: func(ctx context.Context, err error) {
			// Only the end of the migration frees what is stuck in a write.
			s.cancel(peer.Explain(ctx, err))
		},
	}
	if traits.Skip {
		cfg.Skip = stream.SkipDirty
	}
	if traits.Protect == policy.ProtectRound {
		cfg.Protect = stream.AtOnce
	}
	return cfg
}

// openStream opens all connections and gives them to the stream.
func (s *Source) openStream(ctx context.Context) error {
	conns := s.peer.All()
	limiter := transport.NewLimiter(s.p.BitsPerSecond)
	cfg := stream.WireConfig{
		RAM:           s.m.RAM(),
		Channels:      len(conns),
		Packings:      s.p.Compress.packings(),
		Deltas:        s.p.Delta,
		Limiter:       limiter,
		BitsPerSecond: s.p.BitsPerSecond,
	}
	longest := limiter.FrameTime() * time.Duration(len(conns)) // because all share the limit
	for i, c := range conns {
		wire, err := stream.NewWire(ctx, c, i, cfg)
		if err != nil {
			return err
		}
		s.stream.AddChannel(&channel{Wire: wire, peer: s.peer, longest: longest})
	}
	return nil
}

// channel is a sink that announces to the destination that it waits for the limit of the rate. It
// does so if a frame may take as long as a peer may be without progress.
type channel struct {
	*stream.Wire
	peer    *peer.Peer
	longest time.Duration // that a frame may take
	sent    int64         // bytes, when it last announced
}

// Ready implements [stream.Sink].
func (c *channel) Ready(ctx context.Context) (int, error) {
	if err := c.announce(); err != nil {
		return 0, err
	}
	room, err := c.Wire.Ready(ctx) // which may send a frame
	if err != nil {
		return 0, err
	}
	return room, c.announce()
}

// Flush implements [stream.Sink]. Other channels may have frames to come.
func (c *channel) Flush(ctx context.Context) error {
	if err := c.Wire.Flush(ctx); err != nil {
		return err
	}
	return c.announce()
}

// announce announces the next frame, if it may take so long. A frame that went out since has ended
// what was announced before, however lately that was.
func (c *channel) announce() error {
	if c.longest < peer.AnnouncePace {
		return nil
	}
	if c.Sent() != c.sent {
		c.peer.ForgetWait()
	}
	err := c.peer.AnnounceWait(peer.AnnounceAhead + c.longest)
	c.sent = c.Sent()
	return err
}
