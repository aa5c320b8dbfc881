package migration

import (
	"context"
	"errors"
	"io"
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
		b := newBed(t, idle)
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

// TestArrivesBeforeTheSourceIsTold: who hears from the source that the guest has moved finds it at the destination.
func TestArrivesBeforeTheSourceIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, idle)
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
	for _, rule := range []Rule{RuleXen, RuleDowntime} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(g *guest) {
				if g.step < 1000 {
					g.writeRange(0, 300)         // so that a round takes 100 ms
					g.write(3000 + g.step/10%90) // each for a while, every now and then
				}
			})
			defer b.close()
			b.m.touch(300)
			b.m.manual = true
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
		b := newBed(t, func(g *guest) {
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
		b := newBed(t, idle)
		defer b.close()
		b.m.start()
		s := b.source(Params{})
		b.checkMoved(s, s.Run(context.Background()))
		var phases []Phase
		for _, e := range b.events {
			if e.Kind == EventPhase || e.Kind == EventDone {
				phases = append(phases, e.Phase)
			}
		}
		require.Equal(t, []Phase{PhasePreCopy, PhaseStopCopy, PhaseHandover, PhaseDone}, phases)
		require.Equal(t, PhaseDone, s.Report().Phase)
	})
}

// TestPendingIsNoAnswer: while a destination that was told to run the guest is at
// it, the source neither resumes its own nor gives it up.
func TestPendingIsNoAnswer(t *testing.T) {
	for name, fail := range map[string]error{"it runs": nil, "it does not": errors.New("vCPU on fire")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, busy(0, 5))
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

// TestCancelAfterCommit is too late, and disturbs nothing.
func TestCancelAfterCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, busy(0, 5))
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

// hookConn calls before with everything that is about to be written.
type hookConn struct {
	net.Conn
	before func([]byte)
}

func (c hookConn) Write(b []byte) (int, error) {
	c.before(b)
	return c.Conn.Write(b)
}

// TestCancelWhileCommitting is too late, too: the commit under way is not cut off.
func TestCancelWhileCommitting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, busy(0, 5))
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

// TestCancelJustBeforeCommit is in time.
func TestCancelJustBeforeCommit(t *testing.T) {
	for range 12 { // whichever of the two the engine sees first
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, busy(0, 5))
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

// TestVerifyFindsWrongState: RAM alone is not all.
func TestVerifyFindsWrongState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, idle)
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

// impostor dials something that greets like a destination and then does as it
// pleases.
func impostor(b *bed, f func(nc net.Conn, c *transport.Conn)) {
	b.dial = func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			if _, err := transport.ReadHello(far); err != nil {
				return
			}
			f(far, transport.NewConn(far))
		}()
		return near, nil
	}
}

// TestImpostors: whatever a destination does or leaves undone, the migration ends
// in time and the guest stays.
func TestImpostors(t *testing.T) {
	read := func(c *transport.Conn) (h transport.Header) {
		h, err := c.Next()
		if err == nil {
			_, err = c.ReadMessage(h)
		}
		if err != nil {
			return transport.Header{}
		}
		return h
	}
	for name, test := range map[string]struct {
		do    func(nc net.Conn, c *transport.Conn)
		error string
		took  time.Duration
	}{
		"does not welcome": {
			func(nc net.Conn, _ *transport.Conn) { io.Copy(io.Discard, nc) },
			"greet the destination", transport.DialTimeout,
		},
		"never accepts": {func(nc net.Conn, c *transport.Conn) {
			transport.WriteWelcome(nc)
			read(c)
			c.KeepAlive(context.Background())
		}, "does not answer within 2m0s", handoverTimeout},
		"falls silent": {func(nc net.Conn, c *transport.Conn) {
			transport.WriteWelcome(nc)
			io.Copy(io.Discard, nc)
		}, "does not answer for 30s", transport.IdleTimeout},
		"says something else": {func(nc net.Conn, c *transport.Conn) {
			transport.WriteWelcome(nc)
			read(c)
			c.WriteMessage(transport.TypePrepared, 0, nil)
			c.KeepAlive(context.Background())
		}, "message of type 6 where 2 was due", 0},
		"says too much": {func(nc net.Conn, c *transport.Conn) {
			transport.WriteWelcome(nc)
			read(c)
			for c.WriteMessage(transport.TypeAccept, 0, nil) == nil {
			}
		}, "more messages than anybody asked for", 0},
		"sends pages": {func(nc net.Conn, c *transport.Conn) {
			transport.WriteWelcome(nc)
			read(c)
			raw := transport.NewSender(c, nil)
			raw.Zeros(context.Background(), 0, 1)
			raw.Flush(context.Background())
			c.KeepAlive(context.Background())
		}, "pages where a message was due", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, idle)
				defer b.close()
				b.m.start()
				impostor(b, test.do)
				s := b.source(Params{})
				r := s.Run(context.Background())
				b.checkStays(s, r)
				require.Equal(t, StatusFailed, r.Status)
				require.Contains(t, r.Error, test.error)
				require.InDelta(t, ms(test.took), r.TotalMS, 3000)
			})
		})
	}
}

// TestCancelEndsWaitsForThePeer: a cancellation does not wait for a peer that is
// silent or takes nothing.
func TestCancelEndsWaitsForThePeer(t *testing.T) {
	for name, do := range map[string]func(net.Conn, *transport.Conn){
		"greeting": func(nc net.Conn, _ *transport.Conn) { io.Copy(io.Discard, nc) },
		"writing": func(nc net.Conn, c *transport.Conn) {
			transport.WriteWelcome(nc)
			for {
				h, err := c.Next()
				if err != nil {
					return
				}
				if h.Type == transport.TypePages {
					time.Sleep(10 * time.Second)
				}
				c.ReadMessage(h)
				if h.Type == transport.TypeConfig {
					c.WriteMessage(transport.TypeAccept, 0, nil)
				}
			}
		},
	} {
		for channels := 1; channels <= 2; channels++ {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, idle)
				defer b.close()
				b.m.touch(4000)
				b.m.start()
				impostor(b, do)
				s := b.source(Params{Compress: CompressNone, Channels: channels})
				ctx, cancel := context.WithCancelCause(context.Background())
				time.AfterFunc(time.Second, func() { cancel(ErrCancelled) })
				r := s.Run(ctx)
				b.checkStays(s, r)
				require.Equal(t, StatusCancelled, r.Status)
				require.InDelta(t, 1000, r.TotalMS, 1, "%s on %d channels", name, channels)
			})
		}
	}
}

// TestAfterwardsNobodyListens: a guest that stays is left alone, also by a question
// that was under way when the migration ended.
func TestAfterwardsNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(g *guest) {
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
		require.Equal(t, EventDone, b.events[seen-1].Kind)
		time.Sleep(time.Second)
		require.Len(t, b.events, seen)
		require.False(t, s.holdAtExit("too late"))
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
	for off, v := range map[int]uint32{0: tagging.PageMagic, 4: tagging.PageVersion, 0xc: 1, 0x40: 1, 0x44: id} {
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
		b := newBed(t, busy(100, 5))
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
