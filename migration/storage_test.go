package migration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/policy"
	"taskguide/tagging"
	"taskguide/transport"
)

// errDisk is what a machine says of a disk that the host does not serve.
var errDisk = errors.New("disk a.img")

// stuck is storage that hangs for a while, or until it is given up if that is negative.
func stuck(f time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		var over <-chan time.Time
		if f >= 0 {
			over = time.After(f)
		}
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errDisk, context.Cause(ctx))
		}
	}
}

const forEver = time.Duration(-1)

// times makes only the first n calls do f.
func times(n int, f func(context.Context) error) (func(context.Context) error, *atomic.Int64) {
	calls := new(atomic.Int64)
	return func(ctx context.Context) error {
		if calls.Add(1) > int64(n) {
			return nil
		}
		return f(ctx)
	}, calls
}

// withStorage runs f with a guest that writes little, which is moved over a slow link.
func withStorage(t *testing.T, script func(*guest), f func(t *testing.T, b *ends)) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, script)
		defer b.close()
		b.m.touch(500)
		f(t, b)
	})
}

// TestDrainThatHangs: storage that hangs before the vCPUs are asked to stop takes the switchover
// back, as often as standstills may, and never makes the guest stand still. In between, storage has
// time to recover.
func TestDrainThatHangs(t *testing.T) {
	for name, hook := range map[string]func(*fakeStorage) *func(context.Context) error{
		"drain": drainHook, "sync": syncHook,
	} {
		for _, hangs := range []int{1, 2, 3} {
			t.Run(fmt.Sprint(name, hangs), func(t *testing.T) {
				withStorage(t, busy(0, 64), func(t *testing.T, b *ends) {
					var s *Source
					*hook(&b.m.storage) = func(ctx context.Context) error {
						if len(s.Report().DrainsTakenBack) == hangs {
							return nil
						}
						return stuck(forEver)(ctx)
					}
					var paused atomic.Bool
					b.m.onPausing = func() { paused.Store(true) }
					b.m.start()
					s = b.source(tight())
					r := s.Run(context.Background())
					require.Len(t, r.DrainsTakenBack, hangs)
					for i, d := range r.DrainsTakenBack {
						require.InDelta(t, 1000, d.MS, 1)
						require.Equal(t, "taken back: disk a.img: waited for 1s", d.Ended)
						require.NotEmpty(t, d.Why)
						require.GreaterOrEqual(t, d.AtMS, float64(2000*i), "it had time to recover")
					}
					if hangs < Defaults().StandstillRetries {
						b.checkMoved(s, r)
						require.Len(t, r.Standstills, 1)
						require.Less(t, r.DowntimeMS, 100.0)
						return
					}
					b.checkStays(s, r)
					require.Equal(t, StatusFailed, r.Status)
					require.Equal(t, r.Error, "the guest's storage does not keep up: "+
						"3 switchovers were taken back, the last because disk a.img: waited for 1s")
					require.False(t, paused.Load(), "the guest never stood still")
					require.Empty(t, r.Standstills)
					require.Zero(t, r.Retractions)
					require.Empty(t, r.SwitchoverReason)
					require.Greater(t, b.m.stepCount(), 4000, "it ran on all the time")
				})
			})
		}
	}
}

// TestSlowDrainIsNoDowntime: what the devices take before the vCPUs stop is no part of the
// downtime, and the report has it in fields of its own.
func TestSlowDrainIsNoDowntime(t *testing.T) {
	withStorage(t, busy(0, 10), func(t *testing.T, b *ends) {
		b.m.storage.onSync = stuck(200 * time.Millisecond)
		b.m.storage.onDrain = stuck(300 * time.Millisecond)
		b.m.start()
		p := tight()
		p.BitsPerSecond = mbit // so that there is time for a sync during pre-copy
		p.DowntimeLimit = 500 * time.Millisecond
		s := b.source(p)
		b.m.onPaused = func() {
			require.True(t, b.m.storage.isDrained(), "no request comes any more")
		}
		b.m.storage.onRelease = stuck(40 * time.Millisecond)
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.InDelta(t, 300, r.DrainMS, 1)
		require.GreaterOrEqual(t, r.PresyncMS, 600.0, "during pre-copy, before the drain and after")
		require.InDelta(t, 40, r.Downtime.SyncMS, 1)
		require.Less(t, r.Downtime.PauseMS, 2.0)
		require.Zero(t, r.Downtime.QuiesceMS)
		require.Empty(t, r.DrainsTakenBack)
	})
}

