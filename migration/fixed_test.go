package migration

import (
	"context"
	"math"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/policy"
)

// greetingTakes has every greeting take that long.
func greetingTakes(b *ends, d time.Duration) {
	dial := b.dial
	b.dial = func(ctx context.Context) (net.Conn, error) {
		nc, err := dial(ctx)
		return hookConn{nc, func(sent []byte) {
			if len(sent) == greetingBytes {
				time.Sleep(d)
			}
		}}, err
	}
}

// fixedWarnings are the warnings about what does not depend on the pages.
func fixedWarnings(r Report) (n int) {
	for _, w := range r.Warnings {
		if strings.Contains(w, "do not depend on the pages") {
			n++
		}
	}
	return n
}

// TestRoundTripsCountAgainstTheLimit: a guest leaves 100 pages after each round, which take 33 ms.
// They fit a limit of 40 ms on a short way, and not on a long one. The estimate takes at most half
// of the limit, so that a guest that leaves few pages converges on any way, with a warning where
// no page at all would fit.
func TestRoundTripsCountAgainstTheLimit(t *testing.T) {
	const short, long, endless = time.Millisecond, 4 * time.Millisecond, time.Second
	for name, test := range map[string]struct {
		rule       Rule
		pages      int
		greeting   time.Duration
		subtracted float64
		fits       bool
		warnings   int
	}{
		"a short way":                   {"downtime", 100, short, 3, true, 0},
		"a long way":                    {"downtime", 100, long, 12, false, 0},
		"few pages on a long way":       {"downtime", 75, long, 12, true, 0},
		"an endless way":                {"downtime", 75, endless, 20, false, 1},
		"few pages on an endless way":   {"downtime", 50, endless, 20, true, 1},
		"a limit of the policy's own":   {"downtime:limit=80ms", 100, long, 12, true, 0},
		"a policy without a limit":      {"xen:polish=off", 100, endless, 0, false, 0},
		"the rule that Nova's ramp is":  {"ramp:limit=40ms,steps=1", 100, long, 12, false, 0},
		"no dirty page, no limit at al": {"downtime:limit=0s", 0, endless, 0, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, busy(0, test.pages))
				defer b.close()
				b.m.touch(500)
				b.m.start()
				greetingTakes(b, test.greeting)
				p := Params{
					Rule: test.rule, BitsPerSecond: 100 * mbit, Compress: CompressNone,
					DowntimeLimit: 40 * time.Millisecond, StandstillLimit: NoStandstillLimit,
				}
				if test.rule != "xen:polish=off" {
					p.MaxRounds = 6
				}
				s := b.source(p)
				r := s.Run(context.Background())
				b.checkMoved(s, r)
				gaveUp := strings.Contains(r.SwitchoverReason, "rounds")
				require.Equal(t, test.fits, !gaveUp, r.SwitchoverReason)
				f := r.DowntimeFixed
				require.InDelta(t, 3*ms(test.greeting), f.RoundTripsMS, 0.1)
				require.InDelta(t, f.RoundTripsMS+f.HarvestMS+f.PauseMS, f.MS, 1e-9)
				require.InDelta(t, test.subtracted, f.SubtractedMS, 0.1)
				require.Contains(t, f.Source, "round trips")
				require.Equal(t, test.warnings, fixedWarnings(r), "%v", r.Warnings)
			})
		})
	}
}

// TestPauseCountsAgainstTheLimit: what a switchover that was taken back has taken to pause counts
// for the next one.
func TestPauseCountsAgainstTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 64))
		defer b.close()
		b.m.touch(500)
		b.m.start()
		k := braked(b, 2*time.Second)
		b.m.onPaused = func() {
			if !k.on.Swap(true) { // and not again, to settle the pause before the guest resumes
				time.Sleep(5 * time.Millisecond)
			}
		}
		b.m.onResumed = func() { k.on.Store(false); b.m.onPaused = nil }
		s := b.source(tight())
		ctx, cancel := withinAnHour()
		defer cancel()
		r := s.Run(ctx)
		b.checkMoved(s, r)
		requireTakenBack(t, r, 1, time.Second)
		f := r.DowntimeFixed
		require.InDelta(t, 5, f.PauseMS, 1.1, "and a step of the guest")
		require.InDelta(t, f.PauseMS, f.SubtractedMS, 0.1)
		require.Contains(t, f.Source, "taken back")
		require.Equal(t, 30.0, f.LimitMS)
	})
}

