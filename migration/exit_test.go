package migration

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/migration/policy"
	"taskguide/tagging"
	"taskguide/transport"
)

// lookedAt is a machine whose dirty log counts the looks at it, and takes its time.
type lookedAt struct {
	*fakeMachine
	tracker *countedTracker
}

func (m lookedAt) Tracker() dirtylog.Tracker { return m.tracker }

type countedTracker struct {
	*fakeTracker
	cost  time.Duration
	looks atomic.Int64
}

func (c *countedTracker) Harvest(dirty *memory.Bitmap) (int, error) {
	c.looks.Add(1)
	time.Sleep(c.cost)
	return c.fakeTracker.Harvest(dirty)
}

func newLookedAt(m *fakeMachine, cost time.Duration) lookedAt {
	m.tracker.onDemand = true
	return lookedAt{m, &countedTracker{fakeTracker: m.tracker, cost: cost}}
}

// TestNoLookAtAnExitInRound1: no EXIT can switch over then, so no vCPU has to pay for a
// look at the dirty log.
func TestNoLookAtAnExitInRound1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exits := 0
		b := newEnds(t, func(g *guest) {
			g.write(4 * (g.step % 1000))
			exits++
			g.exit(1)
			g.enter(1)
		})
		defer b.close()
		b.m.port.Write(tagging.RegEnter, 4, 1)
		b.m.touch(4000)
		b.m.start()
		p := guided(RuleDowntime, GuidanceSwitchover)
		p.Destination, p.Channels = "tcp:x:1", 1
		p, err := p.WithDefaults()
		require.NoError(t, err)
		m := newLookedAt(b.m, 0)
		looks, exitsInRound1 := int64(0), 0
		s := newSource(m, p, func(e Notice) {
			if e.Kind == NoticeRound && e.Round.N == 1 {
				looks, exitsInRound1 = m.tracker.looks.Load(), exits
			}
		}, b.peer())
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Greater(t, exitsInRound1, 1000)
		require.EqualValues(t, 1, looks, "the engine's own, at the end of the round")
	})
}

// exitsAt is a guest that leaves its segment at a step and is back 600 steps later; the
// script says the step, 0 for not yet.
type exitsAt struct{ step atomic.Int64 }

func (e *exitsAt) act(g *guest) {
	switch step := int(e.step.Load()); {
	case step == 0:
	case g.step == step:
		g.exit(1)
	case g.step == step+600:
		g.enter(1)
	}
}

// TestQueueCountsAtAnExit: bytes in a socket's buffer count, because the stop-and-copy waits behind
// them.
func TestQueueCountsAtAnExit(t *testing.T) {
	for _, rule := range Rules() {
		synctest.Test(t, func(t *testing.T) {
			var at exitsAt
			var round1 atomic.Bool
			b := newEnds(t, func(g *guest) {
				if g.step == 500 {
					g.writeRange(0, 1500) // while round 1 sends; 490 ms of link
				}
				if round1.CompareAndSwap(true, false) {
					at.step.Store(int64(g.step) + 20)
				}
				at.act(g)
			})
			defer b.close()
			b.m.port.Write(tagging.RegEnter, 4, 1)
			b.m.touch(3000)
			b.m.start()
			b.dial = func(ctx context.Context) (net.Conn, error) {
				nc, err := b.ln.dial(ctx)
				return newBufferedLink(nc, 100*mbit/8), err
			}
			p := Params{Rule: rule, DowntimeLimit: 300 * time.Millisecond, Compress: CompressNone}
			s := b.source(p)
			b.onEvent = func(e Notice) {
				if e.Kind == NoticeRound && e.Round.N == 1 {
					round1.Store(true)
				}
			}
			r := s.Run(context.Background())
			b.checkMoved(s, r)
			require.Less(t, r.DowntimeMS, 320.0, "%s: %s", rule, r.SwitchoverReason)
			require.NotContains(t, r.SwitchoverReason, "EXIT")
		})
	}
}

