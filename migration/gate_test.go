package migration

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
)

// TestGateOpensDuringAHeldRound: the rounds that follow are those of pre-copy.
func TestGateOpensDuringAHeldRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opened atomic.Bool
		b := newEnds(t, func(g *guest) {
			switch {
			case g.step < 1500:
				g.writeRange(300*(g.step%3), 300)
			case g.step == 1500:
				g.enter(1)
				opened.Store(true)
			default:
				g.writeRange(0, 60)
			}
		})
		defer b.close()
		b.m.port.Write(tagging.RegRegister, 4, 1)
		b.m.touch(900)
		b.m.start()
		p := guided(RuleXen, GuidanceSwitchover)
		p.MaxRounds = 3
		s := b.source(p)
		state := tagging.StateNone
		b.onEvent = func(e Notice) {
			if e.Kind == NoticeRound && e.Phase == PhasePreCopy && opened.Load() {
				state = tagging.MigrationState(b.m.port.Read(tagging.RegState, 4))
			}
		}
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Equal(t, tagging.StatePreCopy, state)
		var held Round // the last round with that phase
		for _, round := range r.Rounds {
			if round.Phase == PhaseHeld {
				held = round
				require.False(t, round.GateOpen, "round %d", round.N)
			}
		}
		require.Less(t, held.SentPages+held.SkippedPages, held.DirtyPages,
			"a new round sends what was dirtied before once")
		require.LessOrEqual(t, r.PagesStopCopy, int64(60))
	})
}

// TestGateClosesInTheDecisionWindow: the gate closes between the decision and the standstill.
func TestGateClosesInTheDecisionWindow(t *testing.T) {
	for _, window := range []string{"before the vCPUs are asked", "before they stand still"} {
		for _, atExit := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				// A second task, as on another vCPU, leaves its segment while the first vCPU is
				// coming to a stand.
				b := newEnds(t, func(g *guest) {
					if g.step == 0 {
						g.enter(1)
					}
					g.writeRange(0, 5)
				})
				defer b.close()
				b.m.port.Write(tagging.RegEnter, 4, 2)
				b.m.start()
				time.Sleep(1500 * time.Microsecond)
				p := guided(RuleXen, GuidanceSwitchover)
				p.SwitchAtExit = &atExit
				s := b.source(p)
				exits := 0
				leave := func() {
					if exits == 0 {
						exits++
						b.m.port.Write(tagging.RegExit, 4, 2)
						time.AfterFunc(100*time.Millisecond, func() {
							b.m.port.Write(tagging.RegEnter, 4, 2)
						})
					}
				}
				if window == "before the vCPUs are asked" {
					b.m.onPausing = leave
				} else {
					b.m.onRequested = leave
				}
				r := s.Run(context.Background())
				b.checkMoved(s, r)
				if atExit {
					require.Zero(t, r.Retractions,
						"the vCPU was held at its EXIT: the boundary is as good as the segment")
					require.False(t, b.m.port.Gate().Open)
					return
				}
				require.Equal(t, 1, r.Retractions)
				require.True(t, b.m.port.Gate().Open)
				require.GreaterOrEqual(t, r.WaitedMS, 90.0)
			})
		}
	}
}

// TestGateClosesJustBeforeARound: the engine was told that the round may begin, and then the gate
// closed. There was no round yet that could have been ended.
func TestGateClosesJustBeforeARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.port.Write(tagging.RegEnter, 4, 1)
		b.m.start()
		b.m.touch(100)
		ctx, s := b.connected(guided(RuleDowntime, GuidanceSuspend))
		s.attach()
		defer b.m.port.Detach()
		require.NoError(t, s.beforeRound(ctx))
		b.m.port.Write(tagging.RegExit, 4, 1)
		r, err := s.sendRound(ctx, PhasePreCopy)
		require.NoError(t, err)
		require.Zero(t, r.SentPages)
		b.m.port.Write(tagging.RegEnter, 4, 1)
		r, err = s.sendRound(ctx, PhasePreCopy)
		require.NoError(t, err)
		require.EqualValues(t, 100, r.SentPages, "once it is open again")
	})
}

// TestLateTaskHasNoSay: without a task at the beginning the rule alone decides, also
// if one registers later.
func TestLateTaskHasNoSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, func(g *guest) {
			if g.step == 50 {
				g.m.port.Write(tagging.RegRegister, 4, 1)
			}
			g.writeRange(0, 30)
		})
		defer b.close()
		b.m.touch(600)
		b.m.start()
		s := b.source(guided(RuleXen, GuidanceSwitchover))
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Equal(t, GuidanceNone, r.Guidance)
		require.False(t, b.m.port.Gate().Open)
		require.Zero(t, r.WaitedMS)
		require.False(t, r.Forced)
	})
}

// TestUnregisteringOpensTheGate: a task that ends does not block the others.
func TestUnregisteringOpensTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, func(g *guest) {
			switch g.step {
			case 0:
				g.enter(1)
				g.m.port.Write(tagging.RegRegister, 4, 2)
			case 500:
				g.m.port.Write(tagging.RegUnregister, 4, 2)
			}
			g.writeRange(0, 5)
		})
		defer b.close()
		b.m.start()
		time.Sleep(1500 * time.Microsecond)
		s := b.source(guided(RuleXen, GuidanceSwitchover))
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.InDelta(t, 500, float64(b.m.steps), 20)
	})
}

// TestGateAny: one task inside is enough under the policy any.
func TestGateAny(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, func(g *guest) {
			if g.step == 0 {
				g.enter(1)
				g.m.port.Write(tagging.RegRegister, 4, 2)
			}
		})
		defer b.close()
		b.m.start()
		time.Sleep(1500 * time.Microsecond)
		p := guided(RuleXen, GuidanceSwitchover)
		p.Gate = tagging.Any
		s := b.source(p)
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Zero(t, r.WaitedMS)
	})
}

// TestGuestSeesTheDeadline: the register counts down while a closed gate holds the migration back,
// and is 0 without one.
func TestGuestSeesTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []uint32
		b := newEnds(t, func(g *guest) {
			if g.step == 0 {
				g.m.port.Write(tagging.RegRegister, 4, 1)
			}
			g.writeRange(0, 5)
			if ms := g.m.port.Read(tagging.RegDeadlineMS, 4); len(seen) == 0 ||
				ms != seen[len(seen)-1] {
				seen = append(seen, ms)
			}
		})
		defer b.close()
		b.m.start()
		time.Sleep(1500 * time.Microsecond)
		p := guided(RuleXen, GuidanceSwitchover)
		p.MaxDefer, p.OnTimeout = 300*time.Millisecond, TimeoutForce
		s := b.source(p)
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.True(t, r.Forced)
		require.EqualValues(t, []uint32{0, 300}, seen[:2], "nothing was deferred yet")
		require.Greater(t, len(seen), 250)
		for i := 2; i < len(seen); i++ {
			require.Less(t, seen[i], seen[i-1])
		}
		require.LessOrEqual(t, seen[len(seen)-1], uint32(1))
	})
}
