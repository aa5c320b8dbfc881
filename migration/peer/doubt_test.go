package peer

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
)

// unreachable returns a destination that cannot be reached.
func unreachable() *Peer {
	return New(Config{Dial: func(context.Context) (net.Conn, error) {
		return nil, errors.New("no route to host")
	}})
}

// TestLifetimes: a destination may claim some time, within reason.
func TestLifetimes(t *testing.T) {
	d := NewDoubt(unreachable())
	require.NoError(t, d.Prepared(1))
	require.NoError(t, d.Prepared(uint32(maxLifetime.Milliseconds())))
	require.ErrorIs(t, d.Prepared(0), transport.ErrFrame)
	require.ErrorIs(t, d.Prepared(uint32(maxLifetime.Milliseconds()+1)), transport.ErrFrame)
}

// TestToldForGood: a source that told the destination to run the guest cannot cancel any more,
// whatever follows.
func TestToldForGood(t *testing.T) {
	d := NewDoubt(unreachable())
	require.False(t, d.Told())
	require.Equal(t, FateStays, d.Fate())
	d.Begin()
	require.Equal(t, FateUnknown, d.Fate())
	require.Equal(t, FateStays, d.conclude(FateStays))
	require.Equal(t, FateStays, d.conclude(FateMoved), "who comes first concludes")
	require.True(t, d.Told())
}

// TestNobodyConcludesBehindFindOut: the destination's word arrives just when Run gives up
// asking. What Run returns and the fate that is read afterwards must be the same.
func TestNobodyConcludesBehindFindOut(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			p := unreachable()
			defer p.Close()
			d := NewDoubt(p)
			d.Begin()
			time.AfterFunc(doubtTimeout, func() {
				p.replies <- Reply{Header: transport.Header{Type: transport.TypeRunning}}
			})
			err := d.FindOut(errors.New("cut"))
			fate := d.Fate()
			synctest.Wait()
			require.Equal(t, fate, d.Fate())
			require.Equal(t, err == nil, fate == FateMoved)
		})
	}
}

// TestSettledDuringAQuestion: what settles a doubt elsewhere, as a user's word does, is not held up
// by a question that nobody answers.
func TestSettledDuringAQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asking := make(chan struct{}, 1)
		p := New(Config{Dial: func(ctx context.Context) (net.Conn, error) {
			asking <- struct{}{}
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}})
		defer p.Close()
		d := NewDoubt(p)
		d.Begin()
		settled := make(chan Fate, 1)
		go func() { settled <- d.Settle(context.Background()) }()
		<-asking
		begin := time.Now()
		d.conclude(FateStays)
		require.Equal(t, FateStays, <-settled)
		require.Zero(t, time.Since(begin))
	})
}
