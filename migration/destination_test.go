package migration

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/transport"
)

// TestAnswersOutliveServe: a caller of Serve is done with its context once it has
// the machine, and a source that lost the last answer asks only then.
func TestAnswersOutliveServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.start()
		dial := tamper(
			b,
			nil,
			func(typ transport.Type) action { return cutIf(typ == transport.TypeRunning) },
		)
		dials := 0
		b.dial = func(ctx context.Context) (net.Conn, error) {
			if dials++; dials == 2 {
				synctest.Wait()
				require.True(t, b.in.ran.Load())
				b.stop()
				synctest.Wait()
			}
			require.LessOrEqual(t, dials, 2, "the first question must be answered")
			return dial(ctx)
		}
		s := b.source(Params{})
		b.checkMoved(s, s.Run(context.Background()))
	})
}

// TestSlowBuild: building a machine with populated RAM may take longer than a peer may be silent.
func TestSlowBuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.onBuild = func() { time.Sleep(3 * transport.IdleTimeout) }
		b.m.start()
		s := b.source(Params{})
		b.checkMoved(s, s.Run(context.Background()))
	})
}

// hail opens a connection with a greeting, and does not wait to be welcome.
func hail(b *ends, h transport.Hello) net.Conn {
	nc, err := b.ln.dial(context.Background())
	require.NoError(b.t, err)
	require.NoError(b.t, transport.WriteHello(nc, h))
	return nc
}

