package migration

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/peer"
	"taskguide/transport"
)

// requireOneRunner checks that both ends never run the guest.
func (b *ends) requireOneRunner() {
	b.t.Helper()
	require.False(b.t, b.m.isRunning() && b.in.ran.Load(), "two runners")
}

// TestSilenceAfterCommit: silence is not an answer, however long it lasts. The network swallows
// everything, even the connection's end, from the moment at which the destination runs the guest.
func TestSilenceAfterCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.start()
		on := set(false)
		b.swallow(on, set(true))
		b.in.onRun = func() { on.Store(true) }
		s := b.source(Params{})
		r := s.Run(context.Background())
		b.requireOneRunner()
		b.checkMoved(s, r)
		require.Less(t, r.DowntimeMS, 10_000.0, "it asks after seconds")
	})
}

// TestDoubtIsKept: without an answer the source neither resumes nor gives up. It asks until it gets
// an answer, even if that takes a day.
func TestDoubtIsKept(t *testing.T) {
	for name, paused := range map[string]bool{"running": false, "paused": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, busy(0, 5))
				defer b.close()
				b.m.start()
				if b.paused = paused; paused {
					require.NoError(t, b.m.Pause())
				}
				on, reachable := set(false), set(false)
				b.swallow(on, reachable)
				b.in.onRun = func() { on.Store(true) }
				s := b.source(Params{})
				r := s.Run(context.Background())
				require.Equal(t, FateUnknown, s.Fate())
				require.ErrorContains(t, errors.New(r.Error), "the destination is asked on")
				settled := make(chan Fate)
				ctx, cancel := context.WithTimeout(context.Background(), 25*time.Hour)
				defer cancel()
				go func() {
					fate, err := s.Settle(ctx)
					require.NoError(t, err)
					settled <- fate
				}()
				time.Sleep(24 * time.Hour)
				require.False(t, b.m.isRunning(), "it may run here")
				reachable.Store(true)
				require.Equal(t, FateMoved, <-settled)
				require.ErrorIs(t, s.Force(context.Background()), ErrMoved)
				b.requireOneRunner()
				require.True(t, b.in.ran.Load())
				require.Equal(t, StatusCompleted, s.Report().Status)
				require.Empty(t, s.Report().Error)
				for _, over := range s.Report().Standstills {
					require.Equal(t, "moved", over.Ended)
				}
				require.Equal(t, paused, len(s.Report().Standstills) == 0)
			})
		})
	}
}

// TestDoubtOutlastsItsAsking: a source that stops asking knows as little as before, so its guest
// stays paused. A later question is still answered.
func TestDoubtOutlastsItsAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.start()
		on, reachable := set(false), set(false)
		b.swallow(on, reachable)
		b.in.onRun = func() { on.Store(true) }
		s := b.source(Params{})
		s.Run(context.Background())
		require.Equal(t, FateUnknown, s.Fate())
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		fate, err := s.Settle(ctx)
		require.NoError(t, err)
		require.Equal(t, FateUnknown, fate)
		require.False(t, b.m.isRunning(), "it may run there")
		reachable.Store(true)
		fate, err = s.Settle(context.Background())
		require.NoError(t, err)
		require.Equal(t, FateMoved, fate)
		b.requireOneRunner()
	})
}

// TestForce: Force refuses until the destination cannot start the guest any more, whether or not
// the commit arrived.
func TestForce(t *testing.T) {
	for name, test := range map[string]struct {
		arrives bool // whether the commit arrives
		asleep  time.Duration
	}{
		"commit is lost":   {},
		"commit is read":   {arrives: true},
		"this host sleeps": {asleep: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, busy(0, 5))
				defer b.close()
				b.m.start()
				on := set(false)
				b.dial = once(tamper(b, func(typ transport.Type) action {
					on.Store(on.Load() || typ == transport.TypeCommit)
					if typ == transport.TypeCommit && !test.arrives {
						return drop
					}
					return pass
				}, func(transport.Type) action {
					if on.Load() {
						return drop
					}
					return pass
				}))
				b.in.onRun = func() { time.Sleep(time.Second) }
				s := b.source(Params{})
				begin := time.Now()
				s.Run(context.Background())
				require.Equal(t, FateUnknown, s.Fate())
				settled := make(chan Fate)
				go func() {
					fate, err := s.Settle(context.Background())
					require.NoError(t, err)
					settled <- fate
				}()
				for test.asleep == 0 && time.Since(begin) < peer.Lifetime+peer.Margin {
					err := s.Force(context.Background())
					require.ErrorIs(t, err, ErrTooEarly, "%v", time.Since(begin))
					require.ErrorContains(t, err, "wait ")
					require.ErrorContains(t, err, "not that it did not")
					require.False(t, b.m.isRunning())
					time.Sleep(100 * time.Millisecond)
				}
				b.asleep.Add(int64(test.asleep))
				require.NoError(t, s.Force(context.Background()))
				require.Equal(t, FateStays, <-settled)
				require.True(t, b.m.isRunning())
				// The wait cannot prove this, as the documents say.
				require.Equal(t, test.arrives, b.in.ran.Load())
			})
		})
	}
}

