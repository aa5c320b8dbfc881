package migration

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
	"taskguide/transport"
)

// mbit is a link speed at which a page takes 0.33 ms.
const mbit = 1_000_000

func on() *bool  { v := true; return &v }
func off() *bool { v := false; return &v }

// idle writes nothing.
func idle(*guest) {}

// busy rewrites count pages each step.
func busy(first, count int) func(*guest) {
	return func(g *guest) { g.writeRange(first, count) }
}

func TestIdleGuestMoves(t *testing.T) {
	for _, channels := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, idle)
			defer b.close()
			for p := 0; p < 3000; p += 7 {
				b.m.ram.Page(p)[p%4096] = byte(p) | 1
			}
			b.m.start()
			s := b.source(Params{Verify: true, Channels: channels, BitsPerSecond: 1000 * mbit})
			r := s.Run(context.Background())
			b.checkMoved(s, r)
			require.NotNil(t, r.Verified)
			require.True(t, *r.Verified)
			require.EqualValues(t, 429, r.PagesSent)
			require.EqualValues(t, testPages, r.PagesSent+r.PagesZero)
			require.EqualValues(t, 16<<20, r.BytesPages)
			require.Equal(t, "no dirty page left", r.SwitchoverReason)
			require.Zero(t, r.PagesStopCopy)
			require.Equal(t, GuidanceNone, r.Guidance)
			require.Len(t, r.Warnings, 1)
		})
	}
}

func TestNotVerifiedIsNull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, idle)
		defer b.close()
		b.m.start()
		s := b.source(Params{})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Nil(t, r.Verified)
	})
}

// TestPausedGuestStaysPaused: what its user paused is paused at the destination.
func TestPausedGuestStaysPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, busy(0, 10))
		defer b.close()
		b.m.start()
		time.Sleep(5 * time.Millisecond)
		require.NoError(t, b.m.Pause())
		b.paused = true
		s := b.source(Params{Verify: true})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.True(t, b.in.paused)

		b = newBed(t, busy(0, 10))
		defer b.close()
		b.m.start()
		require.NoError(t, b.m.Pause())
		b.in.failRun = errors.New("no room")
		s = b.source(Params{})
		s.Run(context.Background())
		require.Equal(t, FateStays, s.Fate())
		require.False(t, b.m.Running(), "a failed migration must not resume what its user paused")
	})
}

// TestDowntimeRuleConverges: pre-copy goes on until the rest fits the limit.
func TestDowntimeRuleConverges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 30 pages a step is 123 MB/s dirtied, against 12.5 MB/s of link, but over a
		// working set of 90 pages: 29 ms at this speed.
		b := newBed(t, func(g *guest) { g.writeRange(30*(g.step%3), 30) })
		defer b.close()
		b.m.ram.Page(4000)[1] = 1
		b.m.touch(1000)
		b.m.start()
		s := b.source(Params{BitsPerSecond: 100 * mbit, DowntimeLimit: 35 * time.Millisecond, Compress: CompressNone})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Contains(t, r.SwitchoverReason, "fit the downtime limit of 35ms")
		require.LessOrEqual(t, r.PagesStopCopy, int64(90))
		require.InDelta(t, 29, r.DowntimeMS, 12)
	})
}

// TestDowntimeRuleDoesNotConverge: with a limit too small it goes on for ever, or
// until the limit of rounds.
func TestDowntimeRuleDoesNotConverge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, busy(0, 90))
		defer b.close()
		b.m.touch(900)
		b.m.start()
		s := b.source(Params{BitsPerSecond: 100 * mbit, DowntimeLimit: 5 * time.Millisecond, MaxRounds: 40, Compress: CompressNone})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Equal(t, "40 rounds", r.SwitchoverReason)
		require.Len(t, r.Rounds, 41)

		b = newBed(t, busy(0, 90))
		defer b.close()
		b.m.touch(900)
		b.m.start()
		s = b.source(Params{BitsPerSecond: 100 * mbit, DowntimeLimit: 5 * time.Millisecond, Compress: CompressNone})
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(30*time.Second, func() { cancel(ErrCancelled) })
		r = s.Run(ctx)
		b.checkStays(s, r)
		require.Equal(t, StatusCancelled, r.Status)
		require.Equal(t, "cancelled", r.Error)
		require.Greater(t, len(r.Rounds), 100)
	})
}

// bufferedLink takes what is written at once, as a socket does, and delivers it at
// the pace of a slow link.
type bufferedLink struct {
	net.Conn
	writes chan []byte
	queued *atomic.Int64
	gone   chan struct{}
	once   *sync.Once
}

