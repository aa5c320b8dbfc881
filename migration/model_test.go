package migration

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// This file is a model of the handover, from the moment at which the source's guest stands still to
// the end. It goes through all states that two processes, the network between them and a third
// process that wants the disk can reach, and checks these rules in each:
//
//   - The guest never runs at both ends.
//   - Who runs it owns its disk, and knows what is on it.
//   - While nobody has crashed, and no third process has had the disk, somebody can still come to
//     run it.
//
// One step of a process is atomic, and a tick is the unit of both clocks. Three things are left
// out: clocks whose speeds differ by more than the margin; without a disk, a process that is frozen
// beyond the margin between its last look and the guest's first instruction; and without a disk, an
// operator who forces a source though the guest has run at the destination. docs/protocol.md names
// them. With a disk the locks cover the last two.
//
// A mutation is a rule of the protocol that somebody forgets. Each must break one of the rules
// above, or the model would prove nothing. integration/mutants_test.go has the same ones for the
// code.

// What the model calls peer.Lifetime, peer.Margin and peer.CommitWithin, in ticks.
const (
	modelLifetime     = 2
	modelMargin       = 1
	modelCommitWithin = 1
)

type mutation string

const (
	noMutation          mutation = ""
	noLastLook          mutation = "the destination does not look at its clock before it starts"
	forceEarly          mutation = "the source may be forced before lifetime and margin are over"
	fenceLate           mutation = "a fence answers discarded though the destination is starting"
	answerBeforeDiscard mutation = "the destination answers discarded and may still run"
	resumeOnSilence     mutation = "the source resumes when it hears nothing after commit"
	lockIgnored         mutation = "the destination runs without the lock of the disk"
	lockTakenLate       mutation = "the source resumes without the lock of the disk"
	changeIgnored       mutation = "the source resumes over a disk that changed meanwhile"
	lockKept            mutation = "the source does not let go of the disk"
)

// dies tells whether a mutation breaks the model, with a disk and without one. The locks of a disk
// keep a guest from running at both ends even where another rule is forgotten, and a mutation that
// concerns them has no effect without a disk.
var dies = map[mutation]struct{ with, without bool }{
	noLastLook:          {false, true},
	forceEarly:          {false, true},
	fenceLate:           {false, true},
	answerBeforeDiscard: {false, true},
	resumeOnSilence:     {false, true},
	lockIgnored:         {true, false},
	lockTakenLate:       {true, false},
	changeIgnored:       {true, false},
	lockKept:            {true, false},
}

// who may own the disk.
type owner string

const (
	nobody        owner = ""
	atSource      owner = "source"
	atDestination owner = "destination"
	third         owner = "third"
)

// Steps of the source, in the order of a handover that succeeds, and then the others.
type sourceStep string

const (
	standing  sourceStep = "standing" // with the disk
	released  sourceStep = "released"
	sent      sourceStep = "sent" // the state
	ready     sourceStep = "ready"
	committed sourceStep = "committed"
	gone      sourceStep = "gone"
	unknown   sourceStep = "unknown"
	held      sourceStep = "held" // stays, and must take its disk before it runs
	runsHere  sourceStep = "running"
	dead      sourceStep = "dead"
)

// Steps of the destination.
type destinationStep string

const (
	loading   destinationStep = "loading"
	waiting   destinationStep = "pending"
	read      destinationStep = "read" // the commit
	starting  destinationStep = "starting"
	locked    destinationStep = "locked"
	runsThere destinationStep = "running"
	discarded destinationStep = "discarded"
	deadThere destinationStep = "dead"
)

// A message, by its first letter, so that a queue of them is a string.
const (
	msgState     = "s"
	msgCommit    = "c"
	msgPrepared  = "p"
	msgRunning   = "r"
	msgDiscarded = "d"
)

// modelState is one state of everything.
type modelState struct {
	source        sourceStep
	destination   destinationStep
	disk          owner
	changed       bool   // somebody else may have written the disk since the source let go
	toDestination string // messages under way, oldest first
	toSource      string
	connected     bool
	sourceTicks   int // since prepared arrived; -1: it did not
	destTicks     int // since prepared was sent; -1: it was not
	crashed       bool
	meddled       bool // a third process has had the disk
	ran           bool // at the destination
}

// modelStep is a step and the state after it.
type modelStep struct {
	name string
	to   modelState
}

// model is the protocol, with a disk or without.
type model struct {
	disk     bool
	mutation mutation
}

func (m model) begin() modelState {
	s := modelState{
		source: standing, destination: loading, connected: true, sourceTicks: -1, destTicks: -1,
	}
	if m.disk {
		s.disk = atSource
	}
	return s
}

// say sends a message to the source, if there is a connection.
func (s modelState) say(message string) modelState {
	if s.connected {
		s.toSource += message
	}
	return s
}

