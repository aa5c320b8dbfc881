package migration

import (
	"context"
	"errors"
	"io"
	"log/slog"
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
		b := newBed(t, busy(0, 5))
		defer b.close()
		b.m.start()
		dial := tamper(b, nil, func(typ transport.Type) action { return cutIf(typ == transport.TypeRunning) })
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

// TestSlowBuild: to build a machine, its RAM populated, may take longer than a peer
// may be silent.
func TestSlowBuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, busy(0, 5))
		defer b.close()
		b.onBuild = func() { time.Sleep(3 * transport.IdleTimeout) }
		b.m.start()
		s := b.source(Params{})
		b.checkMoved(s, s.Run(context.Background()))
	})
}

// knock greets a destination, and returns the connection if it was welcome.
func knock(b *bed, h transport.Hello) (net.Conn, error) {
	nc, err := b.ln.dial(context.Background())
	require.NoError(b.t, err)
	require.NoError(b.t, transport.WriteHello(nc, h))
	if err := transport.ReadWelcome(nc); err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// TestChannelsComeOnce: a source that opens more channels than it announced, or
// opens them too late, keeps nobody busy.
func TestChannelsComeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, idle)
		defer b.close()
		b.m.start()
		h := transport.Hello{Purpose: transport.PurposeMigrate, Channels: 3, ID: transport.ID{1}}
		main, err := knock(b, h)
		require.NoError(t, err)
		h.Channel = 1
		again, err := knock(b, h)
		require.NoError(t, err)
		defer again.Close()
		for range 3 * maxGreetings {
			synctest.Wait()
			_, err := knock(b, h)
			require.ErrorIs(t, err, transport.ErrRefused)
			require.ErrorContains(t, err, "channel 1 is here already")
		}
		h.Channel = 3
		_, err = knock(b, h)
		require.ErrorIs(t, err, transport.ErrRefused)
		h.Channel, h.Channels = 1, 2
		_, err = knock(b, h)
		require.ErrorContains(t, err, "belongs to no migration")

		main.Close()
		synctest.Wait()
		h.Channel, h.Channels = 2, 3
		_, err = knock(b, h)
		require.ErrorContains(t, err, "belongs to no migration")
		_, err = again.Read(make([]byte, 1))
		require.Error(t, err, "the channel of a migration that failed is closed")
		s := b.source(Params{Verify: true, Channels: 3})
		b.checkMoved(s, s.Run(context.Background()))
	})
}

// TestManyFailures: attempts that come and fail leave nothing behind that grows.
func TestManyFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newMemListener()
		defer ln.Close()
		d := Destination{
			Builder: buildFunc(func([]byte) (Incoming, error) { return nil, errors.New("never") }),
			Log:     slog.New(slog.DiscardHandler),
		}
		go d.Serve(context.Background(), ln)
		b := &bed{t: t, ln: ln}
		h := transport.Hello{Purpose: transport.PurposeMigrate, Channels: 1}
		for i := range maxDiscarded + 10 {
			h.ID[0], h.ID[1] = byte(i), byte(i>>8)
			nc, err := knock(b, h)
			require.NoError(t, err)
			nc.Close()
			synctest.Wait()
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		require.Len(t, d.outcomes, maxDiscarded)
		require.Equal(t, transport.OutcomeDiscarded, d.outcomes[h.ID])
		require.NotContains(t, d.outcomes, transport.ID{})
	})
}

// rogue is a source that knows the protocol and keeps to it as far as it likes.
type rogue struct {
	b     *bed
	hello transport.Hello
	main  *transport.Conn
}

// newRogue has opened channel 0.
func newRogue(b *bed, channels uint16) rogue {
	h := transport.Hello{Purpose: transport.PurposeMigrate, Channels: channels, ID: transport.ID{byte(channels), 9}}
	nc, err := knock(b, h)
	require.NoError(b.t, err)
	return rogue{b, h, transport.NewConn(nc)}
}

// accepted is a rogue whose machine has been built.
func accepted(b *bed, channels uint16) rogue {
	r := newRogue(b, channels)
	r.send(transport.TypeConfig, []byte("a machine"))
	h, err := r.main.Next()
	require.NoError(b.t, err)
	require.Equal(b.t, transport.TypeAccept, h.Type)
	return r
}

func (r rogue) send(t transport.Type, payload []byte) {
	r.b.t.Helper()
	require.NoError(r.b.t, r.main.WriteMessage(t, 0, payload))
}

func (r rogue) extents() { r.send(transport.TypeExtents, packExtents(memory.NewBitmap(testPages))) }

// state is what the fake machine takes for one.
func (r rogue) state() []byte {
	state, err := r.b.m.SaveState()
	require.NoError(r.b.t, err)
	return state
}

