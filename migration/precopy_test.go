package migration

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
)

// TestDowntimeRuleConverges: pre-copy goes on until the rest fits the limit.
func TestDowntimeRuleConverges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 30 pages a step is 123 MB/s dirtied, against 12.5 MB/s of link, but over a
		// working set of 90 pages: 29 ms at this speed.
		b := newEnds(t, func(g *guest) { g.writeRange(30*(g.step%3), 30) })
		defer b.close()
		b.m.ram.Page(4000)[1] = 1
		b.m.touch(1000)
		b.m.start()
		s := b.source(Params{
			BitsPerSecond: 100 * mbit, DowntimeLimit: 35 * time.Millisecond,
			Compress: CompressNone,
		})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Contains(t, r.SwitchoverReason, "fit the downtime limit of 35ms")
		require.LessOrEqual(t, r.PagesStopCopy, int64(90))
		require.InDelta(t, 29, r.DowntimeMS, 12)
	})
}

// TestChannelsShareTheLimit: the limit of the rate is that of all channels together.
func TestChannelsShareTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		for p := range testPages { // of all channels
			b.m.ram.Page(p)[0] = 1
		}
		b.m.start()
		s := b.source(Params{
			BitsPerSecond: 100 * mbit, Channels: 4, Compress: CompressNone,
		})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.EqualValues(t, testPages, r.Rounds[0].SentPages)
		require.LessOrEqual(t, r.Rounds[0].BytesPerS*8, 100.0*mbit)
	})
}

// TestDowntimeRuleDoesNotConverge: with a limit too small it goes on for ever, or
// until the limit of rounds.
func TestDowntimeRuleDoesNotConverge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 90))
		defer b.close()
		b.m.touch(900)
		b.m.start()
		s := b.source(Params{
			BitsPerSecond: 100 * mbit, DowntimeLimit: 5 * time.Millisecond, MaxRounds: 40,
			Compress: CompressNone,
		})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Equal(t, "40 rounds", r.SwitchoverReason)
		require.Len(t, r.Rounds, 41)

		b = newEnds(t, busy(0, 90))
		defer b.close()
		b.m.touch(900)
		b.m.start()
		s = b.source(Params{
			BitsPerSecond: 100 * mbit, DowntimeLimit: 5 * time.Millisecond,
			Compress: CompressNone,
		})
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(30*time.Second, func() { cancel(ErrCancelled) })
		r = s.Run(ctx)
		b.checkStays(s, r)
		require.Equal(t, StatusCancelled, r.Status)
		require.Equal(t, "cancelled", r.Error)
		require.Greater(t, len(r.Rounds), 100)
	})
}

// TestBuffersAreNoBandwidth: rounds that fit a socket's buffer do not make the
// engine believe in a fast link.
func TestBuffersAreNoBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, func(g *guest) {
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
	stuck := func(t *testing.T, script func(*guest)) *ends {
		b := newEnds(t, script)
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
		phase := s.Report().Phase
		require.Equal(t, PhaseSuspended, phase, "a closed gate does not wait for the link")
		cancel(ErrCancelled)
		b.checkStays(s, <-done)
	})
}

// TestProtectingOnDemand: a page that is written between the harvest and its turn
// is sent once, and untouched RAM is not sent at all.
func TestProtectingOnDemand(t *testing.T) {
	sent := map[bool]int64{}
	for _, manual := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, func(g *guest) {
				if g.step < 300 {
					g.writeRange(2000, 100) // while round 1 is still below
				}
				if g.step == 100 {
					g.writeRange(3500, 50) // untouched before, behind the last page with content
				}
			})
			defer b.close()
			b.m.touch(3000)
			b.m.tracker.onDemand = manual
			b.m.start()
			time.Sleep(500 * time.Microsecond)
			s := b.source(Params{
				BitsPerSecond: 100 * mbit, DowntimeLimit: time.Millisecond,
				Compress: CompressNone, Verify: true,
			})
			r := s.Run(context.Background())
			b.checkMoved(s, r)
			sent[manual] = r.PagesSent
			require.LessOrEqual(t, r.Rounds[1].DirtyPages, int64(200), "no untouched page")
		})
	}
	require.EqualValues(t, 3150, sent[false])
	require.EqualValues(t, 3050, sent[true])
}

func TestXenRuleReasons(t *testing.T) {
	run := func(t *testing.T, script func(*guest), pages int) Report {
		b := newEnds(t, script)
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
				seen := round.SentPages + round.ZeroPages + round.SkippedPages
				require.Equal(t, round.DirtyPages, seen, "round %d", round.N)
			}
			require.Zero(t, r.Rounds[len(r.Rounds)-1].SkippedPages, "stop-and-copy skips nothing")
		})
	})
}
