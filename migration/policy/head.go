package policy

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrDeferred ends a migration that guidance held back for too long.
	ErrDeferred = errors.New("held back by the gate for too long")
	// ErrAborted ends a migration whose policy does not want it any more.
	ErrAborted = errors.New("ended by its policy")
)

const (
	// heldPace is the time between rounds while a converged migration waits for its gate. It is
	// short enough to keep the rest small, and long enough to spare guest and link.
	heldPace = 100 * time.Millisecond
	// minSample is the least time between two samples, because after each the vCPUs' writes fault
	// on protected pages.
	minSample = 5 * time.Millisecond
	// worthPolishing is how long the rest must take to send for another round to be worth it.
	worthPolishing = time.Millisecond
)

// Config is the part of a migration's order that a Head uses.
type Config struct {
	Policy Policy
	// Remote says that a program leads. Its answers come with the events (Event.Answer), and the
	// policy takes its place once it has ended (KindLost).
	Remote    bool
	Polish    bool // Traits.Polish
	Guidance  Guidance
	AtExit    bool          // switch over at an EXIT
	Retries   int           // this many switchovers taken back end the migration
	MaxDefer  time.Duration // how long guidance may defer the migration; 0: not at all
	OnTimeout OnTimeout     // what happens then
}

// Head decides what a migration does next. It combines the policy, which knows what is left;
// guidance, which knows what the guest's tasks want; and patience, which knows what the operator
// accepts. The engine is its hands: it tells the Head what happened, one event at a time, and does
// what it answers.
type Head struct {
	c       Config
	account account
	segment segment
	looks   exitPace

	guided  bool // the gate has a say
	forced  bool // guidance has used up its time and has no say any more
	ended   bool
	outcome Guidance // the order's guidance, or none without a task; empty before the start

	gateOpen   bool
	throughout bool // the gate has been open since the round began

	converged bool   // the policy was satisfied once
	gaveUp    bool   // it had given up when it was last asked
	extra     bool   // rounds went on though it was satisfied
	missed    bool   // after those rounds it was no longer satisfied
	reason    string // of the switchover that is decided
	// atExit is set while a vCPU is held at the EXIT that would close the gate, or was when the
	// vCPUs were asked to pause. The gate counts as open for this switchover.
	atExit   string
	pausing  bool // the vCPUs are coming to a stand
	standing bool // they are coming to a stand, or stand still
	spent    int  // switchovers taken back
	stay     stay
	stayEnd  time.Duration // when the stay ends though the gate is closed, 0: never
	changed  bool          // the gate changed during the stay
	sampleAt time.Duration // when a sample is due, 0: none

	warning string // for the next action
}

// NewHead returns the head of a migration that has not begun.
func NewHead(c Config) *Head {
	h := &Head{c: c, segment: segment{floor: -1}}
	if c.Remote {
		h.looks.pause = programPause
	}
	return h
}

// Guidance returns the order's guidance, or GuidanceNone if no task takes part.
func (h *Head) Guidance() Guidance { return cmp.Or(h.outcome, h.c.Guidance) }

// Forced tells whether guidance used up its time and has no say any more.
func (h *Head) Forced() bool { return h.forced }

// Ended tells whether the migration has ended with the guest staying.
func (h *Head) Ended() bool { return h.ended }

// GateOpen tells whether the gate is open.
func (h *Head) GateOpen() bool { return h.gateOpen }

// AnyDowntime tells whether the switchover that is decided may take any time: its policy gave
// up, or it was forced.
func (h *Head) AnyDowntime() bool { return h.forced || h.gaveUp }

// Step takes an event in, and returns what the engine is to do. Now is the time since the migration
// began; it never goes back.
func (h *Head) Step(now time.Duration, e Event) Action {
	a := h.answer(now, e)
	a.Warning, h.warning = h.warning, ""
	return a
}

func (h *Head) answer(now time.Duration, e Event) Action {
	switch e.Kind {
	case KindStart:
		return h.start(now, e)
	case KindNext:
		return h.next(now)
	case KindSample:
		return h.sample(now, e)
	case KindBegin:
		return h.begin(now, e)
	case KindRound:
		return h.round(now, e)
	case KindWake:
		return h.wake(now)
	case KindTick:
		return h.tick(now, e)
	case KindDue:
		return h.due(now, e)
	case KindGate:
		return h.gate(now, e)
	case KindSpent:
		return h.takeBack()
	case KindDrained:
		return h.drained(now, e)
	case KindPausing:
		h.pausing, h.standing = true, true
		h.recount(now)
	case KindStanding:
		return h.stand(now, e)
	case KindResumed:
		h.resumed(now, e)
	case KindRewound:
		h.converged = false // further rounds are due to the link, not to guidance
		h.recount(now)
	case KindEnded:
		h.ended = true
		h.recount(now)
	case KindLost:
		h.lost(now)
	}
	return Action{}
}