// requireDiscarded: the destination gives up within a time, and says why.
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

// TestRogueSources: out of turn, nothing runs, and the next migration may come.
func TestRogueSources(t *testing.T) {
	for name, do := range map[string]func(*bed){
		"no configuration": func(b *bed) {
			r := newRogue(b, 1)
			go r.main.WriteMessage(transport.TypeExtents, 0, make([]byte, 1)) // nobody reads its payload
			r.requireDiscarded(0, "type 12 where 1 was due")
		},
		"extents of another RAM": func(b *bed) {
			r := accepted(b, 1)
			r.send(transport.TypeExtents, nil)
			r.requireDiscarded(0, "bytes of extents")
		},
		"state before the flush": func(b *bed) {
			r := accepted(b, 1)
			r.extents()
			go r.main.WriteMessage(transport.TypeState, 0, r.state())
			r.requireDiscarded(0, "type 5 where 3 was due")
		},
		"no state": func(b *bed) {
			r := accepted(b, 1)
			r.extents()
			r.send(transport.TypeFlush, nil)
			r.send(transport.TypeCommit, nil)
			r.requireDiscarded(0, "type 7 where 5 was due")
		},
		"no commit": func(b *bed) {
			r := accepted(b, 1)
			r.extents()
			r.send(transport.TypeFlush, nil)
			r.send(transport.TypeState, r.state())
			h, err := r.main.Next()
			require.NoError(b.t, err)
			require.Equal(b.t, transport.TypePrepared, h.Type)
			r.send(transport.TypeFlush, nil)
			r.requireDiscarded(0, "not told to run the guest")
			require.True(b.t, b.in.discarded.Load())
		},
		"falls silent before the commit": func(b *bed) {
			r := accepted(b, 1)
			r.extents()
			r.send(transport.TypeFlush, nil)
			r.send(transport.TypeState, r.state())
			r.requireDiscarded(transport.IdleTimeout, "not told to run the guest")
		},
		"a channel that does not come": func(b *bed) {
			r := accepted(b, 2)
			r.extents()
			r.requireDiscarded(joinTimeout, "1 channels did not arrive")
		},
		"a channel that fails": func(b *bed) {
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
				b := newBed(t, idle)
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

// TestDestinationStopsAtOnce wherever a source keeps it waiting.
func TestDestinationStopsAtOnce(t *testing.T) {
	for name, do := range map[string]func(*bed){
		"greeting": func(b *bed) {
			_, err := b.ln.dial(context.Background())
			require.NoError(b.t, err)
		},
		"configuration": func(b *bed) { newRogue(b, 1) },
		"channels":      func(b *bed) { accepted(b, 2).extents() },
		"pages": func(b *bed) {
			r := accepted(b, 2)
			r.extents()
			r.hello.Channel = 1
			_, err := knock(b, r.hello)
			require.NoError(b.t, err)
			r.send(transport.TypeFlush, nil)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, idle)
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

func TestWhoMayJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, idle)
		defer b.close()
		for _, h := range []transport.Hello{
			{Purpose: transport.PurposeMigrate, Channels: 0},
			{Purpose: transport.PurposeMigrate, Channels: MaxChannels + 1},
			{Purpose: transport.PurposeMigrate, Channel: 1, Channels: 1},
			{Purpose: transport.PurposeMigrate, Channel: 1, Channels: 2}, // of what?
			{Purpose: transport.PurposeQuery, Channels: 1},               // of what?
		} {
			_, err := knock(b, h)
			require.ErrorIs(t, err, transport.ErrRefused, "%+v", h)
		}
		r := accepted(b, 2)
		h := r.hello
		h.Channel, h.ID[5] = 1, 1
		_, err := knock(b, h)
		require.ErrorContains(t, err, "belongs to no migration under way")
		r.main.Close()
	})
}

// TestSilentConnections: whoever connects and says nothing makes room for others.
func TestSilentConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, idle)
		defer b.close()
		b.m.start()
		var first net.Conn
		for i := range maxGreetings + 5 {
			nc, err := b.ln.dial(context.Background())
			require.NoError(t, err)
			defer nc.Close()
			synctest.Wait()
			if i == 0 {
				first = nc
			}
			if i >= maxGreetings {
				_, err := nc.Read(make([]byte, 1))
				require.ErrorIs(t, err, io.EOF, "there is no room for more")
			}
		}
		begin := time.Now()
		io.Copy(io.Discard, first)
		require.Equal(t, helloTimeout, time.Since(begin))
		synctest.Wait()
		s := b.source(Params{})
		b.checkMoved(s, s.Run(context.Background()))
	})
}
