package stream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/migration/stream"
)

// TestRoundsBringAllOfRAM: whatever the guest writes and wherever rounds are cut short, the copy is
// complete after a last round in which nobody writes. And no look promises a smaller last round
// than there would be.
func TestRoundsBringAllOfRAM(t *testing.T) {
	for seed := range uint64(48) {
		o := busy{
			seed:     seed,
			onDemand: seed%2 == 1,
			skip:     stream.Skipping(seed / 2 % 2),
			protect:  stream.Protection(seed / 4 % 2),
			channels: 1 + int(seed/8%3),
		}
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) { synctest.Test(t, o.test) })
	}
}

// busy is a stream of a guest that writes at random.
type busy struct {
	seed     uint64
	onDemand bool
	skip     stream.Skipping
	protect  stream.Protection
	channels int
}

func (o busy) test(t *testing.T) {
	g := newGuest(t, o.onDemand)
	whole := newCopySink(t, g)
	rnd := rand.New(rand.NewPCG(o.seed, 22))
	g.write(rnd.IntN(ramPages/2), rnd.IntN(ramPages/2))
	s := stream.New(stream.Config{RAM: g.ram, Tracker: g, Skip: o.skip, Protect: o.protect})
	var still atomic.Bool
	for range o.channels {
		sink := &copySink{from: g.ram, to: whole.to, frame: 16, room: 16}
		own := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		sink.onWrite = func(int64) { time.Sleep(time.Millisecond) }
		sink.onReady = func() error {
			if still.Load() {
				return nil
			}
			switch own.IntN(40) {
			case 0:
				g.write(own.IntN(ramPages-300), own.IntN(300))
			case 1, 2, 3:
				g.write(own.IntN(ramPages), 1)
			case 4:
				g.clear(own.IntN(ramPages))
			case 7:
				g.release(own.IntN(ramPages-300), own.IntN(300))
			case 5:
				if own.IntN(5) == 0 {
					s.Stop()
				}
			case 6:
				n, err := s.Remaining()
				if o.channels > 1 || len(sink.held) > 0 {
					return err // what is in a frame counts as sent
				}
				if differ := whole.differ(); err == nil && n < differ {
					return fmt.Errorf("%d pages remain where %d are said to", differ, n)
				}
				return err
			}
			return nil
		}
		s.AddChannel(sink)
	}
	require.NoError(t, s.StartTracking())
	for range 6 {
		send(t, s, stream.Running)
		require.GreaterOrEqual(t, remaining(t, s), whole.differ())
		take(t, s)
		g.write(rnd.IntN(ramPages), 1)
	}
	still.Store(true)
	take(t, s)
	send(t, s, stream.Still)
	require.Zero(t, s.Pending().Count())
	require.Zero(t, whole.differ())
	require.NoError(t, s.StopTracking())
}

// TestReleasedPagesStayHoles: pages that the guest gave back to the host are sent as zeros, and are
// holes afterwards, because nobody has read them. Pages that it took back are sent with what it
// wrote.
func TestReleasedPagesStayHoles(t *testing.T) {
	for _, onDemand := range []bool{false, true} {
		g := newGuest(t, onDemand)
		g.write(0, 1000)
		g.release(10, 20) // never sent
		s, sink := begun(t, g, stream.Config{})
		g.release(100, 200) // after they were found to have content
		require.EqualValues(t, 200, send(t, s, stream.Running).Zero)
		g.release(400, 300)
		g.write(500, 1)
		take(t, s)
		r := send(t, s, stream.Still)
		require.EqualValues(t, 1, r.Content)
		content := memory.NewBitmap(ramPages)
		require.NoError(t, g.ram.Allocated(content))
		for p := range 1000 {
			hole := p >= 10 && p < 30 || p >= 100 && p < 300 || p >= 400 && p < 700 && p != 500
			require.Equal(t, !hole, content.Test(p), "page %d", p)
		}
		require.Zero(t, sink.differ())
		require.NoError(t, s.StopTracking())
	}
}

// TestStopLeavesTheRest: a round that ends early leaves what it did not come to for the next.
func TestStopLeavesTheRest(t *testing.T) {
	g := newGuest(t, false)
	g.write(0, 1000)
	s, sink := begun(t, g, stream.Config{})
	sink.onReady = func() error {
		if s.Progress().Done >= 300 {
			s.Stop()
		}
		return nil
	}
	r := send(t, s, stream.Running)
	require.True(t, s.Stopped())
	require.EqualValues(t, 320, r.Content, "whole frames of 16")
	require.Equal(t, 1000-320, s.Pending().Count())
	require.Equal(t, 1000-320, sink.differ())
	require.Equal(t, stream.Progress{Round: 1, Pages: 1000, Done: 320}, s.Progress())
	sink.onReady = nil
	require.Equal(t, 1000-320, take(t, s))
	send(t, s, stream.Running)
	require.False(t, s.Stopped())
	require.Zero(t, sink.differ())
}

