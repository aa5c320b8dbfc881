package trial

import (
	"slices"
	"time"

	"taskguide/guestkernel/heartbeat"
)

// Felt are the pauses before, around and after a migration, each with the seconds that it counts,
// of all tasks together.
type Felt struct {
	Before FeltSpan `json:"before"` // the request
	Around FeltSpan `json:"around"` // the seconds of the migration, pre-copy included
	After  FeltSpan `json:"after"`
}

// FeltSpan is the pauses in some time.
type FeltSpan struct {
	Seconds float64          `json:"seconds"`
	Stalls  heartbeat.Stalls `json:"stalls"` // by the least us of each power of two
}

// PerSecond is how many pauses of at least that length there were in a second.
func (s FeltSpan) PerSecond(pause time.Duration) float64 {
	if s.Seconds <= 0 {
		return 0
	}
	return float64(s.Stalls.AtLeast(pause)) / s.Seconds
}

// Add adds the pauses of some more time.
func (s *FeltSpan) Add(more FeltSpan) {
	if s.Stalls == nil {
		s.Stalls = heartbeat.Stalls{}
	}
	s.Stalls.Add(more.Stalls)
	s.Seconds += more.Seconds
}

// Slow is how long a guest made less progress than before.
type Slow struct {
	// BrownoutMS is the time of all heartbeats from the request on in which the guest did less than
	// steadyShare of its work before, and RecoverMS is the part after the move, until it was back
	// for good. A heartbeat is a second, so both are known to a second.
	BrownoutMS float64 `json:"brownout_ms"`
	RecoverMS  float64 `json:"recover_ms"`
	// Recovered says that the guest was as fast as before when the trial ended.
	Recovered bool `json:"recovered"`
}

// steadyShare is the share of the speed before that counts as no brownout.
const steadyShare = 0.9

// ownClockJudges tells whether the guest's own clock is sure to go on while the VM stands still.
// Most KVMs let QEMU stop the guest's TSC for the downtime.
func (r *Result) ownClockJudges() bool { return r.Spec.QEMU == nil }

// roundingMS is by how much QEMU's downtime, of whole milliseconds, may be too long.
const roundingMS = 1

// ClockStood tells whether the guest's clock stood still while QEMU had stopped the guest: by a
// clock that goes on, the guest's gap is at least the downtime.
func (r *Result) ClockStood() bool {
	return r.Spec.QEMU != nil &&
		(r.GapMS == Unknown || r.GapMS+roundingMS < r.Report.DowntimeMS)
}

// ForgetClock leaves out what the guest says of its move by a clock that stood still.
func (r *Result) ForgetClock() {
	r.GapMS, r.GapBeforeMS = Unknown, Unknown
	r.ExitMS, r.ExitBeforeMS = 0, 0
	r.Latency = nil
	r.Work.DuringPerS, r.Work.LostMS, r.Work.Brownout = Unknown, Unknown, Unknown
}

// addFelt adds what one task counted.
func (r *Result) addFelt(t *series) {
	if !r.ownClockJudges() {
		return
	}
	for i := 1; i < len(t.beats); i++ {
		stalls, told := t.beats[i].Stalls()
		if !told {
			return
		}
		if r.Felt == nil {
			r.Felt = &Felt{}
		}
		second := FeltSpan{(t.beats[i].Elapsed - t.beats[i-1].Elapsed).Seconds(), stalls}
		switch {
		case i < t.asked:
			r.Felt.Before.Add(second)
		case i <= t.moved:
			r.Felt.Around.Add(second)
		default:
			r.Felt.After.Add(second)
		}
	}
}

// addSlow adds the slow seconds of one task. It applies to programs that do the same all the time.
func (r *Result) addSlow(t *series) {
	if !r.steady(t) || !r.ownClockJudges() {
		return
	}
	before := t.rate(r.firstBefore(t), t.asked-1)
	if before <= 0 {
		return
	}
	slow := Slow{Recovered: true}
	for i := t.asked - 1; i+1 < len(t.beats); i++ {
		slow.Recovered = t.rate(i, i+1) >= steadyShare*before
		if slow.Recovered {
			continue
		}
		slow.BrownoutMS += ms(t.beats[i+1].Elapsed - t.beats[i].Elapsed)
		if i >= t.moved { // the whole second is after the move
			slow.RecoverMS = ms(t.beats[i+1].Elapsed - t.beats[t.moved].Elapsed)
		}
	}
	if r.Slow == nil {
		r.Slow = &Slow{Recovered: true}
	}
	r.Slow.BrownoutMS = max(r.Slow.BrownoutMS, slow.BrownoutMS)
	r.Slow.RecoverMS = max(r.Slow.RecoverMS, slow.RecoverMS)
	r.Slow.Recovered = r.Slow.Recovered && slow.Recovered
}

// readHeard fills in the pauses between the guest's dots, by the clock outside.
func (r *Result) readHeard(source, destination []time.Time, requested time.Time) {
	if r.Spec.Guest.Dots == 0 || len(source) < 2 || len(destination) < 2 {
		return
	}
	asked, _ := slices.BinarySearchFunc(source, requested, time.Time.Compare)
	asked = min(max(asked, 1), len(source)-1)
	before, rest := source[:asked+1], source[asked:]
	around := append(slices.Clone(rest), destination[0])
	r.Heard = &Felt{
		Before: heardIn(before), Around: heardIn(around), After: heardIn(destination),
	}
}

func heardIn(times []time.Time) FeltSpan {
	return FeltSpan{times[len(times)-1].Sub(times[0]).Seconds(), heartbeat.StallsBetween(times)}
}
