package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"taskguide/bench/relay"
	"taskguide/bench/trial"
)

// rttText writes a round trip as a level of the factor rtt, as people type it. 0 is no relay.
func rttText(trip time.Duration) string {
	if trip == 0 {
		return "0"
	}
	return trip.String()
}

func rttTexts(trips []time.Duration) []string {
	var all []string
	for _, t := range trips {
		all = append(all, rttText(t))
	}
	return all
}

// checkRTTs refuses round trips that a relay cannot make, and one that is there twice.
func checkRTTs(trips []time.Duration) error {
	for i, t := range trips {
		switch {
		case t < 0 || t > relay.MaxRoundTrip:
			return fmt.Errorf("%v: use 0 to %v", t, relay.MaxRoundTrip)
		case slices.Contains(trips[:i], t):
			return fmt.Errorf("%q is there twice", rttText(t))
		}
	}
	return nil
}

// atRTT gives a trial its round trip, and names it.
func atRTT(s trial.Spec, trip time.Duration) trial.Spec {
	s.RTT = trip
	s.Factors["rtt"] = rttText(trip)
	if trip > 0 {
		s.ID += "/" + rttText(trip)
	}
	return s
}

// wayText says what is between source and destination besides the link. It is empty where nothing
// is.
func wayText(trips []time.Duration) string {
	trips = slices.DeleteFunc(slices.Clone(trips), func(t time.Duration) bool { return t == 0 })
	if len(trips) == 0 {
		return ""
	}
	return fmt.Sprintf("A relay adds a round trip of %s. It delays what the two ends say to each "+
		"other; TCP itself ends at it, so its windows are those of the loopback.",
		strings.Join(rttTexts(trips), " or "))
}
