package migration

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
)

func TestXenRule(t *testing.T) {
	rule := newRule(Params{Rule: RuleXen, MaxRounds: 29})
	for _, test := range []struct {
		s    sample
		want verdict
	}{
		{sample{Remaining: 49, Rounds: 1, RAM: 1000}, verdict{Reason: "fewer than 50 dirty pages"}},
		{sample{Remaining: 49, Rounds: 99, RAM: 1000, Sent: 9999}, verdict{Reason: "fewer than 50 dirty pages"}},
		{sample{Remaining: 50, Rounds: 28, RAM: 1000, Sent: 3000}, verdict{}},
		{sample{Remaining: 50, Rounds: 29, RAM: 1000}, verdict{Reason: "29 rounds", GaveUp: true}},
		{sample{Remaining: 50, Rounds: 1, RAM: 1000, Sent: 3001}, verdict{Reason: "3x RAM sent", GaveUp: true}},
	} {
		require.Equal(t, test.want, rule.judge(test.s), "%+v", test.s)
	}
}

func TestDowntimeRule(t *testing.T) {
	rule := newRule(Params{Rule: RuleDowntime, DowntimeLimit: 100 * time.Millisecond, MaxRounds: 5})
	const rate = 1000 * 4096 * 10 // 1000 pages in the limit
	for _, test := range []struct {
		s    sample
		want verdict
	}{
		{sample{Remaining: 0}, verdict{Reason: "no dirty page left"}},
		{sample{Remaining: 1}, verdict{}}, // at what rate?
		{sample{Remaining: 1000, BytesPerS: rate}, verdict{Reason: "1000 dirty pages fit the downtime limit of 100ms"}},
		{sample{Remaining: 1001, BytesPerS: rate, Rounds: 4}, verdict{}},
		{sample{Remaining: 1001, BytesPerS: rate, Rounds: 5}, verdict{Reason: "5 rounds", GaveUp: true}},
	} {
		require.Equal(t, test.want, rule.judge(test.s), "%+v", test.s)
	}
	endless := newRule(Params{Rule: RuleDowntime, DowntimeLimit: 100 * time.Millisecond})
	require.Equal(t, verdict{}, endless.judge(sample{Remaining: 1001, BytesPerS: rate, Rounds: 1 << 30}))
}

func TestDrain(t *testing.T) {
	d := drain{floor: -1}
	require.True(t, d.near(49), "so few are always near enough")
	require.False(t, d.near(50), "nothing is known of this segment yet")
	d.roundDone(100)
	require.True(t, d.near(200))
	require.False(t, d.near(201))
	d.roundDone(60)
	d.roundDone(500)
	require.True(t, d.near(120))
	require.False(t, d.near(121))
	d.reset()
	require.False(t, d.near(60))

	require.True(t, shrinks(1000, 750))
	require.False(t, shrinks(1000, 751))
	require.True(t, shrinks(1000, 50))
	require.False(t, shrinks(1000, 49), "fewer are not worth a round")
}

// TestRemaining: what a switchover in the middle of a round would have to send.
func TestRemaining(t *testing.T) {
	for _, test := range []struct {
		name   string
		manual bool
		rule   Rule
		during int // pages of the round that are left; else
		before int // pages that the next one begins with
		next   int // pages harvested meanwhile
		want   int
	}{
		{"during a round", false, RuleDowntime, 30, -1, 5, 35},
		{"between rounds", false, RuleDowntime, 30, 70, 5, 75},
		{"before the first", false, RuleXen, 0, 0, 5, 5},
		// Without protection the harvest reports what is still to be sent, too.
		{"unprotected during a round", true, RuleDowntime, 30, -1, 32, 32},
		{"protected and not sent", true, RuleDowntime, 30, -1, 20, 30},
		{"unprotected between rounds", true, RuleXen, 30, 70, 71, 71},
		{"all protected", true, RuleXen, 30, -1, 5, 35},
	} {
		s := &Source{p: Params{Rule: test.rule}}
		if test.manual {
			s.protector = fakeProtector{}
		}
		s.round.reset(1, 100)
		s.round.content.Store(int64(100 - test.during))
		if test.before >= 0 {
			s.round.end(test.before)
		}
		require.Equal(t, test.want, s.remaining(test.next), test.name)
	}
}

// TestRoundsThatEndAtOnce: the gate may close, or a vCPU be held at its EXIT, just
// before a round begins.
func TestRoundsThatEndAtOnce(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Source)
		phase  Phase
		want   bool
	}{
		{"gate open", func(s *Source) { s.gateOpen = true }, PhasePreCopy, false},
		{"gate closed", func(*Source) {}, PhasePreCopy, true},
		{"gate closed, which only holds the switchover", func(s *Source) { s.p.Guidance = GuidanceSwitchover }, PhasePreCopy, false},
		{"gate closed, forced", func(s *Source) { s.forced = true }, PhasePreCopy, false},
		{"gate closed, no guidance", func(s *Source) { s.guided = false }, PhasePreCopy, false},
		{"gate closed, too late", func(*Source) {}, PhaseStopCopy, false},
		{"held at EXIT", func(s *Source) { s.gateOpen, s.atExit = true, "EXIT" }, PhasePreCopy, true},
	} {
		m := newFakeMachine(t, idle)
		p, err := guided(RuleXen, GuidanceSuspend).WithDefaults()
		require.ErrorContains(t, err, "destination")
		s := newSource(m, p, nil, nil)
		s.guided = true
		test.change(s)
		_, err = s.sendRound(context.Background(), test.phase) // without workers
		require.NoError(t, err)
		require.Equal(t, test.want, s.stopRound.Load(), test.name)
		m.ram.Close()
	}
}

// TestPolishing: rounds that shrink clearly go on though the rest fits the limit,
// unless that could miss the segment.
func TestPolishing(t *testing.T) {
	run := func(t *testing.T, p Params) (r Report) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(g *guest) {
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
