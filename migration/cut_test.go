package migration

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
)

// TestConnectionCutAnywhere: at whatever byte the network dies, the guest ends up complete and at
// exactly one place.
func TestConnectionCutAnywhere(t *testing.T) {
	t.Parallel()
	const pages = 40
	try := func(t *testing.T, fromSource, fromDest int64) (moved bool) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.m.touch(pages)
		b.m.start()
		first := true
		b.dial = func(ctx context.Context) (net.Conn, error) {
			if !first { // the network is back for whoever asks
				return b.ln.dial(ctx)
			}
			first = false
			a, z := net.Pipe()
			var up, down atomic.Int64
			up.Store(fromSource)
			down.Store(fromDest)
			b.ln.conns <- cutConn{z, &down}
			return cutConn{a, &up}, nil
		}
		s := b.source(Params{Compress: CompressNone, BitsPerSecond: 1000 * mbit})
		r := s.Run(context.Background())
		if s.Fate() == FateMoved {
			b.checkMoved(s, r)
			return true
		}
		b.checkStays(s, r)
		return false
	}
	const plenty = 1 << 40
	outcomes := map[bool]int{}
	// Cuts are at every byte of the greeting and the configuration, then in strides, then at every
	// byte around the handover.
	cuts := []int64{}
	for n := int64(0); n < 100; n += 3 {
		cuts = append(cuts, n)
	}
	for n := int64(100); n < (pages+20)*4096; n += 9001 {
		cuts = append(cuts, n)
	}
	for _, n := range cuts {
		synctest.Test(t, func(t *testing.T) { outcomes[try(t, n, plenty)]++ })
	}
	require.Positive(t, outcomes[false], "some cut must have hit the migration")
	require.Positive(t, outcomes[true], "some cut must have been behind it")
	clear(outcomes)
	for n := int64(0); n < 120; n++ {
		synctest.Test(t, func(t *testing.T) { outcomes[try(t, plenty, n)]++ })
	}
	require.Positive(t, outcomes[false])
	require.Positive(t, outcomes[true])
}

// TestHandoverCut cuts exactly around the commit, by message rather than by byte.
func TestHandoverCut(t *testing.T) {
	t.Run("commit never arrives", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, busy(0, 5))
			defer b.close()
			b.m.start()
			b.dial = tamper(b, cutAt(transport.TypeCommit), nil)
			s := b.source(Params{})
			r := s.Run(context.Background())
			b.checkStays(s, r)
			require.True(t, s.Committed())
			require.Contains(t, r.Error, "did not run the guest")
		})
	})
	t.Run("running never arrives", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, busy(0, 5))
			defer b.close()
			b.m.start()
			b.dial = tamper(b, nil, cutAt(transport.TypeRunning))
			s := b.source(Params{})
			b.checkMoved(s, s.Run(context.Background()))
		})
	})
	t.Run("nobody answers any more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, busy(0, 5))
			defer b.close()
			b.m.start()
			b.dial = once(tamper(b, nil, cutAt(transport.TypeRunning)))
			s := b.source(Params{})
			r := s.Run(context.Background())
			require.Equal(t, StatusFailed, r.Status)
			require.Equal(t, FateUnknown, s.Fate())
			require.False(t, b.m.isRunning(), "it may run at the destination: never two")
			require.Contains(t, r.Error, "it is kept here, paused, and the destination is asked on")
			require.False(t, b.m.tracker.logging())
		})
	})
	t.Run("the destination cannot run it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, busy(0, 5))
			defer b.close()
			b.m.start()
			b.in.failRun = errors.New("vCPU on fire")
			s := b.source(Params{})
			r := s.Run(context.Background())
			b.checkStays(s, r)
			require.Contains(t, r.Error, "vCPU on fire")
			require.True(t, b.in.discarded.Load())
		})
	})
}

