package migration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
)

// phased is a guest like the embedded one's workload: busy for a while, rewriting
// ws pages, then cool, rewriting hot, tagged while it is cool.
type phased struct {
	ws, hot    int
	busy, cool int // ms
	offset     int // ms into the cycle at which it begins, 0: busy begins
	task       uint32
}

func (ph phased) script() func(*guest) {
	return func(g *guest) {
		at := (g.step + ph.offset) % (ph.busy + ph.cool)
		switch {
		case at == 0 && g.step > 0:
			g.exit(ph.task)
		case g.step == 0:
			g.m.port.Write(tagging.RegRegister, 4, ph.task)
			if at >= ph.busy {
				g.enter(ph.task)
			}
		case at == ph.busy:
			g.enter(ph.task)
		}
		if at < ph.busy {
			g.writeRange(g.step%2*ph.ws/2, ph.ws/2)
		} else {
			g.writeRange(0, ph.hot)
		}
	}
}

// A link of 100 Mbit/s takes 3 pages a ms. 600 pages of working set are 200 ms.
var usual = phased{ws: 600, hot: 60, busy: 300, cool: 300, task: 1}

func guided(rule Rule, g Guidance) Params {
	return Params{
		Rule: rule, Guidance: g, BitsPerSecond: 100 * mbit, Compress: CompressNone,
		DowntimeLimit: 30 * time.Millisecond,
	}
}

// stepState tells, of a moment in the guest's life, whether it was inside.
func (ph phased) inside(step int) bool {
	return (step+ph.offset)%(ph.busy+ph.cool) >= ph.busy
}

// TestGuidedModesAtManyOffsets: requested at any point of the cycle, under either
// rule, a guided migration switches over inside a segment or at its end, with few
// pages; the unguided one sometimes does not.
func TestGuidedModesAtManyOffsets(t *testing.T) {
	t.Parallel()
	for _, rule := range []Rule{RuleXen, RuleDowntime} {
		for _, mode := range []Guidance{GuidanceSuspend, GuidanceSwitchover, GuidanceStart, GuidanceOff} {
			for _, atExit := range []bool{true, false} {
				if atExit && (mode == GuidanceStart || mode == GuidanceOff) {
					continue // it has no say there
				}
				t.Run(fmt.Sprintf("%s %s at-exit=%v", rule, mode, atExit), func(t *testing.T) {
					worst := int64(0)
					for offset := 0; offset < 600; offset += 200 {
						synctest.Test(t, func(t *testing.T) {
							ph := usual
							ph.offset = offset
							b := newBed(t, ph.script())
							defer b.close()
							b.m.touch(600)
							b.m.manual = offset%400 == 0
							b.m.start()
							time.Sleep(2 * time.Millisecond)
							p := guided(rule, mode)
							p.SwitchAtExit = &atExit
							if rule == RuleDowntime && mode == GuidanceOff {
								p.DowntimeLimit = 200 * time.Millisecond // or it never ends in a busy phase
							}
							s := b.source(p)
							r := s.Run(context.Background())
							b.checkMoved(s, r)
							worst = max(worst, r.PagesStopCopy)
							require.Equal(t, mode, r.Guidance)
							require.False(t, r.Forced)
							if mode == GuidanceSuspend || mode == GuidanceSwitchover {
								requireCheap(t, ph, b.m, r)
							}
							if mode != GuidanceSuspend {
								require.Zero(t, r.Suspensions)
							}
						})
					}
					switch mode {
					case GuidanceOff:
						require.Greater(t, worst, int64(300), "the baseline must have hit a busy phase")
					case GuidanceSuspend, GuidanceSwitchover:
						require.LessOrEqual(t, worst, int64(130))
					}
				})
			}
		}
	}
}

// requireCheap: the vCPU stood still inside a segment, or right at its EXIT.
func requireCheap(t *testing.T, ph phased, m *fakeMachine, r Report) {
	t.Helper()
	atExit := (m.steps+ph.offset)%(ph.busy+ph.cool) == 0
	require.True(t, ph.inside(m.steps) || atExit, "stopped at step %d, outside (%s)", m.steps, r.SwitchoverReason)
	open := m.port.Gate().Open
	require.True(t, open || atExit, "the gate was closed (%s)", r.SwitchoverReason)
	last := r.Rounds[len(r.Rounds)-1]
	require.Equal(t, PhaseStopCopy, last.Phase)
}