// TestProtectedPagesCountAtAnExit: pages that were protected and are still to be sent count,
// although the dirty log does not have them.
func TestProtectedPagesCountAtAnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at exitsAt
		b := newEnds(t, func(g *guest) {
			switch g.step {
			case 185:
				g.writeRange(0, 500) // sent already in round 1, which ends at 196
			case 215:
				g.writeRange(600, 450) // in round 2, which has protected all of its pages
			}
			at.act(g)
		})
		defer b.close()
		at.step.Store(225)
		b.m.port.Write(tagging.RegEnter, 4, 1)
		b.m.touch(600)
		b.m.tracker.onDemand = true
		b.m.start()
		p := guided(RuleDowntime, GuidanceSwitchover)
		p.DowntimeLimit = 200 * time.Millisecond // 610 pages
		s := b.source(p)
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Greater(t, b.m.steps, 225, "it would have been 880 pages: %s", r.SwitchoverReason)
		require.LessOrEqual(t, r.PagesStopCopy, int64(615), r.SwitchoverReason)
	})
}

// TestHeldGuestIsLeftAlone: while a closed gate holds a satisfied rule back, the engine does not
// ask the vCPUs to stand still only to take that back.
func TestHeldGuestIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 10))
		defer b.close()
		b.m.port.Write(tagging.RegRegister, 4, 1)
		b.m.start()
		asked := 0
		b.m.onPausing = func() { asked++ }
		p := guided(RuleDowntime, GuidanceSwitchover)
		p.MaxDefer = 2 * time.Second
		s := b.source(p)
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.True(t, r.Forced)
		require.Zero(t, r.Retractions)
		require.Equal(t, 1, asked)
	})
}

// TestExitBetweenRounds: at an EXIT that comes while no round is under way, what the
// next round would send counts.
func TestExitBetweenRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var flash atomic.Bool
		flashed := -1
		b := newEnds(t, func(g *guest) {
			switch {
			case flash.Load() && flashed < 0:
				flashed = g.step
				g.enter(1)
				g.exit(1)
			case flashed < 0:
				g.writeRange(0, 600)
			case g.step == flashed+1000:
				g.enter(1)
			}
		})
		defer b.close()
		b.m.port.Write(tagging.RegRegister, 4, 1)
		b.m.start()
		p := guided(RuleXen, GuidanceSwitchover)
		p.MaxRounds = 3
		s := b.source(p)
		b.onEvent = func(e Notice) {
			if e.Kind == NoticeRound && e.Phase == PhaseHeld {
				flash.Store(true) // 600 pages are pending, and no others are dirty
			}
		}
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Positive(t, flashed)
		require.Less(t, r.PagesStopCopy, int64(50), r.SwitchoverReason)
	})
}

// TestSwitchAtExit: the rule is satisfied when the segment ends, and the
// switchover happens right there.
func TestSwitchAtExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The xen rule gives up only after 29 rounds, which the segment does not last;
		// at its end few pages are dirty.
		ph := phased{ws: 300, hot: 0, busy: 400, cool: 130, offset: 390, task: 4}
		b := newEnds(t, func(g *guest) {
			ph.script()(g)
			if at := (g.step + ph.offset) % 530; at >= 400 && at < 510 {
				g.writeRange(1000, 60) // too many for the rule until shortly before the end
			}
		})
		defer b.close()
		b.m.start()
		time.Sleep(1500 * time.Microsecond)
		s := b.source(guided(RuleXen, GuidanceSwitchover))
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Contains(t, r.SwitchoverReason, "EXIT")
		require.Less(t, r.PagesStopCopy, int64(80))
		require.False(t, b.in.port.Gate().Open, "at the destination the guest is past its EXIT")
		require.Zero(t, (b.m.steps+ph.offset)%530, "the vCPU got no further than its EXIT")
	})
}

