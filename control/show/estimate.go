package show

import (
	"time"

	"taskguide/migration"
)

// estimate guesses how much longer a migration takes.
//
// The rest of the present round is sent as fast as its pages so far. During that time the guest
// dirties pages as fast as in the last round. The next round has to send those, and so on. If pages
// are dirtied more slowly than they are sent, the times form a geometric series.
type estimate struct {
	round     int
	begun     time.Time // when the round was first heard of
	before    int64     // pages of it that were done by then
	at        time.Time // when the fields below were known
	left      int64     // pages of the round to send
	pagesPerS float64   // sent, 0: not known yet
	dirtyPerS float64   // in the last round that has ended
}

// progress records how far the present round is.
func (e *estimate) progress(at time.Time, p migration.Progress) {
	if p.Round != e.round {
		e.round, e.begun, e.before = p.Round, at, p.DonePages
	}
	e.at, e.left = at, max(p.RoundPages-p.DonePages, 0)
	if done, took := p.DonePages-e.before, at.Sub(e.begun); done > 0 && took > 0 {
		e.pagesPerS = float64(done) / took.Seconds()
	}
}

// roundDone records how fast the guest dirties pages.
func (e *estimate) roundDone(r migration.Round) { e.dirtyPerS = r.DirtyPagesPerS }

// hopeless is the part of sent pages that may be dirty again for there to be an estimate. Above it,
// the series is longer than any rule goes on for.
const hopeless = 0.95

// remaining is how much longer the migration takes from now on. ok is false if that is not known.
func (e *estimate) remaining(now time.Time) (left time.Duration, ok bool) {
	if e.pagesPerS == 0 {
		return 0, false
	}
	again := e.dirtyPerS / e.pagesPerS
	if again >= hopeless {
		return 0, false
	}
	seconds := float64(e.left) / e.pagesPerS / (1 - again)
	left = time.Duration(seconds*float64(time.Second)) - now.Sub(e.at)
	return max(left, 0), true
}
