package sim

import (
	"slices"
	"sort"
	"time"

	"taskguide/memory"
)

// Quorum says how many of the tasks must be inside a segment for the gate to be open.
type Quorum string

// The quorums; package tagging has the same.
const (
	All Quorum = "all"
	Any Quorum = "any"
)

// gateAt is the gate from a moment of the trace on.
type gateAt struct {
	at    time.Duration
	open  bool
	tasks int
}

// task is what a task is, as its tags say.
type task struct {
	registered bool
	depth      uint32
}

// before is what a task was before a transition.
func (g tag) before() task {
	switch g.change {
	case "register":
		return task{}
	case "enter":
		return task{true, max(g.depth, 1) - 1}
	case "exit":
		return task{true, g.depth + 1}
	}
	return task{true, 0}
}

// crowd is all tasks at a moment. It counts them as they change: a trace may have so many tasks and
// tags that nobody can look at each task after each tag.
type crowd struct {
	tasks              map[uint32]task
	registered, inside int
}

// set notes what a task is from now on.
func (c *crowd) set(id uint32, is task) {
	c.count(c.tasks[id], -1)
	c.count(is, 1)
	c.tasks[id] = is
}

func (c *crowd) count(one task, n int) {
	if !one.registered {
		return
	}
	c.registered += n
	if one.depth > 0 {
		c.inside += n
	}
}

// gate is how the gate stands. Without a registered task it is open.
func (c *crowd) gate(at time.Duration, q Quorum) gateAt {
	open := c.inside == c.registered || q == Any && c.inside > 0
	return gateAt{at: at, open: open, tasks: c.registered}
}

// gates returns how the gate stands at the trace's first moment, and each change of it.
func (t *Trace) gates(q Quorum) []gateAt {
	c := crowd{tasks: make(map[uint32]task)}
	for _, g := range slices.Backward(t.tags) { // what a task did first says how it began
		c.set(g.task, g.before())
	}
	all := []gateAt{c.gate(0, q)}
	for _, g := range t.tags {
		if g.at >= t.Length {
			break // the trace begins again before that
		}
		c.set(g.task, task{g.registered, g.depth})
		next := c.gate(g.at, q)
		if next.at == 0 {
			all[0] = next
			continue
		}
		if last := all[len(all)-1]; next.open != last.open || next.tasks != last.tasks {
			all = append(all, next)
		}
	}
	return all
}

// guest replays a trace from a moment on. A guest that outlasts the trace begins it again.
type guest struct {
	t      *Trace
	gate   []gateAt
	pos    time.Duration // in the trace
	laps   int
	lost   bool // inside and done do not belong to pos
	inside int  // interval that pos is in
	done   int  // writes of it so far
	next   int  // index into gate of the next change
}

func newGuest(t *Trace, q Quorum, at time.Duration) *guest {
	g := &guest{t: t, gate: t.gates(q), pos: at % t.Length}
	g.next = sort.Search(len(g.gate), func(i int) bool { return g.gate[i].at > g.pos })
	g.seek()
	return g
}

// seek finds the place in the writes that belongs to pos.
func (g *guest) seek() {
	t := g.t
	g.lost = false
	g.inside = sort.Search(len(t.intervals), func(i int) bool { return t.intervals[i].end > g.pos })
	i := t.intervals[g.inside]
	g.done = sort.Search(len(i.writes), func(k int) bool { return i.at(i.writes[k]) > g.pos })
}

// now is how the gate stands.
func (g *guest) now() gateAt { return g.gate[max(g.next, 1)-1] }

// untilChange is how long the guest runs until the next change of its gate; ok is false if there
// is none in a whole lap. At the end of a lap the gate is as at the beginning again.
func (g *guest) untilChange() (d time.Duration, ok bool) {
	if g.next < len(g.gate) {
		return g.gate[g.next].at - g.pos, true
	}
	if len(g.gate) == 1 {
		return 0, false
	}
	return g.t.Length - g.pos, true
}

// change takes in a change of the gate that is due.
func (g *guest) change() gateAt {
	if g.next < len(g.gate) && g.gate[g.next].at <= g.pos {
		g.next++
	}
	return g.now()
}

// run lets the guest run for d, and calls wrote with each recorded page that it writes, per
// interval. It must not run past a change of its gate.
func (g *guest) run(d time.Duration, wrote func(page int)) {
	if g.lost {
		g.seek()
	}
	g.advance(d, func(to time.Duration) { g.runTo(to, wrote) })
}

// skip lets the guest run for d, and nobody asks what it writes.
func (g *guest) skip(d time.Duration) {
	g.advance(d, func(to time.Duration) { g.pos, g.lost = to, true })
}

// advance lets the guest run for d, lap by lap.
func (g *guest) advance(d time.Duration, runTo func(time.Duration)) {
	for d > 0 {
		to := min(g.pos+d, g.t.Length)
		d -= to - g.pos
		runTo(to)
		if g.pos == g.t.Length {
			g.pos, g.inside, g.done, g.next, g.lost = 0, 0, 0, 1, false
			g.laps++
		}
	}
}

func (g *guest) runTo(to time.Duration, wrote func(page int)) {
	for g.inside < len(g.t.intervals) {
		i := g.t.intervals[g.inside]
		whole := to >= i.end
		for ; g.done < len(i.writes) && (whole || i.at(i.writes[g.done]) <= to); g.done++ {
			wrote(int(i.writes[g.done].page))
		}
		if i.beats(min(to, i.end)) > i.beats(g.pos) {
			for _, page := range i.hot {
				wrote(int(page))
			}
		}
		if !whole {
			break
		}
		g.inside, g.done = g.inside+1, 0
	}
	g.pos = to
}

// content is that of pages that are written now.
func (g *guest) content() uint16 {
	if g.lost {
		g.seek()
	}
	return g.t.intervals[g.inside].content
}

// memoryAt returns which of the recorded pages are populated at the guest's moment, which of these
// are zero, and the content of each.
func (g *guest) memoryAt() (populated, zero *memory.Bitmap, contents []uint16) {
	t := g.t
	populated, zero = cutTo(t.populated, t.used), cutTo(t.zero, t.used)
	contents = make([]uint16, t.used)
	copy(contents, t.before)
	before := &guest{t: t, gate: []gateAt{{}}}
	to := min(g.pos, t.Length-1)
	if g.laps > 0 {
		to = t.Length - 1 // what was written in a whole lap is still there
	}
	before.run(to, func(page int) {
		populated.Set(page)
		zero.Clear(page)
		contents[page] = before.content()
	})
	return populated, zero, contents
}
