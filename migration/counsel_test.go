package migration

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/policy"
	"taskguide/migration/program"
	"taskguide/tagging"
)

// counsellor stands for a program. Its answers come from a test's function, which may sleep.
type counsellor struct {
	answer func(m program.Message) *policy.Action
	lost   func(error)
	ending time.Duration // that Close takes
	mu     sync.Mutex    // guards everything below
	closed bool
	told   []program.Message
	asked  []program.Message
	atExit []program.Message
}

func (c *counsellor) Ask(m program.Message, within time.Duration) (*policy.Action, error) {
	return c.ask(m, within, &c.asked)
}

func (c *counsellor) TryAsk(m program.Message, within time.Duration) (*policy.Action, error) {
	return c.ask(m, within, &c.atExit)
}

func (c *counsellor) ask(m program.Message, within time.Duration, list *[]program.Message) (
	*policy.Action, error,
) {
	c.mu.Lock()
	if *list = append(*list, m); c.closed {
		c.mu.Unlock()
		return nil, errors.New("closed")
	}
	c.mu.Unlock()
	begin := time.Now()
	a := c.answer(m)
	if time.Since(begin) > within {
		return nil, nil
	}
	return a, nil
}

func (c *counsellor) Tell(m program.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, m)
}

func (c *counsellor) Close() {
	time.Sleep(c.ending)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// advised is a source that a program leads, or that has it for a shadow.
func advised(b *ends, p Params, answer func(m program.Message) *policy.Action) (
	*Source, *counsellor,
) {
	c := &counsellor{answer: answer}
	s := b.source(p)
	s.counsel.LaunchBy(func(path string, _ *slog.Logger, lost func(error)) (program.Asked, error) {
		require.Equal(b.t, "/p", path)
		c.lost = lost
		return c, nil
	})
	return s, c
}

func says(v policy.Verb) *policy.Action { return &policy.Action{Verb: v, Reason: "it says so"} }

// TestProgramLeads: a program decides, and nothing of the engine or the tag port is locked while it
// thinks.
func TestProgramLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, usual.script())
		defer b.close()
		b.m.touch(600)
		b.m.start()
		var s *Source
		s, c := advised(b, guided("exec:/p", GuidanceOff),
			func(m program.Message) *policy.Action {
				s.Report()
				b.m.port.Write(0xffc, 4, 0)              // takes the port's locks
				s.gateChanged(gateOf(s.head.GateOpen())) // and a transition the engine's
				if m.Event == policy.KindRound && m.N == 4 {
					return says(policy.Switchover)
				}
				return says(policy.Continue)
			})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Equal(t, "it says so", r.SwitchoverReason)
		require.EqualValues(t, "exec", r.Rule)
		require.Equal(t, "exec:/p", r.Policy)
		require.Empty(t, r.PolicyError)
		require.Len(t, r.Rounds, 5)
		require.True(t, c.closed)
		require.Equal(t, policy.KindStart, c.asked[0].Event)
		require.Equal(t, 1, c.asked[0].Tasks)
		require.Equal(t, 30.0, c.asked[0].DowntimeLimitMS)
		for i, m := range c.asked[1:] {
			require.Equal(t, policy.KindRound, m.Event)
			require.Equal(t, r.Rounds[i], *m.Round, "all fields of the report's round")
		}
		require.Equal(t, policy.KindStanding, c.told[len(c.told)-1].Event)
	})
}

// TestProgramAtExits: a guest that closes its gate all the time stands still for a program for 5 ms
// in 100 at most, even if that never answers in time.
func TestProgramAtExits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inside := true
		b := newEnds(t, func(g *guest) {
			if inside {
				g.exit(1)
			} else {
				g.enter(1)
			}
			inside = !inside
			g.writeRange(0, 600)
		})
		defer b.close()
		b.m.port.Write(tagging.RegEnter, 4, 1)
		b.m.touch(600)
		b.m.start()
		var held time.Duration
		var first, last time.Time
		s, c := advised(b, guided("exec:/p", GuidanceSwitchover),
			func(m program.Message) *policy.Action {
				switch {
				case m.Event == policy.KindGate:
					last = time.Now()
					if first.IsZero() {
						first = last
					}
					held += 5 * time.Millisecond
					time.Sleep(5*time.Millisecond + 1)
				case m.Event == policy.KindRound && m.NowMS > 4000:
					return says(policy.Abort)
				}
				return says(policy.Continue)
			})
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Contains(t, r.Error, "it says so")
		span := last.Sub(first)
		require.Greater(t, len(c.atExit), 20)
		require.LessOrEqual(t, held, span/20+5*time.Millisecond)
		for i, m := range c.atExit[1:] {
			require.GreaterOrEqual(t, m.NowMS-c.atExit[i].NowMS, 100.0)
		}
	})
}

