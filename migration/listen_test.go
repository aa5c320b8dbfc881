package migration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/peer"
	"taskguide/transport"
)

func TestBusyDestinationRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 90))
		defer b.close()
		b.m.touch(900)
		b.m.start()
		ctx, cancel := context.WithCancelCause(context.Background())
		s := b.source(Params{
			BitsPerSecond: 100 * mbit, DowntimeLimit: time.Millisecond,
			Compress: CompressNone,
		})
		done := make(chan Report)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(100 * time.Millisecond)

		other := newFakeMachine(t, idle)
		defer other.ram.Close()
		other.start()
		defer other.end()
		p, err := Params{Destination: "tcp:x:1"}.WithDefaults()
		require.NoError(t, err)
		r := newSource(other, p, nil, peer.Config{Dial: b.ln.dial}).Run(context.Background())
		require.Equal(t, StatusFailed, r.Status)
		require.Contains(t, r.Error, "busy with another migration")
		require.True(t, other.isRunning())

		cancel(ErrCancelled)
		r = <-done
		b.checkStays(s, r)
	})
}

// TestNextAfterCancel: a destination takes a moment to free what it had received. A source that
// comes in that moment waits, and is not told that another migration is under way.
func TestNextAfterCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 90))
		defer b.close()
		b.in.discardTakes = clearTimeout - time.Second
		b.m.touch(900)
		b.m.start()
		ctx, cancel := context.WithCancelCause(context.Background())
		s := b.source(Params{
			BitsPerSecond: 100 * mbit, DowntimeLimit: time.Millisecond, Compress: CompressNone,
		})
		done := make(chan Report)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(100 * time.Millisecond)
		cancel(ErrCancelled)
		b.checkStays(s, <-done)
		s = b.source(Params{})
		b.checkMoved(s, s.Run(context.Background()))
	})
}

// TestDestinationEndsMidway: a destination whose process ends says so, and why.
func TestDestinationEndsMidway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 90))
		defer b.close()
		b.m.touch(900)
		b.m.start()
		s := b.source(Params{
			BitsPerSecond: 100 * mbit, DowntimeLimit: time.Millisecond, Compress: CompressNone,
		})
		done := make(chan Report)
		go func() { done <- s.Run(context.Background()) }()
		time.Sleep(100 * time.Millisecond)
		b.stopFor(errors.New("the destination was told to end"))
		r := <-done
		require.Contains(t, r.Error, "the destination was told to end")
		b.checkStays(s, r)
	})
}

func TestStrangersAreTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		for _, hello := range []string{
			"GET / HTTP/1.1\r\n\r\nmore and more", "TASKMIGR\x63\x00\x00\x00", "x",
		} {
			nc, err := b.ln.dial(context.Background())
			require.NoError(t, err)
			go func() { nc.Write([]byte(hello)); time.Sleep(time.Second); nc.Close() }()
			if len(hello) > 12 {
				_, err := transport.ReadWelcome(nc, 0)
				require.ErrorIs(t, err, transport.ErrRefused)
			}
		}
		// A migration under way is not disturbed by somebody who guesses at its channels.
		s := b.source(Params{Verify: true})
		b.checkMoved(s, s.Run(context.Background()))
	})
}

// TestGarbageFrames sends random frames after a proper greeting.
func TestGarbageFrames(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		for range 50 {
			nc, err := b.ln.dial(context.Background())
			require.NoError(t, err)
			h := transport.Hello{Purpose: transport.PurposeMigrate, Channels: 1}
			for i := range h.ID {
				h.ID[i] = byte(rnd.Uint32())
			}
			require.NoError(t, transport.WriteHello(nc, h))
			_, err = transport.ReadWelcome(nc, 0)
			require.NoError(t, err)
			c := transport.NewConn(nc)
			if rnd.IntN(2) == 0 {
				require.NoError(t, c.WriteMessage(transport.TypeConfig, 0, []byte("a machine")))
				_, err := c.Next()
				require.NoError(t, err)
				if rnd.IntN(2) == 0 {
					require.NoError(t, c.WriteMessage(transport.TypeExtents, 0, make([]byte, 1)))
				}
			}
			junk := make([]byte, 16+rnd.IntN(5000))
			for i := range junk {
				junk[i] = byte(rnd.Uint32())
			}
			nc.SetDeadline(time.Now().Add(time.Second))
			nc.Write(junk)
			nc.Close()
			synctest.Wait()
		}
		s := b.source(Params{Verify: true})
		b.checkMoved(s, s.Run(context.Background()))
	})
}

