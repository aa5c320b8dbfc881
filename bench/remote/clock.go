package remote

import (
	"fmt"
	"time"
)

// Clock is how far a host's wall clock is ahead of another's.
type Clock struct {
	Ahead time.Duration
	// Within bounds the error of Ahead.
	Within time.Duration
}

// Since is how far this clock is ahead of another one; both are known against the same third.
func (c Clock) Since(other Clock) Clock {
	return Clock{c.Ahead - other.Ahead, c.Within + other.Within}
}

// Local turns a time of the clock into one of the clock that it was compared with.
func (c Clock) Local(t time.Time) time.Time { return t.Add(-c.Ahead) }

// clockTrips is how many round trips a clock's estimate takes.
const clockTrips = 16

// estimate asks for a host's time trips times. An answer was given between the question and its
// arrival here, so the host's clock is known to half of a round trip, and best from the shortest.
func estimate(trips int, now func() time.Time, ask func() (time.Time, error)) (Clock, error) {
	var best Clock
	for i := range trips {
		asked := now()
		its, err := ask()
		if err != nil {
			return Clock{}, fmt.Errorf("ask for the time: %w", err)
		}
		trip := now().Sub(asked)
		if i > 0 && trip/2 >= best.Within {
			continue
		}
		// its has no monotonic reading, so this compares the wall clocks.
		best = Clock{its.Sub(asked.Add(trip / 2).Round(0)), trip / 2}
	}
	return best, nil
}
