package migration

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
)

// TestStartWaitsForTheGate: no page is sent before.
func TestStartWaitsForTheGate(t *testing.T) {
	for _, mode := range []Guidance{GuidanceStart, GuidanceSuspend} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, usual.script())
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

// TestPausedBeforeAClosedGate: a guest that its user has paused cannot open the gate, so it moves
// at once.
func TestPausedBeforeAClosedGate(t *testing.T) {
	for _, mode := range []Guidance{GuidanceStart, GuidanceSuspend, GuidanceSwitchover} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, usual.script())
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

// TestSuspendStopsTheStream: while the gate is closed no page is sent, though dirty logging and the
// connection live on. This holds several times in a row.
func TestSuspendStopsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 900 pages of RAM take 300 ms, a segment lasts 50.
		ph := phased{ws: 60, hot: 2, busy: 5000, cool: 50, offset: 5000, task: 9}
		b := newEnds(t, ph.script())
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
		b := newEnds(t, ph.script())
		defer b.close()
		b.m.touch(4000)
		b.m.start()
		time.Sleep(1500 * time.Microsecond)
		s := b.source(guided(RuleXen, GuidanceSuspend))
		var closed atomic.Int64
		b.onEvent = func(e Notice) {
			if e.Kind == NoticeGate && !e.GateOpen {
				closed.CompareAndSwap(0, s.Report().BytesWire)
			}
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		done := make(chan Report)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(time.Second)
		after := s.Report().BytesWire
		require.Positive(t, closed.Load())
		require.LessOrEqual(t, after-closed.Load(), int64(66<<10),
			"more than a frame was sent after the gate had closed")
		cancel(ErrCancelled)
		b.checkStays(s, <-done)
	})
}
