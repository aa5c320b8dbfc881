package stream_test

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/migration/stream"
)

// ramPages is the size of every guest here.
const ramPages = memory.MinSize / memory.PageSize

// guest is RAM with a dirty log. It runs when the test says so.
type guest struct {
	ram      *memory.RAM
	onDemand bool // its log reports a page until it is protected, and begins with all of them

	onProtect func(first, count int) // just before pages are protected

	mu       sync.Mutex // guards everything below; a write and its mark are one
	writes   uint64
	on       bool
	dirty    *memory.Bitmap
	protects int // calls
}

func newGuest(t testing.TB, onDemand bool) *guest {
	ram, err := memory.New(memory.MinSize)
	require.NoError(t, err)
	t.Cleanup(func() { ram.Close() })
	return &guest{ram: ram, onDemand: onDemand, dirty: memory.NewBitmap(ramPages)}
}

// write gives pages content that they never had.
func (g *guest) write(first, count int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := first; p < first+count; p++ {
		g.writes++
		binary.LittleEndian.PutUint64(g.ram.Page(p)[8*(g.writes%512):], g.writes)
		g.mark(p)
	}
}

// clear makes a page zero.
func (g *guest) clear(page int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.ram.Page(page))
	g.mark(page)
}

// release gives the memory of pages back to the host.
func (g *guest) release(first, count int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.ram.Release(first, count); err != nil {
		panic(err)
	}
	for p := first; p < first+count; p++ {
		g.mark(p)
	}
}

func (g *guest) mark(page int) {
	if g.on {
		g.dirty.Set(page)
	}
}

func (g *guest) Start() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.on = true
	g.dirty.Reset()
	if g.onDemand {
		g.dirty.Fill()
	}
	return nil
}

func (g *guest) Harvest(dirty *memory.Bitmap) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.on {
		return 0, errors.New("harvest without start")
	}
	n := g.dirty.Count()
	dirty.Or(g.dirty)
	if !g.onDemand {
		g.dirty.Reset()
	}
	return n, nil
}

func (g *guest) OnDemand() bool { return g.onDemand }

func (g *guest) Protect(pages *memory.Bitmap, first, count int) error {
	if g.onProtect != nil {
		g.onProtect(first, count)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.protects++
	for at := first; ; {
		f, n := pages.NextRunBefore(at, first+count)
		if n == 0 {
			return nil
		}
		g.dirty.ClearRange(f, n)
		at = f + n
	}
}

func (g *guest) Stop() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.on = false
	return nil
}

// copySink is a sink in memory. Like a wire it reads pages only when its frame is full or
// flushed.
type copySink struct {
	from, to *memory.RAM
	frame    int // pages of content
	held     []pages
	room     int
	sent     atomic.Int64
	queued   atomic.Int64

	onReady func() error // before each stretch of pages
	onWrite func(pages int64)
}

type pages struct {
	first, count int
	zero         bool
}

func newCopySink(t testing.TB, from *guest) *copySink {
	to := newGuest(t, false)
	return &copySink{from: from.ram, to: to.ram, frame: 16, room: 16}
}

func (c *copySink) Ready(context.Context) (int, error) {
	if c.onReady != nil {
		return c.room, c.onReady()
	}
	return c.room, nil
}

func (c *copySink) Zeros(ctx context.Context, first, count int) error {
	c.held = append(c.held, pages{first, count, true})
	return nil
}

func (c *copySink) Content(ctx context.Context, first int, mem []byte) (int, error) {
	count := len(mem) / memory.PageSize
	c.held = append(c.held, pages{first, count, false})
	if c.room -= count; c.room <= 0 {
		return 0, c.Flush(ctx)
	}
	return 0, nil
}

func (c *copySink) Flush(context.Context) error {
	written := int64(0)
	for _, h := range c.held {
		written += int64(h.count)
		if h.zero {
			clear(c.to.Range(h.first, h.count))
			continue
		}
		copy(c.to.Range(h.first, h.count), c.from.Range(h.first, h.count))
		c.sent.Add(int64(h.count) * memory.PageSize)
	}
	if c.held, c.room = c.held[:0], c.frame; c.onWrite != nil && written > 0 {
		c.onWrite(written)
	}
	return nil
}

func (c *copySink) Sent() int64      { return c.sent.Load() }
func (*copySink) Begin(stream.Guest) {}

func (c *copySink) Queued() int64 { return c.queued.Load() }
func (c *copySink) Close() error  { return nil }

// differ returns how many pages the copy lacks or has with other content.
func (c *copySink) differ() int {
	n := 0
	for p := range ramPages {
		if string(c.from.Page(p)) != string(c.to.Page(p)) {
			n++
		}
	}
	return n
}

// begun is a stream over one channel whose tracking is on.
func begun(t testing.TB, g *guest, cfg stream.Config) (*stream.Stream, *copySink) {
	cfg.RAM, cfg.Tracker = g.ram, g
	s := stream.New(cfg)
	sink := newCopySink(t, g)
	s.AddChannel(sink)
	require.NoError(t, s.StartTracking())
	return s, sink
}

// send sends a round, or the part of it before a Stop.
func send(t testing.TB, s *stream.Stream, what stream.Guest) stream.Round {
	s.Begin()
	r, err := s.Send(context.Background(), what)
	require.NoError(t, err)
	return r
}

// take takes the dirty pages and returns how many the next round has.
func take(t testing.TB, s *stream.Stream) int {
	n, _, err := s.TakeDirty()
	require.NoError(t, err)
	return n
}

func remaining(t testing.TB, s *stream.Stream) int {
	n, err := s.Remaining()
	require.NoError(t, err)
	return n
}
