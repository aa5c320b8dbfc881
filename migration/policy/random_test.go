package policy

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestHeadAtRandom tells heads of random migrations, whose events come in the order in which an
// engine has them. Whatever happens, no stop-and-copy begins at a closed gate that counts, guidance
// costs no more than it may plus the step under way, and the same events have the same answers.
func TestHeadAtRandom(t *testing.T) {
	seen := make(map[Verb]int)
	for seed := range uint64(3000) {
		first := randomly(t, seed, seen)
		require.Equal(t, first, randomly(t, seed, seen), "seed %d", seed)
	}
	for _, v := range []Verb{Continue, Switchover, Abort, Wait, Suspend, EndRound, Look} {
		require.Greater(t, seen[v], 300, "%v", v)
	}
}

// walk is a random migration.
type walk struct {
	t       *testing.T
	rnd     *rand.Rand
	c       Config
	h       *Head
	now     time.Duration
	phase   Phase
	n       int
	open    bool
	held    bool // at an EXIT
	seen    map[Verb]int
	answers []Action
}

func randomly(t *testing.T, seed uint64, seen map[Verb]int) []Action {
	rnd := rand.New(rand.NewPCG(seed, 1))
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	w := &walk{t: t, rnd: rnd, seen: seen, phase: PhaseSetup, open: rnd.IntN(2) == 0}
	w.c = Config{
		Policy:    chosen(t, pick("xen", "xen:max-rounds=3", "downtime:limit=30ms", "downtime")),
		Polish:    rnd.IntN(2) == 0,
		Guidance:  Guidance(pick("switchover", "switchover", "suspend", "start", "off")),
		AtExit:    rnd.IntN(2) == 0,
		MaxDefer:  time.Duration(1+rnd.IntN(1000)) * time.Millisecond,
		OnTimeout: OnTimeout(pick("force", "cancel")),
	}
	if rnd.IntN(10) == 0 {
		w.c.MaxDefer = 0
	}
	w.c.Remote = rnd.IntN(4) == 0
	w.h = NewHead(w.c)
	start := Event{Kind: KindStart, Gate: gateOf(w.open), Tasks: rnd.IntN(3), Running: true}
	a := w.step(start)
	if w.c.Remote {
		w.pass(50 * time.Millisecond) // it thinks
		a = w.step(start)
	}
	if !w.wait(a) {
		return w.answers
	}
	for w.phase = PhasePreCopy; len(w.answers) < 300; {
		if !w.round() {
			break
		}
	}
	return w.answers
}

// step tells the head, and checks what holds at any time.
func (w *walk) step(e Event) Action {
	if e.Phase == "" {
		e.Phase = w.phase
	}
	e.RAM, e.Completed, e.Sent = 4096, w.n, int64(1000*w.n)
	e.BytesPerS, e.WirePerS = 12.5e6, 12.5e6
	if _, asks := w.h.Question(e); asks && w.h.Remote() && w.rnd.IntN(5) > 0 {
		// A program says anything, also what only a head may.
		e.Answer = &Action{
			Verb: Verb(w.rnd.IntN(len(verbs))), Reason: "it says so", GaveUp: w.rnd.IntN(2) == 0,
		}
		if e.Answer.Verb == Abort || e.Answer.Verb == Wait || e.Answer.Verb == Suspend {
			e.Answer.Verb = Continue // the walk is of migrations that go on
		}
	}
	if w.rnd.IntN(100) == 0 {
		w.h.Step(w.now, Event{Kind: KindLost})
		require.False(w.t, w.h.Remote())
	}
	a := w.h.Step(w.now, e)
	w.answers = append(w.answers, a)
	w.seen[a.Verb]++
	d := w.h.Deferral(w.now)
	require.LessOrEqual(w.t, d.Waited+d.Suspended, d.Deferred)
	require.Equal(w.t, w.open, w.h.GateOpen())
	require.Equal(w.t, a.Verb == Abort, a.Err != nil)
	if a.Err != nil {
		require.Equal(w.t, TimeoutCancel, w.c.OnTimeout)
		require.GreaterOrEqual(w.t, d.Deferred, w.c.MaxDefer)
	}
	if w.h.Forced() {
		require.GreaterOrEqual(w.t, d.Deferred, w.c.MaxDefer)
	}
	if left, ok := w.h.Left(w.now); ok {
		require.False(w.t, w.h.Forced())
		require.Equal(w.t, TimeoutForce, w.c.OnTimeout)
		require.Equal(w.t, max(w.c.MaxDefer-d.Deferred, 0), left)
	}
	if a.Phase != "" {
		w.phase = a.Phase
	}
	return a
}