// TestForceWhileItStarts: the wait says nothing of a destination that answers that it is about to
// run the guest, however long that takes.
func TestForceWhileItStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.start()
		b.in.onRun = func() { time.Sleep(4 * (peer.Lifetime + peer.Margin)) }
		s := b.source(Params{})
		s.Run(context.Background())
		require.Equal(t, FateUnknown, s.Fate())
		time.Sleep(peer.Lifetime + peer.Margin)
		err := s.Force(context.Background())
		require.ErrorIs(t, err, ErrTooEarly)
		require.ErrorContains(t, err, "it is about to decide (3)")
		require.False(t, b.m.isRunning())
		fate, err := s.Settle(context.Background())
		require.NoError(t, err)
		require.Equal(t, FateMoved, fate)
		b.requireOneRunner()
	})
}

// TestCommitInAQueue: the destination does not read the commit for a while, and answers pending
// until then. The source must not resume on that, because the commit is still under way. After a
// fence it resumes, and the commit comes too late.
func TestCommitInAQueue(t *testing.T) {
	for name, test := range map[string]struct {
		late  time.Duration
		moved bool
	}{
		"not for long":    {peer.AskAfter + peer.AskInterval, true},
		"fenced":          {2 * peer.AskAfter, false},
		"beyond lifetime": {2 * peer.Lifetime, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, busy(0, 5))
				defer b.close()
				b.m.start()
				b.dial = tamper(b, func(typ transport.Type) action {
					if typ == transport.TypeCommit {
						time.Sleep(test.late)
					}
					return pass
				}, nil)
				s := b.source(Params{})
				r := s.Run(context.Background())
				time.Sleep(test.late)
				b.requireOneRunner()
				if test.moved {
					b.checkMoved(s, r)
				} else {
					b.checkStays(s, r)
					require.Less(t, r.Standstills[0].MS, 10_000.0, "seconds, not the lifetime")
				}
			})
		})
	}
}

// pending returns a rogue whose destination has sent prepared and was not told to run yet.
func pending(b *ends) rogue {
	r := accepted(b, 1)
	r.extents()
	r.flush(0)
	r.send(transport.TypeState, r.state())
	h := r.next()
	require.Equal(b.t, transport.TypePrepared, h.Type)
	require.EqualValues(b.t, peer.Lifetime.Milliseconds(), h.Arg)
	return r
}

// ask asks how a rogue's migration ended.
func (r rogue) ask(purpose transport.Purpose) transport.Outcome {
	r.b.t.Helper()
	h := r.hello
	h.Purpose = purpose
	nc, err := knock(r.b, h)
	require.NoError(r.b.t, err)
	defer nc.Close()
	answer, err := transport.NewConn(nc).Next()
	require.NoError(r.b.t, err)
	require.Equal(r.b.t, transport.TypeOutcome, answer.Type)
	return transport.Outcome(answer.Arg)
}

// TestFence: a fence turns pending into discarded, and is answered once the copy is gone. A commit
// that comes later, or was already read, runs nothing.
func TestFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		r := pending(b)
		require.Equal(t, transport.OutcomePending, r.ask(transport.PurposeQuery))
		b.in.discardTakes = time.Second
		begin := time.Now()
		require.Equal(t, transport.OutcomeDiscarded, r.ask(transport.PurposeFence))
		require.Equal(t, time.Second, time.Since(begin), "answered once the copy is gone")
		require.True(t, b.in.discarded.Load())
		require.Error(t, r.main.WriteMessage(transport.TypeCommit, 0, nil), "nobody reads it")
		require.False(t, b.in.ran.Load())
		require.Equal(t, transport.OutcomeDiscarded, r.ask(transport.PurposeFence))
		s := b.source(Params{})
		b.checkMoved(s, s.Run(context.Background()))
	})
}

// TestFenceThatTakesLong: the fence holds, though its sender is told to ask again.
func TestFenceThatTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		r := pending(b)
		b.in.discardTakes = fenceTimeout + time.Second
		require.Equal(t, transport.OutcomePending, r.ask(transport.PurposeFence))
		require.Equal(t, transport.OutcomeDiscarded, r.ask(transport.PurposeFence))
		require.False(t, b.in.ran.Load())
		r.main.Close()
	})
}

