package migration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
)

// slowParts makes every part of a downtime take a time of its own. A greeting takes 5 ms.
func slowParts(b *ends) {
	b.dial = tamper(b, func(typ transport.Type) action {
		switch typ {
		case transport.TypeState:
			time.Sleep(20 * time.Millisecond) // more than a greeting explains
		case transport.TypeCommit:
			time.Sleep(4 * time.Millisecond)
		}
		return pass
	}, nil)
	dial := b.dial
	b.dial = func(ctx context.Context) (net.Conn, error) {
		nc, err := dial(ctx)
		return hookConn{nc, func(sent []byte) {
			if len(sent) == greetingBytes {
				time.Sleep(5 * time.Millisecond)
			}
		}}, err
	}
	b.m.onPaused = func() { time.Sleep(3 * time.Millisecond) }
	b.m.onSave = func() { time.Sleep(30 * time.Millisecond) }
	b.in.onLoad = func() { time.Sleep(7 * time.Millisecond) }
	b.in.onRun = func() { time.Sleep(11 * time.Millisecond) }
}

// requireWaterfall: the parts and what they do not explain are the downtime, and none is negative.
func requireWaterfall(t *testing.T, r Report) {
	t.Helper()
	d := r.Downtime
	require.InDelta(t, r.DowntimeMS, d.Explained()+d.UnexplainedMS, 1e-6)
	parts := reflect.ValueOf(d)
	for i := range parts.NumField() {
		name, part := parts.Type().Field(i).Name, parts.Field(i)
		if part.Kind() == reflect.Pointer {
			if part.IsNil() {
				continue
			}
			part = part.Elem()
		}
		require.GreaterOrEqual(t, part.Float(), 0.0, name)
	}
}

// TestWaterfall: a downtime is the sum of its parts, each end accounts for its own work, a round
// trip for the way, and what nobody accounts for stays unexplained.
func TestWaterfall(t *testing.T) {
	for name, offers := range map[string]transport.Features{
		"both ends tell":           transport.FeatureTimes,
		"the destination does not": 0,
	} {
		for _, verify := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, verify %v", name, verify), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newEnds(t, busy(0, 5))
					defer b.close()
					b.offers = offers
					slowParts(b)
					b.m.start()
					s := b.source(Params{Verify: verify})
					r := s.Run(context.Background())
					b.checkMoved(s, r)
					requireWaterfall(t, r)
					d := r.Downtime
					require.InDelta(t, 3, d.PauseMS, 1.1, "and a step of the guest")
					require.InDelta(t, 30, d.PagesMS+d.SettleMS, 0.5)
					require.Greater(t, d.SettleMS, 20.0)
					if offers == 0 {
						require.Nil(t, d.LoadThereMS)
						require.Nil(t, d.RunThereMS)
						require.Zero(t, d.WayMS)
						require.InDelta(t, 15, d.RunMS, 0.5)
						require.InDelta(t, 0, d.UnexplainedMS, 0.5)
						return
					}
					require.InDelta(t, 7, *d.LoadThereMS, 0.1)
					require.InDelta(t, 11, *d.RunThereMS, 0.1)
					require.InDelta(t, 15, d.RunMS, 0.5)
					if verify { // the state went out before RAM was summed up
						require.InDelta(t, 20, d.VerifyMS, 0.5)
						require.InDelta(t, 4, d.WayMS, 0.5)
						require.InDelta(t, 0, d.UnexplainedMS, 0.5)
						return
					}
					require.InDelta(t, 27, d.LoadMS, 0.5)
					require.InDelta(t, 9, d.WayMS, 1)
					require.InDelta(t, 15, d.UnexplainedMS, 1)
				})
			})
		}
	}
}

// TestFalseTimes: what a destination says about its time is believed only as far as it can be true.
func TestFalseTimes(t *testing.T) {
	for _, payload := range [][]byte{
		nil, {}, {1, 2, 3}, make([]byte, 8),
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		binary.LittleEndian.AppendUint64(nil, uint64(11*time.Millisecond)),
	} {
		var d DowntimeParts
		require.Nil(t, d.split(10, worked(payload), time.Second), "%x", payload)
		require.Zero(t, d.WayMS)
	}
	var d DowntimeParts
	longer := binary.LittleEndian.AppendUint64(nil, uint64(9*time.Millisecond))
	longer = append(longer, "what later versions say"...)
	require.Equal(t, 9.0, *d.split(10, worked(longer), time.Second))
	require.Equal(t, 1.0, d.WayMS)
}