// knock greets a destination, and returns the connection if it was welcome.
func knock(b *ends, h transport.Hello) (net.Conn, error) {
	nc := hail(b, h)
	if _, err := transport.ReadWelcome(nc, h.Features); err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// rogue is a source that knows the protocol and breaks it as a test wants.
type rogue struct {
	b     *ends
	hello transport.Hello
	main  *transport.Conn
}

// newRogue returns a rogue with channel 0 open.
func newRogue(b *ends, channels uint16) rogue { return newRogueOffering(b, channels, 0) }

func newRogueOffering(b *ends, channels uint16, offers transport.Features) rogue {
	h := transport.Hello{
		Purpose:  transport.PurposeMigrate,
		Channels: channels,
		ID:       transport.ID{byte(channels), 9},
		Features: offers,
	}
	nc, err := knock(b, h)
	require.NoError(b.t, err)
	return rogue{b, h, transport.NewConn(nc)}
}

// accepted returns a rogue whose machine has been built.
func accepted(b *ends, channels uint16) rogue { return newRogue(b, channels).accepted() }

func (r rogue) accepted() rogue {
	b := r.b
	r.send(transport.TypeConfig, []byte("a machine"))
	h, err := r.main.Next()
	require.NoError(b.t, err)
	require.Equal(b.t, transport.TypeAccept, h.Type)
	// This keeps off the beat of the destination's keep-alives. A keep-alive cut off when a limit
	// ends would leave no room for a farewell.
	time.Sleep(time.Millisecond)
	return r
}

func (r rogue) send(t transport.Type, payload []byte) {
	r.b.t.Helper()
	require.NoError(r.b.t, r.main.WriteMessage(t, 0, payload))
}

// flush makes the destination receive all pages of an attempt to switch over.
func (r rogue) flush(attempt uint32) {
	r.b.t.Helper()
	require.NoError(r.b.t, r.main.WriteMessage(transport.TypeFlush, attempt, nil))
	h, err := r.main.Next()
	require.NoError(r.b.t, err)
	require.Equal(r.b.t, transport.Header{Type: transport.TypeFlush, Arg: attempt}, h)
}

func (r rogue) extents() { r.send(transport.TypeExtents, packExtents(memory.NewBitmap(testPages))) }

// next returns the header of the destination's next message.
func (r rogue) next() transport.Header {
	r.b.t.Helper()
	h, err := r.main.Next()
	if err == nil {
		_, err = r.main.ReadMessage(h)
	}
	require.NoError(r.b.t, err)
	return h
}

// state returns bytes that the fake machine accepts as a state.
func (r rogue) state() []byte {
	state, err := r.b.m.SaveState()
	require.NoError(r.b.t, err)
	return state
}

// requireDiscarded checks that the destination gives up within a time, and says why.
func (r rogue) requireDiscarded(within time.Duration, why string) {
	r.b.t.Helper()
	begin := time.Now()
	var text []byte
	for {
		h, err := r.main.Next()
		if err == nil {
			text, err = r.main.ReadMessage(h)
		}
		require.NoError(r.b.t, err)
		if h.Type == transport.TypeError {
			break
		}
	}
	require.LessOrEqual(r.b.t, time.Since(begin), within)
	require.Contains(r.b.t, string(text), why)
	synctest.Wait()
	require.False(r.b.t, r.b.in.ran.Load())
	r.main.Close()
}

// TestRogueSources: after a message out of turn no guest runs, and the next migration may come.
func TestRogueSources(t *testing.T) {
	for name, do := range map[string]func(*ends){
		"no configuration": func(b *ends) {
			r := newRogue(b, 1)
			// Nobody reads its payload.
			go r.main.WriteMessage(transport.TypeExtents, 0, make([]byte, 1))
			r.requireDiscarded(0, "type 12 where 1 was due")
		},
		"extents of another RAM": func(b *ends) {
			r := accepted(b, 1)
			r.send(transport.TypeExtents, nil)
			r.requireDiscarded(0, "bytes of extents")
		},
		"state before the flush": func(b *ends) {
			r := accepted(b, 1)
			r.extents()
			go r.main.WriteMessage(transport.TypeState, 0, r.state())
			r.requireDiscarded(0, "type 5 where 3 was due")
		},
		"no state": func(b *ends) {
			r := accepted(b, 1)
			r.extents()
			r.flush(0)
			r.send(transport.TypeCommit, nil)
			r.requireDiscarded(0, "type 7 where 5 was due")
		},
		"no commit": func(b *ends) {
			r := accepted(b, 1)
			r.extents()
			r.flush(0)
			r.send(transport.TypeState, r.state())
			h, err := r.main.Next()
			require.NoError(b.t, err)
			require.Equal(b.t, transport.TypePrepared, h.Type)
			r.send(transport.TypeFlush, nil)
			r.requireDiscarded(0, "not told to run the guest")
			require.True(b.t, b.in.discarded.Load())
		},
		"falls silent before the commit": func(b *ends) {
			r := accepted(b, 1)
			r.extents()
			r.flush(0)
			r.send(transport.TypeState, r.state())
			r.requireDiscarded(transport.IdleTimeout, "not told to run the guest")
		},
		"a rewind before the flush": func(b *ends) {
			r := accepted(b, 1)
			r.extents()
			r.send(transport.TypeRewind, nil)
			r.requireDiscarded(0, "type 14 where 3 was due")
		},
		"a rewind after the state": func(b *ends) {
			r := accepted(b, 1)
			r.extents()
			r.flush(0)
			r.send(transport.TypeState, r.state())
			h, err := r.main.Next()
			require.NoError(b.t, err)
			require.Equal(b.t, transport.TypePrepared, h.Type)
			require.NoError(b.t, r.main.WriteMessage(transport.TypeRewind, 1, nil))
			r.requireDiscarded(0, "not told to run the guest")
		},
		"a rewind to another attempt": func(b *ends) {
			r := accepted(b, 1)
			r.extents()
			r.flush(0)
			require.NoError(b.t, r.main.WriteMessage(transport.TypeRewind, 2, nil))
			r.requireDiscarded(0, "message of type 14 for attempt 2 with 0 bytes, in attempt 1")
		},
		"a flush of an older attempt": func(b *ends) {
			r := accepted(b, 1)
			r.extents()
			r.flush(0)
			require.NoError(b.t, r.main.WriteMessage(transport.TypeRewind, 1, nil))
			require.NoError(b.t, r.main.WriteMessage(transport.TypeFlush, 0, nil))
			r.requireDiscarded(0, "message of type 4 for attempt 0 with 0 bytes, in attempt 1")
		},
		"a flush of an attempt to come": func(b *ends) {
			r := accepted(b, 1)
			r.extents()
			require.NoError(b.t, r.main.WriteMessage(transport.TypeFlush, 1, nil))
			r.requireDiscarded(0, "message of type 4 for attempt 1 with 0 bytes, in attempt 0")
		},
		"state with a channel not flushed again": func(b *ends) {
			r := accepted(b, 2)
			r.extents()
			h := r.hello
			h.Channel = 1
			nc, err := knock(b, h)
			require.NoError(b.t, err)
			second := transport.NewConn(nc)
			require.NoError(b.t, second.WriteMessage(transport.TypeFlush, 0, nil))
			r.flush(0)
			require.NoError(b.t, r.main.WriteMessage(transport.TypeRewind, 1, nil))
			require.NoError(b.t, r.main.WriteMessage(transport.TypeFlush, 1, nil))
			go second.WriteMessage(transport.TypeFlush, 0, nil) // as if it had come late
			r.requireDiscarded(0, "message of type 4 for attempt 0 with 0 bytes, in attempt 1")
		},
		"a channel that does not come": func(b *ends) {
			r := accepted(b, 2)
			r.extents()
			r.requireDiscarded(joinTimeout, "1 channels did not arrive")
		},
		"a channel that fails": func(b *ends) {
			r := accepted(b, 2)
			r.extents()
			h := r.hello
			h.Channel = 1
			nc, err := knock(b, h)
			require.NoError(b.t, err)
			go transport.NewConn(nc).WriteMessage(transport.TypeCommit, 0, nil)
			r.requireDiscarded(0, "type 7 where 3 was due")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, idle)
				defer b.close()
				b.m.start()
				do(b)
				synctest.Wait()
				s := b.source(Params{Verify: true, Channels: 2})
				b.checkMoved(s, s.Run(context.Background()))
			})
		})
	}
}

