package migration

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/peer"
	"taskguide/tagging"
)

// withinAnHour bounds a migration that would go on for ever if it were wrong.
func withinAnHour() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), time.Hour, ErrCancelled)
}

// tight has a limit of 30 ms for what is expected, and so of a second for what comes.
func tight() Params {
	return Params{
		BitsPerSecond: 100 * mbit,
		DowntimeLimit: 30 * time.Millisecond,
		Compress:      CompressNone,
	}
}

// requireTakenBack checks that the given number of switchovers was taken back, each when its limit
// was spent.
func requireTakenBack(t *testing.T, r Report, times int, limit time.Duration) {
	t.Helper()
	require.GreaterOrEqual(t, len(r.Standstills), times)
	for _, st := range r.Standstills[:times] {
		require.InDelta(t, ms(limit), st.MS, 2, "%+v", r.Standstills) // the vCPU looks every ms
		require.NotEmpty(t, st.Why)
		require.True(t, strings.HasPrefix(st.Ended, "taken back after "+limit.String()), "%+v", st)
	}
}

// TestStandstillIsTakenBack: the link slows down right after the pause. The guest runs
// again when the limit is spent, while the frame under way is still stuck, and moves
// over the same connections once the link has recovered. That holds for each way of
// tracking, and for pages that the guest writes in between and never again.
func TestStandstillIsTakenBack(t *testing.T) {
	for _, manual := range []bool{false, true} {
		for _, channels := range []int{1, 3} {
			synctest.Test(t, func(t *testing.T) {
				var back, calm atomic.Bool
				b := newEnds(t, func(g *guest) {
					switch {
					case back.Load():
						// Once each, while the frames of the stop-and-copy that was taken back are
						// still under way and its pages at the destination or not.
						back.Store(false)
						calm.Store(true)
						g.writeRange(0, 30)
						g.writeRange(512, 30)
						g.write(4000)
					case !calm.Load():
						g.writeRange(0, 40)
						g.writeRange(512, 40) // another channel's
					}
				})
				defer b.close()
				b.m.touch(1100)
				b.m.tracker.onDemand = manual
				b.m.start()
				k := braked(b, 7*time.Second)
				b.m.onPaused = func() { k.on.Store(!calm.Load()) }
				b.m.onResumed = func() {
					back.Store(true)
					time.AfterFunc(3*time.Second, func() { k.on.Store(false) })
				}
				s := b.source(Params{
					BitsPerSecond: 100 * mbit, DowntimeLimit: 40 * time.Millisecond,
					Compress: CompressNone, Channels: channels,
				})
				r := s.Run(context.Background())
				b.checkMoved(s, r)
				require.True(t, calm.Load())
				requireTakenBack(t, r, 1, time.Second)
				require.Len(t, r.Standstills, 2)
				require.Equal(t, "moved", r.Standstills[1].Ended)
				require.Equal(t, r.SwitchoverReason, r.Standstills[1].Why)
				require.Equal(t, r.DowntimeMS, r.Standstills[1].MS)
				require.Less(t, r.DowntimeMS, 100.0)
				require.EqualValues(t, channels, k.dials.Load(), "over the same connections")
				require.Zero(t, r.Retractions)
				require.Contains(t, b.kinds(), NoticeStandstill)
				cut := r.Rounds[slices.IndexFunc(r.Rounds, func(r Round) bool {
					return r.Phase == PhaseStopCopy
				})]
				require.Less(t, cut.SentPages, cut.DirtyPages, "no frame was begun")
				sum := int64(0)
				for _, round := range r.Rounds {
					sum += round.SentPages
				}
				require.Equal(t, r.PagesSent, sum)
			})
		}
	}
}

// kinds are those of all events so far.
func (b *ends) kinds() (kinds []NoticeKind) {
	b.eventsMu.Lock()
	defer b.eventsMu.Unlock()
	for _, e := range b.events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// TestGuestRunsWhileFramesFinish: the guest does not wait for the link before it runs again, and
// its tasks are told that the migration is back in pre-copy.
func TestGuestRunsWhileFramesFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 64))
		defer b.close()
		b.m.touch(500)
		b.m.start()
		k := braked(b, 14*time.Second)
		b.m.onPaused = func() { k.on.Store(true) }
		b.m.onResumed = func() {
			time.AfterFunc(2*time.Second, func() {
				require.True(t, b.m.isRunning())
				require.Equal(t, uint32(tagging.StatePreCopy), b.m.port.Read(tagging.RegState, 4))
			})
		}
		s := b.source(tight())
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(5*time.Second, func() { cancel(ErrCancelled) })
		r := s.Run(ctx)
		b.checkStays(s, r)
		require.Equal(t, StatusCancelled, r.Status, "also while a frame is stuck")
		require.InDelta(t, 5000, r.TotalMS, 1)
		require.Len(t, r.Standstills, 1)
		requireTakenBack(t, r, 1, time.Second)
	})
}