// TestProgramSwitchesAtAnExit: its answer counts at the EXIT for which it was asked.
func TestProgramSwitchesAtAnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, usual.script())
		defer b.close()
		b.m.touch(600)
		b.m.start()
		var s *Source
		s, c := advised(b, guided("exec:/p", GuidanceSwitchover),
			func(m program.Message) *policy.Action {
				time.Sleep(3 * time.Millisecond)
				s.Report()
				b.m.port.Write(0xffc, 4, 0) // nothing is locked at an EXIT, either
				if m.Event == policy.KindGate {
					return says(policy.Switchover)
				}
				return says(policy.Continue)
			})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Equal(t, "it says so, at the segment's EXIT", r.SwitchoverReason)
		requireCheap(t, usual, b.m, r)
		require.Len(t, c.atExit, 1)
		require.Equal(t, policy.GateClosing, c.atExit[0].Gate)
	})
}

// TestProgramLost: wherever a migration waits for the sake of its program, the default policy takes
// its place once the program is lost, or has led for as long as it may.
func TestProgramLost(t *testing.T) {
	for name, until := range map[string]policy.Action{
		"continue": {}, "wait": {Verb: policy.Wait, Until: 1000 * time.Hour},
		"suspend": {Verb: policy.Suspend},
	} {
		for _, by := range []string{"limit", "death"} {
			t.Run(name+" "+by, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newEnds(t, busy(0, 20))
					defer b.close()
					b.m.touch(300)
					b.m.start()
					p := Params{Rule: "exec:/p", BitsPerSecond: 100 * mbit}
					p.PolicyLimit = 2 * time.Second
					s, c := advised(b, p, func(program.Message) *policy.Action { return &until })
					if by == "death" {
						time.AfterFunc(time.Second, func() { c.lost(errors.New("it is dead")) })
					}
					r := s.Run(context.Background())
					b.checkMoved(s, r)
					want, ms := "it has led for 2s", 2000.0
					if by == "death" {
						want, ms = "it is dead", 1000
					}
					require.Equal(t, want, r.PolicyError)
					require.Equal(t, 300.0, r.DowntimeFixed.LimitMS, "the default policy's")
					require.Contains(t, r.Warnings[len(r.Warnings)-1], want)
					require.Contains(t, r.Warnings[len(r.Warnings)-1], "downtime decides")
					require.NotEmpty(t, r.SwitchoverReason)
					require.InDelta(t, ms, r.TotalMS, 500)
					require.True(t, c.closed)
				})
			})
		}
	}
}

// TestFarewellIsNotMeasured: a program may take a while to end, when the guest has long been
// running elsewhere.
func TestFarewellIsNotMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 20))
		defer b.close()
		b.m.start()
		s, c := advised(b, Params{Rule: "exec:/p"}, func(program.Message) *policy.Action {
			return says(policy.Switchover)
		})
		c.ending = time.Minute
		begin := time.Now()
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Equal(t, ms(time.Since(begin)-c.ending), r.TotalMS)
	})
}

// TestProgramIsLate: an answer that does not come in time counts as continue, and delays a round by
// no more than the time for it.
func TestProgramIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 20))
		defer b.close()
		b.m.start()
		n := 0
		s, _ := advised(b, Params{Rule: "exec:/p"}, func(m program.Message) *policy.Action {
			if n++; n < 10 {
				time.Sleep(program.AnswerTime + 1)
			}
			return says(policy.Switchover)
		})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.GreaterOrEqual(t, r.RoundCount(), 9)
	})
}

// TestProgramIsGuided: it cannot lift what guidance, patience and the standstill limit hold.
func TestProgramIsGuided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 20))
		defer b.close()
		b.m.port.Write(tagging.RegRegister, 4, 1) // and never enters
		b.m.start()
		p := guided("exec:/p", GuidanceSwitchover)
		p.MaxDefer = 3 * time.Second
		s, _ := advised(b, p, func(m program.Message) *policy.Action {
			a := says(policy.Switchover)
			a.GaveUp = true
			return a
		})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.True(t, r.Forced)
		require.GreaterOrEqual(t, r.DeferredMS, 3000.0, "the gate was closed")
	})
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 2000))
		defer b.close()
		b.m.touch(2000)
		b.m.start()
		p := guided("exec:/p", GuidanceOff)
		p.StandstillLimit, p.StandstillRetries = 100*time.Millisecond, 2
		s, _ := advised(b, p, func(program.Message) *policy.Action {
			return says(policy.Switchover)
		})
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Len(t, r.Standstills, 2)
		for _, st := range r.Standstills {
			require.InDelta(t, 100, st.MS, 30)
		}
	})
}