// TestStartWaitsForTheGate: no page is sent before.
func TestStartWaitsForTheGate(t *testing.T) {
	for _, mode := range []Guidance{GuidanceStart, GuidanceSuspend} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, usual.script())
			defer b.close()
			b.m.start()
			time.Sleep(100*time.Millisecond + 500*time.Microsecond)
			s := b.source(guided(RuleDowntime, mode))
			done := make(chan Report)
			go func() { done <- s.Run(context.Background()) }()
			time.Sleep(190 * time.Millisecond)
			r := s.Report()
			require.Equal(t, PhaseWaiting, r.Phase)
			require.Empty(t, r.Rounds)
			require.EqualValues(t, tagging.StateWaiting, b.m.port.Read(tagging.RegState, 4))
			require.False(t, b.m.tracker.logging(), "dirty logging slows a guest for nothing")
			final := <-done
			b.checkMoved(s, final)
			require.InDelta(t, 200, final.WaitedMS, 3)
			require.True(t, final.Rounds[0].GateOpen)
		})
	}
}

// TestPausedBeforeAClosedGate: a guest that its user has paused cannot open the gate,
// and it is all the same to it when it moves.
func TestPausedBeforeAClosedGate(t *testing.T) {
	for _, mode := range []Guidance{GuidanceStart, GuidanceSuspend, GuidanceSwitchover} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, usual.script())
			defer b.close()
			b.m.start()
			time.Sleep(100 * time.Millisecond)
			require.NoError(t, b.m.Pause())
			b.paused = true
			s := b.source(guided(RuleDowntime, mode))
			r := s.Run(context.Background())
			b.checkMoved(s, r)
			require.True(t, b.in.paused)
			require.False(t, b.m.port.Gate().Open)
			require.Zero(t, r.WaitedMS+r.SuspendedMS)
			require.Equal(t, mode, r.Guidance)
			require.Len(t, r.Warnings, 1)
			require.Contains(t, r.Warnings[0], "paused")
		})
	}
}

// TestSuspendStopsTheStream: while the gate is closed not a page is sent, though
// dirty logging and the connection live on; several times in a row.
func TestSuspendStopsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 900 pages of RAM take 300 ms, a segment lasts 50.
		ph := phased{ws: 60, hot: 2, busy: 5000, cool: 50, offset: 5000, task: 9}
		b := newBed(t, ph.script())
		defer b.close()
		b.m.touch(900)
		b.m.start()
		time.Sleep(1500 * time.Microsecond)
		s := b.source(guided(RuleXen, GuidanceSuspend))
		done := make(chan Report)
		go func() { done <- s.Run(context.Background()) }()
		suspended := 0
		for range 3 {
			for s.Report().Phase != PhaseSuspended {
				time.Sleep(time.Millisecond)
			}
			before := s.Report()
			require.EqualValues(t, tagging.StateSuspended, b.m.port.Read(tagging.RegState, 4))
			time.Sleep(4 * time.Second)
			after := s.Report()
			require.Equal(t, PhaseSuspended, after.Phase)
			require.Less(t, after.BytesWire-before.BytesWire, int64(200), "only keep-alives")
			require.Positive(t, after.BytesWire-before.BytesWire, "the connection is kept alive")
			require.True(t, b.m.tracker.logging())
			suspended++
			for s.Report().Phase == PhaseSuspended {
				time.Sleep(time.Millisecond)
			}
		}
		r := <-done
		b.checkMoved(s, r)
		require.GreaterOrEqual(t, r.Suspensions, suspended)
		require.InDelta(t, float64(r.Suspensions)*5000, r.SuspendedMS, 100)
		requireCheap(t, ph, b.m, r)
		// What the segments sent adds up: nothing was sent while suspended.
		for _, round := range r.Rounds {
			require.True(t, round.GateOpen, "round %d began before a closed gate", round.N)
		}
	})
}

