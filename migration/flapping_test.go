package migration

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
)

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
	b := newEnds(t, func(g *guest) {
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
	b.m.tracker.onDemand = rnd.IntN(2) == 0
	b.m.start()
	time.Sleep(time.Duration(rnd.IntN(5000)) * time.Microsecond)
	rules := givingUp(t)
	modes := []Guidance{GuidanceOff, GuidanceStart, GuidanceSuspend, GuidanceSwitchover}
	p := Params{
		Rule:          rules[rnd.IntN(len(rules))],
		Guidance:      modes[rnd.IntN(4)],
		Gate:          []tagging.Quorum{tagging.All, tagging.Any}[rnd.IntN(2)],
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
		after := time.Duration(rnd.IntN(300)) * time.Millisecond
		time.AfterFunc(after, func() { cancel(ErrCancelled) })
	}
	r := s.Run(ctx)
	if s.Fate() == FateMoved {
		b.checkMoved(s, r)
		if p.Guidance == GuidanceSuspend || p.Guidance == GuidanceSwitchover {
			info := b.m.port.Snapshot()
			open := p.Gate == tagging.All && info.GateAll || p.Gate == tagging.Any && info.GateAny
			atExit := strings.Contains(r.SwitchoverReason, "EXIT")
			require.True(t, open || r.Forced || r.Guidance == GuidanceNone || atExit,
				"stop-and-copy with the gate closed: %s", r.SwitchoverReason)
		}
	} else {
		b.checkStays(s, r)
	}
	return r.Status
}
