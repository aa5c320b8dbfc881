package trial

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/relay"
	"taskguide/bench/sim"
	"taskguide/migration"
)

// TestRelayTo: a destination is reached by the relay's address, a round trip later, and not any
// more once the trial is over.
func TestRelayTo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	var site Site
	address := "tcp:" + ln.Addr().String()
	same, end, err := site.relayTo(address, 0)
	require.NoError(t, err)
	require.NoError(t, end())
	require.Equal(t, address, same)

	const trip = 20 * time.Millisecond
	other, end, err := site.relayTo(address, trip)
	require.NoError(t, err)
	require.NotEqual(t, address, other)
	c, err := net.Dial("tcp", other[len("tcp:"):])
	require.NoError(t, err)
	defer c.Close()
	begun := time.Now()
	_, err = c.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 1))
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(begun), trip)
	require.NoError(t, end())
	_, err = net.Dial("tcp", other[len("tcp:"):])
	require.Error(t, err)

	_, _, err = site.relayTo("unix:/somewhere", trip)
	require.ErrorIs(t, err, errNoRelay)
}

// TestWrongRoundTrips are the trial's error, and nothing is started.
func TestWrongRoundTrips(t *testing.T) {
	var site Site
	for _, c := range []struct {
		spec Spec
		want error
	}{
		{Spec{RTT: -1}, relay.ErrRoundTrip}, {Spec{RTT: time.Hour}, relay.ErrRoundTrip},
		{Spec{RTT: time.Millisecond, Moves: 2}, errNoRelay},
		{Spec{RTT: time.Millisecond, Baseline: BaselineTCP}, errNoRelay},
	} {
		require.ErrorIs(t, c.spec.checkRTT(), c.want)
		require.Contains(t, site.Run(t.Context(), c.spec).Error, c.want.Error())
	}
	require.NoError(t, Spec{RTT: time.Millisecond}.checkRTT())
}

// TestSimulationHasTheRoundTrip of the relay, beside the loopback's own.
func TestSimulationHasTheRoundTrip(t *testing.T) {
	_, s, err := simulation(new(sim.Trace), migration.Params{}, 20*time.Millisecond, 2)
	require.NoError(t, err)
	require.Equal(t, loopbackTrip+relayTrip+20*time.Millisecond, s.RTT)
	require.Equal(t, loopbackTrip, s.Ack, "TCP ends at the relay")
	require.Equal(t, 2, s.Costs.Processors, "which both ends share with the guest")
}