func newBufferedLink(nc net.Conn, bytesPerS int) bufferedLink {
	l := bufferedLink{nc, make(chan []byte, 1000), new(atomic.Int64), make(chan struct{}), new(sync.Once)}
	go func() {
		for {
			select {
			case b := <-l.writes:
				time.Sleep(time.Duration(len(b)) * time.Second / time.Duration(bytesPerS))
				nc.Write(b)
				l.queued.Add(-int64(len(b)))
			case <-l.gone:
				return
			}
		}
	}()
	return l
}

func (l bufferedLink) Queued() int64 { return l.queued.Load() }

func (l bufferedLink) Write(b []byte) (int, error) {
	l.queued.Add(int64(len(b)))
	select {
	case l.writes <- slices.Clone(b):
		return len(b), nil
	case <-l.gone:
		return 0, net.ErrClosed
	}
}

func (l bufferedLink) Close() error {
	l.once.Do(func() { close(l.gone) })
	return l.Conn.Close()
}

// TestBuffersAreNoBandwidth: rounds that fit a socket's buffer do not make the
// engine believe in a fast link.
func TestBuffersAreNoBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(g *guest) {
			if g.step < 2000 {
				g.writeRange(0, 300) // 98 ms of link
			}
		})
		defer b.close()
		b.m.touch(300)
		b.m.start()
		b.dial = func(ctx context.Context) (net.Conn, error) {
			nc, err := b.ln.dial(ctx)
			return newBufferedLink(nc, 100*mbit/8), err
		}
		s := b.source(Params{DowntimeLimit: 90 * time.Millisecond, Compress: CompressNone})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.GreaterOrEqual(t, b.m.steps, 2000)
	})
}

// TestLinkTakesNothing: a destination that lives but lets nothing through.
func TestLinkTakesNothing(t *testing.T) {
	stuck := func(t *testing.T, script func(*guest)) *bed {
		b := newBed(t, script)
		b.m.touch(900)
		b.m.start()
		b.dial = func(ctx context.Context) (net.Conn, error) {
			nc, err := b.ln.dial(ctx)
			return stuckConn{nc}, err
		}
		return b
	}
	synctest.Test(t, func(t *testing.T) {
		b := stuck(t, idle)
		defer b.close()
		s := b.source(Params{Compress: CompressNone})
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Contains(t, r.Error, "took nothing for 30s")
		require.InDelta(t, 30_000, r.TotalMS, 1000)
	})
	synctest.Test(t, func(t *testing.T) {
		b := stuck(t, func(g *guest) {
			if g.step == 50 {
				g.exit(1)
			}
		})
		defer b.close()
		b.m.port.Write(tagging.RegEnter, 4, 1)
		s := b.source(Params{Guidance: GuidanceSuspend, Compress: CompressNone})
		ctx, cancel := context.WithCancelCause(context.Background())
		done := make(chan Report)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(55 * time.Millisecond)
		require.Equal(t, PhaseSuspended, s.Report().Phase, "a closed gate does not wait for the link")
		cancel(ErrCancelled)
		b.checkStays(s, <-done)
	})
}

// stuckConn never gets rid of what it was given.
type stuckConn struct{ net.Conn }

func (stuckConn) Queued() int64 { return 1 }

func TestLearnBandwidth(t *testing.T) {
	var s Source
	for i, round := range []struct {
		pages int64
		want  float64 // MB/s, at a round of a second
	}{
		{0, 0}, {10, 0.04096}, {5, 0.04096}, {20, 0.08192}, {500, 2.048}, {255, 2.048}, {256, 1.048576}, {1000, 4.096},
	} {
		s.learnBandwidth(round.pages, time.Second)
		require.InDelta(t, round.want, s.bandwidth/1e6, 1e-9, "round %d", i)
	}
	s.learnBandwidth(1000, 0)
	require.InDelta(t, 4.096e12, s.bandwidth, 1e6, "finite, whatever the clock says")
}

