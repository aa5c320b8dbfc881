package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"taskguide/memory"
	"taskguide/migration/policy"
)

const (
	// peekEvery is how often a round with skip looks for pages that are dirty again.
	peekEvery = 20 * time.Millisecond
	// idlePause is the length of a round that has nothing to send.
	idlePause = time.Millisecond
	// protectPages is how many pages are protected at a time.
	protectPages = 1024
	// rateWorthPages is how many pages of content make a round's rate worth believing.
	rateWorthPages = 256
	// firstRounds and keptRounds bound the rounds that a policy sees.
	firstRounds, keptRounds = 100, 1000
	// switchoverTrips is how many round trips a switchover takes: the last page is there, the state
	// is loaded, the vCPUs run. The engine knows of them beforehand.
	switchoverTrips = 3
	// setupTrips are the greeting, and the machine's description until it is built there. The
	// handshake of TCP, which takes one more, is acknowledged by whatever TCP ends at.
	setupTrips = 2
	// leastPatience and patienceFactor end a move that would never end, in virtual time: the
	// longer of a quarter of an hour and ten times what it takes to send all pages in use. What its
	// order lets it wait is added.
	leastPatience  = 15 * time.Minute
	patienceFactor = 10
)

var (
	errForEver = errors.New("the policy waits for a gate that never changes")
	errEndless = errors.New("never converges")
)

// walk is a move under way: the hands of its head. Each of its methods does what the method of
// migration.Source with a similar name does.
type walk struct {
	s     Setting
	o     Order
	t     *Trace
	head  *policy.Head
	guest *guest
	link  *link
	page  time.Duration // what the slowest page takes
	skip  bool
	lazy  bool // each stretch of pages is protected just before it is read
	m     Move
	err   error

	leader Leader // nil without a program

	cancelled Cancelled

	now      time.Duration // since the request
	still    bool          // the guest stands still
	slowdown float64       // the part of its speed that the guest lacks now
	lacked   float64       // of a write
	phase    policy.Phase
	open     bool // the gate, as the head was told

	// The dirty log. A page that is dirty is in pending, in next, or in both. The sets are of
	// recorded pages, and the counts of pages of RAM.
	pending, next, again *memory.Bitmap
	zero                 *memory.Bitmap
	contents             []uint16 // what is in each recorded page
	inUse                int      // pages that may hold anything
	left                 int      // pages that are dirty
	unsent               int      // pages in pending
	dirtied              int      // pages in next
	looked               int      // pages in next at the last look at the log
	logged               int      // pages that the log reported since the last sample
	protectedTo          int      // recorded pages of the round below are protected
	// ran is how long the guest has run since next was empty. After a whole lap, there is nothing
	// in the trace that next has not.
	ran time.Duration

	rounds    []policy.Round
	completed int
	rate      rate
	inRound   bool
	stop      bool // the round under way ends early
	held      bool // a vCPU is held at its EXIT
	standing  bool // the guest stands still, or is asked to, since begun
	begun     time.Duration
	sampled   time.Duration // how long the dirty rate was sampled

	// blind says that nobody looks at the rounds.
	blind bool
	// candidate, unless nil, is told the moments at which a switchover could begin.
	candidate func()
	// cut, unless 0, ends the round under way at that time.
	cut time.Duration
}

// rate is how fast the stream gets through, in bytes a second.
type rate struct {
	content, wire float64
	pages         int64
}

func newWalk(s Setting, t *Trace, o Order, head *policy.Head, at time.Duration) *walk {
	traits := o.Policy.Traits()
	w := &walk{
		s: s, o: o, t: t, head: head, guest: newGuest(t, o.Gate, at), link: newLink(s, t),
		skip:  traits.Skip,
		lazy:  s.Protection == OnDemand && traits.Protect == policy.ProtectPage && !traits.Skip,
		phase: policy.PhaseSetup, m: Move{AtMS: ms(at)},
		pending: memory.NewBitmap(t.used), next: memory.NewBitmap(t.used),
		again: memory.NewBitmap(t.used), inUse: t.inRAM(t.touched),
	}
	w.open, w.page = w.guest.now().open, w.link.slowest(t.contents)
	return w
}

