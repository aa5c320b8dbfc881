package show

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration"
)

func TestEstimate(t *testing.T) {
	begin := time.Unix(1e9, 0)
	after := func(s float64) time.Time {
		return begin.Add(time.Duration(s * float64(time.Second)))
	}
	var e estimate
	_, ok := e.remaining(begin)
	require.False(t, ok, "nothing is known")
	e.progress(after(0), migration.Progress{Round: 1, RoundPages: 1100, DonePages: 100})
	_, ok = e.remaining(after(0))
	require.False(t, ok, "nor how fast the pages go")

	// 100 pages/s, 800 of them left.
	e.progress(after(2), migration.Progress{Round: 1, RoundPages: 1100, DonePages: 300})
	left, ok := e.remaining(after(2))
	require.True(t, ok)
	require.Equal(t, 8*time.Second, left)
	left, _ = e.remaining(after(5))
	require.Equal(t, 5*time.Second, left, "time goes by between events")
	left, _ = e.remaining(after(50))
	require.Zero(t, left, "it is late, and not negative")

	// Half of what is sent is dirty again: 2 s, and 1, and 1/2, ...
	e.roundDone(migration.Round{DirtyPagesPerS: 50})
	e.progress(after(10), migration.Progress{Round: 2, RoundPages: 300})
	e.progress(after(11), migration.Progress{Round: 2, RoundPages: 300, DonePages: 100})
	left, ok = e.remaining(after(11))
	require.True(t, ok)
	require.Equal(t, 4*time.Second, left)

	// As fast as it is sent: nobody knows.
	e.roundDone(migration.Round{DirtyPagesPerS: 99})
	_, ok = e.remaining(after(11))
	require.False(t, ok)
}