// TestProtectingOnDemand: a page that is written between the harvest and its turn
// is sent once, and untouched RAM is not sent at all.
func TestProtectingOnDemand(t *testing.T) {
	sent := map[bool]int64{}
	for _, manual := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(g *guest) {
				if g.step < 300 {
					g.writeRange(2000, 100) // while round 1 is still below
				}
				if g.step == 100 {
					g.writeRange(3500, 50) // untouched before, behind the last page with content
				}
			})
			defer b.close()
			b.m.touch(3000)
			b.m.manual = manual
			b.m.start()
			time.Sleep(500 * time.Microsecond)
			s := b.source(Params{BitsPerSecond: 100 * mbit, DowntimeLimit: time.Millisecond, Compress: CompressNone, Verify: true})
			r := s.Run(context.Background())
			b.checkMoved(s, r)
			sent[manual] = r.PagesSent
			require.LessOrEqual(t, r.Rounds[1].DirtyPages, int64(200), "untouched pages are not reported")
		})
	}
	require.EqualValues(t, 3150, sent[false])
	require.EqualValues(t, 3050, sent[true])
}

func TestXenRuleReasons(t *testing.T) {
	run := func(t *testing.T, script func(*guest), pages int) Report {
		b := newBed(t, script)
		defer b.close()
		b.m.touch(pages)
		b.m.start()
		s := b.source(Params{Rule: RuleXen, BitsPerSecond: 100 * mbit, Compress: CompressNone})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		return r
	}
	t.Run("few dirty pages", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := run(t, busy(0, 20), 4000)
			require.Equal(t, "fewer than 50 dirty pages", r.SwitchoverReason)
			require.Less(t, r.PagesStopCopy, int64(50))
		})
	})
	t.Run("29 rounds", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := run(t, busy(0, 60), 100)
			require.Equal(t, "29 rounds", r.SwitchoverReason)
			require.Len(t, r.Rounds, 30)
			require.Equal(t, PhaseStopCopy, r.Rounds[29].Phase)
		})
	})
	t.Run("3x RAM", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			// All RAM is written once in about the time that it takes to send it.
			r := run(t, func(g *guest) {
				if g.step%1200 == 0 {
					g.writeRange(0, testPages)
				}
			}, testPages)
			require.Equal(t, "3x RAM sent", r.SwitchoverReason)
			require.Greater(t, r.PagesSent+r.PagesZero, int64(3*4096))
		})
	})
	t.Run("a page dirty again is skipped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := run(t, busy(3000, 500), 4000)
			require.Positive(t, r.Rounds[0].SkippedPages)
			for _, round := range r.Rounds {
				require.Equal(t, round.DirtyPages, round.SentPages+round.ZeroPages+round.SkippedPages, "round %d", round.N)
			}
			require.Zero(t, r.Rounds[len(r.Rounds)-1].SkippedPages, "stop-and-copy skips nothing")
		})
	})
}

// TestConnectionCutAnywhere: whatever byte the network dies at, the guest ends up
// whole, at exactly one place.
func TestConnectionCutAnywhere(t *testing.T) {
	t.Parallel()
	const pages = 40
	try := func(t *testing.T, fromSource, fromDest int64) (moved bool) {
		b := newBed(t, busy(0, 5))
		defer b.close()
		b.m.touch(pages)
		b.m.start()
		first := true
		b.dial = func(ctx context.Context) (net.Conn, error) {
			if !first { // the network is back for whoever asks
				return b.ln.dial(ctx)
			}
			first = false
			a, z := net.Pipe()
			var up, down atomic.Int64
			up.Store(fromSource)
			down.Store(fromDest)
			b.ln.conns <- cutConn{z, &down}
			return cutConn{a, &up}, nil
		}
		s := b.source(Params{Compress: CompressNone, BitsPerSecond: 1000 * mbit})
		r := s.Run(context.Background())
		if s.Fate() == FateMoved {
			b.checkMoved(s, r)
			return true
		}
		b.checkStays(s, r)
		return false
	}
	const plenty = 1 << 40
	outcomes := map[bool]int{}
	// Every byte of the greeting and the configuration, then in strides, then around
	// the end, where handover happens.
	cuts := []int64{}
	for n := int64(0); n < 100; n += 3 {
		cuts = append(cuts, n)
	}
	for n := int64(100); n < (pages+20)*4096; n += 9001 {
		cuts = append(cuts, n)
	}
	for _, n := range cuts {
		synctest.Test(t, func(t *testing.T) { outcomes[try(t, n, plenty)]++ })
	}
	require.Positive(t, outcomes[false], "some cut must have hit the migration")
	require.Positive(t, outcomes[true], "some cut must have been behind it")
	clear(outcomes)
	for n := int64(0); n < 120; n++ {
		synctest.Test(t, func(t *testing.T) { outcomes[try(t, plenty, n)]++ })
	}
	require.Positive(t, outcomes[false])
	require.Positive(t, outcomes[true])
}