// TestStillProtectsNothing: nobody writes then, and each call would cost downtime.
func TestStillProtectsNothing(t *testing.T) {
	g := newGuest(t, true)
	g.write(0, 600)
	s, sink := begun(t, g, stream.Config{Protect: stream.AtOnce})
	send(t, s, stream.Running)
	require.Equal(t, 1+1, g.protects, "the holes, and a stretch")
	g.write(0, 50)
	take(t, s)
	send(t, s, stream.Still)
	require.Equal(t, 1+1, g.protects)
	require.Zero(t, sink.differ())
}

// TestWorkersYield: while the guest runs a worker yields after every step, and never while the
// guest stands still and waits for it.
func TestWorkersYield(t *testing.T) {
	g := newGuest(t, false)
	g.write(0, 64)
	var yields atomic.Int64
	s, _ := begun(t, g, stream.Config{
		Turns: func() func() { return func() { yields.Add(1) } },
	})
	send(t, s, stream.Running)
	require.EqualValues(t, 64/16, yields.Load(), "a step ends with its frame of 16 pages")
	g.write(0, 64)
	require.Positive(t, take(t, s))
	yields.Store(0)
	require.Positive(t, send(t, s, stream.Still).Content)
	require.Zero(t, yields.Load())
}

// TestPagesAreReadAfterTheirProtection: a write that comes just before a page is protected is
// not in the log any more, so the page must not have been read yet.
func TestPagesAreReadAfterTheirProtection(t *testing.T) {
	g := newGuest(t, true)
	g.write(0, 3000)
	s, sink := begun(t, g, stream.Config{})
	g.onProtect = func(first, count int) {
		for p := first; p < min(first+count, 3000); p += 50 {
			g.write(p, 1)
		}
	}
	send(t, s, stream.Running)
	require.Zero(t, take(t, s))
	require.Zero(t, sink.differ())
}

// TestSkipsWhatIsDirtyAgain: while the guest runs, a page that is dirty again is left to the next
// round.
func TestSkipsWhatIsDirtyAgain(t *testing.T) {
	for _, onDemand := range []bool{false, true} {
		g := newGuest(t, onDemand)
		g.write(0, 2000)
		synctest.Test(t, func(t *testing.T) {
			s, sink := begun(t, g, stream.Config{Skip: stream.SkipDirty})
			require.Equal(t, onDemand, s.ProtectsAtOnce())
			frames := 0
			sink.onWrite = func(int64) {
				time.Sleep(time.Millisecond)
				if frames++; frames == 5 {
					g.write(1500, 100)
				}
			}
			r := send(t, s, stream.Running)
			require.EqualValues(t, 100, r.Skipped)
			require.EqualValues(t, 1900, r.Content)
			require.Equal(t, 100, take(t, s))
			// Nobody writes here, so a page that the log still has is no newer than the round's.
			g.write(0, 1000)
			require.Equal(t, 1100, take(t, s))
			r = send(t, s, stream.Still)
			require.Zero(t, r.Skipped)
			require.Zero(t, sink.differ())
		})
	}
}

// TestFailedChannelIsTold: a failed channel is reported while another is stuck, because only the
// caller can free that one.
func TestFailedChannelIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, false)
		g.write(0, 2000)
		broken := errors.New("broken")
		ctx, free := context.WithCancelCause(context.Background())
		s := stream.New(stream.Config{
			RAM: g.ram, Tracker: g,
			Failed: func(_ context.Context, err error) { free(err) },
		})
		stuck, failing := newCopySink(t, g), newCopySink(t, g)
		stuck.onReady = func() error { <-ctx.Done(); return errors.New("freed") }
		failing.onReady = func() error { time.Sleep(time.Second); return broken }
		s.AddChannel(stuck)
		s.AddChannel(failing)
		require.NoError(t, s.StartTracking())
		s.Begin()
		_, err := s.Send(context.Background(), stream.Running)
		require.Error(t, err)
		require.Equal(t, broken, context.Cause(ctx), "not what followed from it")
	})
}

