package migration

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/peer"
	"taskguide/tagging"
	"taskguide/transport"
)

// TestWhatTheLimitIsNotAbout: without an explicit limit, a switchover that was forced or whose rule
// gave up may take any time. The limit does not apply to a guest that its user paused, and
// NoStandstillLimit means none.
func TestWhatTheLimitIsNotAbout(t *testing.T) {
	gaveUp := Params{Rule: RuleXen, MaxRounds: 2, BitsPerSecond: 100 * mbit, Compress: CompressNone}
	given := gaveUp
	given.StandstillLimit = 500 * time.Millisecond
	rounds := tight()
	rounds.DowntimeLimit, rounds.MaxRounds = time.Millisecond, 2
	none := tight()
	none.StandstillLimit = NoStandstillLimit
	for name, test := range map[string]struct {
		p      Params
		paused bool
		back   time.Duration
	}{
		"the rule gave up":          {p: gaveUp},
		"it gave up after rounds":   {p: rounds},
		"a limit was given":         {p: given, back: 500 * time.Millisecond},
		"paused by its user":        {p: tight(), paused: true},
		"no limit":                  {p: none},
		"and with one all the same": {p: tight(), back: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, busy(0, 64))
				defer b.close()
				b.m.touch(500)
				b.m.start()
				k := braked(b, 2*time.Second)
				if test.paused {
					time.Sleep(5 * time.Millisecond)
					require.NoError(t, b.m.Pause())
					b.paused = true
					k.on.Store(true)
				}
				b.m.onPaused = func() { k.on.Store(true) }
				b.m.onResumed = func() { k.on.Store(false); b.m.onPaused = nil }
				s := b.source(test.p)
				ctx, cancel := withinAnHour()
				defer cancel()
				r := s.Run(ctx)
				b.checkMoved(s, r)
				if test.back > 0 {
					requireTakenBack(t, r, 1, test.back)
					return
				}
				require.Greater(t, r.DowntimeMS, 2000.0)
				if test.paused {
					require.Empty(t, r.Standstills)
				} else {
					require.Len(t, r.Standstills, 1)
				}
			})
		})
	}
	// The forced switchover is tested with a gate that is closed for good.
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 64))
		defer b.close()
		b.m.port.Write(tagging.RegRegister, 4, 1)
		b.m.touch(500)
		b.m.start()
		k := braked(b, 2*time.Second)
		b.m.onPaused = func() { k.on.Store(true) }
		p := tight()
		p.Guidance, p.MaxDefer = GuidanceSwitchover, 3*time.Second
		s := b.source(p)
		ctx, cancel := withinAnHour()
		defer cancel()
		r := s.Run(ctx)
		b.checkMoved(s, r)
		require.True(t, r.Forced)
		require.Greater(t, r.DowntimeMS, 2000.0)
		require.Len(t, r.Standstills, 1)
	})
}

// TestVerifyIsNotInTheLimit: the time for digests of RAM does not count against the limit, and is
// reported separately.
func TestVerifyIsNotInTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.start()
		b.m.onDigest = func() { time.Sleep(10 * time.Second) }
		slow := true
		b.dial = tamper(b, nil, func(typ transport.Type) action {
			if typ == transport.TypeDigests && slow { // the destination's of its RAM
				slow = false
				time.Sleep(12 * time.Second)
			}
			return pass
		})
		p := tight()
		p.Verify = true
		s := b.source(p)
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.True(t, *r.Verified)
		require.InDelta(t, 12_000, r.Downtime.VerifyMS, 100)
		require.Less(t, r.Downtime.LoadMS, 100.0)
		require.InDelta(t, r.DowntimeMS, partsOf(r.Downtime), 0.01)
	})
}

// TestSlowDigestsOfTheSource: the destination has summed up its RAM long before, and waits for as
// long as the source works, whether or not pages are left out.
func TestSlowDigestsOfTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.start()
		b.offers = transport.Spoken().Features // that pages may be left out is one of them
		b.m.onDigest = func() { time.Sleep(3 * peer.ProgressTimeout) }
		p := tight()
		p.Verify = true
		s := b.source(p)
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.True(t, *r.Verified)
	})
}

// partsOf adds up what follows one upon the other.
func partsOf(d DowntimeParts) float64 {
	return d.ExitMS + d.PauseMS + d.QuiesceMS + d.HarvestMS + d.PagesMS + d.SettleMS + d.LoadMS +
		d.VerifyMS + d.RunMS
}