// start makes the migration wait if it must not begin while the gate is closed. With a program, the
// engine tells of the start twice: as soon as the gate is known, and once the program was asked.
func (h *Head) start(now time.Duration, e Event) Action {
	if h.outcome == "" {
		h.meet(e)
		if h.c.Remote {
			return Action{}
		}
	}
	switch v := h.ask(now, e); v.Verb {
	case Abort:
		return v
	case Wait:
		h.sampleAt = max(v.Until, now+minSample)
	}
	if h.c.Guidance.waitsToStart() && h.obeysGate() && !h.gateOpen {
		return h.wait(now, stayToStart, 0)
	}
	return Action{}
}

// meet takes in who takes part in guidance.
func (h *Head) meet(e Event) {
	h.outcome = h.c.Guidance
	h.gateOpen = e.Gate == GateOpen
	h.guided = h.c.Guidance != GuidanceOff && e.Tasks > 0
	switch {
	case h.c.Guidance == GuidanceOff:
	case e.Tasks == 0:
		h.outcome = GuidanceNone
		h.warning = "no task in the guest takes part in guidance: the rule alone decides"
	case !h.gateOpen && !e.Running:
		h.guided = false
		h.warning = "the guest is paused before a closed gate and cannot open it: " +
			"the rule alone decides"
	}
}

// next stops the page stream at a closed gate if guidance wants that, and asks for samples of the
// dirty rate before round 1 if the policy wants them.
func (h *Head) next(now time.Duration) Action {
	switch {
	case h.sampleAt > 0:
		return Action{Verb: Sample, Until: h.sampleAt}
	case !h.suspends() || h.atExit != "":
		return Action{}
	}
	a := h.wait(now, staySuspended, 0)
	if a.Verb == Wait {
		a.Verb = Suspend
	}
	return a
}

// sample asks the policy whether it wants another sample.
func (h *Head) sample(now time.Duration, e Event) Action {
	h.sampleAt = 0
	switch v := h.ask(now, e); v.Verb {
	case Abort:
		return v
	case Wait:
		h.sampleAt = max(v.Until, now+minSample)
		return Action{Verb: Sample, Until: h.sampleAt}
	}
	return Action{}
}

// begin says whether a round may send anything. A gate that closed, or a vCPU that is held at its
// EXIT, ends it before its first frame. A stop-and-copy has to send everything.
func (h *Head) begin(now time.Duration, e Event) Action {
	h.throughout = h.gateOpen
	var a Action
	if e.Phase != PhaseStopCopy && (h.suspends() || h.atExit != "") {
		a.Verb = EndRound
	}
	if h.account.counts {
		a.Until = later(now, h.budget(now))
	}
	return a
}

// due ends a round once the migration was deferred for as long as it may be, if the policy is
// satisfied then. If it is not, the round goes on for the policy's sake.
func (h *Head) due(now time.Duration, e Event) Action {
	e.Kind = KindTick
	// If the account is closed, this may be the stop-and-copy's round already.
	if h.account.counts && h.ask(now, e).Verb == Switchover {
		return Action{Verb: EndRound}
	}
	return Action{}
}

// round asks the policy and the gate what follows a round.
func (h *Head) round(now time.Duration, e Event) Action {
	if h.atExit != "" {
		return h.decide(h.atExit)
	}
	open := h.throughout || e.Idle && h.gateOpen
	settled := !shrinks(e.Dirty, e.Remaining)
	if h.holdsSwitchover() && !open {
		// The round began in the busy phase, or the gate cut it short. So what it left does not
		// show what rounds leave in this segment.
		settled = false
	}
	if open {
		h.segment.roundDone(e.Remaining)
	}
	v := h.ask(now, e)
	if v.Verb == Abort {
		return v
	}
	h.gaveUp = v.GaveUp
	satisfied := v.Verb == Switchover
	if satisfied && !h.converged {
		// It stays set when the policy is no longer satisfied later, because without guidance the
		// migration would have ended by now.
		h.converged = true
		h.recount(now)
	}
	if h.account.counts && h.budget(now) <= 0 {
		if satisfied && !v.GaveUp && h.gateOpen {
			return h.decide(v.Reason) // only polishing is over
		}
		if a := h.deferredTooLong(now); a.Verb == Abort {
			return a
		}
	}
	if !satisfied {
		h.missed = h.missed || h.extra
	}
	return h.follow(now, e, v, settled)
}

