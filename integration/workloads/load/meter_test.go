package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/guestkernel/heartbeat"
)

const ms = time.Millisecond

// slow is a redis that stores everything, and takes its time.
type slow struct {
	net.Conn
	takes   time.Duration
	answers bytes.Buffer
}

func (s *slow) Write(p []byte) (int, error) {
	time.Sleep(s.takes)
	s.answers.WriteString("+OK\r\n")
	return len(p), nil
}

func (s *slow) Read(p []byte) (int, error) { return s.answers.Read(p) }

func number(t *testing.T, b heartbeat.Beat, field string) float64 {
	t.Helper()
	v, ok := b.Float(field)
	require.True(t, ok, field)
	return v
}

// served is a session that has just begun its run. Each request takes 1 ms.
func served(log *heartbeat.Log) (*session, *slow) {
	server := &slow{takes: ms}
	s := &session{
		dialect: dialects["redis"], conn: server, in: bufio.NewReader(server),
		written: make([]uint32, keys),
		meter:   newMeter(keys, func(line string) { fmt.Fprintln(log, line) }),
	}
	s.meter.ready()
	return s, server
}

// TestClientsFeelAPause: a pause is the gap, the longest latency and the p99 of its second,
// wherever in the load's work it falls, and of no other second.
func TestClientsFeelAPause(t *testing.T) {
	for name, pause := range map[string]func(*session, *slow) error{
		"in a request": func(s *session, server *slow) error {
			server.takes = 300 * ms
			return s.write(7)
		},
		"between two requests": func(s *session, _ *slow) error {
			time.Sleep(299 * ms)
			return s.write(7)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			var log heartbeat.Log
			s, server := served(&log)
			for range 1000 {
				require.NoError(t, s.write(7))
			}
			require.NoError(t, pause(s, server))
			server.takes = ms
			for range 700 {
				require.NoError(t, s.write(7))
			}

			beats := log.Beats()
			require.Len(t, beats, 2, name)
			calm, felt := beats[0], beats[1]
			require.Equal(t, ms, calm.Gap, name)
			for _, field := range []string{"requests", "p50_us", "p99_us", "p999_us", "max_us"} {
				require.InDelta(t, 1000, number(t, calm, field), 0, field)
			}
			stalls, ok := calm.Stalls()
			require.True(t, ok)
			require.Equal(t, heartbeat.Stalls{512: 1000}, stalls)

			require.Equal(t, 300*ms, felt.Gap, name)
			require.Equal(t, 2*time.Second, felt.Elapsed, name)
			require.EqualValues(t, 1701, felt.Writes, name)
			require.InDelta(t, 701, number(t, felt, "requests"), 0, "not those that were not sent")
			require.InDelta(t, 1000, number(t, felt, "p50_us"), 50, name)
			require.InDelta(t, 290_000, number(t, felt, "p99_us"), 10_000, name)
			require.InDelta(t, 300_000, number(t, felt, "max_us"), 2_000, name)
			stalls, ok = felt.Stalls()
			require.True(t, ok)
			require.Equal(t, heartbeat.Stalls{512: 700, 262144: 1}, stalls)
		})
	}
}

// TestClientsFeelAPauseThatIsAll: a pause that begins with its second and outlasts it is the only
// gap there. Clients feel it all the same, in no other second.
func TestClientsFeelAPauseThatIsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log heartbeat.Log
		s, _ := served(&log)
		write := func(n int) {
			for range n {
				require.NoError(t, s.write(7))
			}
		}
		write(1000) // the last brings a heartbeat
		time.Sleep(1200 * ms)
		write(1 + 799)

		beats := log.Beats()
		require.Len(t, beats, 3)
		felt := beats[1]
		require.Equal(t, 2201*ms, felt.Elapsed)
		require.Equal(t, 1201*ms, felt.Gap)
		require.InDelta(t, 1, number(t, felt, "requests"), 0)
		require.InDelta(t, 1_190_000, number(t, felt, "p99_us"), 15_000)
		require.InDelta(t, 1_200_000, number(t, felt, "max_us"), 2_000)
		for _, calm := range []heartbeat.Beat{beats[0], beats[2]} {
			for _, field := range []string{"p50_us", "p99_us", "p999_us", "max_us"} {
				require.InDelta(t, 1000, number(t, calm, field), 0, field)
			}
		}
	})
}