// step tells the head what has happened and returns its action. A program is asked before.
func (w *walk) step(e policy.Event) policy.Action {
	if w.head.Remote() {
		e.Answer = w.ask(e)
	}
	return w.head.Step(w.now, e)
}

// ask puts the question of an event to the program that leads, if there is one.
func (w *walk) ask(e policy.Event) *policy.Action {
	q, asks := w.head.Question(e)
	switch {
	case w.now > ProgramLimit:
		w.lose(fmt.Errorf("it has led for %v", ProgramLimit))
	case asks:
		a, err := w.leader.Ask(w.now, q)
		if err != nil {
			w.lose(err)
			return nil
		}
		return a
	case w.head.Told(e):
		w.leader.Tell(w.now, e)
	}
	return nil
}

// lose lets the default policy take the place of the program.
func (w *walk) lose(why error) {
	w.m.PolicyError = why.Error()
	w.head.Step(w.now, policy.Event{Kind: policy.KindLost})
}

// event returns an event with the move's present state.
func (w *walk) event(kind policy.Kind, remaining int) policy.Event {
	return w.complete(policy.Event{Kind: kind, Remaining: remaining})
}

func (w *walk) complete(e policy.Event) policy.Event {
	e.Rounds, e.Completed = w.rounds, w.completed
	e.Sent, e.RAM = w.m.PagesSent+w.m.PagesZero, w.t.Pages
	e.Phase, e.Fixed = w.phase, switchoverTrips*w.s.RTT
	e.BytesPerS, e.WirePerS = w.rate.content, w.rate.wire
	if e.BytesPerS == 0 {
		e.BytesPerS = float64(w.s.BitsPerSecond) / 8
		e.WirePerS = e.BytesPerS
	}
	return e
}

func gateOf(open bool) policy.Gate {
	if open {
		return policy.GateOpen
	}
	return policy.GateClosed
}

// mustEnd returns an error once nobody wants the move any more, or it has taken too long.
func (w *walk) mustEnd() error {
	if err := w.cancelled(); err != nil {
		return err
	}
	if w.now > w.patience() {
		return errEndless
	}
	return nil
}

// patience is how long the move may take. Neither a gate for which the order lets it wait nor a
// policy that looks at the guest for long is a sign that it never ends.
func (w *walk) patience() time.Duration {
	all := patienceFactor * float64(w.inUse) * float64(w.page)
	waits := min(w.o.MaxDefer, longest) + w.sampled
	return max(leastPatience, time.Duration(min(all, float64(longest)))) + waits
}

// migrate moves the guest, or returns why it stays.
func (w *walk) migrate() error {
	// The head is not told of the gate yet.
	w.spend(w.s.Costs.Setup + w.s.ack() + setupTrips*w.s.RTT)
	w.link.at = w.now // the limit counts from here on
	w.open = w.guest.now().open
	start := w.event(policy.KindStart, 0)
	start.Gate, start.Tasks, start.Running = gateOf(w.open), w.guest.now().tasks, true
	a := w.step(start)
	if w.head.Remote() {
		a = w.step(start) // the program is asked once the gate is known
	}
	if a.Verb == policy.Wait {
		if err := w.wait(a); err != nil {
			return err
		}
	}
	if a.Err != nil {
		return a.Err
	}
	w.track()
	for {
		if err := w.precopy(); err != nil {
			return err
		}
		if switched, err := w.switchover(); switched || err != nil {
			return err
		}
	}
}

// spend lets time pass without telling the head of the gate.
func (w *walk) spend(d time.Duration) {
	for end := w.now + d; w.now < end; {
		part := end - w.now
		if change, ok := w.guest.untilChange(); ok {
			part = min(part, change)
		}
		w.runGuest(part)
		w.guest.change()
	}
}

// runGuest lets time pass, and the guest run if it does not stand still.
func (w *walk) runGuest(d time.Duration) {
	switch tracked := w.zero != nil; {
	case w.still:
	case tracked && (w.ran < w.t.Length || w.lazy):
		w.guest.run(d, w.wrote)
		w.ran += time.Duration(float64(d) * (1 - w.slowdown))
	default:
		w.guest.skip(d)
	}
	w.now += d
}