// deafConn reads a welcome as one without features. offset counts the bytes read.
type deafConn struct {
	net.Conn
	offset *int
}

func (c deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	for i := range b[:n] {
		if at := *c.offset + i; at >= 16 && at < 24 {
			b[i] = 0
		}
	}
	*c.offset += n
	return n, err
}

// TestTimesThatNobodyAskedFor: without the feature in force, a payload of prepared and running says
// nothing.
func TestTimesThatNobodyAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 5))
		defer b.close()
		b.offers = transport.FeatureTimes
		b.dial = func(ctx context.Context) (net.Conn, error) {
			nc, err := b.ln.dial(ctx)
			return deafConn{nc, new(int)}, err
		}
		b.in.onLoad = func() { time.Sleep(7 * time.Millisecond) }
		b.in.onRun = func() { time.Sleep(11 * time.Millisecond) }
		b.m.start()
		s := b.source(Params{})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Zero(t, r.Protocol.Features)
		require.Nil(t, r.Downtime.LoadThereMS)
		require.Nil(t, r.Downtime.RunThereMS)
		requireWaterfall(t, r)
	})
}

// TestWaterfallOfAStay: the parts add up to the downtime of an attempt that failed, too. A guest
// that its user had paused has none.
func TestWaterfallOfAStay(t *testing.T) {
	for name, paused := range map[string]bool{"runs": false, "paused by its user": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, busy(0, 5))
				defer b.close()
				b.m.start()
				time.Sleep(5 * time.Millisecond)
				if paused {
					require.NoError(t, b.m.Pause())
				}
				b.m.onSave = func() { time.Sleep(30 * time.Millisecond) }
				b.in.onLoad = func() { time.Sleep(7 * time.Millisecond) }
				b.in.failLoad = errors.New("a bad state")
				s := b.source(Params{})
				r := s.Run(context.Background())
				require.Equal(t, StatusFailed, r.Status)
				require.Contains(t, r.Error, "a bad state")
				requireWaterfall(t, r)
				if paused {
					require.Zero(t, r.DowntimeMS)
					return
				}
				b.checkStays(s, r)
				require.InDelta(t, 37, r.DowntimeMS, 2)
				require.InDelta(t, 30, r.Downtime.PagesMS+r.Downtime.SettleMS, 0.5)
				require.InDelta(t, 7, r.Downtime.UnexplainedMS, 0.5, "nobody has answered")
			})
		})
	}
}

// TestPartsOfAnAttemptWithoutAStandstill: a guest stood still in an attempt that was taken back; in
// the next one, which fails, its user has paused it. The parts are not of the standstill that is
// reported.
func TestPartsOfAnAttemptWithoutAStandstill(t *testing.T) {
	r := Report{
		Standstills: []Standstill{{MS: 5}},
		Downtime:    DowntimeParts{HarvestMS: 1, PagesMS: 30},
	}
	r.noteStay()
	require.InDelta(t, 5, r.DowntimeMS, 0)
	requireWaterfall(t, r)
	require.InDelta(t, 5, r.Downtime.UnexplainedMS, 0)
}

func FuzzTimes(f *testing.F) {
	f.Add([]byte{}, []byte{1, 2, 3, 4, 5, 6, 7, 8}, 1.0, 2.0, int64(3))
	f.Add(make([]byte, 9), []byte{0, 0, 1, 0, 0, 0, 0, 0}, 1.0, 2.0, int64(1e6))
	f.Fuzz(func(t *testing.T, prepared, running []byte, load, run float64, way int64) {
		if !(load >= 0 && load < 1e9 && run >= 0 && run < 1e9) || way < 0 {
			return
		}
		d := DowntimeParts{LoadMS: load, RunMS: run}
		d.LoadThereMS = d.split(load, worked(prepared), time.Duration(way))
		d.RunThereMS = d.split(run, worked(running), time.Duration(way))
		d.explain(load + run)
		requireWaterfall(t, Report{DowntimeMS: load + run, Downtime: d})
		require.LessOrEqual(t, d.Explained(), load+run+1e-6)
	})
}
