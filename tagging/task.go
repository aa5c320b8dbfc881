package tagging

import (
	"math"
	"slices"
	"time"
)

// MaxTasks is how many tasks a port knows at once. A guest that registers more is not told, as with
// every error. GuestErrors.Full counts them.
const MaxTasks = 4096

// task is one registered task.
type task struct {
	depth    uint32 // how many nested segments the task is inside
	fast     bool   // depth is a copy of its slot in the tag page
	seen     uint64 // the last of table.looks that found its slot
	segments uint64
	since    time.Time // of the last change between inside and outside, for people
	marked   time.Time // inside and outside are summed up until then
	inside   time.Duration
	outside  time.Duration
}

// sumUp adds the time since the last call to inside or outside.
func (t *task) sumUp(now time.Time) {
	d := max(now.Sub(t.marked), 0)
	if t.depth > 0 {
		t.inside += d
	} else {
		t.outside += d
	}
	t.marked = now
}

// table holds the registered tasks as the host has seen them: by the tasks' own writes, and by the
// last look at the tag page.
type table struct {
	tasks  map[uint32]*task
	fast   []uint32 // ids of the fast ones, at most maxFast
	inside int      // tasks whose depth is not 0
	looks  uint64   // looks at the tag page; each look sees a task once
}

func newTable() table { return table{tasks: make(map[uint32]*task)} }

// edit is a task's next state. An edit with event Unregistered forgets it.
type edit struct {
	event Change
	id    uint32
	depth uint32
	fast  bool
}

// change is what one access does to a table: at most one edit for each id, and the guest's errors.
// It is worked out first and applied later, because the listener is asked in between.
type change struct {
	edits  []edit
	errors GuestErrors
	// by finds an edit by its id. It is nil while there are only a few, which are searched faster
	// without it.
	by map[uint32]int
	// tasks and inside are how many more tasks there will be, and how many more of them inside a
	// segment. They are kept up to date because a look may find a thousand tasks.
	tasks, inside int
}

// fewEdits is how many edits are searched without a map.
const fewEdits = 16

// find returns the edit of a task, or nil if there is none.
func (c *change) find(id uint32) *edit {
	if c.by != nil {
		if i, ok := c.by[id]; ok {
			return &c.edits[i]
		}
		return nil
	}
	for i := range c.edits {
		if c.edits[i].id == id {
			return &c.edits[i]
		}
	}
	return nil
}

// add appends the edit of a task that has none.
func (c *change) add(e edit) {
	c.edits = append(c.edits, e)
	switch {
	case c.by != nil:
		c.by[e.id] = len(c.edits) - 1
	case len(c.edits) > fewEdits:
		c.by = make(map[uint32]int)
		for i, e := range c.edits {
			c.by[e.id] = i
		}
	}
}

// put sets the edit of a task in c.
func (tb *table) put(c *change, e edit) {
	old := c.find(e.id)
	switch t := tb.tasks[e.id]; {
	case old != nil:
		c.count(old.event != Unregistered, old.depth, -1)
		*old = e
	case t != nil:
		c.count(true, t.depth, -1)
		c.add(e)
	default:
		c.add(e)
	}
	c.count(e.event != Unregistered, e.depth, 1)
}

// count adds a task that there is at this depth, or takes it off.
func (c *change) count(there bool, depth uint32, by int) {
	if !there {
		return
	}
	c.tasks += by
	if depth > 0 {
		c.inside += by
	}
}

// counts returns how many tasks there will be, and how many of them inside a segment, once c is
// applied.
func (tb *table) counts(c *change) (tasks, inside int) {
	return len(tb.tasks) + c.tasks, tb.inside + c.inside
}

// gate returns the gate under a quorum.
func gate(quorum Quorum, tasks, inside int) GateState {
	open := inside == tasks
	if quorum == Any {
		open = tasks == 0 || inside > 0
	}
	return GateState{Open: open, Tasks: tasks}
}