// tell sends a message to the destination.
func (s modelState) tell(message string) modelState {
	if s.connected {
		s.toDestination += message
	}
	return s
}

// free lets go of the disk, if it is owned by the one who does.
func (s modelState) free(o owner) modelState {
	if s.disk == o {
		s.disk = nobody
	}
	return s
}

// with changes a copy of the state.
func (s modelState) with(change func(s *modelState)) modelState {
	change(&s)
	return s
}

// steps lists what can happen in a state.
func (m model) steps(s modelState) []modelStep {
	return slices.Concat(m.world(s), m.destination(s), m.handing(s), m.doubting(s))
}

// world has the steps of time, the network and the third process.
func (m model) world(s modelState) (all []modelStep) {
	step := func(name string, to modelState) { all = append(all, modelStep{name, to}) }
	tick := s.with(func(s *modelState) {
		for _, ticks := range []*int{&s.sourceTicks, &s.destTicks} {
			if *ticks >= 0 && *ticks <= modelLifetime+modelMargin {
				*ticks++
			}
		}
	})
	about := s.destination == starting || s.destination == locked
	frozen := about && s.destTicks >= modelLifetime+modelMargin-1
	if tick != s && (m.disk || !frozen) {
		step("tick", tick)
	}
	if s.connected {
		step("the connection breaks", s.with(func(s *modelState) { s.connected = false }))
	}
	if m.disk && s.disk == nobody {
		step("a third takes the disk", s.with(func(s *modelState) {
			s.disk, s.meddled = third, true
		}))
	}
	if s.disk == third {
		step("the third writes it", s.with(func(s *modelState) { s.changed = true }))
		step("the third lets go", s.free(third))
	}
	return all
}

// destination has the steps of the destination.
func (m model) destination(s modelState) (all []modelStep) {
	step := func(name string, change func(s *modelState)) {
		all = append(all, modelStep{name, s.with(change)})
	}
	discard := func(name string) {
		step(name, func(s *modelState) {
			s.destination = discarded
			*s = s.free(atDestination).say(msgDiscarded)
		})
	}
	over := s.destTicks >= modelLifetime
	switch s.destination {
	case loading:
		if rest, ok := strings.CutPrefix(s.toDestination, msgState); ok {
			step("prepared", func(s *modelState) {
				s.destination, s.toDestination, s.destTicks = waiting, rest, 0
				*s = s.say(msgPrepared)
			})
		}
		if !s.connected {
			discard("the source is gone")
		}
	case waiting:
		if over || !s.connected {
			discard("nobody says commit")
		}
		if rest, ok := strings.CutPrefix(s.toDestination, msgCommit); ok {
			step("commit arrives", func(s *modelState) {
				s.destination, s.toDestination = read, rest
			})
		}
	case read:
		if over && m.mutation != noLastLook {
			discard("too late")
		} else {
			step("starting", func(s *modelState) { s.destination = starting })
		}
	case starting:
		switch {
		case !m.disk, s.disk == nobody:
			step("locks the disk", func(s *modelState) {
				s.destination = locked
				if m.disk {
					s.disk = atDestination
				}
			})
		case m.mutation == lockIgnored:
			step("ignores the lock", func(s *modelState) { s.destination = locked })
		default:
			discard("the disk is taken")
		}
	case locked:
		step("runs", func(s *modelState) {
			s.destination, s.ran, s.changed = runsThere, true, true
			*s = s.say(msgRunning)
		})
	}
	if s.destination != discarded && s.destination != deadThere && !s.crashed {
		step("the destination dies", func(s *modelState) {
			s.destination, s.connected, s.crashed = deadThere, false, true
			*s = s.free(atDestination)
		})
	}
	return all
}

// stays is the source's way back.
func (m model) stays(s *modelState) {
	s.source = runsHere
	if m.disk {
		s.source = held
	}
}

// handing has the source's steps up to the commit, its way back, and its death.
func (m model) handing(s modelState) (all []modelStep) {
	step := func(name string, change func(s *modelState)) {
		all = append(all, modelStep{name, s.with(change)})
	}
	back := func(name string) {
		step(name, func(s *modelState) { m.stays(s); s.connected = false })
	}
	switch s.source {
	case standing:
		step("lets go of the disk", func(s *modelState) {
			if s.source = released; m.mutation != lockKept {
				*s = s.free(atSource)
			}
		})
	case released:
		back("taken back")
		step("sends the state", func(s *modelState) {
			s.source = sent
			*s = s.tell(msgState)
		})
	case sent:
		back("taken back")
		if rest, ok := strings.CutPrefix(s.toSource, msgPrepared); ok {
			step("prepared arrives", func(s *modelState) {
				s.source, s.toSource, s.sourceTicks = ready, rest, 0
			})
		}
	case ready:
		back("taken back")
		if s.sourceTicks < modelCommitWithin {
			step("commit", func(s *modelState) {
				s.source = committed
				*s = s.tell(msgCommit)
			})
		}
	case held:
		if s.changed && m.mutation != changeIgnored {
			break
		}
		if s.disk == nobody || s.disk == atSource || m.mutation == lockTakenLate {
			step("locks the disk again", func(s *modelState) {
				if s.source = runsHere; s.disk == nobody {
					s.disk = atSource
				}
			})
		}
	}
	if s.source != gone && s.source != dead && s.source != runsHere && !s.crashed {
		step("the source dies", func(s *modelState) {
			s.source, s.connected, s.crashed = dead, false, true
			*s = s.free(atSource)
		})
	}
	return all
}