// TestDestinationStopsAtOnce: a destination stops at once, wherever a source keeps it waiting.
func TestDestinationStopsAtOnce(t *testing.T) {
	for name, do := range map[string]func(*ends){
		"greeting": func(b *ends) {
			_, err := b.ln.dial(context.Background())
			require.NoError(b.t, err)
		},
		"configuration": func(b *ends) { newRogue(b, 1) },
		"channels":      func(b *ends) { accepted(b, 2).extents() },
		"pages": func(b *ends) {
			r := accepted(b, 2)
			r.extents()
			r.hello.Channel = 1
			_, err := knock(b, r.hello)
			require.NoError(b.t, err)
			r.send(transport.TypeFlush, nil)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, idle)
			defer b.close()
			do(b)
			synctest.Wait()
			begin := time.Now()
			b.stop()
			_, arrived := <-b.served
			require.False(t, arrived)
			// A farewell that nobody reads may take a moment.
			require.LessOrEqual(t, time.Since(begin), time.Second, name)
		})
	}
}

// TestFailureReportedAfterASuccess: an attempt that failed is cleared away when another one
// brings the guest. Whatever it still has to say, Serve's goroutines end with the listener.
func TestFailureReportedAfterASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		nc, err := knock(b, transport.Hello{
			Purpose: transport.PurposeMigrate, Channels: 1, ID: transport.ID{1},
		})
		require.NoError(t, err)
		defer nc.Close()
		// No message of this type is due, and nobody reads the refusal. The attempt has no place
		// any more, and takes another second for its farewell.
		require.NoError(t, transport.NewConn(nc).WriteMessage(transport.TypeCommit, 0, nil))
		s := b.source(Params{})
		b.checkMoved(s, s.Run(context.Background()))
		require.Less(t, time.Since(b.begun), time.Second, "before the farewell is over")
	})
}

// TestSourceThatLeavesUnheard: a source that goes before it is welcome makes room for the next one.
func TestSourceThatLeavesUnheard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		require.NoError(t, hail(b, transport.Hello{
			Purpose: transport.PurposeMigrate, Channels: 1, ID: transport.ID{1},
		}).Close())
		synctest.Wait()
		s := b.source(Params{})
		b.checkMoved(s, s.Run(t.Context()))
	})
}

// TestStrangersMayNotAsk: who may not send a guest may not ask about one either, or end it.
func TestStrangersMayNotAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEndsOf(t, idle, func(d *Destination) {
			d.Admit = func(transport.Peer) error { return errors.New("a stranger") }
		})
		defer b.close()
		for _, purpose := range []transport.Purpose{
			transport.PurposeMigrate, transport.PurposeQuery, transport.PurposeFence,
		} {
			_, err := knock(b, transport.Hello{Purpose: purpose, Channels: 1})
			require.ErrorIs(t, err, transport.ErrRefused)
			require.ErrorContains(t, err, "a stranger")
		}
	})
}