// TestHarvestCountsAgainstTheLimit: so does the time of the last harvest.
func TestHarvestCountsAgainstTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 64))
		defer b.close()
		b.m.touch(500)
		b.m.tracker.onHarvest = func() { time.Sleep(7 * time.Millisecond) }
		b.m.start()
		s := b.source(tight())
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		f := r.DowntimeFixed
		require.InDelta(t, 7, f.HarvestMS, 0.1)
		require.InDelta(t, 7, f.SubtractedMS, 0.1)
		require.Contains(t, f.Source, "harvest")
	})
}

// TestWhoTakesOverHasALimit: a program's limit is its own, but the rule that takes its place judges
// by the order's.
func TestWhoTakesOverHasALimit(t *testing.T) {
	p := Params{Destination: "unix:/x", Rule: "exec:/bin/x", DowntimeLimit: 40 * time.Millisecond}
	p, err := p.WithDefaults()
	require.NoError(t, err)
	program, err := policy.Parse("exec:/bin/x")
	require.NoError(t, err)
	require.Zero(t, p.ruleLimit(program))
	rule, err := policy.Parse("qemu")
	require.NoError(t, err)
	require.Equal(t, 40*time.Millisecond, p.ruleLimit(rule))
}

// aloneSource returns a source that nobody runs.
func aloneSource(t *testing.T, limit time.Duration) (s *Source) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		s = b.source(Params{DowntimeLimit: limit})
	})
	return s
}

// TestEndlessLimit: the longest limit that there is does not overflow.
func TestEndlessLimit(t *testing.T) {
	s := aloneSource(t, math.MaxInt64)
	s.report.DowntimeFixed.HarvestMS = 1000
	require.Equal(t, time.Second, s.fixed())
	require.InDelta(t, 1000, s.report.DowntimeFixed.SubtractedMS, 2)
	require.Equal(t, 33333333*time.Nanosecond, inTime(ms(33333333)))
	require.Zero(t, fixedWarnings(s.report))
}

// TestEstimateAtAnExit: the estimate is made while a vCPU waits at its EXIT, so it costs no memory
// once it has warned.
func TestEstimateAtAnExit(t *testing.T) {
	s := aloneSource(t, 40*time.Millisecond)
	s.report.DowntimeFixed.RoundTripsMS, s.report.DowntimeFixed.HarvestMS = 300, 1
	s.fixed()
	require.Equal(t, 1, fixedWarnings(s.report))
	require.Zero(t, testing.AllocsPerRun(100, func() { s.fixed() }))
	require.Equal(t, 1, fixedWarnings(s.report))
	require.Contains(t, s.Report().DowntimeFixed.Source, "greeting, the last harvest")
}

// TestShortestGreetingCounts: a destination may be busy when the first channel greets it.
func TestShortestGreetingCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		dial, greetings := b.dial, 0
		b.dial = func(ctx context.Context) (net.Conn, error) {
			nc, err := dial(ctx)
			return hookConn{nc, func(sent []byte) {
				if len(sent) == greetingBytes {
					greetings++
					time.Sleep([]time.Duration{0, 30, 4, 20}[greetings] * time.Millisecond)
				}
			}}, err
		}
		b.m.start()
		s := b.source(Params{Channels: 3})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.InDelta(t, 3*4, r.DowntimeFixed.RoundTripsMS, 0.1)
	})
}