// TestSuspendEndsWithinAFrame: when the gate closes, at most the frame under way
// still goes out on each channel.
func TestSuspendEndsWithinAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ph := phased{ws: 60, hot: 2, busy: 5000, cool: 50, offset: 5000, task: 9}
		b := newBed(t, ph.script())
		defer b.close()
		b.m.touch(4000)
		b.m.start()
		time.Sleep(1500 * time.Microsecond)
		s := b.source(guided(RuleXen, GuidanceSuspend))
		var closed atomic.Int64
		observe := s.observe
		s.observe = func(e Event) {
			observe(e)
			if e.Kind == EventGate && !e.GateOpen {
				closed.CompareAndSwap(0, s.bytesWire())
			}
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		done := make(chan Report)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(time.Second)
		after := s.bytesWire()
		require.Positive(t, closed.Load())
		require.LessOrEqual(t, after-closed.Load(), int64(66<<10), "more than a frame was sent after the gate had closed")
		cancel(ErrCancelled)
		b.checkStays(s, <-done)
	})
}

// TestMaxDefer: a guest cannot hold its host hostage.
func TestMaxDefer(t *testing.T) {
	never := phased{ws: 60, hot: 2, busy: 1 << 30, cool: 1, task: 3}
	rarely := phased{ws: 60, hot: 2, busy: 700, cool: 30, offset: 700, task: 3}
	for name, ph := range map[string]phased{"the gate never opens": never, "the gate flaps": rarely} {
		for _, mode := range []Guidance{GuidanceStart, GuidanceSuspend, GuidanceSwitchover} {
			for _, onTimeout := range []OnTimeout{TimeoutForce, TimeoutCancel} {
				t.Run(fmt.Sprintf("%s %s %s", name, mode, onTimeout), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b := newBed(t, ph.script())
						defer b.close()
						b.m.touch(900)
						b.m.start()
						time.Sleep(1500 * time.Microsecond)
						p := guided(RuleXen, mode)
						p.MaxDefer, p.OnTimeout = 2*time.Second, onTimeout
						p.SwitchAtExit = off()
						s := b.source(p)
						r := s.Run(context.Background())
						if ph == rarely && (mode == GuidanceStart || mode == GuidanceSwitchover) {
							// It begins at once, or needs the gate for a moment only.
							b.checkMoved(s, r)
							return
						}
						held := r.WaitedMS + r.SuspendedMS
						if onTimeout == TimeoutCancel {
							b.checkStays(s, r)
							require.Equal(t, StatusCancelled, r.Status)
							require.Contains(t, r.Error, "held back by the gate for too long")
							require.InDelta(t, 2000, held, 50)
							return
						}
						b.checkMoved(s, r)
						require.True(t, r.Forced)
						require.Contains(t, r.SwitchoverReason, "forced after 2s")
						require.InDelta(t, 2000, held, 50)
					})
				})
			}
		}
	}
}

// TestMaxDeferCountsRounds: while the gate holds a migration back, the time of its
// rounds counts too, be they ever so long, also when the gate opens and closes all
// the time, so that no round is wholly before an open one.
func TestMaxDeferCountsRounds(t *testing.T) {
	for name, flaps := range map[string]bool{"closed": false, "flapping": true} {
		for _, rule := range []Rule{RuleXen, RuleDowntime} {
			t.Run(fmt.Sprintf("%s %s", name, rule), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBed(t, func(g *guest) {
						g.writeRange(300*(g.step%3), 300) // 900 pages are a round of 300 ms
						switch {
						case flaps && g.step%2 == 0:
							g.exit(1)
						case flaps:
							g.enter(1)
						}
					})
					defer b.close()
					b.m.port.Write(tagging.RegRegister, 4, 1)
					b.m.touch(900)
					b.m.start()
					p := guided(rule, GuidanceSwitchover)
					p.MaxRounds, p.MaxDefer, p.SwitchAtExit = 3, 2*time.Second, off()
					s := b.source(p)
					var satisfied time.Time // the rule, after 3 rounds
					observe := s.observe
					s.observe = func(e Event) {
						observe(e)
						if e.Kind == EventRound && e.Round.N == 3 {
							satisfied = e.Time
						}
					}
					r := s.Run(context.Background())
					b.checkMoved(s, r)
					require.True(t, r.Forced)
					require.Contains(t, r.SwitchoverReason, "forced after 2s")
					require.InDelta(t, 2000, r.WaitedMS, 10)
					require.InDelta(t, 2000, ms(b.m.wantedAt.Sub(satisfied)), 10)
					if rule == RuleDowntime {
						require.EqualValues(t, 900, r.Rounds[1].SentPages, "only a suspension cuts a round of pre-copy")
					}
					if !flaps {
						require.Zero(t, r.Retractions)
					}
				})
			})
		}
	}
}

