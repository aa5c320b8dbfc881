package policy

import (
	"fmt"
	"math"
	"time"
)

// Kind tells what happened.
type Kind string

// The events that a policy gets. Its answer counts at the start, at a sample, a round and a tick,
// and at a gate that is closing. At the others its answer changes nothing.
const (
	// KindStart says that the guest's tags are known, and no page is sent yet.
	KindStart Kind = "start"
	// KindSample tells, before round 1, what was written since the sample before. It comes only to
	// a policy that answers Wait to the start.
	KindSample Kind = "sample"
	// KindRound says that a round of pre-copy is over, and the dirty log was taken.
	KindRound Kind = "round"
	// KindGate says that the gate has opened, has closed, or is about to close. While it is about
	// to close, the vCPU is held at its EXIT in the middle of a round, and Switchover makes the
	// guest stand still right there.
	KindGate Kind = "gate"
	// KindTick says that time has passed without a round's end, and the dirty log was looked at.
	KindTick Kind = "tick"
	// KindStanding says that the vCPUs stand still for the stop-and-copy.
	KindStanding Kind = "standing"
)

// The events that only a Head gets, from the engine. Its answer counts at the first six.
const (
	KindNext    Kind = "next"    // a round might begin
	KindBegin   Kind = "begin"   // the round begins
	KindDue     Kind = "due"     // the Until of the answer to begin has come, in the round
	KindWake    Kind = "wake"    // during a wait, its time has come or something has happened
	KindDrained Kind = "drained" // the devices took a while to get ready for the switchover
	KindSpent   Kind = "spent"   // the standstill's limit is spent: the switchover is taken back
	KindPausing Kind = "pausing" // the vCPUs are asked to stand still
	KindResumed Kind = "resumed" // they run again
	KindRewound Kind = "rewound" // the destination has forgotten a switchover taken back
	KindEnded   Kind = "ended"   // the migration has ended, and the guest stays
	KindLost    Kind = "lost"    // the policy's program has ended: the policy takes its place
)

// Gate is the state of the tags' gate at an event.
type Gate string

// The states of a gate.
const (
	GateClosed  Gate = "closed"
	GateOpen    Gate = "open"
	GateClosing Gate = "closing" // still open: a vCPU is held at the EXIT that would close it
)

func gateOf(open bool) Gate {
	if open {
		return GateOpen
	}
	return GateClosed
}

// Event is one thing that happened, and the migration's state at that moment. Facts that do not
// belong to an event are 0.
type Event struct {
	Kind Kind
	// Rounds are the complete rounds so far, as the report has them: the first 100 and the last
	// 900. They belong to the engine: a policy reads them and does not keep them.
	Rounds []Round
	// Completed counts all complete rounds, including those that Rounds leaves out.
	Completed int
	// Remaining is how many pages a switchover would have to send now.
	Remaining int
	// Queued are bytes that were sent and have not arrived. They arrive before the remaining pages.
	Queued int64
	Sent   int64 // pages so far, zero pages included
	RAM    int   // pages
	// BytesPerS is how much page content the stream sends per second, and WirePerS how many bytes
	// the link takes. They are measured; before the end of round 1 they are the limit of the rate,
	// or 0 without one.
	BytesPerS, WirePerS float64
	// Fixed is how long a switchover takes apart from its pages, as far as that is known. It is an
	// estimate; ForPages says how far it counts.
	Fixed time.Duration
	Gate  Gate
	Tasks int // registered for guidance, at the start
	Phase Phase

	// Dirty is how many pages the round that is over began with. Idle says that it had none, and
	// the guest was given a moment instead.
	Dirty int
	Idle  bool
	// DirtyPerS, at a sample, is the rate at which the guest has dirtied pages since the sample
	// before.
	DirtyPerS float64

	// What follows is for a Head alone.
	//
	// Running, at the start, says whether the vCPUs run.
	Running bool
	// Answer is what the program of an exec policy has answered to this event, nil without one.
	Answer *Action
	// Looked, at a gate that is closing, says that the dirty log was looked at, so Remaining is the
	// most that a switchover would have to send. Otherwise Remaining is the least.
	Looked bool
}