// TestSyncAfterTheDrain: what the guest has written is made durable once more after its devices are
// drained, while it runs, because nothing is written any more from then on. So nothing of it is
// left for the standstill.
func TestSyncAfterTheDrain(t *testing.T) {
	withStorage(t, busy(0, 10), func(t *testing.T, b *ends) {
		durable := false
		b.m.storage.onSync = func(context.Context) error {
			durable = b.m.storage.isDrained()
			return nil
		}
		b.m.onPausing = func() { require.True(t, durable, "of all that was written") }
		b.m.start()
		s := b.source(tight())
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.True(t, durable)
	})
}

// TestDrainAsksAgain: the guest dirties too much while its devices are drained, so the policy wants
// further rounds. The devices work meanwhile, and nothing counts as taken back.
func TestDrainAsksAgain(t *testing.T) {
	var drains atomic.Int64
	var worked atomic.Bool
	withStorage(t, func(g *guest) {
		switch {
		case drains.Load() == 1 && g.m.storage.isDrained():
			g.writeRange(20*(g.step%30), 20)
		case drains.Load() == 1:
			worked.Store(true)
		}
	}, func(t *testing.T, b *ends) {
		b.m.storage.onDrain = func(ctx context.Context) error {
			drains.Add(1)
			return stuck(300 * time.Millisecond)(ctx)
		}
		b.m.start()
		s := b.source(tight())
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.EqualValues(t, 2, drains.Load())
		require.True(t, worked.Load())
		require.Empty(t, r.DrainsTakenBack)
		require.Zero(t, r.Retractions)
		require.Len(t, r.Standstills, 1)
		require.LessOrEqual(t, r.DowntimeMS, 30.0)
	})
}

// TestGateClosesWhileDraining: a task that leaves its segment gets its disk back at once.
func TestGateClosesWhileDraining(t *testing.T) {
	off := false
	var drains, waited atomic.Int64
	withStorage(t, func(g *guest) {
		switch {
		case g.step == 0:
			g.enter(1)
		case drains.Load() == 1 && g.m.storage.isDrained() && g.m.port.Gate().Open:
			g.exit(1)
			waited.Store(int64(g.step))
		case waited.Load() > 0 && g.step == int(waited.Load())+500:
			g.enter(1)
		case waited.Load() > 0 && g.step > int(waited.Load())+2 &&
			g.step < int(waited.Load())+500 && g.m.storage.isDrained():
			panic("the task does not get its disk back")
		}
	}, func(t *testing.T, b *ends) {
		how, _ := times(1, stuck(forEver))
		b.m.storage.onDrain = func(ctx context.Context) error {
			drains.Add(1)
			return how(ctx)
		}
		b.m.port.Write(tagging.RegRegister, 4, 1)
		b.m.start()
		p := guided(RuleDowntime, GuidanceSwitchover)
		p.SwitchAtExit = &off
		s := b.source(p)
		reason := make(chan string, 1)
		go func() {
			for waited.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(100 * time.Millisecond)
			reason <- s.Report().SwitchoverReason
		}()
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Empty(t, <-reason, "no switchover has begun")
		require.EqualValues(t, 2, drains.Load())
		require.Equal(t, 1, r.Retractions)
		require.Empty(t, r.DrainsTakenBack)
	})
}

