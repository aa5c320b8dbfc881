package policy

import "time"

// gate takes in how the gate changes.
func (h *Head) gate(now time.Duration, e Event) Action {
	switch e.Gate {
	case GateClosing:
		return h.closing(now, e)
	case GateOpen:
		h.setGate(true)
		h.segment.reset()
	case GateClosed:
		h.setGate(false)
	}
	h.changed = true
	h.recount(now)
	h.c.Policy.Step(now, e)
	switch {
	case h.gateOpen && e.Phase == PhaseHeld:
		// What the round under way still has to send was dirtied before the gate opened; a new
		// round sends each page once.
		return Action{Verb: EndRound}
	case e.Phase == PhasePreCopy && h.suspends():
		return Action{Verb: EndRound}
	}
	return Action{}
}

// setGate notes the gate's state. A round during which the gate was ever closed does not count as
// open throughout.
func (h *Head) setGate(open bool) {
	h.gateOpen = open
	h.throughout = h.throughout && open
}

// AsksAtExit tells whether a gate that is closing is worth a complete event, which costs the vCPU
// time to collect. It reads only Phase and Completed of e.
func (h *Head) AsksAtExit(now time.Duration, e Event) bool {
	return h.mayHold(e) && (h.pausing || h.looks.may(now))
}

// AskedAtExit notes that a vCPU has stood at its EXIT from begun to now for questions, and was not
// held for them. Only the engine knows what they cost: what it collects, and the policy's time.
func (h *Head) AskedAtExit(begun, now time.Duration) { h.looks.asked(begun, now) }

// mayHold tells whether a vCPU could be held at its EXIT.
func (h *Head) mayHold(e Event) bool {
	if !h.c.AtExit || !h.holdsSwitchover() {
		return false
	}
	// Round 1 has most of RAM to send.
	sending := e.Completed > 0 && (e.Phase == PhasePreCopy || e.Phase == PhaseHeld)
	return h.pausing || sending
}

// closing decides whether the vCPU is held at the EXIT that would close the gate, for the
// switchover.
func (h *Head) closing(now time.Duration, e Event) Action {
	if e.Looked {
		h.looks.took(now)
	}
	switch {
	case !h.mayHold(e):
		return Action{}
	case h.pausing && h.atExit != "":
		return h.hold(h.atExit)
	case h.pausing:
		return h.hold(h.reason + ", held at the segment's EXIT")
	case !e.Looked && !h.looks.may(now):
		return Action{}
	case !e.Looked && h.c.Remote:
		// A program is asked once, with the facts, and not again soon, even if nothing comes of it.
		h.looks.begin, h.looks.next = now, now+programPause
		return Action{Verb: Look}
	}
	v := h.ask(now, e)
	switch {
	case v.Verb != Switchover, v.GaveUp && !h.segment.near(e.Missing()):
		return Action{}
	case !e.Looked:
		// A policy that said no to the fewest pages would say no to more. This one said yes, so a
		// look may pay.
		h.looks.begin = now
		return Action{Verb: Look}
	case h.atExit == "":
		h.gaveUp = v.GaveUp
	}
	return h.hold(v.Reason + ", at the segment's EXIT")
}

func (h *Head) hold(reason string) Action {
	h.atExit = reason
	return Action{Verb: Switchover, Reason: reason, GaveUp: h.gaveUp}
}

// GateHolds tells whether a closed gate holds back a switchover that was decided.
func (h *Head) GateHolds() bool { return h.atExit == "" && h.holdsSwitchover() && !h.gateOpen }

// drained takes the decision back if gate or policy do not want it any more.
func (h *Head) drained(now time.Duration, e Event) Action {
	if h.atExit != "" {
		return h.decide(h.atExit)
	}
	e.Kind = KindTick
	v := h.ask(now, e)
	switch {
	case v.Verb == Abort:
		return v
	case v.Verb != Switchover || h.GateHolds():
		return Action{}
	}
	h.gaveUp = v.GaveUp
	return h.decide(h.reason)
}

// stand takes the decision back if the gate has closed while the vCPUs came to a stand. They stand
// still now, so the gate does not change any more.
func (h *Head) stand(now time.Duration, e Event) Action {
	h.pausing = false
	if h.atExit == "" && h.holdsSwitchover() {
		h.setGate(e.Gate == GateOpen)
		if !h.gateOpen {
			return Action{}
		}
	}
	h.c.Policy.Step(now, e)
	if h.atExit != "" {
		return h.decide(h.atExit)
	}
	return h.decide(h.reason)
}

// resumed restores everything to what it was before the vCPUs were asked to stand still.
func (h *Head) resumed(now time.Duration, e Event) {
	h.standing, h.pausing, h.atExit, h.reason = false, false, "", ""
	if e.Gate != "" {
		h.setGate(e.Gate == GateOpen) // the head was not told of an EXIT that has passed
	}
	h.recount(now)
}