// follow is what follows a round after which the policy says v. It is settled if further rounds
// would leave no fewer pages.
func (h *Head) follow(now time.Duration, e Event, v Action, settled bool) Action {
	switch {
	case v.Verb == Wait, v.Verb == Suspend:
		return h.waitAsked(now, v)
	case v.Verb != Switchover:
		return h.goOn(e)
	case h.holdsSwitchover() && !h.gateOpen: // polishing can miss no moment here
		if h.c.Guidance == GuidanceSuspend {
			return Action{} // suspension is stricter than holding
		}
		return h.wait(now, stayHeld, now+heldPace)
	case !v.GaveUp && !settled && h.mayPolish(e):
		h.extra = true
		return h.goOn(e)
	case !h.holdsSwitchover():
		return h.decide(h.told(v.Reason))
	case v.GaveUp && !settled:
		return h.goOn(e)
	}
	return h.decide(v.Reason)
}

// tick asks the policy after a stay between rounds.
func (h *Head) tick(now time.Duration, e Event) Action {
	if h.atExit != "" {
		return h.decide(h.atExit)
	}
	v := h.ask(now, e)
	if v.Verb == Abort {
		return v
	}
	h.gaveUp = v.GaveUp
	switch {
	case v.Verb == Wait, v.Verb == Suspend:
		return h.waitAsked(now, v)
	case v.Verb != Switchover:
		return Action{}
	case h.forced:
		return h.decide(h.told(v.Reason))
	case h.holdsSwitchover() && (!h.gateOpen || v.GaveUp):
		return Action{}
	case !v.GaveUp && h.mayPolish(e):
		h.extra = true
		return Action{}
	case !h.holdsSwitchover(): // it was the policy that waited
		return h.decide(v.Reason)
	}
	return h.decide(v.Reason + ", gate open")
}

// ask asks the policy.
func (h *Head) ask(now time.Duration, e Event) Action {
	if e.Kind != KindGate {
		e.Gate = gateOf(h.gateOpen)
	}
	var a Action
	switch {
	case !h.c.Remote:
		a = h.c.Policy.Step(now, e)
	case e.Answer != nil:
		a = *e.Answer
	}
	switch a.Verb {
	case Continue, Switchover, Wait, Suspend:
		return Action{Verb: a.Verb, Reason: a.Reason, GaveUp: a.GaveUp, Until: a.Until}
	case Abort:
		return Action{Verb: Abort, Err: fmt.Errorf("%w: %s", ErrAborted, a.Reason)}
	}
	return Action{} // a policy cannot give the other actions
}

// takeBack aborts once too many switchovers were taken back.
func (h *Head) takeBack() Action {
	h.spent++
	if h.spent < h.c.Retries {
		return Action{}
	}
	return Action{Verb: Abort, Err: fmt.Errorf("%d switchovers were taken back", h.spent)}
}

// goOn lets another round follow. It leaves the held phase if the gate has opened or the migration
// is forced.
func (h *Head) goOn(e Event) Action {
	if e.Phase == PhaseHeld && (h.gateOpen || !h.holdsSwitchover()) {
		return Action{Phase: PhasePreCopy}
	}
	return Action{}
}

// decide makes the guest stand still.
func (h *Head) decide(reason string) Action {
	h.reason = reason
	return Action{Verb: Switchover, Reason: reason, GaveUp: h.gaveUp}
}

// told returns a reason as it is reported.
func (h *Head) told(reason string) string {
	if h.forced {
		return fmt.Sprintf("forced after %v: %s", h.c.MaxDefer, reason)
	}
	return reason
}

// mayPolish tells whether further rounds may make the rest smaller, though the policy is content
// with it. The limit is not a goal: rounds that clearly shrink the rest cost less time than they
// save the guest. The head asks for no further round when waiting could miss the segment, or when
// polishing has missed a moment before.
func (h *Head) mayPolish(e Event) bool {
	mayMiss := h.holdsSwitchover() && !h.c.AtExit
	if !h.c.Polish || h.missed || h.forced || mayMiss {
		return false
	}
	expected, _ := e.Downtime()
	return expected > worthPolishing
}

// obeysGate tells whether the gate has any say.
func (h *Head) obeysGate() bool { return h.guided && !h.forced }

// holdsSwitchover tells whether a closed gate holds the stop-and-copy back.
func (h *Head) holdsSwitchover() bool { return h.obeysGate() && h.c.Guidance.holdsSwitchover() }

// suspends tells whether no page may be sent now.
func (h *Head) suspends() bool {
	return h.obeysGate() && h.c.Guidance == GuidanceSuspend && !h.gateOpen
}