// TestHeldAtExitEndsTheRound: the rest of the round goes with the stop-and-copy, not before it
// while the vCPU is held.
func TestHeldAtExitEndsTheRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last atomic.Bool
		leaveAt := -1
		b := newEnds(t, func(g *guest) {
			switch {
			case g.step == 0:
				g.enter(1)
			case !last.Load():
				g.writeRange(0, 600) // 196 ms
			case leaveAt < 0:
				leaveAt = g.step + 40
			case g.step == leaveAt:
				g.exit(1)
			}
		})
		defer b.close()
		b.m.touch(600)
		b.m.start()
		p := guided(RuleDowntime, GuidanceSwitchover)
		p.DowntimeLimit = 190 * time.Millisecond
		s := b.source(p)
		b.onEvent = func(e Notice) {
			if e.Kind == NoticeRound && e.Round.N == 3 {
				last.Store(true) // 600 pages go now, and no more are dirtied
			}
		}
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Contains(t, r.SwitchoverReason, "EXIT")
		require.Less(t, r.Downtime.ExitMS+r.Downtime.PauseMS, 6.0, "a frame lasts 5 ms")
		require.InDelta(t, 480, float64(r.PagesStopCopy), 40)
	})
}

// heldAtExit makes a guest leave its segment in the middle of round 4, when the rule is satisfied.
// Just before, writes begin to take delay each. It returns the step at which the guest enters its
// next segment.
func heldAtExit(t *testing.T, delay time.Duration) (
	b *ends, s *Source, k *brake, enters func() int,
) {
	var rounds atomic.Int64
	seen, since := int64(0), 0
	b = newEnds(t, func(g *guest) {
		if n := rounds.Load(); n > seen {
			seen, since = n, g.step
		}
		switch at := g.step - since; {
		case seen < 3 && at == 30:
			g.writeRange(0, 600) // 196 ms; well inside the round
		case seen == 3 && at == 34:
			k.on.Store(true) // the frame after the next one sticks
		case seen == 3 && at == 40:
			g.exit(1)
		case seen >= 3 && at == 5040:
			g.enter(1)
		}
	})
	k = braked(b, delay)
	b.m.port.Write(tagging.RegEnter, 4, 1)
	b.m.touch(600)
	b.m.start()
	p := guided(RuleDowntime, GuidanceSwitchover)
	p.DowntimeLimit, p.StandstillLimit = 190*time.Millisecond, time.Second
	s = b.source(p)
	b.onEvent = func(e Notice) {
		if e.Kind == NoticeRound && e.Round.N <= 3 {
			rounds.Store(int64(e.Round.N))
		}
	}
	return b, s, k, func() int { return since + 5040 }
}

// TestHeldAtExitIsTakenBack: a vCPU that is held at its EXIT stands still already, while
// the round under way comes to its end.
func TestHeldAtExitIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s, k, enters := heldAtExit(t, 4*time.Second)
		defer b.close()
		paused, complete := set(false), set(false)
		b.m.onPaused = func() { paused.Store(true) }
		b.m.onResumed = func() {
			complete.Store(paused.Load())
			time.AfterFunc(time.Second, func() { k.on.Store(false) })
		}
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.True(t, complete.Load(), "the vCPU's request, before it is undone")
		requireTakenBack(t, r, 1, time.Second)
		require.Len(t, r.Standstills, 2)
		require.Contains(t, r.Standstills[0].Why, "EXIT")
		require.Contains(t, r.Standstills[0].Ended, "the stop-and-copy had not begun")
		require.GreaterOrEqual(t, b.m.steps, enters(), "the gate is closed behind the EXIT")
		require.NotContains(t, r.SwitchoverReason, "EXIT")
	})
}

