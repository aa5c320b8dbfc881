package migration

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/peer"
)

// TestStopAndCopyIsComplete: if something cuts its round short, the guest does not move without the
// missing pages.
func TestStopAndCopyIsComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 30))
		defer b.close()
		b.m.touch(200)
		b.m.start()
		s := b.source(guided(RuleDowntime, GuidanceOff))
		b.onEvent = func(e Notice) {
			if e.Kind == NoticePhase && e.Phase == PhaseStopCopy {
				// The last round begins after this and takes 10 ms.
				time.AfterFunc(3*time.Millisecond, func() { s.stream.Stop() })
			}
		}
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Contains(t, r.Error, "pages were not sent")
	})
}

// TestNoCommitOnceSpent: once the limit is spent nothing is committed, whatever the engine's
// goroutine has seen of it.
func TestNoCommitOnceSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		ctx, s := b.connected(Params{})
		st, _, err := s.pause()
		require.NoError(t, err)
		s.spend(st)
		require.ErrorIs(t, s.commit(ctx, st), errTakenBack)
		require.False(t, s.Committed())
		require.Equal(t, FateStays, s.Fate())
		require.True(t, b.m.isRunning())
	})
	// And once a switchover is committed it is not taken back.
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.start()
		b.in.onRun = func() { time.Sleep(20 * time.Second) }
		s := b.source(tight())
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Len(t, r.Standstills, 1)
		require.GreaterOrEqual(t, r.DowntimeMS, 20_000.0)
	})
}

// TestNothingBeginsBehindATakeBack: until the destination knows of it, no frame is begun and the
// guest is not asked to stand still again, wherever the engine was.
func TestNothingBeginsBehindATakeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		b.m.touch(100)
		ctx, s := b.connected(Params{})
		st, _, err := s.pause()
		require.NoError(t, err)
		s.spend(st)
		require.True(t, b.m.isRunning())
		_, _, err = s.pause()
		require.ErrorIs(t, err, errTakenBack)
		require.True(t, b.m.isRunning())
		r, err := s.sendRound(ctx, PhasePreCopy)
		require.NoError(t, err)
		require.Zero(t, r.SentPages)
		require.NoError(t, s.rewind(ctx))
		r, err = s.sendRound(ctx, PhasePreCopy)
		require.NoError(t, err)
		require.EqualValues(t, 100, r.SentPages, "once it knows")
	})
}

// inRealTime is a guest that writes five pages a millisecond, and a source that moves it to a
// destination, both without virtual time: a goroutine that waits for a mutex would stop that.
func inRealTime(t *testing.T, limit time.Duration) (*fakeMachine, *Source) {
	m, in := newFakeMachine(t, busy(0, 5)), &fakeIncoming{fakeMachine: newFakeMachine(t, idle)}
	ln := newMemListener()
	d := Destination{Builder: buildFunc(func([]byte) (Incoming, error) { return in, nil })}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Serve(ctx, ln)
	}()
	t.Cleanup(func() {
		m.end()
		cancel()
		ln.Close()
		<-ended
		m.ram.Close()
		in.ram.Close()
	})
	p, err := Params{
		Destination: "tcp:x:1", Channels: 1, StandstillLimit: limit,
		StandstillRetries: 1000, // on a host that has other things to do
	}.WithDefaults()
	require.NoError(t, err)
	m.start()
	return m, newSource(m, p, nil, peer.Config{Dial: ln.dial})
}

// TestTakenBackBehindTheEcho: the limit is spent after the destination has confirmed all pages,
// because saving the state takes so long. The confirmation comes once per attempt, so the source
// must not wait for another one.
func TestTakenBackBehindTheEcho(t *testing.T) {
	t.Parallel()
	m, s := inRealTime(t, 5*time.Second)
	m.onSave = func() {
		m.onSave = nil
		for !s.wasTakenBack() {
			time.Sleep(time.Millisecond)
		}
	}
	r := s.Run(context.Background())
	require.Equal(t, StatusCompleted, r.Status, r.Error)
	require.GreaterOrEqual(t, len(r.Standstills), 2)
	require.Contains(t, r.Standstills[0].Ended, "taken back after 5s")
}

