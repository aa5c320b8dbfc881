package migration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
)

// trace is what a guest does and when, whatever happens to it, so that a migration without guidance
// sees the same guest.
type trace struct {
	touched int // pages with content at the beginning
	base    int // pages that it rewrites all the time, one a step
	bursts  []burst
	flips   []int // steps at which the gate changes; it begins closed
	after   int   // steps from the end of a round to a burst of its own, 0: none
	size    int   // pages of that burst, which also closes and opens the gate
}

type burst struct{ from, steps, pages int }

// randomTrace returns a guest whose rest at any time is at most so many pages.
func randomTrace(rnd *rand.Rand, most int) trace {
	tr := trace{touched: 100 + rnd.IntN(700), base: 1 + rnd.IntN(40)}
	for at := 0; at < 8000; {
		b := burst{from: at + rnd.IntN(400), steps: 1 + rnd.IntN(300), pages: 1 + rnd.IntN(most)}
		tr.bursts = append(tr.bursts, b)
		at = b.from + b.steps
	}
	open, closed := []int{3, 30, 300}[rnd.IntN(3)], []int{3, 30, 300, 3000}[rnd.IntN(4)]
	for at := rnd.IntN(2 * closed); at < 60000; {
		tr.flips = append(tr.flips, at)
		if at += 1 + rnd.IntN(2*closed); len(tr.flips)%2 == 1 {
			at = tr.flips[len(tr.flips)-1] + 1 + rnd.IntN(2*open)
		}
	}
	if rnd.IntN(2) == 0 {
		tr.after, tr.size = 5+rnd.IntN(40), 1+rnd.IntN(most)
	}
	return tr
}

// script is the trace as a guest's program; fresh tells that a round has ended.
func (tr trace) script(fresh *atomic.Bool) func(*guest) {
	inside, due := false, tr.after // the first burst is in round 1
	flip := func(g *guest) {
		if inside = !inside; inside {
			g.enter(1)
		} else {
			g.exit(1)
		}
	}
	return func(g *guest) {
		if g.step == 0 {
			g.m.port.Write(tagging.RegRegister, 4, 1)
		}
		g.write(g.step % tr.base)
		for _, b := range tr.bursts {
			if g.step >= b.from && g.step < b.from+b.steps {
				g.writeRange(0, b.pages)
			}
		}
		if _, found := slices.BinarySearch(tr.flips, g.step); found {
			flip(g)
		}
		if fresh.Swap(false) && tr.after > 0 {
			due = g.step + tr.after
		}
		if tr.after > 0 && g.step == due {
			g.writeRange(0, tr.size)
			flip(g)
			flip(g)
		}
	}
}

// play migrates the trace's guest and returns the report, and how long after the order
// the guest was asked to stand still.
func (tr trace) play(t *testing.T, p Params, manual bool) (r Report, after time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		var fresh atomic.Bool
		b := newEnds(t, tr.script(&fresh))
		defer b.close()
		b.m.touch(tr.touched)
		b.m.tracker.onDemand = manual
		b.m.start()
		time.Sleep(1500 * time.Microsecond)
		s := b.source(p)
		b.onEvent = func(e Notice) {
			if e.Kind == NoticeRound {
				fresh.Store(true)
			}
		}
		ordered := time.Now()
		ctx, cancel := context.WithTimeoutCause(context.Background(), 10*time.Minute, ErrCancelled)
		defer cancel()
		r = s.Run(ctx)
		b.checkMoved(s, r)
		after = b.m.wantedAt.Sub(ordered)
		require.LessOrEqual(t, r.WaitedMS+r.SuspendedMS, r.DeferredMS+0.001)
		require.LessOrEqual(t, r.DeferredMS, r.TotalMS)
	})
	return r, after
}

// TestGuidanceDefersByMaxDeferAtMost: over random guests, whose tags open and close the
// gate at any pace and without any regard to what they write, a guided migration
// switches over at most MaxDefer and one round later than the same migration of the
// same guest without guidance does.
//
// The rule alone could end the migration at any time: what this guest leaves fits the
// limit after any round, or the rule gives up after some rounds.
func TestGuidanceDefersByMaxDeferAtMost(t *testing.T) {
	t.Parallel()
	later, held, forced := 0, 0, 0
	for seed := range 90 {
		rnd := rand.New(rand.NewPCG(uint64(seed), 5))
		p := Params{
			Rule:          []Rule{RuleDowntime, RuleDowntime, RuleXen}[seed%3],
			BitsPerSecond: 100 * mbit,
			Compress:      CompressNone,
			MaxDefer:      time.Duration(1+rnd.IntN(800)) * time.Millisecond,
			Verify:        true,
		}
		most := 700
		if seed%3 == 0 {
			p.DowntimeLimit = time.Duration(20+rnd.IntN(200)) * time.Millisecond
			most = int(p.DowntimeLimit/time.Millisecond) * 5 / 2 // of 3 pages a ms
		} else {
			p.MaxRounds = 1 + rnd.IntN(6)
			p.DowntimeLimit = time.Duration(1+rnd.IntN(100)) * time.Millisecond
		}
		if rnd.IntN(2) == 0 {
			p.SwitchAtExit = off()
		}
		tr := randomTrace(rnd, most)
		manual := rnd.IntN(2) == 0
		p.Guidance = GuidanceOff
		unguided, judge := tr.play(t, p, manual)
		p.Guidance = GuidanceSwitchover
		guided, got := tr.play(t, p, manual)
		round := 0.0
		for _, r := range slices.Concat(unguided.Rounds, guided.Rounds) {
			round = max(round, r.MS)
		}
		atMost := ms(judge+p.MaxDefer) + round + 25 // and what the frames under way take
		require.LessOrEqual(t, ms(got), atMost,
			"seed %d: without guidance after %v; max-defer %v, longest round %.0f ms; %+v",
			seed, judge, p.MaxDefer, round, guided)
		if got > judge {
			later++
		}
		if guided.WaitedMS > 0 {
			held++
		}
		if guided.Forced {
			forced++
		}
	}
	t.Logf("of 90, %d were deferred, %d before a closed gate, %d to the limit", later, held, forced)
	require.Greater(t, later, 30, "or the traces ask for nothing")
	require.Greater(t, held, 30)
	require.Greater(t, forced, 15)
}