// TestWaitAtTheExitIsInAPart: the vCPU waits there for the frame under way.
func TestWaitAtTheExitIsInAPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s, k, _ := heldAtExit(t, 300*time.Millisecond)
		defer b.close()
		b.m.onPaused = func() { k.on.Store(false) }
		b.in.onRun = func() { time.Sleep(7 * time.Millisecond) }
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Contains(t, r.SwitchoverReason, "EXIT")
		require.Greater(t, r.Downtime.ExitMS, 250.0)
		require.InDelta(t, r.DowntimeMS, partsOf(r.Downtime), 0.01)
	})
}

// TestHeldAtExitDoesNotWaitForTheGoodbye: the migration is cancelled while a vCPU is held at its
// EXIT, and the round under way has not come to its end. The guest runs again before anything is
// said to a destination that takes nothing.
func TestHeldAtExitDoesNotWaitForTheGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		var s *Source
		var last atomic.Bool
		leaveAt, held := -1, false
		b := newEnds(t, func(g *guest) {
			switch {
			case g.step == 0:
				g.enter(1)
			case !last.Load():
				g.writeRange(0, 600) // 196 ms
			case leaveAt < 0:
				leaveAt = g.step + 40
			case g.step == leaveAt:
				g.m.port.Write(tagging.RegExit, 4, 1)
				s.mu.Lock()
				held = s.standing != nil
				s.mu.Unlock()
				cancel(ErrCancelled)
			}
		})
		defer b.close()
		goodbyes, ran := 0, false
		dial := b.dial
		b.dial = func(ctx context.Context) (net.Conn, error) {
			nc, err := dial(ctx)
			return hookConn{nc, func(written []byte) {
				if len(written) == 16 && transport.Type(written[0]) == transport.TypeError {
					goodbyes++
					ran = b.m.isRunning()
					time.Sleep(5 * time.Second)
				}
			}}, err
		}
		b.m.touch(600)
		b.m.start()
		p := guided(RuleDowntime, GuidanceSwitchover)
		p.DowntimeLimit, p.StandstillLimit = 190*time.Millisecond, NoStandstillLimit
		s = b.source(p)
		b.onEvent = func(e Notice) {
			if e.Kind == NoticeRound && e.Round.N == 3 {
				last.Store(true) // 600 pages go now, and no more are dirtied
			}
		}
		r := s.Run(ctx)
		b.checkStays(s, r)
		require.Equal(t, StatusCancelled, r.Status)
		require.True(t, held)
		require.Len(t, r.Standstills, 1)
		require.Contains(t, r.Standstills[0].Why, "EXIT")
		require.Less(t, r.Standstills[0].MS, 6.0, "a frame lasts 5 ms")
		require.Equal(t, 1, goodbyes)
		require.True(t, ran, "the guest, before the goodbye")
	})
}

// TestAskingAtExitsIsPaced: however often a guest tags, and whatever its policy says and costs, the
// vCPUs stand at their EXITs for a twentieth of the time at most.
func TestAskingAtExitsIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.port.Write(tagging.RegEnter, 4, 1)
		b.m.start()
		const cost = time.Millisecond
		asked := time.Duration(0)
		s := led(b, Params{Guidance: GuidanceSwitchover}, func(_ time.Duration,
			e policy.Event) policy.Action {
			if e.Gate == policy.GateClosing {
				time.Sleep(cost)
				asked += cost
			}
			return policy.Action{}
		})
		s.start(context.Background())
		defer s.cancel(nil)
		s.attach()
		defer b.m.port.Detach()
		s.mu.Lock()
		s.report.Phase = PhasePreCopy
		s.report.addRound(Round{N: 1})
		s.mu.Unlock()
		for s.now() < time.Second {
			b.m.port.Write(tagging.RegExit, 4, 1)
			b.m.port.Write(tagging.RegEnter, 4, 1)
			time.Sleep(100 * time.Microsecond)
		}
		require.Greater(t, asked, s.now()/25, "it is asked again in time")
		require.LessOrEqual(t, asked, s.now()/20)
	})
}