// TestSpentOrCommitted: prepared and the end of the limit come at about the same time.
// One lock decides: the guest runs at exactly one place.
func TestSpentOrCommitted(t *testing.T) {
	outcomes := map[Fate]int{}
	const step = 500 * time.Microsecond
	for load := 980 * time.Millisecond; load <= 1010*time.Millisecond; load += step {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, idle)
			defer b.close()
			b.m.touch(50)
			b.m.start()
			b.in.onLoad = func() { time.Sleep(load) }
			s := b.source(tight())
			r := s.Run(context.Background())
			outcomes[s.Fate()]++
			if s.Fate() == FateMoved {
				b.checkMoved(s, r)
				return
			}
			b.checkStays(s, r)
			require.False(t, s.Committed())
		})
	}
	require.Positive(t, outcomes[FateMoved])
	require.Positive(t, outcomes[FateStays])
	require.Len(t, outcomes, 2)
}

// TestDestinationHangsLoading: from the state on the destination cannot go back, so the
// migration ends, within the limit.
func TestDestinationHangsLoading(t *testing.T) {
	for _, verify := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) { testDestinationHangs(t, verify) })
	}
}

func testDestinationHangs(t *testing.T, verify bool) {
	b := newEnds(t, busy(0, 5))
	defer b.close()
	b.m.start()
	b.in.onLoad = func() { time.Sleep(100 * time.Second) }
	buffered(b)
	p := tight()
	p.Verify = verify
	s := b.source(p)
	r := s.Run(context.Background())
	b.checkStays(s, r)
	require.Equal(t, StatusFailed, r.Status)
	require.Len(t, r.Standstills, 1)
	requireTakenBack(t, r, 1, time.Second)
	require.Contains(t, r.Error, "after 1s the destination had not loaded the state")
	require.Contains(t, r.Error, "it cannot go back from there")
	require.False(t, s.Committed())
}

// TestNetworkLostInTheSwitchover: nothing arrives any more once the guest stands still.
// It runs on within the limit, long before the connection counts as dead.
func TestNetworkLostInTheSwitchover(t *testing.T) {
	for _, phase := range []Phase{PhaseStopCopy, PhaseHandover} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, busy(0, 30))
			defer b.close()
			b.m.touch(500)
			b.m.start()
			stalled := make(chan struct{})
			b.dial = func(ctx context.Context) (net.Conn, error) {
				nc, err := b.ln.dial(ctx)
				return stallConn{nc, stalled}, err
			}
			s := b.source(tight())
			b.onEvent = func(e Notice) {
				if e.Kind == NoticePhase && e.Phase == phase {
					close(stalled)
				}
			}
			r := s.Run(context.Background())
			b.checkStays(s, r)
			require.Equal(t, StatusFailed, r.Status)
			require.Len(t, r.Standstills, 1)
			requireTakenBack(t, r, 1, time.Second)
		})
	}
}

// TestGuestDoesNotWaitForTheGoodbye: a destination that takes nothing does not hold the
// guest of a migration that was cancelled.
func TestGuestDoesNotWaitForTheGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.start()
		b.in.onLoad = func() { time.Sleep(time.Hour) }
		s := b.source(Params{StandstillLimit: NoStandstillLimit})
		ctx, cancel := context.WithCancelCause(context.Background())
		var at time.Time
		// The cancellation comes before a keep-alive is stuck, because nothing more could be sent
		// behind it.
		time.AfterFunc(time.Second, func() { at = time.Now(); cancel(ErrCancelled) })
		r := s.Run(ctx)
		b.checkStays(s, r)
		require.Less(t, b.m.resumedAt.Sub(at), 10*time.Millisecond)
	})
}