// TestProgramThatWaitsWithAHeldGuest: what a program says between rounds does not count once a vCPU
// is held at its EXIT, because the guest stands still for it.
func TestProgramThatWaitsWithAHeldGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 20))
		defer b.close()
		b.m.port.Write(tagging.RegEnter, 4, 1)
		b.m.touch(300)
		b.m.start()
		var s *Source
		held := 0
		s, _ = advised(b, guided("exec:/p", GuidanceSwitchover),
			func(m program.Message) *policy.Action {
				switch m.Event {
				case policy.KindRound:
					return says(policy.Wait)
				case policy.KindGate:
					a := says(policy.Switchover)
					a.GaveUp = true // so the standstill has no limit
					return a
				case policy.KindTick:
					exits := askedListener{gateListener{s}}
					if exits.GateMayClose(); exits.GateClosing() {
						held++
					}
					return &policy.Action{Verb: policy.Wait, Until: 1000 * time.Hour}
				}
				return says(policy.Continue)
			})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Equal(t, 1, held)
		require.Equal(t, "it says so, at the segment's EXIT", r.SwitchoverReason)
		require.Less(t, r.DowntimeMS, 1000.0)
	})
}

// TestProgramThatDoesNotStart: the migration fails, and the guest stays.
func TestProgramThatDoesNotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 20))
		defer b.close()
		b.m.start()
		s := b.source(Params{Rule: "exec:/nowhere/at-all"})
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Equal(t, StatusFailed, r.Status)
		require.Contains(t, r.Error, "policy program /nowhere/at-all: ")
	})
}

// TestShadows: they change nothing of a migration, and the report says what they would have done.
func TestShadows(t *testing.T) {
	var reports []Report
	for _, shadow := range []string{"", "xen:max-rounds=2,polish=on,downtime:limit=20ms,exec:/p"} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, usual.script())
			defer b.close()
			b.m.touch(600)
			b.m.start()
			p := guided(RuleXen, GuidanceSwitchover)
			p.Shadow = shadow
			s, c := advised(b, p, func(m program.Message) *policy.Action {
				if m.Completed >= 3 {
					return says(policy.Switchover)
				}
				return says(policy.Continue)
			})
			r := s.Run(context.Background())
			b.checkMoved(s, r)
			reports = append(reports, r)
			for i, m := range c.asked {
				// A program that knows the leader's start must not fail as a shadow.
				require.Equal(t, i == 0, m.Opening != nil, "%d: %s", i, m.Event)
			}
			if shadow != "" {
				require.NotEmpty(t, c.asked)
				require.InDelta(t, ms(s.p.downtimeLimit()), c.asked[0].DowntimeLimitMS, 1e-9)
				require.Equal(t, GuidanceSwitchover, c.asked[0].Guidance)
			}
		})
	}
	without, with := reports[0], reports[1]
	require.Empty(t, without.Shadows)
	require.Equal(t, without.Rounds, with.Rounds)
	require.Equal(t, without.SwitchoverReason, with.SwitchoverReason)
	require.Len(t, with.Shadows, 3)
	for i, want := range []struct {
		name   string
		round  int
		gaveUp bool
	}{
		{"xen:max-rounds=2,polish=on", 2, true}, {"downtime:limit=20ms", 0, false},
		{"exec:/p", 3, false},
	} {
		shadow := with.Shadows[i]
		require.Equal(t, want.name, shadow.Policy)
		require.Greater(t, shadow.Asked, 2)
		require.NotEmpty(t, shadow.Decisions, want.name)
		d := shadow.Decisions[0]
		require.Equal(t, "switchover", d.Action)
		require.Equal(t, want.gaveUp, d.GaveUp)
		if want.round > 0 {
			require.Equal(t, want.round, d.Round)
		}
	}
}

// TestProgramsInOrders: what an order may say about them.
func TestProgramsInOrders(t *testing.T) {
	for _, p := range []Params{
		{Rule: "exec:p"}, {Rule: "exec:"}, {Rule: "exec:/p", PolicyLimit: -1}, {Shadow: "best"},
		{Shadow: "exec:p"}, {Shadow: "xen,xen,xen,xen,xen,xen,xen,xen,xen"}, {Shadow: "xen,"},
	} {
		p.Destination = "tcp:h:1"
		_, err := p.WithDefaults()
		require.Error(t, err, "%+v", p)
	}
	p, err := Params{Destination: "tcp:h:1", Rule: "exec:/p,x=y:z"}.WithDefaults()
	require.NoError(t, err)
	require.Equal(t, DefaultDowntimeLimit, p.DowntimeLimit)
}