// leaver is a task that leaves its segment once left is set, and comes back 300 ms later.
func leaver(left *atomic.Bool) func(*guest) {
	back := 0
	return func(g *guest) {
		switch {
		case g.step == 0:
			g.enter(1)
		case left.CompareAndSwap(true, false):
			g.exit(1)
			back = g.step + 300
		case back > 0 && g.step == back:
			g.enter(1)
		}
	}
}

// TestExitWhileDraining: a vCPU is held at its EXIT while the devices are drained. What is left of
// that belongs to the downtime.
func TestExitWhileDraining(t *testing.T) {
	var left atomic.Bool
	withStorage(t, leaver(&left), func(t *testing.T, b *ends) {
		b.m.storage.onDrain = func(ctx context.Context) error {
			time.AfterFunc(50*time.Millisecond, func() { left.Store(true) })
			return stuck(forEver)(ctx)
		}
		b.m.storage.onQuiesce = stuck(70 * time.Millisecond)
		b.m.port.Write(tagging.RegRegister, 4, 1)
		b.m.start()
		s := b.source(guided(RuleDowntime, GuidanceSwitchover))
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Contains(t, r.SwitchoverReason, "EXIT")
		require.InDelta(t, 70, r.Downtime.QuiesceMS, 1)
		require.GreaterOrEqual(t, r.DowntimeMS, 70.0)
		require.InDelta(t, 50, r.DrainMS, 3)
		require.Empty(t, r.DrainsTakenBack)
		require.Len(t, r.Standstills, 1)
	})
}

// TestStorageInTheStandstill: storage that hangs or fails while the guest stands still takes the
// switchover back, when the limit is spent or at once. The guest runs again although the storage
// still hangs, its storage has time to recover, and then it moves.
func TestStorageInTheStandstill(t *testing.T) {
	fails := func(context.Context) error { return fmt.Errorf("%w: input/output error", errDisk) }
	for _, c := range []struct {
		name  string
		hook  func(f *fakeStorage) *func(context.Context) error
		how   func(context.Context) error
		limit time.Duration // of the order
		after float64       // ms
		ended string
	}{
		{"quiesce hangs", quiesceHook, stuck(forEver), 0, 1000,
			"taken back after 1s: the host had not finished disk a.img"},
		{"release hangs", releaseHook, stuck(forEver), 0, 1000,
			"taken back after 1s: the host had not finished disk a.img"},
		{"release hangs, short", releaseHook, stuck(forEver), 50 * time.Millisecond, 50,
			"taken back after 50ms: the host had not finished disk a.img"},
		{"quiesce fails", quiesceHook, fails, 0, 0, "taken back: disk a.img: input/output error"},
		{"release fails", releaseHook, fails, 0, 0, "taken back: disk a.img: input/output error"},
		{"fails without a limit", releaseHook, fails, NoStandstillLimit, 0,
			"taken back: disk a.img: input/output error"},
	} {
		for _, bad := range []int{1, 3} {
			t.Run(fmt.Sprint(c.name, bad), func(t *testing.T) {
				withStorage(t, busy(0, 10), func(t *testing.T, b *ends) {
					how, _ := times(bad, func(ctx context.Context) error {
						b.m.storage.setBusy("disk a.img")
						defer b.m.storage.setBusy("")
						return c.how(ctx)
					})
					*c.hook(&b.m.storage) = how
					b.m.start()
					p := tight()
					p.StandstillLimit = c.limit
					s := b.source(p)
					r := s.Run(context.Background())
					require.Empty(t, r.DrainsTakenBack)
					require.Zero(t, r.Retractions)
					require.GreaterOrEqual(t, len(r.Standstills), bad)
					for i, st := range r.Standstills[:bad] {
						require.InDelta(t, c.after, st.MS, 25, "%+v", r.Standstills)
						require.Equal(t, c.ended, st.Ended)
						if i > 0 {
							before := r.Standstills[i-1]
							require.Greater(t, st.AtMS, before.AtMS+before.MS+990, "it had time")
						}
					}
					if bad == 1 {
						b.checkMoved(s, r)
						return
					}
					b.checkStays(s, r)
					require.Contains(t, r.Error, "3 switchovers were taken back, the last ")
					require.Contains(t, r.Error, "disk a.img")
				})
			})
		}
	}
}