// TestHandoverCut cuts exactly around the commit, by message rather than by byte.
func TestHandoverCut(t *testing.T) {
	t.Run("commit never arrives", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, busy(0, 5))
			defer b.close()
			b.m.start()
			b.dial = tamper(b, func(typ transport.Type) action { return cutIf(typ == transport.TypeCommit) }, nil)
			s := b.source(Params{})
			r := s.Run(context.Background())
			b.checkStays(s, r)
			require.True(t, s.Committed())
			require.Contains(t, r.Error, "did not run the guest")
		})
	})
	t.Run("running never arrives", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, busy(0, 5))
			defer b.close()
			b.m.start()
			b.dial = tamper(b, nil, func(typ transport.Type) action { return cutIf(typ == transport.TypeRunning) })
			s := b.source(Params{})
			b.checkMoved(s, s.Run(context.Background()))
		})
	})
	t.Run("nobody answers any more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, busy(0, 5))
			defer b.close()
			b.m.start()
			dial := tamper(b, nil, func(typ transport.Type) action { return cutIf(typ == transport.TypeRunning) })
			first := true
			b.dial = func(ctx context.Context) (net.Conn, error) {
				if first {
					first = false
					return dial(ctx)
				}
				return nil, errors.New("no route to host")
			}
			s := b.source(Params{})
			r := s.Run(context.Background())
			require.Equal(t, StatusFailed, r.Status)
			require.Equal(t, FateUnknown, s.Fate())
			require.False(t, b.m.isRunning(), "it may run at the destination: never two")
			require.Contains(t, r.Error, "resume it only if it does not run there")
			require.False(t, b.m.tracker.logging())
		})
	})
	t.Run("the destination cannot run it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, busy(0, 5))
			defer b.close()
			b.m.start()
			b.in.failRun = errors.New("vCPU on fire")
			s := b.source(Params{})
			r := s.Run(context.Background())
			b.checkStays(s, r)
			require.Contains(t, r.Error, "vCPU on fire")
			require.True(t, b.in.discarded.Load())
		})
	})
}

func TestFailuresBeforeCommit(t *testing.T) {
	for name, break_ := range map[string]func(*bed){
		"load":  func(b *bed) { b.in.failLoad = errors.New("on purpose") },
		"save":  func(b *bed) { b.m.failSave = errors.New("on purpose") },
		"pause": func(b *bed) { b.m.failPause = errors.New("on purpose") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, busy(0, 5))
				defer b.close()
				b.m.start()
				break_(b)
				s := b.source(Params{})
				r := s.Run(context.Background())
				require.Equal(t, StatusFailed, r.Status)
				require.Contains(t, r.Error, "on purpose")
				require.Equal(t, FateStays, s.Fate())
				if name == "pause" {
					return // it cannot be resumed either
				}
				b.checkStays(s, r)
				// The same destination takes the next attempt.
				b.m.failSave, b.in.failLoad = nil, nil
				s = b.source(Params{Verify: true})
				b.checkMoved(s, s.Run(context.Background()))
			})
		})
	}
}

// TestVerifyFindsALostWrite: a write that the tracker missed must not pass.
func TestVerifyFindsALostWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, idle)
		defer b.close()
		b.m.ram.Page(7)[0] = 1
		b.m.start()
		b.m.onPaused = func() { b.m.ram.Page(7)[0] = 2 } // past the dirty log
		s := b.source(Params{Verify: true})
		r := s.Run(context.Background())
		b.m.onPaused = nil
		b.checkStays(s, r)
		require.Equal(t, StatusFailed, r.Status)
		require.Contains(t, r.Error, "RAM at the destination differs")
		require.NotNil(t, r.Verified)
		require.False(t, *r.Verified)
	})
}

// TestCancelAnytime cancels at many moments: the guest stays, or is gone already.
func TestCancelAnytime(t *testing.T) {
	t.Parallel()
	outcomes := map[Status]int{}
	for at := time.Duration(0); at < 120*time.Millisecond; at += 2300 * time.Microsecond {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, busy(0, 30))
			defer b.close()
			b.m.touch(200)
			b.m.start()
			s := b.source(Params{BitsPerSecond: 100 * mbit, DowntimeLimit: 15 * time.Millisecond, Compress: CompressNone})
			ctx, cancel := context.WithCancelCause(context.Background())
			time.AfterFunc(at, func() { cancel(ErrCancelled) })
			r := s.Run(ctx)
			cancel(nil)
			outcomes[r.Status]++
			if s.Fate() == FateMoved {
				b.checkMoved(s, r)
			} else {
				b.checkStays(s, r)
				require.Equal(t, StatusCancelled, r.Status)
			}
		})
	}
	require.Positive(t, outcomes[StatusCompleted])
	require.Positive(t, outcomes[StatusCancelled])
	require.Zero(t, outcomes[StatusFailed])
}

