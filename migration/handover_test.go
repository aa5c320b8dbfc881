package migration

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/tagging"
	"taskguide/transport"
)

// TestWritesUntilTheStandstill: what the guest writes after the decision to switch
// over goes with it.
func TestWritesUntilTheStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.touch(100)
		b.m.start()
		b.m.onRequested = func() {
			b.m.ram.Page(7)[0]++
			b.m.tracker.mark(7)
			clear(b.m.ram.Page(8))
			b.m.tracker.mark(8)
			b.m.ram.Page(4000)[5] = 5
			b.m.tracker.mark(4000)
		}
		s := b.source(Params{Verify: true})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.EqualValues(t, 3, r.PagesStopCopy)
		last := r.Rounds[len(r.Rounds)-1]
		require.EqualValues(t, 2, last.SentPages)
		require.EqualValues(t, 1, last.ZeroPages)
	})
}

// TestArrivesBeforeTheSourceIsTold: who hears from the source that the guest has moved finds
// it at the destination.
func TestArrivesBeforeTheSourceIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.touch(10)
		b.m.start()
		arrived := false
		b.onArrive = func() {
			time.Sleep(100 * time.Millisecond)
			arrived = true
		}
		s := b.source(Params{})
		b.checkMoved(s, s.Run(context.Background()))
		require.True(t, arrived)
	})
}

// TestProtectionKeepsMarks: pages that no round is about keep their marks while a
// round protects those next to them.
func TestProtectionKeepsMarks(t *testing.T) {
	for _, rule := range givingUp(t) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, func(g *guest) {
				if g.step < 1000 {
					g.writeRange(0, 300)         // so that a round takes 100 ms
					g.write(3000 + g.step/10%90) // each for a while, every now and then
				}
			})
			defer b.close()
			b.m.touch(300)
			b.m.tracker.onDemand = true
			b.m.start()
			p := guided(rule, GuidanceOff)
			p.MaxRounds = 1000
			s := b.source(p)
			r := s.Run(context.Background())
			b.checkMoved(s, r)
			require.GreaterOrEqual(t, b.m.steps, 1000)
		})
	}
}

// TestDeltasForgetZeros: a page that was zero in between is no base for a delta.
func TestDeltasForgetZeros(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, func(g *guest) {
			page := g.m.ram.Page(500)
			switch {
			case g.step == 1500:
				g.enter(1)
			case g.step > 1500:
				return
			case g.step%450 == 0:
				for i := range page {
					page[i] = byte(i) | 1
				}
			case g.step%450 == 150:
				clear(page)
			case g.step%450 == 300:
				for i := range page {
					page[i] = byte(i) | 1
				}
				page[77]++
			}
			g.m.tracker.mark(500)
			g.writeRange(0, 90)
		})
		defer b.close()
		b.m.port.Write(tagging.RegRegister, 4, 1) // a round every 100 ms until its gate opens
		b.m.start()
		p := guided(RuleDowntime, GuidanceSwitchover)
		p.Delta = true
		s := b.source(p)
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		deltas, zeros := int64(0), int64(0)
		for _, round := range r.Rounds[1:] {
			deltas, zeros = deltas+round.DeltaPages, zeros+round.ZeroPages
		}
		require.Positive(t, deltas)
		require.Positive(t, zeros)
	})
}

// TestPhases: an observer sees all of them, in order.
func TestPhases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		s := b.source(Params{})
		b.checkMoved(s, s.Run(context.Background()))
		var phases []Phase
		for _, e := range b.events {
			if e.Kind == NoticePhase || e.Kind == NoticeDone {
				phases = append(phases, e.Phase)
			}
		}
		require.Equal(t, []Phase{PhasePreCopy, PhaseStopCopy, PhaseHandover, PhaseDone}, phases)
		require.Equal(t, PhaseDone, s.Report().Phase)
	})
}

// TestPendingIsNoAnswer: while a destination is starting the guest, the source neither resumes its
// copy nor gives it up.
func TestPendingIsNoAnswer(t *testing.T) {
	for name, fail := range map[string]error{
		"it runs": nil, "it does not": errors.New("vCPU on fire"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, busy(0, 5))
				defer b.close()
				b.m.start()
				b.dial = tamper(b, func(typ transport.Type) action {
					if typ == transport.TypeCommit {
						return last
					}
					return pass
				}, nil)
				b.in.failRun = fail
				s := b.source(Params{})
				b.in.onRun = func() {
					time.Sleep(5 * time.Second) // the source asks every quarter of a second
					require.False(t, b.m.isRunning(), "it may run here yet")
					require.Equal(t, StatusRunning, s.Report().Status)
				}
				r := s.Run(context.Background())
				if fail == nil {
					b.checkMoved(s, r)
					return
				}
				b.checkStays(s, r)
				require.Contains(t, r.Error, "did not run the guest")
			})
		})
	}
}

// TestCancelAfterCommit: a cancellation after the commit is too late and disturbs nothing.
func TestCancelAfterCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.start()
		dials := 0
		b.dial = func(ctx context.Context) (net.Conn, error) { dials++; return b.ln.dial(ctx) }
		ctx, cancel := context.WithCancelCause(context.Background())
		b.in.onRun = func() {
			cancel(ErrCancelled)
			time.Sleep(time.Second)
		}
		s := b.source(Params{})
		r := s.Run(ctx)
		b.checkMoved(s, r)
		require.Empty(t, r.Error)
		require.Equal(t, 1, dials, "there was no need to ask")
	})
}

