package migration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/policy"
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

// givingUp are the rules that can be told after how many rounds to give up.
func givingUp(t *testing.T) (rules []Rule) {
	for _, rule := range Rules() {
		c, err := policy.Parse(string(rule))
		require.NoError(t, err)
		if c.Value(maxRounds, nil) != "" {
			rules = append(rules, rule)
		}
	}
	return rules
}

// with returns the rule with these parameters. One that samples the dirty rate does it for a moment
// only, so that round 1 begins where the guests of tests expect it.
func (r Rule) with(params string) Rule {
	if r == "cycle" {
		params = strings.TrimSuffix("samples=8,interval=5ms,"+params, ",")
	}
	if params == "" {
		return r
	}
	return r + Rule(":"+params)
}

// inside tells whether the guest is inside its segment at a step.
func (ph phased) inside(step int) bool {
	return (step+ph.offset)%(ph.busy+ph.cool) >= ph.busy
}

// TestGuidedModesAtManyOffsets: requested at any point of the cycle, under either
// rule, a guided migration switches over inside a segment or at its end, with few
// pages; the unguided one sometimes does not.
func TestGuidedModesAtManyOffsets(t *testing.T) {
	t.Parallel()
	for _, rule := range Rules() {
		for _, mode := range []Guidance{
			GuidanceSuspend, GuidanceSwitchover, GuidanceStart, GuidanceOff,
		} {
			for _, atExit := range []bool{true, false} {
				if atExit && (mode == GuidanceStart || mode == GuidanceOff) {
					continue // guidance has no say there
				}
				if rule != RuleDowntime && rule != RuleXen && mode != GuidanceSwitchover {
					continue // what guidance does is the same for all
				}
				t.Run(fmt.Sprintf("%s %s at-exit=%v", rule, mode, atExit), func(t *testing.T) {
					worst := int64(0)
					offsets := 600
					if rule != RuleDowntime && rule != RuleXen {
						offsets = 1
					}
					for offset := 0; offset < offsets; offset += 200 {
						synctest.Test(t, func(t *testing.T) {
							ph := usual
							ph.offset = offset
							b := newEnds(t, ph.script())
							defer b.close()
							b.m.touch(600)
							b.m.tracker.onDemand = offset%400 == 0
							b.m.start()
							time.Sleep(2 * time.Millisecond)
							p := guided(rule, mode)
							p.SwitchAtExit = &atExit
							if rule == RuleDowntime && mode == GuidanceOff {
								// or it never ends in a busy phase
								p.DowntimeLimit = 200 * time.Millisecond
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
						const busy = "the baseline must have hit a busy phase"
						require.Greater(t, worst, int64(300), busy)
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
	require.True(t, ph.inside(m.steps) || atExit, "stopped at step %d, outside (%s)", m.steps,
		r.SwitchoverReason)
	open := m.port.Gate().Open
	require.True(t, open || atExit, "the gate was closed (%s)", r.SwitchoverReason)
	last := r.Rounds[len(r.Rounds)-1]
	require.Equal(t, PhaseStopCopy, last.Phase)
}

// TestCooperation: a guest that reads STATE brings its segment forward.
func TestCooperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inside := false
		b := newEnds(t, func(g *guest) {
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

// TestPolishing: rounds that shrink clearly go on though the rest fits the limit,
// unless that could miss the segment.
func TestPolishing(t *testing.T) {
	run := func(t *testing.T, p Params) (r Report) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, func(g *guest) {
				if g.step < 250 {
					g.writeRange(100, 600) // while round 1 goes on
				} else {
					g.writeRange(0, 10)
				}
			})
			defer b.close()
			b.m.port.Write(tagging.RegEnter, 4, 1)
			b.m.touch(900) // 300 ms
			b.m.start()
			p.DowntimeLimit = 300 * time.Millisecond
			s := b.source(p)
			r = s.Run(context.Background())
			b.checkMoved(s, r)
		})
		return r
	}
	r := run(t, guided(RuleDowntime, GuidanceOff))
	require.Len(t, r.Rounds, 3)
	require.EqualValues(t, 610, r.Rounds[1].DirtyPages)
	require.LessOrEqual(t, r.PagesStopCopy, int64(20))

	p := guided(RuleDowntime, GuidanceSwitchover)
	require.LessOrEqual(t, run(t, p).PagesStopCopy, int64(20), "its EXIT would be noticed")
	p.SwitchAtExit = off()
	require.EqualValues(t, 610, run(t, p).PagesStopCopy, "the segment could end")
}
