package policy

import (
	"cmp"
	"time"
)

// fewPages is a number of pages so small that another round is not worth it.
const fewPages = 50

// segment remembers, for a guided migration, how few pages rounds leave in the segment that is
// open. A policy that gave up takes any number of dirty pages, even all that a busy phase left
// behind just before the gate opened. So with the gate open, rounds go on for as long as each
// leaves clearly less than it began with.
type segment struct {
	floor int // fewest pages left by a round with the gate open, -1: none yet
}

// roundDone notes what a round left during which the gate was open throughout.
func (s *segment) roundDone(remaining int) {
	if s.floor < 0 || remaining < s.floor {
		s.floor = remaining
	}
}

// near tells whether remaining is close to the fewest pages in this segment.
func (s *segment) near(remaining int) bool {
	return remaining < fewPages || s.floor >= 0 && remaining <= 2*s.floor
}

func (s *segment) reset() { s.floor = -1 }

// shrinks tells whether a round that began with dirty pages left clearly fewer, so that another may
// pay.
func shrinks(dirty, remaining int) bool {
	return remaining >= fewPages && 4*remaining <= 3*dirty
}

// exitPace bounds how much of the vCPUs' time goes to questions at EXITs and to looks at the dirty
// log: a guest may tag thousands of times a second, and a look costs more with more RAM. Without a
// question the vCPU goes on as if the policy were not satisfied.
type exitPace struct {
	pause time.Duration // least time between two looks, 0: exitPause
	next  time.Duration // no question, and so no look, before
	begin time.Duration // of the look that is being taken
}

const (
	exitPause = 5 * time.Millisecond // least time between two looks
	// programPause is that for a program, which may take 5 ms for its answer.
	programPause = 100 * time.Millisecond
	exitShare    = 20 // and at least this many times as long as the last question or look took
)

// may tells whether the policy may be asked now, and a look be taken for it.
func (p *exitPace) may(now time.Duration) bool { return now >= p.next }

// took notes that the look has been taken.
func (p *exitPace) took(now time.Duration) {
	p.next = now + max(cmp.Or(p.pause, exitPause), exitShare*(now-p.begin))
}

// asked notes a question that took from begun to now, with the look if one was taken for it.
func (p *exitPace) asked(begun, now time.Duration) {
	p.next = max(p.next, now+exitShare*(now-begun))
}