// TestDestinationStops: its user ends the destination in the middle.
func TestDestinationStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, busy(0, 90))
		defer b.close()
		b.m.touch(900)
		b.m.start()
		s := b.source(Params{BitsPerSecond: 100 * mbit, DowntimeLimit: time.Millisecond, Compress: CompressNone})
		time.AfterFunc(300*time.Millisecond, b.stop)
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Equal(t, StatusFailed, r.Status)
		require.True(t, b.in.discarded.Load())
	})
}

// TestStalledNetwork: nothing arrives any more and nothing is refused either.
func TestStalledNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, busy(0, 90))
		defer b.close()
		b.m.touch(900)
		b.m.start()
		stalled := make(chan struct{})
		b.dial = func(ctx context.Context) (net.Conn, error) {
			nc, err := b.ln.dial(ctx)
			return stallConn{nc, stalled}, err
		}
		time.AfterFunc(200*time.Millisecond, func() { close(stalled) })
		s := b.source(Params{BitsPerSecond: 100 * mbit, DowntimeLimit: time.Millisecond, Compress: CompressNone})
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Equal(t, StatusFailed, r.Status)
		require.Contains(t, r.Error, "does not answer")
	})
}

// stallConn swallows everything once stalled, and yields nothing.
type stallConn struct {
	net.Conn
	stalled chan struct{}
}

func (c stallConn) Write(b []byte) (int, error) {
	select {
	case <-c.stalled:
		return len(b), nil
	default:
		return c.Conn.Write(b)
	}
}

func (c stallConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		select {
		case <-c.stalled:
			if err != nil {
				return 0, err
			}
		default:
			return n, err
		}
	}
}

func TestBusyDestinationRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, busy(0, 90))
		defer b.close()
		b.m.touch(900)
		b.m.start()
		ctx, cancel := context.WithCancelCause(context.Background())
		s := b.source(Params{BitsPerSecond: 100 * mbit, DowntimeLimit: time.Millisecond, Compress: CompressNone})
		done := make(chan Report)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(100 * time.Millisecond)

		other := newFakeMachine(t, idle)
		defer other.ram.Close()
		other.start()
		defer other.end()
		p, err := Params{Destination: "tcp:x:1"}.WithDefaults()
		require.NoError(t, err)
		r := newSource(other, p, nil, b.ln.dial).Run(context.Background())
		require.Equal(t, StatusFailed, r.Status)
		require.Contains(t, r.Error, "busy with another migration")
		require.True(t, other.isRunning())

		cancel(ErrCancelled)
		r = <-done
		b.checkStays(s, r)
	})
}

func TestStrangersAreTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, idle)
		defer b.close()
		b.m.start()
		for _, hello := range []string{"GET / HTTP/1.1\r\n\r\nmore and more", "TASKMIGR\x63\x00\x00\x00", "x"} {
			nc, err := b.ln.dial(context.Background())
			require.NoError(t, err)
			go func() { nc.Write([]byte(hello)); time.Sleep(time.Second); nc.Close() }()
			if len(hello) > 12 {
				require.ErrorIs(t, transport.ReadWelcome(nc), transport.ErrRefused)
			}
		}
		// A migration under way is not disturbed by somebody who guesses at its channels.
		s := b.source(Params{Verify: true})
		b.checkMoved(s, s.Run(context.Background()))
	})
}

// TestGarbageFrames sends random frames after a proper greeting.
func TestGarbageFrames(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, idle)
		defer b.close()
		b.m.start()
		for range 50 {
			nc, err := b.ln.dial(context.Background())
			require.NoError(t, err)
			h := transport.Hello{Purpose: transport.PurposeMigrate, Channels: 1}
			for i := range h.ID {
				h.ID[i] = byte(rnd.Uint32())
			}
			require.NoError(t, transport.WriteHello(nc, h))
			require.NoError(t, transport.ReadWelcome(nc))
			c := transport.NewConn(nc)
			if rnd.IntN(2) == 0 {
				require.NoError(t, c.WriteMessage(transport.TypeConfig, 0, []byte("a machine")))
				_, err := c.Next()
				require.NoError(t, err)
				if rnd.IntN(2) == 0 {
					require.NoError(t, c.WriteMessage(transport.TypeExtents, 0, make([]byte, 1)))
				}
			}
			junk := make([]byte, 16+rnd.IntN(5000))
			for i := range junk {
				junk[i] = byte(rnd.Uint32())
			}
			nc.SetDeadline(time.Now().Add(time.Second))
			nc.Write(junk)
			nc.Close()
			synctest.Wait()
		}
		s := b.source(Params{Verify: true})
		b.checkMoved(s, s.Run(context.Background()))
	})
}