// doubting has the source's steps from the commit on.
func (m model) doubting(s modelState) (all []modelStep) {
	step := func(name string, change func(s *modelState)) {
		all = append(all, modelStep{name, s.with(change)})
	}
	if s.source != committed && s.source != unknown {
		return nil
	}
	if rest, ok := strings.CutPrefix(s.toSource, msgRunning); ok {
		step("it moved", func(s *modelState) { s.source, s.toSource = gone, rest })
	}
	if rest, ok := strings.CutPrefix(s.toSource, msgDiscarded); ok {
		step("it was discarded", func(s *modelState) { m.stays(s); s.toSource = rest })
	}
	if s.source == committed {
		step("in doubt", func(s *modelState) { s.source = unknown })
		if m.mutation == resumeOnSilence {
			step("silence", m.stays)
		}
		return all
	}
	fence := func(s *modelState) { s.destination = discarded }
	switch s.destination {
	case loading, waiting, read:
		if m.mutation == answerBeforeDiscard {
			step("a fence", m.stays)
			break
		}
		step("a fence", func(s *modelState) { fence(s); m.stays(s) })
		step("a fence, and its answer is lost", fence)
	case starting, locked:
		if m.mutation == fenceLate {
			step("a fence", m.stays)
		}
	case discarded:
		step("it says discarded", m.stays)
	case runsThere:
		step("it says running", func(s *modelState) { s.source = gone })
	}
	past := s.sourceTicks >= modelLifetime+modelMargin || m.mutation == forceEarly
	if past && (m.disk || !s.ran) {
		step("forced", m.stays)
	}
	return all
}

// fault says which rule a state breaks.
func (m model) fault(s modelState) string {
	here, there := s.source == runsHere, s.destination == runsThere
	switch {
	case here && there:
		return "the guest runs at both ends"
	case m.disk && (here && s.disk != atSource || there && s.disk != atDestination):
		return "the guest runs without its disk"
	case m.disk && here && s.changed:
		return "the guest runs over a disk that it does not know"
	}
	return ""
}

// check goes through all states. It returns their number, and the shortest way to a fault if there
// is one.
func (m model) check() (states int, fault string) {
	type origin struct {
		step string
		from modelState
	}
	first := m.begin()
	way := map[modelState]origin{first: {}}
	before := map[modelState][]modelState{} // the states from which a state can follow
	var good []modelState
	moved := false
	for queue := []modelState{first}; len(queue) > 0; queue = queue[1:] {
		s := queue[0]
		if what := m.fault(s); what != "" {
			var names []string
			for ; s != first; s = way[s].from {
				names = append(names, way[s].step)
			}
			slices.Reverse(names)
			return len(way), what + ": " + strings.Join(names, ", ")
		}
		if s.source == runsHere || s.destination == runsThere {
			good = append(good, s)
		}
		moved = moved || s.source == gone
		for _, step := range m.steps(s) {
			before[step.to] = append(before[step.to], s)
			if _, known := way[step.to]; !known {
				way[step.to] = origin{step.name, s}
				queue = append(queue, step.to)
			}
		}
	}
	if !moved {
		return len(way), "the guest never moves"
	}
	saved := map[modelState]bool{}
	for ; len(good) > 0; good = good[1:] {
		if !saved[good[0]] {
			saved[good[0]] = true
			good = append(good, before[good[0]]...)
		}
	}
	for s := range way {
		if !saved[s] && !s.crashed && !s.meddled {
			return len(way), "nobody will ever run the guest"
		}
	}
	return len(way), ""
}

// TestModelOfTheHandover: the protocol keeps its rules in every state, and each mutation breaks
// one.
func TestModelOfTheHandover(t *testing.T) {
	for _, disk := range []bool{true, false} {
		states, fault := model{disk: disk}.check()
		require.Empty(t, fault)
		require.Greater(t, states, 300, "it must go far")
		t.Logf("disk %v: %d states", disk, states)
		for mutation, dies := range dies {
			_, fault := model{disk, mutation}.check()
			dead := dies.without
			if disk {
				dead = dies.with
			}
			require.Equal(t, dead, fault != "", "disk %v: %s: %s", disk, mutation, fault)
			if dead {
				t.Logf("%s: %s", mutation, fault)
			}
		}
	}
}
