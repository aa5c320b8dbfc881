package sim

import (
	"time"

	"taskguide/migration/policy"
)

// switchover does the stop-and-copy and the handover. It returns false if it was taken back.
func (w *walk) switchover() (switched bool, err error) {
	if !w.standing {
		w.begun, w.standing = w.now, true
	}
	limit := w.o.standstill()
	if w.head.AnyDowntime() {
		limit = 0
	}
	w.step(policy.Event{Kind: policy.KindPausing})
	w.pass(w.now + w.s.Costs.Pause)
	w.still = true
	// A vCPU that is held has not closed the gate yet.
	standing := policy.Event{
		Kind: policy.KindStanding, Gate: gateOf(w.open), Phase: w.phase, Rounds: w.rounds,
		Completed: w.completed,
	}
	if !w.decided(w.step(standing)) {
		w.m.Retractions++
		w.resume()
		return false, nil
	}
	w.phase = policy.PhaseStopCopy
	w.takeDirty()
	before := w.keep()
	w.link.still = true
	r := w.sendRound(w.phase)
	w.closeRound(r)
	w.m.PagesStopCopy = r.DirtyPages
	w.now += w.s.Costs.Handover + switchoverTrips*w.s.RTT
	if limit > 0 && w.now-w.begun > limit {
		return false, w.takeBack(before, w.begun+limit)
	}
	w.m.DowntimeMS, w.m.SwitchOpen = ms(w.now-w.begun), w.open
	return true, nil
}

// resume lets the guest run again, as it was before its vCPUs were asked to stand still.
func (w *walk) resume() {
	w.still, w.standing, w.held, w.stop = false, false, false, false
	w.open = w.guest.now().open
	w.step(policy.Event{Kind: policy.KindResumed, Gate: gateOf(w.open)})
	w.phase = policy.PhasePreCopy
}

// kept is what a switchover that is taken back restores.
type kept struct {
	pages []int
	left  int
}

// keep notes what the stop-and-copy has to send. All of it is sent again if the switchover is taken
// back, though the engine sends again only what had not gone.
func (w *walk) keep() kept {
	k := kept{left: w.left}
	for first, n := w.pending.NextRun(0, w.pending.Len()); n > 0; {
		for page := first; page < first+n; page++ {
			k.pages = append(k.pages, page)
		}
		first, n = w.pending.NextRun(first+n, w.pending.Len())
	}
	return k
}

// takeBack takes back a switchover whose time is spent.
func (w *walk) takeBack(k kept, at time.Duration) error {
	w.now = max(at, w.begun)
	if w.link.at > w.now { // what had not gone by then does not keep the link
		w.link.at, w.link.tokens = w.now, 0
	}
	w.link.still = false
	w.m.TakenBack++
	a := w.step(policy.Event{Kind: policy.KindSpent})
	for _, page := range k.pages {
		w.pending.Set(page)
	}
	w.left, w.unsent = k.left, k.left
	w.rate = rate{content: w.rate.content, wire: w.rate.wire}
	w.resume()
	w.step(policy.Event{Kind: policy.KindRewound})
	return a.Err
}
