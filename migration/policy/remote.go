package policy

import "time"

// Remote tells whether a program leads.
func (h *Head) Remote() bool { return h.c.Remote }

// Question returns what the policy is asked at an event, and whether it is. The engine puts it to a
// program before it tells the Head of the event, with no lock held, and to shadows.
func (h *Head) Question(e Event) (q Event, asks bool) {
	switch e.Kind {
	case KindStart:
		return e, !h.c.Remote || h.outcome != "" // a program is asked once the gate is known
	case KindSample:
		asks = true
	case KindRound, KindTick:
		asks = h.atExit == ""
	case KindDrained:
		asks = h.atExit == ""
		e.Kind = KindTick
	case KindDue:
		asks = h.account.counts
		e.Kind = KindTick
	case KindGate:
		return e, e.Gate == GateClosing && e.Looked && !h.pausing && h.mayHold(e)
	}
	e.Gate = gateOf(h.gateOpen)
	return e, asks
}

// Told tells whether a policy is told of an event without being asked.
func (h *Head) Told(e Event) bool {
	return e.Kind == KindStanding || e.Kind == KindGate && e.Gate != GateClosing
}

// lost lets the policy take the place of its program. It is asked at the next event: a wait that
// the program wanted is over, and the sample that it asked for is due.
func (h *Head) lost(now time.Duration) {
	if !h.c.Remote {
		return
	}
	h.c.Remote, h.looks.pause = false, 0
	if h.stay == stayAsked {
		h.changed = true
	}
	if h.sampleAt > now {
		h.sampleAt = now
	}
}