// TestPolishingCounts: after rounds in which the gate closed and opened again, further rounds are
// always worth a try. These rounds are due to guidance, though the gate is hardly ever closed.
func TestPolishingCounts(t *testing.T) {
	tr := trace{touched: 600, base: 1, after: 30, size: 250, flips: []int{0}}
	for _, onTimeout := range []OnTimeout{TimeoutForce, TimeoutCancel} {
		t.Run(string(onTimeout), func(t *testing.T) {
			p := guided(RuleDowntime, GuidanceSwitchover)
			p.DowntimeLimit, p.MaxDefer, p.OnTimeout = 95*time.Millisecond, 2*time.Second, onTimeout
			r, after := tr.play(t, p, false)
			require.InDelta(t, 2000, r.DeferredMS, 100)
			require.Less(t, after, 3*time.Second)
			require.Less(t, r.WaitedMS, 10.0, "the gate was closed for some instants")
			require.False(t, r.Forced, "the gate is open: to leave it at that is all it takes")
			require.NotContains(t, r.SwitchoverReason, "forced")
			require.Greater(t, len(r.Rounds), 10, fmt.Sprint(r.SwitchoverReason))
		})
	}
}

// TestMaxDefer: a guest cannot hold its host hostage.
func TestMaxDefer(t *testing.T) {
	never := phased{ws: 60, hot: 2, busy: 1 << 30, cool: 1, task: 3}
	rarely := phased{ws: 60, hot: 2, busy: 700, cool: 30, offset: 700, task: 3}
	for name, ph := range map[string]phased{
		"the gate never opens": never, "the gate flaps": rarely,
	} {
		for _, mode := range []Guidance{GuidanceStart, GuidanceSuspend, GuidanceSwitchover} {
			for _, onTimeout := range []OnTimeout{TimeoutForce, TimeoutCancel} {
				t.Run(fmt.Sprintf("%s %s %s", name, mode, onTimeout), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b := newEnds(t, ph.script())
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
// rounds counts too, however long they are. It also counts when the gate opens and closes
// all the time, so that the gate is open during some part of every round.
func TestMaxDeferCountsRounds(t *testing.T) {
	for name, flaps := range map[string]bool{"closed": false, "flapping": true} {
		for _, rule := range givingUp(t) {
			t.Run(fmt.Sprintf("%s %s", name, rule), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newEnds(t, func(g *guest) {
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
					b.onEvent = func(e Notice) {
						if e.Kind == NoticeRound && e.Round.N == 3 {
							satisfied = e.Time
						}
					}
					r := s.Run(context.Background())
					b.checkMoved(s, r)
					require.True(t, r.Forced)
					require.Contains(t, r.SwitchoverReason, "forced after 2s")
					require.InDelta(t, 2000, r.DeferredMS, 10)
					wantWaited := 2000.0
					if flaps {
						wantWaited /= 2 // the gate is closed half of the time
					}
					require.InDelta(t, wantWaited, r.WaitedMS, 10)
					require.InDelta(t, 2000, ms(b.m.wantedAt.Sub(satisfied)), 10)
					if rule == RuleDowntime {
						require.EqualValues(t, 900, r.Rounds[1].SentPages,
							"only a suspension cuts a round of pre-copy")
					}
					if !flaps {
						require.Zero(t, r.Retractions)
					}
				})
			})
		}
	}
}

// TestWaitedEndsWhenTheGateOpens: with an open gate the rule alone decides, and its time does not
// count as waiting. It counts as deferred, because without guidance the migration would be over by
// then.
func TestWaitedEndsWhenTheGateOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, func(g *guest) {
			switch {
			case g.step == 500:
				// The segment's first writes come before the gate opens, because the engine may
				// look at the very moment at which it opens.
				g.writeRange(0, 900)
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
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Greater(t, b.m.steps, 1500)
		require.InDelta(t, 500-300, r.WaitedMS, 20)
		require.InDelta(t, b.m.steps-300, r.DeferredMS, 20)
	})
}
