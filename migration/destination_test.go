package migration

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

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