// TestRate: few pages count only for as long as no more were seen.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, false)
		s, sink := begun(t, g, stream.Config{})
		sink.frame, sink.room = ramPages+1, ramPages+1
		sink.onWrite = func(int64) { time.Sleep(time.Second) }
		round := func(pages int) {
			g.write(0, pages)
			take(t, s)
			send(t, s, stream.Running)
		}
		for i, test := range []struct {
			pages int
			want  float64 // MB/s, at a round of a second
		}{
			{0, 0}, {10, 0.04096}, {5, 0.04096}, {20, 0.08192}, {500, 2.048}, {255, 2.048},
			{256, 1.048576}, {1000, 4.096},
		} {
			round(test.pages)
			require.InDelta(t, test.want, s.Rate().Content/1e6, 1e-9, "round %d", i)
			require.InDelta(t, test.want, s.Rate().Wire/1e6, 1e-9, "round %d", i)
		}
		// A round that does not get through shows how fast it was so far.
		sink.onWrite = func(int64) {
			time.Sleep(2 * time.Second)
			s.DoubtRate()
			s.Stop()
		}
		sink.queued.Store(1)
		round(500)
		sink.queued.Store(0)
		require.InDelta(t, 1.024, s.Rate().Content/1e6, 1e-9)
		sink.onWrite = func(int64) { time.Sleep(time.Second) }
		round(1)
		require.InDelta(t, 0.004096, s.Rate().Content/1e6, 1e-9, "the next one knows better")
		sink.onWrite = nil
		round(1000)
		require.InDelta(t, 4.096e12, s.Rate().Content, 1e6, "finite, whatever the clock says")
	})
}

// TestTakeDirtyAllocatesNothing: it is part of every downtime, and of every round.
func TestTakeDirtyAllocatesNothing(t *testing.T) {
	for _, skip := range []stream.Skipping{stream.SendAll, stream.SkipDirty} {
		g := newGuest(t, false)
		s, _ := begun(t, g, stream.Config{Skip: skip})
		g.write(7, 1)
		g.write(4000, 1)
		require.Zero(t, testing.AllocsPerRun(100, func() {
			g.write(7, 1)
			g.write(4000, 1)
			if n, err := s.Remaining(); n < 2 || err != nil {
				t.Error(n, err)
			}
			if n, _, err := s.TakeDirty(); n != 2 || err != nil {
				t.Error(n, err)
			}
		}))
	}
}

// nowhere is a sink that takes everything.
type nowhere struct{}

func (nowhere) Ready(context.Context) (int, error)                { return 64, nil }
func (nowhere) Zeros(context.Context, int, int) error             { return nil }
func (nowhere) Content(context.Context, int, []byte) (int, error) { return 0, nil }
func (nowhere) Flush(context.Context) error                       { return nil }
func (nowhere) Sent() int64                                       { return 0 }
func (nowhere) Queued() int64                                     { return 0 }
func (nowhere) Begin(stream.Guest)                                {}
func (nowhere) Close() error                                      { return nil }

// TestPagesAllocateNothing: a round costs what its goroutines cost, however many pages it has.
func TestPagesAllocateNothing(t *testing.T) {
	g := newGuest(t, true)
	g.write(0, ramPages)
	s := stream.New(stream.Config{RAM: g.ram, Tracker: g})
	s.AddChannel(nowhere{})
	require.NoError(t, s.StartTracking())
	round := func(pages int) float64 {
		return testing.AllocsPerRun(20, func() {
			for p := 0; p < pages; p++ {
				s.Pending().Set(p * (ramPages / pages))
			}
			s.Begin()
			r, err := s.Send(context.Background(), stream.Running)
			if err != nil || int(r.Content) < pages {
				t.Error(r, err)
			}
		})
	}
	require.InDelta(t, round(8), round(ramPages/2), 2)
}

// told is a sink that notes whether the guest waits for its rounds.
type told struct {
	nowhere
	guests []stream.Guest
}

func (s *told) Begin(guest stream.Guest) { s.guests = append(s.guests, guest) }

// TestSinksKnowOfTheStandstill: each channel is told, so that none begins a trial in the downtime.
func TestSinksKnowOfTheStandstill(t *testing.T) {
	g := newGuest(t, false)
	s := stream.New(stream.Config{RAM: g.ram, Tracker: g})
	sinks := []*told{{}, {}}
	for _, sink := range sinks {
		s.AddChannel(sink)
	}
	require.NoError(t, s.StartTracking())
	rounds := []stream.Guest{stream.Running, stream.Still, stream.Running}
	for _, guest := range rounds {
		send(t, s, guest)
		g.write(0, 100)
		take(t, s)
	}
	require.NoError(t, s.StopTracking())
	for _, sink := range sinks {
		require.Equal(t, rounds, sink.guests)
	}
}