// TestHeartbeatsComeBySeconds: they come at full seconds of a phase, one after a long pause, and
// what they take to print is told apart.
func TestHeartbeatsComeBySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log heartbeat.Log
		m := newMeter(2, func(line string) {
			time.Sleep(20 * ms)
			fmt.Fprintln(&log, line)
		})
		steps := func(n int, each time.Duration) {
			for range n {
				time.Sleep(each)
				m.wrote()
			}
		}
		steps(11, 100*ms)
		m.ready() // at 1.14 s
		steps(10, 100*ms)
		steps(1, 3500*ms)
		steps(5, 100*ms)

		beats := log.Beats()
		for i, want := range []struct {
			phase              string
			elapsed, gap       time.Duration
			writes, us, stalls uint64
		}{
			{"prepare", 1000 * ms, 100 * ms, 10, 0, 10},
			{"busy", 2140 * ms, 100 * ms, 21, 0, 10},
			{"busy", 5660 * ms, 3500 * ms, 22, 20_000, 1},
			{"busy", 6180 * ms, 100 * ms, 27, 20_000, 5},
		} {
			require.Greater(t, len(beats), i)
			b := beats[i]
			require.Zero(t, b.Task)
			require.Equal(t, want.phase, b.Fields["phase"], i)
			require.Equal(t, want.elapsed, b.Elapsed, i)
			require.Equal(t, want.gap, b.Gap, i)
			require.Equal(t, want.writes, b.Writes, i)
			require.Equal(t, want.writes/2, b.Passes, i)
			require.InDelta(t, want.us, number(t, b, "print_us"), 0, i)
			require.NotContains(t, b.Fields, "p50_us", "nobody asks a heap")
			stalls, ok := b.Stalls()
			require.True(t, ok, i)
			require.Equal(t, want.stalls, stalls.AtLeast(0), i)
		}
		require.Len(t, beats, 4)
		require.NoError(t, log.WaitText(t.Context(), "\nworkload ready\n"))
	})
}

func TestBuckets(t *testing.T) {
	for d := time.Duration(1); d < 1<<62; d += d/7 + 1 {
		over := longestIn(bucketOf(d)) - d
		require.GreaterOrEqual(t, over, time.Duration(0), d)
		require.LessOrEqual(t, over, d/32, d)
		require.Equal(t, bucketOf(d)+1, bucketOf(d+over+1), d)
	}
	var h histogram
	require.Less(t, bucketOf(math.MaxInt64), len(h.buckets))
	require.Zero(t, bucketOf(0))
	require.Zero(t, h.permille(990))
	for us := range 1000 {
		h.add(time.Duration(us+1)*time.Microsecond, 1)
	}
	require.InDelta(t, 500, h.permille(500).Microseconds(), 16)
	require.InDelta(t, 990, h.permille(990).Microseconds(), 31)
	require.Equal(t, ms, h.permille(1000))
}

// TestALongPauseIsCountedSoon: the guest may have been paused for a year.
func TestALongPauseIsCountedSoon(t *testing.T) {
	const year = 365 * 24 * time.Hour
	var gaps, latency histogram
	gaps.add(10*ms, 2)
	gaps.add(year, 1)
	latency.add(year, 1)
	latency.addWaiting(&gaps, 10*ms)
	require.InDelta(t, float64(mostWaited/(10*ms)), float64(latency.count), 300)
	require.Equal(t, year, latency.max)
}

// TestFewTimes: of a single time, every share is that time.
func TestFewTimes(t *testing.T) {
	var h histogram
	h.add(3*ms, 1)
	for _, share := range []uint64{1, 500, 990, 999, 1000} {
		require.Equal(t, 3*ms, h.permille(share), share)
	}
}
