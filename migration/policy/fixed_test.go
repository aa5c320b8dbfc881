package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestForPages(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct{ limit, fixed, want time.Duration }{
		{100 * ms, 0, 100 * ms},
		{100 * ms, 10 * ms, 90 * ms},
		{100 * ms, 50 * ms, 50 * ms},
		{100 * ms, 51 * ms, 50 * ms}, // never more than half
		{100 * ms, time.Hour, 50 * ms},
		{100 * ms, -time.Hour, 100 * ms},
		{0, time.Second, 0},
	} {
		require.Equal(t, test.want, ForPages(test.limit, test.fixed), "%+v", test)
	}
}

// TestLimitsAreOfTheWholeDowntime: every policy with a limit subtracts from it what does not depend
// on the pages, at most half of it.
func TestLimitsAreOfTheWholeDowntime(t *testing.T) {
	const limit = 400 * time.Millisecond
	judged := 0
	for _, spec := range All() {
		choice, err := Parse(spec.Name)
		require.NoError(t, err)
		if choice.Value("limit", nil) == "" {
			continue
		}
		judged++
		// most is how many pages it is content with. A page takes a ms.
		most := func(fixed time.Duration) int {
			e := Event{
				Kind: KindRound, RAM: 1 << 20, BytesPerS: 1000 * pageSize, Fixed: fixed,
				Rounds: []Round{{N: 1, MS: 1000, BytesWire: 1000 * pageSize, DirtyPages: 9000}},
			}
			e.Completed = len(e.Rounds)
			for e.Remaining = 2000; ; e.Remaining-- {
				p, err := choice.New(Values{"limit": limit.String()})
				require.NoError(t, err)
				if a := p.Step(365*24*time.Hour, e); a.Verb == Switchover && !a.GaveUp {
					return e.Remaining
				}
				require.Positive(t, e.Remaining, spec.Name)
			}
		}
		require.Equal(t, 400, most(0), spec.Name)
		require.Equal(t, 300, most(100*time.Millisecond), spec.Name)
		require.Equal(t, 200, most(300*time.Millisecond), spec.Name)
		require.Equal(t, 200, most(time.Hour), spec.Name)
	}
	require.Equal(t, 5, judged)
}

// TestStallAboveTheLimit: at a local minimum it tolerates more than the limit, also of the whole
// downtime.
func TestStallAboveTheLimit(t *testing.T) {
	p := chosen(t, "stall:limit=1s,window=3s") // 1.5 s at a minimum, a page a ms
	e := stalling(9000, 1300, 1400, 1500, 1400, 1250)
	for fixed, gaveUp := range map[time.Duration]bool{
		0: false, 250 * time.Millisecond: false, 251 * time.Millisecond: true, time.Hour: true,
	} {
		e.Fixed = fixed
		a := p.Step(0, e)
		require.Equal(t, Switchover, a.Verb)
		require.Equal(t, gaveUp, a.GaveUp, "%v", fixed)
	}
}