// action is what becomes of a message on its way.
type action int

const (
	pass action = iota
	cut
	last // the message passes, nothing after it does
)

func cutIf(c bool) action {
	if c {
		return cut
	}
	return pass
}

// tamper connects through a man in the middle that looks at every frame's type.
func tamper(b *bed, up, down func(transport.Type) action) func(context.Context) (net.Conn, error) {
	first := true
	return func(ctx context.Context) (net.Conn, error) {
		nc, err := b.ln.dial(ctx)
		if err != nil || !first {
			return nc, err
		}
		first = false
		near, mid := net.Pipe()
		closeAll := func() { mid.Close(); nc.Close() }
		go relay(mid, nc, 36, up, closeAll)
		go relay(nc, mid, 16, down, closeAll)
		return near, nil
	}
}

// relay copies frames after a greeting of some bytes.
func relay(from, to net.Conn, greeting int, judge func(transport.Type) action, closeAll func()) {
	defer closeAll()
	buf := make([]byte, 2<<20)
	if _, err := readFull(from, buf[:greeting]); err != nil {
		return
	}
	if _, err := to.Write(buf[:greeting]); err != nil {
		return
	}
	for {
		if _, err := readFull(from, buf[:16]); err != nil {
			return
		}
		n := int(uint32(buf[4]) | uint32(buf[5])<<8 | uint32(buf[6])<<16 | uint32(buf[7])<<24)
		if _, err := readFull(from, buf[16:16+n]); err != nil {
			return
		}
		what := pass
		if judge != nil {
			what = judge(transport.Type(buf[0]))
		}
		if what == cut {
			return
		}
		if _, err := to.Write(buf[:16+n]); err != nil || what == last {
			return
		}
	}
}

func readFull(c net.Conn, b []byte) (int, error) {
	for n := 0; n < len(b); {
		k, err := c.Read(b[n:])
		n += k
		if err != nil {
			return n, err
		}
	}
	return len(b), nil
}

func TestParams(t *testing.T) {
	p, err := Params{Destination: "tcp:h:1"}.WithDefaults()
	require.NoError(t, err)
	require.True(t, *p.SwitchAtExit)
	require.Equal(t, RuleDowntime, p.Rule)
	require.Zero(t, p.MaxRounds)
	p, err = Params{Destination: "x", Rule: RuleXen, Guidance: GuidanceSuspend}.WithDefaults()
	require.NoError(t, err)
	require.False(t, *p.SwitchAtExit)
	require.Equal(t, 29, p.MaxRounds)
	for what, bad := range map[string]Params{
		"no destination": {},
		"rule":           {Destination: "x", Rule: "fast"},
		"guidance":       {Destination: "x", Guidance: "none"},
		"gate":           {Destination: "x", Gate: "some"},
		"on-timeout":     {Destination: "x", OnTimeout: "panic"},
		"compress":       {Destination: "x", Compress: "lz4"},
		"channels":       {Destination: "x", Channels: 17},
		"max rounds":     {Destination: "x", MaxRounds: -1},
		"bandwidth":      {Destination: "x", BitsPerSecond: -1},
		"max defer":      {Destination: "x", MaxDefer: -1},
		"downtime limit": {Destination: "x", DowntimeLimit: -1},
	} {
		_, err := bad.WithDefaults()
		require.ErrorContains(t, err, what)
		require.False(t, strings.Contains(err.Error(), "\n"))
	}
}

func TestDefaultChannels(t *testing.T) {
	unlimited := min(2, runtime.NumCPU())
	require.Equal(t, unlimited, defaultChannels(Params{}))
	require.Equal(t, 1, defaultChannels(Params{BitsPerSecond: 100e6}), "the link is what it waits for")
	require.Equal(t, unlimited, defaultChannels(Params{BitsPerSecond: 40e9}))
}