// lacks tells whether the guest is too slow for a write that the trace has. Its phases go on by the
// clock, as those of the guests that were compared with real moves do.
func (w *walk) lacks() bool {
	if w.slowdown == 0 {
		return false
	}
	if w.lacked += w.slowdown; w.lacked < 1 {
		return false
	}
	w.lacked--
	return true
}

// track begins to follow what the guest writes. All content is pending for the first round.
func (w *walk) track() {
	w.pending, w.zero, w.contents = w.guest.memoryAt()
	w.unsent = w.t.inRAM(w.pending)
	w.left = w.unsent
	w.phase = policy.PhasePreCopy
}

// wrote takes in a write of the guest.
func (w *walk) wrote(page int) {
	if w.lacks() {
		return
	}
	w.zero.Clear(page)
	w.contents[page] = w.guest.content()
	inRound := w.pending.Test(page)
	if inRound && w.inRound && w.lazy && page >= w.protectedTo {
		return // it is sent as it is by then
	}
	if w.next.Test(page) {
		return
	}
	w.next.Set(page)
	n := w.t.copies(page)
	w.dirtied += n
	w.logged += n
	if !inRound {
		w.left += n
	}
}

// pass lets time pass until the given one, and tells the head of the gate. A vCPU that is held at
// its EXIT stops the guest.
func (w *walk) pass(until time.Duration) {
	for w.now < until {
		w.passTo(until)
	}
}

// passTo lets time pass until the given one, or until the gate changes before.
func (w *walk) passTo(until time.Duration) {
	d := until - w.now
	if change, ok := w.guest.untilChange(); ok && !w.still && change <= d {
		w.runGuest(change)
		w.gateChanged()
		return
	}
	w.runGuest(d)
}

// gateChanged tells the head how the gate stands, if that is new.
func (w *walk) gateChanged() {
	to := w.guest.change()
	if to.open == w.open {
		return
	}
	if !to.open && w.closing() {
		if !w.standing {
			w.begun, w.standing = w.now, true
		}
		w.held, w.still, w.stop = true, true, true
		return
	}
	w.open = to.open
	a := w.step(policy.Event{Kind: policy.KindGate, Gate: gateOf(w.open), Phase: w.phase})
	if a.Verb == policy.EndRound {
		w.stop = true
	}
}

// closing asks the head whether the vCPU stays held at the EXIT that would close the gate.
func (w *walk) closing() bool {
	cheap := policy.Event{Phase: w.phase, Completed: w.completed}
	if w.held || !w.head.AsksAtExit(w.now, cheap) {
		return false
	}
	e := w.event(policy.KindGate, max(w.unsent, w.looked))
	e.Gate = policy.GateClosing
	a := w.step(e)
	if a.Verb == policy.Look {
		w.look()
		e = w.event(policy.KindGate, w.dirtied+w.unsent)
		e.Gate, e.Looked = policy.GateClosing, true
		a = w.step(e)
	}
	if a.Verb == policy.Switchover {
		w.m.Reason = a.Reason
		return true
	}
	return false
}

// look looks at the dirty log in the middle of a round.
func (w *walk) look() {
	w.looked = w.dirtied
	if w.skip {
		w.again.CopyFrom(w.next)
	}
}

// precopy sends rounds until the stop-and-copy may begin.
func (w *walk) precopy() error {
	w.phase = policy.PhasePreCopy
	for {
		if err := w.mustEnd(); err != nil {
			return err
		}
		if err := w.beforeRound(); err != nil {
			return err
		}
		ready, err := w.afterRound(w.precopyRound())
		if ready || err != nil {
			return err
		}
	}
}

func (w *walk) precopyRound() policy.Event {
	if w.completed > 0 && w.unsent == 0 {
		w.pass(w.now + idlePause)
		remaining, _ := w.takeDirty()
		w.couldEnd()
		return policy.Event{
			Kind: policy.KindRound, Dirty: remaining, Remaining: remaining, Idle: true,
		}
	}
	begin := w.now
	r := w.sendRound(w.phase)
	remaining, dirtied := w.takeDirty()
	r.DirtyPagesPerS = perSecond(float64(dirtied), w.now-begin)
	w.closeRound(r)
	w.couldEnd()
	return policy.Event{
		Kind: policy.KindRound, Dirty: int(r.DirtyPages), Remaining: remaining,
	}
}

