package sim

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/policy"
)

// TestChoose: the earliest moment within 1 ms of the least.
func TestChoose(t *testing.T) {
	const at = time.Second
	all := []moment{
		{1 * at, 9 * time.Millisecond}, {2 * at, 4*time.Millisecond + 1},
		{3 * at, 4 * time.Millisecond}, {4 * at, 3 * time.Millisecond},
		{5 * at, 5 * time.Millisecond},
	}
	require.Equal(t, 3*at, choose(all))
	require.Equal(t, at, choose(all[:1]))
	require.Zero(t, choose(nil))
}

// TestOracleIsBest: with the same rounds no policy ends at a better moment, and the moment is not
// later than it must be.
func TestOracleIsBest(t *testing.T) {
	tr := generated(t, phased())
	for _, name := range []string{
		"downtime:polish=off", "downtime:limit=5ms", "qemu", "ramp", "xen:skip=off,protect=page",
		"xen",
	} {
		e := entrant(t, name, policy.GuidanceOff)
		for _, p := range moves(t, tr, e, 6) {
			require.True(t, p.Oracle.Moved())
			if p.Move.TotalMS-p.Move.DowntimeMS <= ms(e.MaxDefer) {
				require.LessOrEqual(t, p.Oracle.DowntimeMS, p.Move.DowntimeMS+1.1, name)
			}
			require.LessOrEqual(t, p.Oracle.TotalMS-p.Oracle.DowntimeMS, ms(e.MaxDefer)+100)
		}
	}
}

// TestOracleWaitsForTheCalm: a guest is busy at the request and calm from 500 ms on, for 100 ms.
func TestOracleWaitsForTheCalm(t *testing.T) {
	r := recording{pages: 100, interval: 10 * time.Millisecond, writes: calmFor(300)}
	for i := range r.writes {
		if i < 50 || i >= 60 {
			for page := range 30 {
				r.writes[i] = append(r.writes[i], (30*i+page)%100)
			}
		}
	}
	tr := r.load(t)
	e := entrant(t, "downtime", policy.GuidanceOff)
	e.MaxDefer = 2 * time.Second
	m, err := exact().Best(t.Context().Err, tr, e.Order, 0)
	require.NoError(t, err)
	require.InDelta(t, 600, m.TotalMS, 15, "at the end of the only calm")
	require.Less(t, m.DowntimeMS, 5.0)
	e.MaxDefer = 400 * time.Millisecond // it may not wait for it
	m, err = exact().Best(t.Context().Err, tr, e.Order, 0)
	require.NoError(t, err)
	require.Less(t, m.TotalMS, 550.0)
	require.Greater(t, m.DowntimeMS, 50.0)
}

// TestOracleTakesTheFirst of moments that are as good as each other.
func TestOracleTakesTheFirst(t *testing.T) {
	tr := recording{pages: 100, interval: 10 * time.Millisecond, writes: calmFor(300)}.load(t)
	m, err := exact().Best(t.Context().Err, tr, entrant(t, "downtime", policy.GuidanceOff).Order, 0)
	require.NoError(t, err)
	require.InDelta(t, 100, m.TotalMS, 3)
}

// TestOracleEndsARound in its middle, if that is the best moment: this guest writes a burst just
// before each round ends.
func TestOracleEndsARound(t *testing.T) {
	r := recording{pages: 100, interval: 10 * time.Millisecond, writes: calmFor(1000)}
	for i := 9; i < 1000; i += 8 { // rounds end at 100, 180, 260 ms, and so on
		for page := range 80 {
			r.writes[i] = append(r.writes[i], page)
		}
	}
	e := entrant(t, "downtime:limit=1ms", policy.GuidanceOff)
	e.MaxDefer = time.Second
	m, err := exact().Best(t.Context().Err, r.load(t), e.Order, 0)
	require.NoError(t, err)
	require.Less(t, m.DowntimeMS, 40.0, "at the end of a round 80 ms are left")
}