func quiesceHook(f *fakeStorage) *func(context.Context) error { return &f.onQuiesce }
func releaseHook(f *fakeStorage) *func(context.Context) error { return &f.onRelease }
func drainHook(f *fakeStorage) *func(context.Context) error   { return &f.onDrain }
func syncHook(f *fakeStorage) *func(context.Context) error    { return &f.onSync }

// TestStorageOfAnExemptSwitchover: a switchover that may take any time waits for the link, but not
// for ever for storage that hangs.
func TestStorageOfAnExemptSwitchover(t *testing.T) {
	for _, hook := range []func(*fakeStorage) *func(context.Context) error{
		drainHook, quiesceHook, releaseHook,
	} {
		withStorage(t, busy(0, 600), func(t *testing.T, b *ends) {
			how, _ := times(1, stuck(forEver))
			*hook(&b.m.storage) = how
			b.m.start()
			p := tight()
			p.MaxRounds = 2
			s := b.source(p)
			r := s.Run(context.Background())
			b.checkMoved(s, r)
			require.Equal(t, "2 rounds", r.SwitchoverReason[:8])
			require.Equal(t, 2, len(r.DrainsTakenBack)+len(r.Standstills))
			if len(r.DrainsTakenBack) == 0 {
				require.Equal(t, "taken back: disk a.img: waited for 1s", r.Standstills[0].Ended)
			}
		})
	}
}

// TestStorageWithoutALimit: a user who wants no limit waits for as long as it takes, and can
// cancel.
func TestStorageWithoutALimit(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		withStorage(t, idle, func(t *testing.T, b *ends) {
			b.m.storage.onDrain = stuck(10 * time.Minute)
			b.m.storage.onRelease = stuck(10 * time.Minute)
			b.m.start()
			p := tight()
			p.StandstillLimit = NoStandstillLimit
			s := b.source(p)
			ctx, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			if cancelled {
				time.AfterFunc(15*time.Minute, func() { cancel(ErrCancelled) })
			}
			r := s.Run(ctx)
			if cancelled {
				b.checkStays(s, r)
				require.InDelta(t, 15*60_000, r.TotalMS, 10)
				return
			}
			b.checkMoved(s, r)
			require.InDelta(t, 10*60_000, r.DrainMS, 1)
			require.InDelta(t, 10*60_000, r.DowntimeMS, 100)
		})
	}
}

// TestCancelWhileStorageHangs ends the migration at once, wherever the storage hangs. The guest
// runs, and its devices work.
func TestCancelWhileStorageHangs(t *testing.T) {
	for name, hook := range map[string]func(*fakeStorage) *func(context.Context) error{
		"drain": drainHook, "sync": syncHook, "quiesce": quiesceHook, "release": releaseHook,
	} {
		for _, cut := range []bool{false, true} {
			t.Run(fmt.Sprint(name, cut), func(t *testing.T) {
				withStorage(t, busy(0, 10), func(t *testing.T, b *ends) {
					ctx, cancel := context.WithCancelCause(context.Background())
					*hook(&b.m.storage) = func(ctx context.Context) error {
						time.AfterFunc(100*time.Millisecond, func() {
							if cut {
								b.stopFor(errors.New("the destination ends"))
							} else {
								cancel(ErrCancelled)
							}
						})
						return stuck(forEver)(ctx)
					}
					b.m.start()
					s := b.source(tight())
					r := s.Run(ctx)
					b.checkStays(s, r)
					if !cut {
						require.Equal(t, StatusCancelled, r.Status)
					}
					require.Less(t, r.TotalMS, 1900.0)
					require.Empty(t, r.DrainsTakenBack)
				})
			})
		}
	}
}