// closeRound enters a round into the report.
func (w *walk) closeRound(r policy.Round) {
	if len(w.rounds) == keptRounds {
		w.rounds = slices.Delete(w.rounds, firstRounds, firstRounds+1)
	}
	if !w.blind {
		w.rounds = append(w.rounds, r)
	}
	w.completed++
	w.m.PagesSent += r.SentPages
	w.m.PagesZero += r.ZeroPages
	w.m.PagesSkipped += r.SkippedPages
	w.m.BytesWire += r.BytesWire
}

// afterRound carries out what is decided after a round, and tells whether the stop-and-copy may
// begin.
func (w *walk) afterRound(over policy.Event) (ready bool, err error) {
	a := w.step(w.complete(over))
	if a.Verb != policy.Wait && a.Phase != "" {
		w.phase = a.Phase
	}
	for a.Verb == policy.Wait && a.Err == nil {
		if err := w.wait(a); err != nil {
			return false, err
		}
		remaining, _ := w.takeDirty()
		a = w.step(w.event(policy.KindTick, remaining))
	}
	return w.decided(a), a.Err
}

func (w *walk) decided(a policy.Action) bool {
	if a.Verb != policy.Switchover {
		return false
	}
	w.m.Reason = a.Reason
	return true
}

// beforeRound holds the page stream back for as long as the head wants.
func (w *walk) beforeRound() error {
	for {
		a := w.step(policy.Event{Kind: policy.KindNext})
		switch a.Verb {
		case policy.Sample:
			if err := w.sample(a); err != nil {
				return err
			}
		case policy.Suspend:
			err := w.wait(a)
			w.takeDirty()
			return err
		default:
			return a.Err
		}
	}
}

// sample measures the dirty rate before round 1, for as long as the head asks for samples.
func (w *walk) sample(a policy.Action) error {
	if w.s.Protection == OnDemand {
		w.pass(w.now + protectAll(w.unsent))
	}
	begun := w.now
	defer func() { w.sampled += w.now - begun }()
	w.logged = 0
	for last := w.now; a.Verb == policy.Sample; {
		if err := w.cancelled(); err != nil {
			return err
		}
		if w.passTo(max(a.Until, w.now)); w.now < a.Until {
			continue
		}
		dirtied := w.logged
		w.takeDirty()
		w.logged = 0
		e := w.event(policy.KindSample, w.unsent)
		e.DirtyPerS = perSecond(float64(dirtied), w.now-last)
		w.m.Samples++
		last = w.now
		a = w.step(e)
	}
	return a.Err
}

// protectAll is how long it takes to protect so many pages at once: docs/results has no figure of
// it, and a look at 16384 dirty pages takes 0.4 ms.
func protectAll(pages int) time.Duration { return time.Duration(pages) * 25 * time.Nanosecond }

// wait waits until the head lets the migration go on.
func (w *walk) wait(a policy.Action) error {
	if a.Phase != "" {
		w.phase = a.Phase
	}
	for {
		a := w.step(policy.Event{Kind: policy.KindWake})
		if a.Verb != policy.Wait {
			if a.Phase != "" {
				w.phase = a.Phase
			}
			return a.Err
		}
		until, ok := w.guest.untilChange()
		until += w.now
		if err := w.mustEnd(); err != nil {
			return err
		}
		switch {
		case a.Until > 0 && (!ok || w.still):
			until = a.Until
		case a.Until > 0:
			until = min(until, a.Until)
		case !ok || w.still:
			return errForEver
		}
		w.passTo(max(until, w.now))
	}
}

// couldEnd notes that a switchover could begin now.
func (w *walk) couldEnd() {
	if w.candidate != nil && w.completed > 0 {
		w.candidate()
	}
}

// takeDirty makes pending what was dirtied since the round began.
func (w *walk) takeDirty() (remaining, dirtied int) {
	w.again.Reset()
	w.pending.Take(w.next)
	dirtied = w.dirtied
	w.dirtied, w.looked, w.ran = 0, 0, 0
	w.unsent = w.left
	return w.left, dirtied
}

// perSecond returns n per second of d.
func perSecond(n float64, d time.Duration) float64 {
	return n / max(d, time.Microsecond).Seconds()
}