// obeyed tells whether a closed gate holds the stop-and-copy back.
func (w *walk) obeyed() bool {
	guided := w.h.Guidance() == GuidanceSwitchover || w.h.Guidance() == GuidanceSuspend
	return guided && !w.h.Forced()
}

// pass lets time go by, in which the gate may change, and more than once.
func (w *walk) pass(atMost time.Duration) {
	for range w.rnd.IntN(4) {
		w.now += time.Duration(w.rnd.Int64N(int64(atMost)/4 + 1))
		switch {
		case w.held || w.rnd.IntN(2) == 0:
		case w.open && w.exit():
			w.held = true
		default:
			w.open = !w.open
			w.step(Event{Kind: KindGate, Gate: gateOf(w.open)})
		}
	}
}

// exit tells of a gate that is closing, and whether the vCPU is held.
func (w *walk) exit() bool {
	closing := Event{Kind: KindGate, Gate: GateClosing, Remaining: w.rnd.IntN(100)}
	a := w.step(closing)
	if a.Verb == Look {
		w.now += time.Duration(w.rnd.IntN(1000)) * time.Microsecond
		closing.Looked, closing.Remaining = true, closing.Remaining+w.rnd.IntN(200)
		a = w.step(closing)
	}
	if a.Verb == Switchover {
		require.True(w.t, w.c.AtExit && w.obeyed() && w.n > 0)
	}
	return a.Verb == Switchover
}

// wait waits as the head wants, and tells whether the migration goes on.
func (w *walk) wait(a Action) bool {
	for a.Verb == Wait || a.Verb == Suspend {
		require.Positive(w.t, a.Until)
		deferred := w.h.Deferral(w.now).Deferred
		require.LessOrEqual(w.t, a.Until-w.now, w.c.MaxDefer-deferred, "no longer than it may")
		if w.pass(max(a.Until-w.now, 0)); w.rnd.IntN(2) == 0 {
			w.now = max(w.now, a.Until)
		}
		a = w.step(Event{Kind: KindWake})
	}
	return a.Verb != Abort
}

// round is what an engine does from one round to the next, and tells whether there is a next.
func (w *walk) round() bool {
	if a := w.step(Event{Kind: KindNext}); !w.wait(a) {
		return false
	}
	a := w.step(Event{Kind: KindBegin})
	if a.Verb != EndRound {
		if w.pass(400 * time.Millisecond); a.Until > 0 && a.Until < w.now {
			w.step(Event{Kind: KindDue, Remaining: w.rnd.IntN(300)})
		}
	}
	w.n++
	over := Event{Kind: KindRound, Dirty: w.rnd.IntN(2000), Remaining: w.rnd.IntN(300)}
	a = w.step(over)
	if a.Verb == Wait {
		if !w.wait(a) {
			return false
		}
		a = w.step(Event{Kind: KindTick, Remaining: w.rnd.IntN(300)})
	}
	if a.Verb == Switchover || w.held {
		return w.switchover(a)
	}
	return a.Verb != Abort
}

// switchover lets the vCPUs come to a stand, and tells whether it was taken back.
func (w *walk) switchover(a Action) bool {
	if a.Verb == Switchover {
		require.NotEmpty(w.t, a.Reason)
		require.True(w.t, w.open || w.held || !w.obeyed(), "before a closed gate: %s", a.Reason)
	}
	w.step(Event{Kind: KindPausing})
	before := w.h.Deferral(w.now)
	if w.pass(10 * time.Millisecond); w.held {
		a = w.step(Event{Kind: KindStanding, Gate: GateClosed}) // the head was not told of the EXIT
	} else {
		a = w.step(Event{Kind: KindStanding, Gate: gateOf(w.open)})
	}
	require.Equal(w.t, w.open || w.held || !w.obeyed(), a.Verb == Switchover, "%+v", w.c)
	w.now += time.Second
	require.Equal(w.t, before, w.h.Deferral(w.now), "the guest stands still for no gate")
	if a.Verb == Switchover && w.rnd.IntN(2) == 0 {
		return false // moved
	}
	resumed := Event{Kind: KindResumed}
	if w.held {
		w.held, w.open, resumed.Gate = false, false, GateClosed
	}
	w.step(resumed)
	if a.Verb == Switchover {
		w.step(Event{Kind: KindRewound})
	}
	w.phase = PhasePreCopy
	return true
}