// TestLastLook: the check between the commit and the guest's first instruction decides. A fence
// that came before it wins, and one that comes after it does nothing. The same holds for the
// lifetime.
func TestLastLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Duration(0)
		fence := func(d *admission, a *attempt) <-chan transport.Outcome {
			answer := make(chan transport.Outcome, 1)
			go func() {
				o, known := d.outcome(transport.Hello{Purpose: transport.PurposeFence, ID: a.id})
				require.True(t, known)
				answer <- o
			}()
			synctest.Wait()
			return answer
		}
		admitted := func() (*admission, *attempt) {
			d := newAdmission(func() time.Duration { return now })
			a, err := d.admit(transport.Hello{Channels: 1}, transport.Terms{})
			require.NoError(t, err)
			a.until = now + peer.Lifetime
			return d, a
		}

		d, a := admitted()
		answer := fence(d, a)
		require.ErrorIs(t, d.start(a), errFenced)
		require.Empty(t, answer, "the copy is not gone yet")
		d.conclude(a, transport.OutcomeDiscarded)
		require.Equal(t, transport.OutcomeDiscarded, <-answer)

		d, a = admitted()
		now += peer.Lifetime - 1
		require.NoError(t, d.start(a))
		require.Equal(t, transport.OutcomeStarting, <-fence(d, a))
		require.False(t, a.fenced)

		d, a = admitted()
		now += peer.Lifetime
		require.ErrorIs(t, d.start(a), errExpired)
		o, known := d.outcome(transport.Hello{Purpose: transport.PurposeQuery, ID: a.id})
		require.True(t, known)
		require.Equal(t, transport.OutcomePending, o)
	})
}

// TestFenceWhileItStarts: a fence that comes while the guest starts is too late.
func TestFenceWhileItStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		r := pending(b)
		b.in.onRun = func() {
			require.Equal(t, transport.OutcomeStarting, r.ask(transport.PurposeQuery))
			require.Equal(t, transport.OutcomeStarting, r.ask(transport.PurposeFence))
		}
		r.send(transport.TypeCommit, nil)
		require.Equal(t, transport.TypeRunning, r.next().Type)
		require.Equal(t, transport.OutcomeRunning, r.ask(transport.PurposeFence))
		r.main.Close()
	})
}

// TestDigestsMustBeEqual: a destination whose source has other digests does not send prepared.
func TestDigestsMustBeEqual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		r := accepted(b, 1)
		r.extents()
		r.flush(0)
		require.NoError(t, r.main.WriteMessage(transport.TypeState, stateVerify, r.state()))
		ofRAM := transport.Header{Type: transport.TypeDigests, Length: 16, Arg: digestRAM}
		require.Equal(t, ofRAM, r.next())
		h, err := r.main.Next()
		require.NoError(t, err)
		require.Equal(t, transport.TypeDigests, h.Type)
		require.Equal(t, digestAll, h.Arg)
		sums, err := r.main.ReadMessage(h)
		require.NoError(t, err)
		sums[0]++
		r.send(transport.TypeDigests, sums)
		require.Equal(t, transport.TypeError, r.next().Type)
		require.False(t, b.in.ran.Load())
		r.main.Close()
	})
}

// TestLifetime: a destination that was not told to run in time discards the guest by itself,
// whether or not this host slept. A commit that comes too late runs nothing.
func TestLifetime(t *testing.T) {
	t.Run("nobody says anything", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, idle)
			defer b.close()
			b.m.start()
			r := pending(b)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go r.main.KeepAlive(ctx) // keep-alives do not prolong the lifetime
			defer time.AfterFunc(2*peer.Lifetime, func() { r.main.Close() }).Stop()
			begin := time.Now()
			r.requireDiscarded(peer.Lifetime, "not told to run the guest within 30s")
			require.Equal(t, peer.Lifetime, time.Since(begin))
		})
	})
	t.Run("the host slept", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, idle)
			defer b.close()
			b.m.start()
			r := pending(b)
			time.Sleep(100 * time.Millisecond)
			b.asleep.Add(int64(peer.Lifetime))
			// The commit comes before any timer fires, so only the last look can refuse it.
			r.send(transport.TypeCommit, nil)
			r.requireDiscarded(0, "not told to run the guest within 30s")
			require.True(t, b.in.discarded.Load())
		})
	})
	t.Run("the host slept, and nobody says anything", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, idle)
			defer b.close()
			b.m.start()
			r := pending(b)
			b.asleep.Add(int64(peer.Lifetime))
			// A timer would begin to count only now.
			r.requireDiscarded(peer.Pace, "not told to run the guest within 30s")
		})
	})
	t.Run("the last moment", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, idle)
			defer b.close()
			b.m.start()
			r := pending(b)
			time.Sleep(peer.Lifetime - time.Millisecond)
			r.send(transport.TypeCommit, nil)
			require.Equal(t, transport.TypeRunning, r.next().Type)
			r.main.Close()
		})
	})
}

// TestPreparedIsLate: a source that learns of it too late takes the switchover back rather
// than risk a doubt.
func TestPreparedIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.start()
		b.sourceClock = func() time.Duration { // every look costs a while
			b.asleep.Add(int64(peer.CommitWithin))
			return b.clock()
		}
		s := b.source(Params{})
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.False(t, s.Committed())
		require.Contains(t, r.Error, "the destination was prepared 10s ago and waits for 30s")
	})
}

// TestAnswersForLife: a destination tells how it ended for as long as its guest lives there.
func TestAnswersForLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.start()
		id := b.identified()
		s := b.source(Params{})
		b.checkMoved(s, s.Run(context.Background()))
		b.stop() // the guest outlives Serve's context
		time.Sleep(100 * 24 * time.Hour)
		r := rogue{b, transport.Hello{Channels: 1, ID: *id}, nil}
		require.Equal(t, transport.OutcomeRunning, r.ask(transport.PurposeQuery))
	})
}