func (tb *table) gate(quorum Quorum) GateState { return gate(quorum, len(tb.tasks), tb.inside) }

func (tb *table) gateAfter(quorum Quorum, c *change) GateState {
	tasks, inside := tb.counts(c)
	return gate(quorum, tasks, inside)
}

// look adds to c what the tag page has that the table does not know yet. It forgets a task whose
// slot is gone.
func (tb *table) look(seen *slots, c *change) {
	tb.looks++
	for _, s := range seen.used {
		t, known := tb.tasks[s.task]
		if known && t.seen == tb.looks || !known && c.find(s.task) != nil {
			c.errors.Page++ // two slots for one task: the first counts
			continue
		}
		if !known {
			tb.admit(c, edit{Registered, s.task, s.depth, true})
			continue
		}
		t.seen = tb.looks
		switch {
		case s.depth > t.depth:
			tb.put(c, edit{Entered, s.task, s.depth, true})
		case s.depth < t.depth:
			tb.put(c, edit{Exited, s.task, s.depth, true})
		case !t.fast:
			tb.put(c, edit{Registered, s.task, s.depth, true})
		}
	}
	for _, id := range tb.fast {
		if tb.tasks[id].seen != tb.looks {
			tb.put(c, edit{Unregistered, id, 0, true})
		}
	}
}

// admit adds a task that the table does not know, if there is room.
func (tb *table) admit(c *change, e edit) {
	if tasks, _ := tb.counts(c); tasks >= MaxTasks {
		c.errors.Full++
		return
	}
	tb.put(c, e)
}

// state returns a task as it will be once c is applied.
func (tb *table) state(c *change, id uint32) (depth uint32, known bool) {
	if e := c.find(id); e != nil {
		return e.depth, e.event != Unregistered
	}
	if t := tb.tasks[id]; t != nil {
		return t.depth, true
	}
	return 0, false
}

// tag adds to c what a plain task does.
func (tb *table) tag(event Change, id uint32, c *change) {
	depth, known := tb.state(c, id)
	switch {
	case event == Registered && known:
	case event == Registered:
		tb.admit(c, edit{event, id, 0, false})
	case event == Entered && depth == math.MaxUint32:
		c.errors.Task++
	case event == Entered && known:
		tb.put(c, edit{event, id, depth + 1, false})
	case event == Entered:
		tb.admit(c, edit{event, id, 1, false})
	case event == Exited && depth == 0, event == Unregistered && !known:
		c.errors.Task++
	case event == Exited:
		tb.put(c, edit{event, id, depth - 1, false})
	case event == Unregistered:
		tb.put(c, edit{event, id, 0, false})
	}
}

// insert adds a task that the table does not know.
func (tb *table) insert(id uint32, t *task) {
	tb.tasks[id] = t
	if t.fast {
		tb.fast = append(tb.fast, id)
	}
	if t.depth > 0 {
		tb.inside++
	}
}

// apply carries out one edit.
func (tb *table) apply(e edit, now time.Time) {
	t, known := tb.tasks[e.id]
	if !known {
		t = &task{since: now, marked: now}
		tb.tasks[e.id] = t
	}
	t.sumUp(now)
	was := t.depth > 0
	tb.setFast(t, e)
	t.depth = e.depth
	is := t.depth > 0
	if is != was {
		t.since = now
	}
	if was && !is {
		tb.inside--
	}
	if is && !was {
		tb.inside++
		t.segments++
	}
	if e.event == Unregistered {
		delete(tb.tasks, e.id)
	}
}

func (tb *table) setFast(t *task, e edit) {
	fast := e.fast && e.event != Unregistered
	if t.fast && !fast {
		tb.fast = slices.DeleteFunc(tb.fast, func(id uint32) bool { return id == e.id })
	}
	if fast && !t.fast {
		tb.fast = append(tb.fast, e.id)
	}
	t.fast = fast
}