// TestStorageOfAPausedGuest: a guest that its user has paused is not drained. Nothing can be taken
// back, so storage that hangs ends the migration.
func TestStorageOfAPausedGuest(t *testing.T) {
	withStorage(t, busy(0, 10), func(t *testing.T, b *ends) {
		b.m.storage.onDrain = func(context.Context) error { panic("nothing to drain") }
		b.m.storage.onRelease = stuck(forEver)
		b.m.start()
		require.NoError(t, b.m.Pause())
		s := b.source(tight())
		r := s.Run(context.Background())
		require.Equal(t, StatusFailed, r.Status)
		require.Equal(t, "disk a.img: waited for 1s", r.Error)
		require.Equal(t, FateStays, s.Fate())
		require.False(t, b.m.isRunning())
	})
}

// TestSourceWithoutItsDisks: a guest whose disks another has by now is refused before anybody hears
// of its migration, and stays as it was.
func TestSourceWithoutItsDisks(t *testing.T) {
	withStorage(t, idle, func(t *testing.T, b *ends) {
		b.m.start()
		require.NoError(t, b.m.Pause())
		b.m.storage.onTake = func(context.Context) error { return errDisk }
		var dialled atomic.Bool
		b.dial = func(context.Context) (net.Conn, error) {
			dialled.Store(true)
			return nil, errors.New("nobody listens")
		}
		s := b.source(tight())
		r := s.Run(context.Background())
		require.Equal(t, StatusFailed, r.Status)
		require.Equal(t, "the guest is here without its disks: disk a.img", r.Error)
		require.Equal(t, FateStays, s.Fate())
		require.False(t, b.m.isRunning())
		require.False(t, dialled.Load())
		require.Zero(t, r.BytesWire)
	})
}

// TestCancelWhileDisksAreTaken ends the migration at once.
func TestCancelWhileDisksAreTaken(t *testing.T) {
	withStorage(t, idle, func(t *testing.T, b *ends) {
		b.m.start()
		require.NoError(t, b.m.Pause())
		ctx, cancel := context.WithCancelCause(context.Background())
		b.m.storage.onTake = func(ctx context.Context) error {
			cancel(ErrCancelled)
			return stuck(forEver)(ctx)
		}
		s := b.source(tight())
		r := s.Run(ctx)
		require.Equal(t, StatusCancelled, r.Status, r.Error)
		require.Equal(t, FateStays, s.Fate())
		require.Zero(t, r.TotalMS)
	})
}

// TestCancelWhileStorageRests: a report names no reason of a switchover that did not begin.
func TestCancelWhileStorageRests(t *testing.T) {
	withStorage(t, busy(0, 10), func(t *testing.T, b *ends) {
		ctx, cancel := context.WithCancelCause(context.Background())
		b.m.storage.onDrain = func(context.Context) error {
			time.AfterFunc(100*time.Millisecond, func() { cancel(ErrCancelled) })
			return errDisk
		}
		b.m.start()
		s := b.source(tight())
		r := s.Run(ctx)
		b.checkStays(s, r)
		require.Equal(t, StatusCancelled, r.Status)
		require.Len(t, r.DrainsTakenBack, 1)
		require.NotEmpty(t, r.DrainsTakenBack[0].Why)
		require.Empty(t, r.SwitchoverReason)
	})
}

// TestPagesFailWhileStorageHangs: once the last pages cannot be sent, the guest does not stand
// still any longer for storage that hangs.
func TestPagesFailWhileStorageHangs(t *testing.T) {
	withStorage(t, busy(0, 600), func(t *testing.T, b *ends) {
		var s *Source
		b.m.storage.onRelease = func(ctx context.Context) error {
			time.Sleep(10 * time.Millisecond) // the last round is under way
			s.stream.Stop()
			return stuck(forEver)(ctx)
		}
		b.m.start()
		p := tight()
		p.BitsPerSecond, p.DowntimeLimit = 10*mbit, 3*time.Second
		p.StandstillLimit = NoStandstillLimit
		s = b.source(p)
		ctx, cancel := withinAnHour()
		defer cancel()
		r := s.Run(ctx)
		b.checkStays(s, r)
		require.Contains(t, r.Error, "pages were not sent in the stop-and-copy")
		require.Len(t, r.Standstills, 1)
		require.Less(t, r.Standstills[0].MS, 3000.0)
	})
}