// TestWaitedEndsWhenTheGateOpens: with an open gate the rule alone decides, and what
// it takes is no waiting.
func TestWaitedEndsWhenTheGateOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(g *guest) {
			switch {
			case g.step == 500:
				g.enter(1)
			case g.step > 500 && g.step < 1500:
				g.writeRange(300*(g.step%3), 300)
			default:
				g.writeRange(0, 10)
			}
		})
		defer b.close()
		b.m.port.Write(tagging.RegRegister, 4, 1)
		b.m.touch(900)
		b.m.start()
		p := guided(RuleDowntime, GuidanceSwitchover)
		p.SwitchAtExit = off()
		s := b.source(p)
		observe := s.observe
		s.observe = func(e Event) {
			observe(e)
			if e.Kind == EventGate {
				// The segment's first writes are there before the engine looks.
				b.m.tracker.mark(4000)
				for page := range 900 {
					b.m.tracker.mark(page)
				}
			}
		}
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Greater(t, b.m.steps, 1500)
		require.InDelta(t, 500-300, r.WaitedMS, 20)
	})
}

// TestExitBetweenRounds: at an EXIT that comes while no round is under way, what the
// next round would send counts.
func TestExitBetweenRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var flash atomic.Bool
		flashed := -1
		b := newBed(t, func(g *guest) {
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
		observe := s.observe
		s.observe = func(e Event) {
			observe(e)
			if e.Kind == EventRound && e.Phase == PhaseHeld {
				flash.Store(true) // 600 pages are pending, and none is dirty but those
			}
		}
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Positive(t, flashed)
		require.Less(t, r.PagesStopCopy, int64(50), r.SwitchoverReason)
	})
}

// TestGateOpensDuringAHeldRound: the rounds that follow are those of pre-copy.
func TestGateOpensDuringAHeldRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opened atomic.Bool
		b := newBed(t, func(g *guest) {
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
		observe := s.observe
		state := tagging.StateNone
		s.observe = func(e Event) {
			observe(e)
			if e.Kind == EventRound && e.Phase == PhasePreCopy && opened.Load() {
				state = tagging.MigrationState(b.m.port.Read(tagging.RegState, 4))
			}
		}
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Equal(t, tagging.StatePreCopy, state)
		var held Round // the last such
		for _, round := range r.Rounds {
			if round.Phase == PhaseHeld {
				held = round
				require.False(t, round.GateOpen, "round %d", round.N)
			}
		}
		require.Less(t, held.SentPages+held.SkippedPages, held.DirtyPages, "a new round sends what was dirtied before once")
		require.LessOrEqual(t, r.PagesStopCopy, int64(60))
	})
}

// TestGateClosesInTheDecisionWindow: between the decision and the standstill.
func TestGateClosesInTheDecisionWindow(t *testing.T) {
	for _, window := range []string{"before the vCPUs are asked", "before they stand still"} {
		for _, atExit := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				// A second task, of another vCPU so to speak, leaves its segment while the
				// first vCPU is coming to a stand.
				b := newBed(t, func(g *guest) {
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
						time.AfterFunc(100*time.Millisecond, func() { b.m.port.Write(tagging.RegEnter, 4, 2) })
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
					require.Zero(t, r.Retractions, "the vCPU was held at its EXIT: the boundary is as good as the segment")
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

// limited is a guided source under the downtime rule, whose limit some 900 pages fit.
func limited(b *bed) *Source {
	p := guided(RuleDowntime, GuidanceSwitchover)
	p.DowntimeLimit = 300 * time.Millisecond
	s := b.source(p)
	s.guided, s.bandwidth = true, 12.5e6
	return s
}

// TestClosedGateIsNoGamble: a rule that is satisfied before a closed gate waits for
// it. That the next, busy round leaves more says nothing of polishing: when the gate
// opens, rounds that shrink still go on before the switchover.
func TestClosedGateIsNoGamble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, idle)
		defer b.close()
		s := limited(b)
		require.Equal(t, hold, s.decide(roundEnd{dirty: 2000, remaining: 500}))
		require.Equal(t, goOn, s.decide(roundEnd{dirty: 500, remaining: 2000}))
		s.gateOpen = true
		require.Equal(t, goOn, s.decide(roundEnd{dirty: 2000, remaining: 500, open: true}), "a round more leaves fewer")
		require.Equal(t, switchOver, s.decide(roundEnd{dirty: 500, remaining: 500, open: true}))
	})
}