func TestFailuresBeforeCommit(t *testing.T) {
	for name, break_ := range map[string]func(*ends){
		"load":  func(b *ends) { b.in.failLoad = errors.New("on purpose") },
		"save":  func(b *ends) { b.m.failSave = errors.New("on purpose") },
		"pause": func(b *ends) { b.m.failPause = errors.New("on purpose") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, busy(0, 5))
				defer b.close()
				b.m.start()
				break_(b)
				s := b.source(Params{})
				r := s.Run(context.Background())
				require.Equal(t, StatusFailed, r.Status)
				require.Contains(t, r.Error, "on purpose")
				require.Equal(t, FateStays, s.Fate())
				if name == "pause" {
					return // it cannot be resumed either
				}
				b.checkStays(s, r)
				// The same destination takes the next attempt.
				b.m.failSave, b.in.failLoad = nil, nil
				s = b.source(Params{Verify: true})
				b.checkMoved(s, s.Run(context.Background()))
			})
		})
	}
}

// TestVerifyFindsALostWrite: verification fails after a write that the tracker missed.
func TestVerifyFindsALostWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.ram.Page(7)[0] = 1
		b.m.start()
		b.m.onPaused = func() { b.m.ram.Page(7)[0] = 2 } // past the dirty log
		s := b.source(Params{Verify: true})
		r := s.Run(context.Background())
		b.m.onPaused = nil
		b.checkStays(s, r)
		require.Equal(t, StatusFailed, r.Status)
		require.Contains(t, r.Error, "RAM at the destination differs")
		require.NotNil(t, r.Verified)
		require.False(t, *r.Verified)
	})
}

// TestCancelAnytime cancels at many moments: the guest stays, or is gone already.
func TestCancelAnytime(t *testing.T) {
	t.Parallel()
	outcomes := map[Status]int{}
	for at := time.Duration(0); at < 120*time.Millisecond; at += 2300 * time.Microsecond {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, busy(0, 30))
			defer b.close()
			b.m.touch(200)
			b.m.start()
			s := b.source(Params{
				BitsPerSecond: 100 * mbit, DowntimeLimit: 15 * time.Millisecond,
				Compress: CompressNone,
			})
			ctx, cancel := context.WithCancelCause(context.Background())
			time.AfterFunc(at, func() { cancel(ErrCancelled) })
			r := s.Run(ctx)
			cancel(nil)
			outcomes[r.Status]++
			if s.Fate() == FateMoved {
				b.checkMoved(s, r)
			} else {
				b.checkStays(s, r)
				require.Equal(t, StatusCancelled, r.Status)
			}
		})
	}
	require.Positive(t, outcomes[StatusCompleted])
	require.Positive(t, outcomes[StatusCancelled])
	require.Zero(t, outcomes[StatusFailed])
}

// TestDestinationStops: its user ends the destination in the middle.
func TestDestinationStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 90))
		defer b.close()
		b.m.touch(900)
		b.m.start()
		s := b.source(Params{
			BitsPerSecond: 100 * mbit, DowntimeLimit: time.Millisecond,
			Compress: CompressNone,
		})
		time.AfterFunc(300*time.Millisecond, b.stop)
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Equal(t, StatusFailed, r.Status)
		require.True(t, b.in.discarded.Load())
	})
}

// TestStalledNetwork: nothing arrives any more, and nothing is refused.
func TestStalledNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 90))
		defer b.close()
		b.m.touch(900)
		b.m.start()
		stalled := make(chan struct{})
		b.dial = func(ctx context.Context) (net.Conn, error) {
			nc, err := b.ln.dial(ctx)
			return stallConn{nc, stalled}, err
		}
		time.AfterFunc(200*time.Millisecond, func() { close(stalled) })
		s := b.source(Params{
			BitsPerSecond: 100 * mbit, DowntimeLimit: time.Millisecond,
			Compress: CompressNone,
		})
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Equal(t, StatusFailed, r.Status)
		require.Contains(t, r.Error, "does not answer")
	})
}
