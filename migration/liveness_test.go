package migration

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/peer"
	"taskguide/migration/policy"
	"taskguide/migration/program"
	"taskguide/transport"
)

// TestKeepAlivesHoldNothing: the destination gives up a source that only keeps its connection
// alive, or announces waits that never end, wherever the source stops.
func TestKeepAlivesHoldNothing(t *testing.T) {
	for name, test := range map[string]struct {
		do     func(b *ends) rogue
		within time.Duration
	}{
		"before the configuration": {func(b *ends) rogue {
			return newRogue(b, 1)
		}, peer.ProgressTimeout},
		"before the extents": {func(b *ends) rogue {
			return accepted(b, 1)
		}, peer.ProgressTimeout},
		"while pages are due": {func(b *ends) rogue {
			r := accepted(b, 1)
			r.extents()
			return r
		}, peer.ProgressTimeout},
		"while it waits on purpose": {func(b *ends) rogue {
			r := accepted(b, 1)
			r.extents()
			require.NoError(b.t, r.main.Announce(time.Minute))
			return r
		}, time.Minute + peer.ProgressTimeout},
		"while it waits for a year": {func(b *ends) rogue {
			r := accepted(b, 1)
			r.extents()
			require.NoError(b.t, r.main.Announce(365*24*time.Hour))
			return r
		}, peer.WorkLimit(testPages*4096) + peer.ProgressTimeout},
		"while digests are due": {func(b *ends) rogue {
			r := accepted(b, 1)
			r.extents()
			r.flush(0)
			require.NoError(b.t, r.main.WriteMessage(transport.TypeState, stateVerify, r.state()))
			for _, of := range []uint32{digestRAM, digestAll} {
				h := r.next()
				require.Equal(b.t, transport.TypeDigests, h.Type)
				require.Equal(b.t, of, h.Arg)
			}
			return r
		}, peer.ProgressTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, idle)
				defer b.close()
				b.m.start()
				r := test.do(b)
				r.main.IdleTimeout = time.Hour // or it gives up first
				begin := time.Now()
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				go r.main.KeepAlive(ctx)
				defer time.AfterFunc(2*test.within, func() { r.main.Close() }).Stop()
				r.requireDiscarded(test.within+peer.Pace, "no progress of the source's")
				require.InDelta(t, test.within, time.Since(begin), float64(peer.Pace))
				cancel()
				s := b.source(Params{})
				b.checkMoved(s, s.Run(context.Background()))
			})
		})
	}
}

// TestAnnouncementsEnd: the source, too, trusts a destination no longer than it may.
func TestAnnouncementsEnd(t *testing.T) {
	for name, test := range map[string]struct{ announced, took time.Duration }{
		"a minute": {time.Minute, time.Minute + peer.ProgressTimeout},
		"a year":   {365 * 24 * time.Hour, peer.WorkLimit(testPages*4096) + peer.ProgressTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, idle)
				defer b.close()
				b.m.start()
				impostor(b, func(nc net.Conn, c *transport.Conn) {
					transport.WriteWelcome(nc, transport.Terms{Version: transport.Version})
					go io.Copy(io.Discard, nc)
					c.Announce(test.announced)
					c.KeepAlive(context.Background())
				})
				s := b.source(Params{})
				r := s.Run(context.Background())
				b.checkStays(s, r)
				require.InDelta(t, ms(test.took), r.TotalMS, 2*ms(peer.Pace))
			})
		})
	}
}

// TestLongWaitsAreAnnounced: a gate that stays closed for long loses no migration.
func TestLongWaitsAreAnnounced(t *testing.T) {
	for _, g := range []Guidance{GuidanceStart, GuidanceSuspend, GuidanceSwitchover} {
		t.Run(string(g), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, idle)
				defer b.close()
				b.m.touch(600)
				b.m.port.Write(0x18, 4, 1) // REGISTER: a task outside of any segment
				b.m.start()
				p := guided(RuleDowntime, g)
				p.MaxDefer = 5 * time.Minute
				s := b.source(p)
				r := s.Run(context.Background())
				b.checkMoved(s, r)
				require.True(t, r.Forced)
				require.Greater(t, r.TotalMS, ms(5*time.Minute))
			})
		})
	}
}

