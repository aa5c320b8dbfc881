package migration

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/policy"
	"taskguide/tagging"
)

// TestTraitsOfAnyPolicy: what the engine does besides asking a policy depends on the traits alone,
// whichever policy has them.
func TestTraitsOfAnyPolicy(t *testing.T) {
	for _, rule := range Rules() {
		for _, traits := range []string{
			"skip=off,protect=page", "skip=off,protect=round", "skip=on,protect=round",
		} {
			for _, polish := range []string{"on", "off"} {
				all := rule.with(traits + ",polish=" + polish)
				t.Run(string(all), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { testTraits(t, rule, all) })
				})
			}
		}
	}
}

func testTraits(t *testing.T, rule, given Rule) {
	b := newEnds(t, func(g *guest) {
		if g.step < 900 {
			g.writeRange(2500, 150) // before their turn in round 1
			g.writeRange(0, 100)    // and after
		} else {
			g.writeRange(0, 10)
		}
	})
	defer b.close()
	b.m.port.Write(tagging.RegEnter, 4, 1)
	b.m.touch(3000) // a second
	b.m.tracker.onDemand = true
	b.m.start()
	time.Sleep(500 * time.Microsecond)
	p := guided(given, GuidanceSwitchover)
	p.DowntimeLimit = 250 * time.Millisecond // 750 pages
	s := b.source(p)
	late := 0 // pages protected in round 1 once others had been sent
	b.m.tracker.onProtect = func(int, int) {
		if r := s.Report(); r.RoundCount() == 0 && r.BytesWire > 64<<10 { // some frames
			late++
		}
	}
	r := s.Run(context.Background())
	b.checkMoved(s, r)

	require.Equal(t, rule, r.Rule)
	asked, err := policy.Parse(string(given))
	require.NoError(t, err)
	require.Equal(t, asked.String(), r.Policy)
	skipped := int64(0)
	for _, round := range r.Rounds {
		skipped += round.SkippedPages
	}
	require.Equal(t, asked.Traits().Skip, skipped > 0, "%d skipped", skipped)
	require.Equal(t, asked.Traits().Protect == policy.ProtectPage, late > 0, "%d times", late)
	if rule == RuleDowntime { // for xen, a rest worth polishing is not small enough
		require.Equal(t, asked.Traits().Polish, r.PagesStopCopy <= 20, "%d pages", r.PagesStopCopy)
	}
}