// TestOpeningIsPolished: a round that the gate's opening cut short leaves most of what
// the busy phase had dirtied. That it shrank little is no reason to stop there.
func TestOpeningIsPolished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, idle)
		defer b.close()
		s := limited(b)
		s.gateOpen = true
		require.Equal(t, goOn, s.decide(roundEnd{dirty: 900, remaining: 800}))
		require.Equal(t, switchOver, s.decide(roundEnd{dirty: 800, remaining: 790, open: true}), "that is as few as it gets")
	})
}

// TestSwitchAtExit: the rule is satisfied when the segment ends, and the
// switchover happens right there.
func TestSwitchAtExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The xen rule gives up only after 29 rounds, which the segment does not last;
		// at its end few pages are dirty.
		ph := phased{ws: 300, hot: 0, busy: 400, cool: 130, offset: 390, task: 4}
		b := newBed(t, func(g *guest) {
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

// TestHeldAtExitEndsTheRound: what is left of the round goes with the stop-and-copy,
// it does not go first while the vCPU is held.
func TestHeldAtExitEndsTheRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last atomic.Bool
		leaveAt := -1
		b := newBed(t, func(g *guest) {
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
		observe := s.observe
		s.observe = func(e Event) {
			observe(e)
			if e.Kind == EventRound && e.Round.N == 3 {
				last.Store(true) // 600 pages go now, and no more are dirtied
			}
		}
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Contains(t, r.SwitchoverReason, "EXIT")
		require.Less(t, r.Downtime.PauseMS, 6.0, "a frame lasts 5 ms")
		require.InDelta(t, 480, float64(r.PagesStopCopy), 40)
	})
}

// TestLateTaskHasNoSay: without a task at the beginning the rule alone decides, also
// if one registers later.
func TestLateTaskHasNoSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(g *guest) {
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
		b := newBed(t, func(g *guest) {
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
		b := newBed(t, func(g *guest) {
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

// TestCooperation: a guest that reads STATE brings its segment forward.
func TestCooperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inside := false
		b := newBed(t, func(g *guest) {
			if g.step == 0 {
				g.m.port.Write(tagging.RegRegister, 4, 1)
			}
			waits := g.m.port.Read(tagging.RegState, 4) == uint32(tagging.StateWaiting)
			if waits && !inside {
				inside = true
				g.enter(1)
			}
		})
		defer b.close()
		b.m.start()
		time.Sleep(1500 * time.Microsecond)
		s := b.source(guided(RuleDowntime, GuidanceStart))
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Less(t, r.WaitedMS, 5.0)
	})
}

// TestFlappingGates: a thousand migrations (with the race detector; a hundred
// without) of guests that tag at random, with
// every mode, rule and timeout, some of them cancelled: no deadlock, no lost page,
// no two runners. The seed makes them the same every time.
func TestFlappingGates(t *testing.T) {
	t.Parallel()
	n := 100
	if raceDetector {
		n = 1000
	}
	statuses := map[Status]int{}
	for seed := range n {
		synctest.Test(t, func(t *testing.T) { statuses[flap(t, uint64(seed))]++ })
	}
	t.Logf("%d migrations: %v", n, statuses)
	require.Positive(t, statuses[StatusCompleted])
	require.Positive(t, statuses[StatusCancelled])
	require.Zero(t, statuses[StatusFailed])
}

func flap(t *testing.T, seed uint64) Status {
	rnd := rand.New(rand.NewPCG(seed, 99))
	guestRnd := rand.New(rand.NewPCG(seed, 77))
	depth := map[uint32]int{}
	b := newBed(t, func(g *guest) {
		for range guestRnd.IntN(3) {
			task := uint32(guestRnd.IntN(3))
			switch {
			case g.step == 0 || guestRnd.IntN(40) == 0:
				g.m.port.Write(tagging.RegUnregister, 4, task)
				depth[task] = 0
			case depth[task] > 0 && guestRnd.IntN(2) == 0:
				depth[task]--
				g.exit(task)
			default:
				depth[task] = min(depth[task]+1, 3)
				g.enter(task)
			}
		}
		g.writeRange(guestRnd.IntN(200), guestRnd.IntN(12))
	})
	defer b.close()
	b.m.touch(300)
	b.m.manual = rnd.IntN(2) == 0
	b.m.start()
	time.Sleep(time.Duration(rnd.IntN(5000)) * time.Microsecond)
	p := Params{
		Rule:          []Rule{RuleXen, RuleDowntime}[rnd.IntN(2)],
		Guidance:      []Guidance{GuidanceOff, GuidanceStart, GuidanceSuspend, GuidanceSwitchover}[rnd.IntN(4)],
		Gate:          []tagging.Policy{tagging.All, tagging.Any}[rnd.IntN(2)],
		OnTimeout:     []OnTimeout{TimeoutForce, TimeoutCancel}[rnd.IntN(2)],
		MaxDefer:      time.Duration(1+rnd.IntN(300)) * time.Millisecond,
		DowntimeLimit: time.Duration(1+rnd.IntN(30)) * time.Millisecond,
		BitsPerSecond: int64(50+rnd.IntN(1000)) * mbit,
		MaxRounds:     20 + rnd.IntN(100),
		Channels:      1 + rnd.IntN(3),
		Compress:      []Compress{CompressAuto, CompressZstd, CompressNone}[rnd.IntN(3)],
		Delta:         rnd.IntN(3) == 0,
		Verify:        true,
	}
	if rnd.IntN(2) == 0 {
		p.SwitchAtExit = on()
	}
	s := b.source(p)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	if rnd.IntN(5) == 0 {
		time.AfterFunc(time.Duration(rnd.IntN(300))*time.Millisecond, func() { cancel(ErrCancelled) })
	}
	r := s.Run(ctx)
	if s.Fate() == FateMoved {
		b.checkMoved(s, r)
		if p.Guidance == GuidanceSuspend || p.Guidance == GuidanceSwitchover {
			info := b.m.port.Snapshot()
			open := p.Gate == tagging.All && info.GateAll || p.Gate == tagging.Any && info.GateAny
			require.True(t, open || r.Forced || r.Guidance == GuidanceNone || strings.Contains(r.SwitchoverReason, "EXIT"), "stop-and-copy with the gate closed: %s", r.SwitchoverReason)
		}
	} else {
		b.checkStays(s, r)
	}
	return r.Status
}

// TestStopAndCopyIsComplete: whatever stops its round short, the guest does not go
// with pages missing.
func TestStopAndCopyIsComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, busy(0, 30))
		defer b.close()
		b.m.touch(200)
		b.m.start()
		s := b.source(guided(RuleDowntime, GuidanceOff))
		observe := s.observe
		s.observe = func(e Event) {
			observe(e)
			if e.Kind == EventPhase && e.Phase == PhaseStopCopy {
				// The last round begins after this and takes 10 ms.
				time.AfterFunc(3*time.Millisecond, func() { s.stopRound.Store(true) })
			}
		}
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Contains(t, r.Error, "pages were not sent")
	})
}

// TestNoPatienceIsToldAsNone: who asked not to wait at all is not told of a nanosecond.
func TestNoPatienceIsToldAsNone(t *testing.T) {
	require.Equal(t, "0s", Params{MaxDefer: time.Nanosecond}.deferLimit().String())
	require.Equal(t, "1.5s", Params{MaxDefer: 1500 * time.Millisecond}.deferLimit().String())
}