// TestIdleRoundsAreAnnounced: a guest that dirties nothing, and a policy that goes on all the same,
// lose no migration.
func TestIdleRoundsAreAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.touch(100)
		b.m.start()
		s, c := advised(b, Params{Rule: "exec:/p"}, func(m program.Message) *policy.Action {
			time.Sleep(program.AnswerTime / 2) // or there would be very many rounds
			if m.NowMS > ms(2*peer.ProgressTimeout) {
				return says(policy.Switchover)
			}
			return says(policy.Continue)
		})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Greater(t, r.TotalMS, ms(2*peer.ProgressTimeout))
		require.Empty(t, r.PolicyError)
		require.Len(t, r.Rounds, 2, "no page was sent between the first round and the last")
		require.Greater(t, len(c.asked), 1000)
	})
}

// TestSlowLimit: a migration works with a limit that lets a page through every 33 s.
func TestSlowLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.touch(10)
		b.m.start()
		s := b.source(Params{BitsPerSecond: 1000, Compress: CompressNone})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Greater(t, r.TotalMS, 10*ms(peer.ProgressTimeout))
	})
}

// TestSlowLimitAfterAShortFrame: a frame ends what was announced before it, so what takes as long
// afterwards is announced anew.
func TestSlowLimitAfterAShortFrame(t *testing.T) {
	for _, channels := range []int{1, 2} {
		testSlowLimitAfterAShortFrame(t, channels)
	}
}

func testSlowLimitAfterAShortFrame(t *testing.T, channels int) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, func(g *guest) {
			if g.step == 1000 {
				g.write(3)
			}
		})
		defer b.close()
		b.m.touch(10)
		b.m.ram.Page(9)[9] = 0 // the last one is backed, and zero
		for p := range 5 {
			b.m.ram.Page(512 + p)[9] = 1 // of the other channel, if there are two
		}
		b.m.start()
		s := b.source(Params{
			BitsPerSecond: 1000, Compress: CompressNone, DowntimeLimit: time.Minute,
			Channels: channels,
		})
		b.checkMoved(s, s.Run(context.Background()))
	})
}

// TestSlowLinks: slow is not dead, as long as it is steady.
func TestSlowLinks(t *testing.T) {
	for _, channels := range []int{1, 2, 16} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, idle)
			defer b.close()
			b.m.touch(3000)
			b.m.start()
			b.dial = func(ctx context.Context) (net.Conn, error) {
				nc, err := b.ln.dial(ctx)
				if err != nil {
					return nil, err
				}
				// 250 kbit/s together.
				return newSlowLink(nc, 250e3/8/float64(channels), 64<<10), nil
			}
			s := b.source(Params{Compress: CompressNone, Channels: channels})
			b.checkMoved(s, s.Run(context.Background()))
		})
	}
}

// TestZerosAreProgress: looking through zero pages takes a while if RAM is large or swapped out,
// and they do not fill a frame. The destination still hears of them in time.
func TestZerosAreProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.tracker.onDemand = true
		b.m.touch(testPages)
		for p := range testPages {
			b.m.ram.Page(p)[9] = 0 // writing 0 backs the page with memory
		}
		b.m.start()
		// Four times, for 1024 pages each.
		b.m.tracker.onProtect = func(first, count int) {
			if count == protectPages {
				time.Sleep(peer.ProgressTimeout * 2 / 3)
			}
		}
		s := b.source(Params{})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Greater(t, r.TotalMS, ms(2*peer.ProgressTimeout))
		require.EqualValues(t, testPages, r.PagesZero)
	})
}

// TestWorkOnRAMIsAnnounced: turning logging on, and protecting a whole round before its first page,
// may take longer than a source may be silent.
func TestWorkOnRAMIsAnnounced(t *testing.T) {
	for name, rule := range map[string]Rule{"start": RuleDowntime, "protect": RuleXen} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, idle)
				defer b.close()
				b.m.tracker.onDemand = rule == RuleXen
				b.m.touch(testPages)
				b.m.start()
				if rule == RuleDowntime {
					b.m.tracker.onStart = func() { time.Sleep(3 * peer.ProgressTimeout) }
				}
				b.m.tracker.onProtect = func(first, count int) {
					if count == protectPages {
						time.Sleep(peer.ProgressTimeout * 2 / 3)
					}
				}
				s := b.source(Params{Rule: rule})
				r := s.Run(context.Background())
				b.checkMoved(s, r)
				require.Greater(t, r.TotalMS, ms(2*peer.ProgressTimeout))
			})
		})
	}
}