// TestHeldJustAfterADrain: a vCPU is held at its EXIT after a drain has failed, and before that is
// seen to. The guest stands still already, so the switchover goes on: it would otherwise stand for
// as long as its storage rests. The drain of an earlier switchover is not that of the next.
func TestHeldJustAfterADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		ctx, s := b.connected(tight())
		b.m.storage.onDrain = stuck(3 * time.Millisecond)
		require.NoError(t, s.drain(ctx))
		require.EqualValues(t, 3, s.Report().DrainMS)
		st, _, err := s.pause()
		require.NoError(t, err)
		require.NoError(t, s.drainTakenBack(time.Now(), errDisk))
		require.Empty(t, s.Report().DrainsTakenBack)
		s.mu.Lock()
		require.False(t, s.resting())
		require.Same(t, st, s.standing)
		s.mu.Unlock()
		require.NoError(t, s.drain(ctx))
		require.Zero(t, s.Report().DrainMS)
		require.NoError(t, s.resume("the test ends"))
	})
}

// TestDrainBehindATakeBack: a switchover is taken back just when the engine decides on one of its
// own. That must not begin. If it has begun already, its devices do not stay drained.
func TestDrainBehindATakeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		ctx, s := b.connected(tight())
		s.mu.Lock()
		st := s.askToPause(time.Now()) // as for a vCPU that is held at its EXIT
		s.mu.Unlock()
		b.m.RequestPause()
		require.True(t, s.takeBack(st, nil))
		require.True(t, b.m.isRunning())
		s.mu.Lock()
		begins := s.mayBegin(policy.Action{Verb: policy.Switchover, Reason: "it fits"})
		reason := s.report.SwitchoverReason
		s.mu.Unlock()
		require.False(t, begins)
		require.Empty(t, reason)
		var drained bool
		b.m.storage.onDrain = func(context.Context) error { drained = true; return nil }
		switched, err := s.switchover(ctx)
		require.NoError(t, err)
		require.False(t, switched)
		require.True(t, drained)
		require.False(t, b.m.storage.isDrained(), "its devices must work")
		require.True(t, b.m.isRunning())
		s.mu.Lock()
		begins = s.mayBegin(policy.Action{Verb: policy.Switchover, Reason: "it fits"})
		s.mu.Unlock()
		require.True(t, begins, "the destination knows")
	})
}

// TestHostIsNotAskedOverTheLink: storage hangs for so long that the destination is to be told of
// it, and the link hangs too. What waits for the host may hold a lock without which the guest does
// not run again, so it does not wait for the link.
func TestHostIsNotAskedOverTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		var hangs, hung atomic.Bool
		dial := b.dial
		b.dial = func(ctx context.Context) (net.Conn, error) {
			nc, err := dial(ctx)
			return hookConn{nc, func(written []byte) {
				if hangs.Load() && isWaiting(written) {
					hung.Store(true)
					time.Sleep(25 * time.Second)
				}
			}}, err
		}
		p := tight()
		p.StandstillLimit = NoStandstillLimit
		ctx, s := b.connected(p)
		hangs.Store(true)
		asking, stop := context.WithTimeout(ctx, 15*time.Second)
		defer stop()
		begin := time.Now()
		err := s.askHost(asking, stuck(forEver), nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 15*time.Second, time.Since(begin))
		require.True(t, hung.Load())
		time.Sleep(time.Minute)
	})
}

// isWaiting tells whether a frame announces a wait.
func isWaiting(frame []byte) bool {
	return len(frame) > 0 && transport.Type(frame[0]) == transport.TypeWaiting
}
