package migration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/tagging"
)

// TestGuestReleasesMemory moves guests that touch memory, give it back to the host and write it
// again at random, while rounds are being sent. No byte is wrong at the destination, and what the
// guest does without is a hole at both ends.
func TestGuestReleasesMemory(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		o := options{
			delta: seed%2 == 1, compress: CompressNone, channels: 1 + int(seed%3),
			onDemand: seed/2%2 == 1, rule: []Rule{RuleDowntime, RuleXen}[seed/4%2],
		}
		t.Run(fmt.Sprintf("seed=%d,%s", seed, o), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { releasing(t, seed, o) })
		})
	}
}

// releasingSteps is how long the guest of releasing does so, each time 20 things.
const releasingSteps = 600

// Pages that the guest of releasing gives back for good, and those that it takes back.
const (
	freedFirst, freedPages = 2 * extentPages, extentPages
	usedPages              = freedFirst
)

func releasing(t *testing.T, seed uint64, o options) {
	rnd := rand.New(rand.NewPCG(seed, 24))
	b := newEnds(t, func(g *guest) {
		switch {
		case g.step == 300:
			g.release(freedFirst, freedPages)
		case g.step == releasingSteps:
			g.enter(1)
		case g.step > releasingSteps:
			return // so that the rule is content
		}
		for range 20 {
			switch n := 1 + rnd.IntN(100); rnd.IntN(4) {
			case 0:
				g.release(rnd.IntN(usedPages-n), n)
			case 1:
				g.writeRange(rnd.IntN(usedPages-n), n)
			default:
				g.write(rnd.IntN(usedPages))
			}
		}
	})
	defer b.close()
	b.m.port.Write(tagging.RegRegister, 4, 1)
	b.m.touch(4 * extentPages)
	b.m.tracker.onDemand = o.onDemand
	b.m.start()
	p := guided(o.rule, GuidanceSwitchover)
	p.Verify, p.Delta, p.Compress, p.Channels = true, o.delta, o.compress, o.channels
	s := b.source(p)
	r := s.Run(context.Background())
	require.NotNil(t, r.Verified)
	require.True(t, *r.Verified)
	require.Zero(t, freedBacked(t, b.in.ram))
	// Pages that were on their way just then were read, which backs them.
	require.LessOrEqual(t, freedBacked(t, b.m.ram), 64*o.channels)
	b.checkMoved(s, r)
	require.Greater(t, r.PagesZero, int64(freedPages))
	require.Greater(t, len(r.Rounds), 3)
}

// freedBacked is how many of the pages that were given back for good have memory.
func freedBacked(t *testing.T, ram *memory.RAM) int {
	t.Helper()
	content := memory.NewBitmap(ram.Pages())
	require.NoError(t, ram.Allocated(content))
	return content.CountRange(freedFirst, freedPages)
}