// TestStandstillRetriesAreBounded: a link that fails whenever the guest stands still.
func TestStandstillRetriesAreBounded(t *testing.T) {
	for _, retries := range []int{0, 1, 5} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, busy(0, 64))
			defer b.close()
			b.m.touch(500)
			b.m.start()
			k := braked(b, 3*time.Second)
			b.m.onPaused = func() { k.on.Store(true) }
			b.m.onResumed = func() { k.on.Store(false) }
			p := tight()
			p.StandstillRetries = retries
			s := b.source(p)
			ctx, cancel := withinAnHour()
			defer cancel()
			r := s.Run(ctx)
			want := retries
			if want == 0 {
				want = Defaults().StandstillRetries
			}
			b.checkStays(s, r)
			require.Equal(t, StatusFailed, r.Status)
			require.Len(t, r.Standstills, want)
			requireTakenBack(t, r, want, time.Second)
			require.Contains(t, r.Error, ErrStandstill.Error())
			require.Contains(t, r.Error, "switchovers were taken back, the last after 1s")
			require.Contains(t, r.Error, "the last pages were not through")
			require.InDelta(t, 1000, r.DowntimeMS, 2)
			require.False(t, s.Committed())
		})
	}
}

// TestStandstillLearnsTheLink: the link is slow from the first pause on. Before the next switchover
// the rule knows this, and waits until the guest is calm.
func TestStandstillLearnsTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, func(g *guest) {
			if g.step < 20_000 {
				g.writeRange(0, 64) // too few for a round to be believed at once
			}
		})
		defer b.close()
		b.m.touch(1000)
		b.m.start()
		k := braked(b, 1500*time.Millisecond)
		b.m.onPaused = func() { k.on.Store(b.m.stepCount() < 20_000) }
		time.AfterFunc(30*time.Second, func() { k.on.Store(false) })
		s := b.source(tight())
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		requireTakenBack(t, r, 1, time.Second)
		require.Len(t, r.Standstills, 2, "%+v", r.Standstills)
		require.GreaterOrEqual(t, b.m.steps, 20_000)
	})
}

// TestTakenBackOverSockets is TestStandstillIsTakenBack in real time: what was sent lies
// in the buffers of sockets, where a source that only looks at its own would
// think that it had arrived.
func TestTakenBackOverSockets(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	m := newFakeMachine(t, busy(0, 200))
	in := &fakeIncoming{fakeMachine: newFakeMachine(t, idle)}
	defer m.ram.Close()
	defer in.ram.Close()
	defer m.end()
	d := Destination{Builder: buildFunc(func([]byte) (Incoming, error) { return in, nil })}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() {
		_, err := d.Serve(ctx, ln)
		served <- err
	}()
	var stop atomic.Bool
	dials := 0
	dial := func(context.Context) (net.Conn, error) {
		dials++
		near, mid := tcpPair(t)
		far, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return nil, err
		}
		go crawl(t, mid, far, &stop)
		go io.Copy(mid, far)
		return near, nil
	}
	// On a busy host, a guest may take too long to stand still. Then the link stops once more.
	const ended = "taken back after 5s: the last pages were not through"
	notThrough := func(st Standstill) bool { return st.Ended == ended }
	var s *Source
	m.onPaused = func() {
		if !slices.ContainsFunc(s.Report().Standstills, notThrough) {
			stop.Store(true)
		}
	}
	m.onResumed = func() { time.AfterFunc(300*time.Millisecond, func() { stop.Store(false) }) }
	m.touch(2000)
	m.start()
	p, err := Params{
		Destination: "tcp:x:1", Channels: 2,
		// A busy host must save and load the state within the limit, which is not tried again.
		StandstillLimit: 5 * time.Second, DowntimeLimit: 150 * time.Millisecond,
		StandstillRetries: 1000,
	}.WithDefaults()
	require.NoError(t, err)
	s = newSource(m, p, nil, peer.Config{Dial: dial})
	waiting, stopWaiting := context.WithTimeoutCause(ctx, 5*time.Minute, ErrCancelled)
	defer stopWaiting()
	r := s.Run(waiting)
	require.Equal(t, StatusCompleted, r.Status, r.Error)
	require.NoError(t, <-served)
	require.Equal(t, 2, dials, "over the same connections")
	require.GreaterOrEqual(t, len(r.Standstills), 2)
	require.True(t, slices.ContainsFunc(r.Standstills, notThrough), r.Standstills)
	require.Equal(t, "moved", r.Standstills[len(r.Standstills)-1].Ended)
	here, err := m.ram.Digest()
	require.NoError(t, err)
	there, err := in.ram.Digest()
	require.NoError(t, err)
	require.Equal(t, here, there)
	require.False(t, m.isRunning())
	require.True(t, in.ran.Load())
}

// TestListsAreBounded: a guest may have its switchovers taken back for days, and the latest tell
// most.
func TestListsAreBounded(t *testing.T) {
	s := &Source{}
	for n := range maxStandstills + 500 {
		s.list(Standstill{AtMS: float64(n)})
	}
	require.Len(t, s.report.Standstills, maxStandstills)
	require.EqualValues(t, maxStandstills+499, s.report.Standstills[maxStandstills-1].AtMS)
	require.EqualValues(t, 500, s.report.Standstills[0].AtMS)
}