// pageSize is the size of a page of guest RAM.
const pageSize = 4096

// Missing is how many pages the destination does not have: the remaining ones, and those in the
// queue, which were sent and have not arrived. Compressed pages in the queue count as fewer than
// they are. Less than a page of bytes is a keep-alive and does not count.
func (e Event) Missing() int { return e.Remaining + int(e.Queued/pageSize) }

// Downtime is how long the remaining pages take at the measured bandwidth, behind what is in the
// queue. It is without the Fixed parts, which are subtracted from the limit.
func (e Event) Downtime() (d time.Duration, known bool) {
	if e.BytesPerS <= 0 {
		return 0, false
	}
	seconds := float64(e.Remaining) * pageSize / e.BytesPerS
	if e.WirePerS > 0 {
		seconds += float64(e.Queued) / e.WirePerS
	}
	// A float that overflows an int64 would become negative and look like no time at all.
	return time.Duration(min(seconds*float64(time.Second), math.MaxInt64/2)), true
}

// asks tells whether the policy's answer may end pre-copy at this event.
func (e Event) asks() bool {
	switch e.Kind {
	case KindRound, KindTick:
		return true
	case KindGate:
		return e.Gate == GateClosing
	}
	return false
}

// Verb is what to do next.
type Verb int

// The actions. A policy answers with one of the first five; a Head with all of them.
const (
	// Continue changes nothing.
	Continue Verb = iota
	// Switchover ends pre-copy and makes the guest stand still. At a gate that is closing, it does
	// so right there.
	Switchover
	// Abort ends the migration, and the guest stays.
	Abort
	// Wait begins no round before the time Until, or before the gate has changed.
	Wait
	// Suspend stops the page stream until the gate has changed, or until the time Until if it is
	// given.
	Suspend
	// EndRound ends the round under way with the frames that were begun; its other pages stay
	// pending.
	EndRound
	// Sample asks for a sample of the dirty rate at the time Until. No round begins before.
	Sample
	// Look asks the engine to look at the dirty log and put the question again.
	Look
)

var verbs = [...]string{
	"continue", "switchover", "abort", "wait", "suspend", "end round", "sample", "look",
}

func (v Verb) String() string {
	if v < 0 || int(v) >= len(verbs) {
		return fmt.Sprintf("Verb(%d)", int(v))
	}
	return verbs[v]
}

// Action is the answer to an event. The zero value is Continue.
type Action struct {
	Verb Verb
	// Reason is why, for the report: a few words.
	Reason string
	// GaveUp, with Switchover, says that pre-copy has not converged, and that waiting for it is no
	// use. The package's documentation says what depends on it.
	GaveUp bool
	// Until is when to ask again at the latest; 0 means that there is no need to.
	Until time.Duration

	// Only a Head sets the fields that follow.
	//
	// Phase is the migration's phase from here on; empty means as before.
	Phase Phase
	// Asked, with Wait, says that the policy wants it, whatever the gate does.
	Asked bool
	// Err, of Abort, is why.
	Err error
	// Warning is for the report.
	Warning string
}

// content ends pre-copy because little enough is left.
func content(reason string, args ...any) Action {
	return Action{Verb: Switchover, Reason: fmt.Sprintf(reason, args...)}
}

// gaveUp ends pre-copy because further rounds are no use.
func gaveUp(reason string, args ...any) Action {
	return Action{Verb: Switchover, Reason: fmt.Sprintf(reason, args...), GaveUp: true}
}

// Policy decides when pre-copy ends. The package's documentation says when it is asked, and what it
// may rely on.
type Policy interface {
	// Step answers an event; now is the time since the migration began. It must return at once.
	Step(now time.Duration, e Event) Action
}

// StopRule is a policy that judges only by the migration's present state.
type StopRule func(now time.Duration, e Event) Action

// Step implements Policy.
func (r StopRule) Step(now time.Duration, e Event) Action {
	if !e.asks() {
		return Action{}
	}
	return r(now, e)
}
