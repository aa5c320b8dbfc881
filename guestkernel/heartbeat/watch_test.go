package heartbeat

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSilences(t *testing.T) {
	zero := time.Unix(1000, 0)
	at := func(ms ...int) (times []time.Time) {
		for _, m := range ms {
			times = append(times, zero.Add(time.Duration(m)*time.Millisecond))
		}
		return times
	}
	const ms = time.Millisecond
	source := at(100, 500, 1600, 1603, 1610, 1611, 1612, 1620, 1621)
	destination := at(1630, 1631, 1640, 1641, 9000)

	got, ok := SilencesOf(source, destination, zero.Add(1615*time.Millisecond))
	require.True(t, ok)
	// A silence that was under way when the migration was requested counts as one of its rounds',
	// in full length. Output more than a second before the request, or a second after the arrival,
	// does not count.
	require.Equal(t, Silences{Before: 7 * ms, Rounds: 8 * ms, Switch: 9 * ms, After: 9 * ms}, got)

	for what, c := range map[string]struct{ source, destination []time.Time }{
		"nothing before the request":     {at(1700), destination},
		"nothing at the destination":     {source, nil},
		"both at once":                   {source, at(1619, 1700)},
		"nothing anywhere":               {nil, nil},
		"the destination before, wholly": {source, at(100)},
	} {
		_, ok := SilencesOf(c.source, c.destination, zero.Add(1615*time.Millisecond))
		require.False(t, ok, what)
	}
}

func TestWatchKeepsOrder(t *testing.T) {
	out, in, err := os.Pipe()
	require.NoError(t, err)
	after := make(chan struct{})
	var log Log
	w := NewWatch(out, &log, after)
	_, err = in.WriteString("one ")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(w.Times()) == 1 }, time.Minute, time.Millisecond)
	require.Empty(t, log.String(), "not before it may be heard")
	close(after)
	_, err = in.WriteString("two")
	require.NoError(t, err)
	require.NoError(t, in.Close())
	<-w.Done()
	require.Equal(t, "one two", log.String())
	require.Len(t, w.Times(), 2)
	require.False(t, w.Times()[1].Before(w.Times()[0]))
}
