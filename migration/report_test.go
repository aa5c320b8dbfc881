package migration

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// TestReportIsBounded: a migration may go on for ever, but its report may not grow for ever. The
// sums, and the number of rounds that rules judge by, include the rounds that it leaves out.
func TestReportIsBounded(t *testing.T) {
	var r Report
	const rounds = 5000
	for n := 1; n <= rounds; n++ {
		require.Equal(t, n-1, r.RoundCount())
		r.addRound(Round{N: n, SentPages: 2, ZeroPages: 1})
	}
	require.Len(t, r.Rounds, keptRounds)
	require.Equal(t, rounds-keptRounds, r.RoundsOmitted)
	require.Equal(t, rounds, r.RoundCount())
	for i, round := range r.Rounds {
		if i < firstRounds {
			require.Equal(t, i+1, round.N)
		} else {
			require.Equal(t, rounds-keptRounds+i+1, round.N)
		}
	}
	require.EqualValues(t, 2*rounds, r.PagesSent)
	require.EqualValues(t, rounds, r.PagesZero)
	require.EqualValues(t, 3*rounds*memory.PageSize, r.BytesPages)
}

// stuckAfter takes some bytes. The next write waits until the connection is closed or its deadline
// passes, as it would with a peer that has stopped reading.
type stuckAfter struct {
	net.Conn
	left int
	dead net.Conn
}

func newStuckAfter(nc net.Conn, left int) *stuckAfter {
	dead, _ := net.Pipe()
	return &stuckAfter{nc, left, dead}
}

func (c *stuckAfter) Write(b []byte) (int, error) {
	if c.left -= len(b); c.left < 0 {
		return c.dead.Write(b)
	}
	return c.Conn.Write(b)
}

func (c *stuckAfter) SetWriteDeadline(at time.Time) error {
	return errors.Join(c.Conn.SetWriteDeadline(at), c.dead.SetWriteDeadline(at))
}

func (c *stuckAfter) Close() error { return errors.Join(c.Conn.Close(), c.dead.Close()) }

// TestFailedWorkerFreesTheOthers: when one channel cannot go on, the migration does not wait for
// the deadlines of stuck writes on the others, including channel 0.
func TestFailedWorkerFreesTheOthers(t *testing.T) {
	for _, stuck := range []int{0, 2} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, idle)
			defer b.close()
			b.m.touch(3000)
			b.m.tracker.onDemand = true
			var dials sync.Mutex
			channel := -1
			b.dial = func(ctx context.Context) (net.Conn, error) {
				nc, err := b.ln.dial(ctx)
				dials.Lock()
				defer dials.Unlock()
				if channel++; channel == stuck {
					return newStuckAfter(nc, 100_000), err
				}
				return nc, err
			}
			s := b.source(Params{Compress: CompressNone, Channels: 3, BitsPerSecond: 100 * mbit})
			failing := errors.New("no protection to be had")
			b.m.tracker.failProtect = func(first, _ int) error {
				if first >= testPages/2 { // when a round comes there
					return failing
				}
				return nil
			}
			b.m.start()
			r := s.Run(context.Background())
			b.checkStays(s, r)
			require.Contains(t, r.Error, failing.Error())
			require.Less(t, r.TotalMS, 5000.0, "the deadline of a write is 30 s")
		})
	}
}