// TestChannelsComeOnce: a source that opens more channels than it announced, or
// opens them too late, keeps nobody busy.
func TestChannelsComeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
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
		b := &ends{t: t, ln: ln}
		h := transport.Hello{Purpose: transport.PurposeMigrate, Channels: 1}
		for i := range maxDiscarded + 10 {
			h.ID[0], h.ID[1] = byte(i), byte(i>>8)
			nc, err := knock(b, h)
			require.NoError(t, err)
			nc.Close()
			synctest.Wait()
		}
		outcome := func(id transport.ID) transport.Outcome {
			return rogue{b, transport.Hello{Channels: 1, ID: id}, nil}.ask(transport.PurposeQuery)
		}
		require.Equal(t, transport.OutcomeDiscarded, outcome(h.ID))
		require.Equal(t, transport.OutcomeDiscarded, outcome(transport.ID{10}))
		_, err := knock(b, transport.Hello{
			Purpose: transport.PurposeQuery, Channels: 1, ID: transport.ID{9},
		})
		require.ErrorContains(t, err, "knows nothing of that migration")
	})
}

// TestSilentCrowd: connections that say nothing, and come again, keep neither a migration
// nor a question out.
func TestSilentCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		for range 2 * maxGreetings {
			go func() {
				for ctx.Err() == nil {
					nc, err := b.ln.dial(ctx)
					if err != nil {
						return
					}
					io.Copy(io.Discard, nc)
					nc.Close()
				}
			}()
		}
		time.Sleep(time.Second)
		id := b.identified()
		s := b.source(Params{Channels: 2})
		b.checkMoved(s, s.Run(context.Background()))
		r := rogue{b, transport.Hello{Channels: 1, ID: *id}, nil}
		require.Equal(t, transport.OutcomeRunning, r.ask(transport.PurposeFence))
	})
}

// TestSilentConnections: a connection that says nothing makes room for others.
func TestSilentConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		begin := time.Now()
		first, err := b.ln.dial(context.Background())
		require.NoError(t, err)
		time.Sleep(helloTimeout / 2)
		dial := func() net.Conn {
			nc, err := b.ln.dial(context.Background())
			require.NoError(t, err)
			synctest.Wait()
			return nc
		}
		second := dial()
		for range maxGreetings - 1 {
			defer dial().Close()
		}
		io.Copy(io.Discard, first)
		require.Equal(t, helloTimeout/2, time.Since(begin), "the oldest makes room")
		defer dial().Close()
		io.Copy(io.Discard, second)
		require.InDelta(t, helloTimeout/2+pressedTimeout, time.Since(begin),
			float64(pressedPace), "after its time")
		synctest.Wait()
		s := b.source(Params{})
		b.checkMoved(s, s.Run(context.Background()))
	})
}

func TestWhoMayJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
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

// TestWhoMayNotComeAgain: a discarded migration stays discarded, because its source was told so,
// and a destination with a running guest accepts no other.
func TestWhoMayNotComeAgain(t *testing.T) {
	m := newAdmission(func() time.Duration { return 0 })
	failed := transport.Hello{Channels: 1, ID: transport.ID{1}}
	a, err := m.admit(failed, transport.Terms{})
	require.NoError(t, err)
	m.conclude(a, transport.OutcomeDiscarded)
	_, err = m.admit(failed, transport.Terms{})
	require.ErrorContains(t, err, "was here before")

	a, err = m.admit(transport.Hello{Channels: 1, ID: transport.ID{2}}, transport.Terms{})
	require.NoError(t, err)
	a.until = peer.Lifetime
	require.NoError(t, m.start(a))
	other := transport.Hello{Channels: 1, ID: transport.ID{3}}
	_, err = m.admit(other, transport.Terms{})
	require.ErrorContains(t, err, "a guest runs here already")
	m.conclude(a, transport.OutcomeRunning)
	_, err = m.admit(other, transport.Terms{})
	require.ErrorContains(t, err, "a guest runs here already")
}

// TestRefusalsAreToldAtAPace: a peer that connects as fast as it can does not fill the log.
func TestRefusalsAreToldAtAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		log := slog.New(slog.NewTextHandler(&said, nil))
		r := newRefusals()
		for range 1000 {
			r.tell(log, errors.New("no"))
		}
		require.Equal(t, toldAway, strings.Count(said.String(), "\n"))
		time.Sleep(toldPace)
		r.tell(log, errors.New("no"))
		require.Equal(t, toldAway+1, strings.Count(said.String(), "\n"))
		require.Contains(t, said.String(), fmt.Sprintf("not_logged_before=%d", 1000-toldAway))
	})
}

// failing is a listener that cannot accept, so many times, and is closed then.
type failing struct {
	net.Listener
	left int
}

func (l *failing) Accept() (net.Conn, error) {
	if l.left--; l.left < 0 {
		return nil, net.ErrClosed
	}
	return nil, syscall.EMFILE
}

// TestAcceptErrorsArePaced: a process without descriptors for a minute does not fill its log.
func TestAcceptErrorsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said strings.Builder
		d := &Destination{Log: slog.New(slog.NewTextHandler(&said, nil))}
		err := d.accept(t.Context(), &failing{left: 6000}, nil)
		require.ErrorIs(t, err, net.ErrClosed)
		lines := strings.Count(said.String(), "\n")
		require.GreaterOrEqual(t, lines, toldAway)
		require.LessOrEqual(t, lines, toldAway+60)
	})
}