// TestCancelWhileCommitting: a cancellation during the commit is too late, and does not cut the
// commit off.
func TestCancelWhileCommitting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.start()
		ctx, cancel := context.WithCancelCause(context.Background())
		dials := 0
		b.dial = func(ctx context.Context) (net.Conn, error) {
			dials++
			nc, err := b.ln.dial(ctx)
			return hookConn{nc, func(frame []byte) {
				if len(frame) == 16 && transport.Type(frame[0]) == transport.TypeCommit {
					cancel(ErrCancelled)
					synctest.Wait()
				}
			}}, err
		}
		s := b.source(Params{})
		r := s.Run(ctx)
		require.Error(t, ctx.Err())
		b.checkMoved(s, r)
		require.Equal(t, 1, dials)
	})
}

// TestCancelJustBeforeCommit: a cancellation just before the commit is in time.
func TestCancelJustBeforeCommit(t *testing.T) {
	for range 12 { // whichever of the two the engine sees first
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, busy(0, 5))
			defer b.close()
			b.m.start()
			ctx, cancel := context.WithCancelCause(context.Background())
			b.m.onDigest = func() {
				synctest.Wait() // the destination has said that it is prepared
				cancel(ErrCancelled)
			}
			s := b.source(Params{Verify: true})
			r := s.Run(ctx)
			b.checkStays(s, r)
			require.Equal(t, StatusCancelled, r.Status)
			require.False(t, s.Committed())
		})
	}
}

// TestVerifyFindsWrongState: verification also compares the state, not only RAM.
func TestVerifyFindsWrongState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		b.in.wrong = 1
		s := b.source(Params{Verify: true})
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.ErrorContains(t, errors.New(r.Error), "device state at the destination differs")
		require.False(t, *r.Verified)
		b.stop()
		synctest.Wait()
		require.Contains(t, b.log.String(), "the source gave up: verification failed")
	})
	for _, n := range []int{0, 15, 17} {
		_, err := parseDigests(make([]byte, n))
		require.ErrorIs(t, err, transport.ErrFrame)
	}
}

// TestAfterwardsNobodyListens: a guest that stays is left alone, also by a question
// that was under way when the migration ended.
func TestAfterwardsNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, func(g *guest) {
			g.exit(1)
			g.enter(1)
		})
		defer b.close()
		b.m.port.Write(tagging.RegEnter, 4, 1)
		b.m.start()
		b.in.failLoad = errors.New("on purpose")
		s := b.source(guided(RuleDowntime, GuidanceSwitchover))
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.NotEmpty(t, r.Rounds)
		seen := len(b.events)
		require.Equal(t, NoticeDone, b.events[seen-1].Kind)
		time.Sleep(time.Second)
		require.Len(t, b.events, seen)
		require.False(t, s.holdsAtExit(time.Now()))
		require.True(t, b.m.isRunning())
	})
}

// fastTask is a task with a slot in the tag page, the first.
type fastTask struct {
	m    *fakeMachine
	page []byte
}

const fastTaskGPA = 0x3000

func newFastTask(m *fakeMachine, id uint32) fastTask {
	f := fastTask{m, m.ram.Page(fastTaskGPA / memory.PageSize)}
	for off, v := range map[int]uint32{
		0: tagging.PageMagic, 4: tagging.PageVersion, 0xc: 1, 0x40: 1, 0x44: id,
	} {
		atomic.StoreUint32(f.word(off), v)
	}
	m.port.Write(tagging.RegPageLo, 4, fastTaskGPA)
	m.port.Write(tagging.RegPageHi, 4, 0)
	return f
}

func (f fastTask) word(off int) *uint32 { return (*uint32)(unsafe.Pointer(&f.page[off])) }

// set changes the depth without ringing.
func (f fastTask) set(depth uint32) {
	atomic.StoreUint32(f.word(0x48), depth)
	f.m.tracker.mark(fastTaskGPA / memory.PageSize)
}

// TestTagPageIsAheadOfTheRing: a fast task may have left its segment, and its vCPU
// been stopped before it could ring. The decision is taken back, once.
func TestTagPageIsAheadOfTheRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(100, 5))
		defer b.close()
		task := newFastTask(b.m, 5)
		task.set(1)
		b.m.start()
		p := guided(RuleXen, GuidanceSwitchover)
		p.SwitchAtExit = off()
		s := b.source(p)
		left := false
		b.m.onRequested = func() {
			if left {
				return
			}
			left = true
			task.set(0)
			time.AfterFunc(100*time.Millisecond, func() { b.m.port.Write(tagging.RegExit, 4, 5) })
			time.AfterFunc(200*time.Millisecond, func() {
				r := s.Report()
				require.Equal(t, PhaseHeld, r.Phase)
				require.Empty(t, r.SwitchoverReason)
				require.Zero(t, r.Downtime)
			})
			time.AfterFunc(300*time.Millisecond, func() {
				task.set(1)
				b.m.port.Write(tagging.RegEnter, 4, 5)
			})
		}
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Equal(t, 1, r.Retractions)
		require.InDelta(t, 300, r.WaitedMS, 10)
		require.True(t, b.m.port.Gate().Open)
	})
}
