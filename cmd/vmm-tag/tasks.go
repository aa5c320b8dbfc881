package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

// firstID is the first id that the daemon gives out. Programs that do without a daemon usually
// choose small ones.
const firstID = 0x74000000

// idRange is how many ids a daemon begins within. Each begins somewhere else, because a program of
// the daemon before, which has not looked since, knows its slot by its id: it would take a slot of
// the same id for its own.
const idRange = 1 << 27

// maxTasks bounds the tasks of one program.
const maxTasks = 256

// maxSessions bounds the connections of one user. It leaves descriptors for others.
const maxSessions = 1024

// registry has all tasks. Each belongs to a process, and ends with it at the latest.
type registry struct {
	// mu guards what follows. It is held while the device is rung, so a machine that is moved at an
	// EXIT holds all that ask the daemon, as it holds everything else.
	mu     sync.Mutex
	pages  *pages
	owners map[int]*owner // by pid
	tasks  map[uint32]*task
	next   uint32
	// sessions counts the connections of each user.
	sessions map[uint32]int
	// watchers are the connections that want to know of changes, with what they know.
	watchers map[*session]*told
	// parent returns the process that started another one.
	parent func(pid int) (int, error)
	// watch calls dead once a process has ended.
	watch func(pid int, dead func()) error
}

// owner is a process that has tasks.
type owner struct {
	pid   int
	page  int // of its tasks; -1: it has none yet
	tasks map[uint32]*task
}

// task is a registered task.
type task struct {
	id         uint32
	name       string
	owner      *owner
	session    *session // that opened it; nil: a script's, see scripts
	page, slot int
	// runs are the sessions of runs under way, of a task that is inside but for its runs.
	runs map[*session]bool
}

func newRegistry(p *pages) *registry {
	return &registry{
		pages: p, owners: make(map[int]*owner), tasks: make(map[uint32]*task), next: firstID,
		sessions: make(map[uint32]int), watchers: make(map[*session]*told),
		parent: parentOf, watch: watchProcess,
	}
}

// admit tells whether a user may have another connection, which ends with leave.
func (r *registry) admit(uid uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions[uid] >= maxSessions {
		return false
	}
	r.sessions[uid]++
	return true
}

func (r *registry) leave(uid uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions[uid]--; r.sessions[uid] == 0 {
		delete(r.sessions, uid)
	}
}

// ownerOf returns the owner for a process, which is watched from now on; mu is held.
func (r *registry) ownerOf(pid int) (*owner, error) {
	if o := r.owners[pid]; o != nil {
		return o, nil
	}
	o := &owner{pid: pid, page: -1, tasks: make(map[uint32]*task)}
	if err := r.watch(pid, func() { r.forget(o) }); err != nil {
		return nil, err
	}
	r.owners[pid] = o
	return o, nil
}

// forget ends the tasks of a process that has ended.
func (r *registry) forget(o *owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range o.tasks {
		r.end(t)
	}
	delete(r.owners, o.pid)
}

// open registers a task; mu is held.
func (r *registry) open(pid int, name string, s *session) (*task, error) {
	if len(name) > abi.SlotNameBytes {
		return nil, fmt.Errorf("the name is longer than %d bytes", abi.SlotNameBytes)
	}
	o, err := r.ownerOf(pid)
	if err != nil {
		return nil, err
	}
	if len(o.tasks) >= maxTasks {
		return nil, fmt.Errorf("process %d has %d tasks already", pid, maxTasks)
	}
	if o.page < 0 {
		o.page = r.pages.take()
	}
	t := &task{id: r.freeID(), name: name, owner: o, session: s, page: o.page}
	t.slot, err = r.pages.open(t.page, t.id, name)
	if errors.Is(err, errFull) && r.pages.roomElsewhere() {
		o.page = r.pages.take() // for the program's further tasks
		t.page = o.page
		t.slot, err = r.pages.open(t.page, t.id, name)
	}
	if err != nil {
		if len(o.tasks) == 0 {
			o.page = -1 // the page is others', and may be given up before this one asks again
		}
		return nil, err
	}
	r.next = t.id + 1
	o.tasks[t.id], r.tasks[t.id] = t, t
	return t, nil
}

// freeID returns an id that no task has; mu is held. A program may open and close tasks until the
// ids begin again.
func (r *registry) freeID() uint32 {
	id := max(r.next, firstID)
	for r.tasks[id] != nil {
		id = max(id+1, firstID)
	}
	return id
}

// end unregisters a task; mu is held.
func (r *registry) end(t *task) {
	r.pages.close(t.page, t.slot, t.id)
	delete(r.tasks, t.id)
	delete(t.owner.tasks, t.id)
	if len(t.owner.tasks) == 0 {
		t.owner.page = -1
	}
	if r.pages.count[t.page] == 0 {
		r.pages.drop(t.page)
		for _, o := range r.owners { // whoever opened there last must ask anew
			if o.page == t.page {
				o.page = -1
			}
		}
	}
}

// endSession ends the tasks that were opened on a connection, and its runs.
func (r *registry) endSession(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.watchers, s)
	for _, t := range r.tasks {
		switch {
		case t.session == s:
			r.end(t)
		case t.runs[s]:
			r.run(t, s, false)
		}
	}
}

// run begins or ends a run of a task that is inside but for its runs; mu is held.
func (r *registry) run(t *task, s *session, begin bool) {
	before := len(t.runs)
	if begin {
		t.runs[s] = true
	} else {
		delete(t.runs, s)
	}
	switch after := len(t.runs); {
	case before == 0 && after > 0:
		r.pages.setDepth(t.page, t.slot, t.id, 0, false)
	case before > 0 && after == 0:
		r.pages.setDepth(t.page, t.slot, t.id, 1, true)
	}
}

// errOrphan is returned for a script that init has adopted, which never ends. Its tasks would keep
// the gate closed for good.
var errOrphan = errors.New("the program that started vmm-tag has ended, so nobody has the task")

// scripts returns a script's task by its name, which belongs to the parent of the process that
// asks. A task that is not there begins, if it may; mu is held.
func (r *registry) scripts(s *session, q guest.Request) (*task, error) {
	parent, err := r.parent(s.pid)
	if err != nil {
		return nil, err
	}
	if parent == 1 && s.uid != 0 {
		return nil, errOrphan
	}
	if o := r.owners[parent]; o != nil {
		for _, t := range o.tasks {
			if t.session == nil && t.name == q.Name {
				return t, nil
			}
		}
	}
	if q.Op == "exit" || q.Op == "end" {
		return nil, fmt.Errorf("process %d has no task %q", parent, q.Name)
	}
	t, err := r.open(parent, q.Name, nil)
	if err == nil {
		t.runs = make(map[*session]bool)
	}
	return t, err
}

// errNotYours is returned for a task of another connection.
var errNotYours = errors.New("no task of this program has that id")

// act carries out a request of a process.
func (r *registry) act(s *session, q guest.Request) (guest.Answer, error) {
	q.Name = printable(q.Name)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch q.Op {
	case "open":
		t, err := r.open(s.pid, q.Name, s)
		if err != nil {
			return guest.Answer{}, err
		}
		return guest.Answer{ID: t.id, Page: t.page, Slot: t.slot}, nil
	case "ring", "close":
		t := r.tasks[q.ID]
		if t == nil || t.session != s {
			return guest.Answer{}, errNotYours
		}
		if q.Op == "ring" {
			r.pages.ring(t.id, q.Enter)
		} else {
			r.end(t)
		}
		return guest.Answer{}, nil
	case "enter", "exit", "begin", "end":
		return guest.Answer{}, r.script(s, q)
	case "status":
		return guest.Answer{Status: r.status()}, nil
	case "migration":
		m := r.migration(s.pid, r.pages.state())
		return guest.Answer{Migration: &m}, nil
	case "watch":
		// The state follows by the daemon's next wake-up, as all later ones do: they would overtake
		// an answer that had it.
		r.watchers[s] = &told{}
		return guest.Answer{}, nil
	}
	return guest.Answer{}, fmt.Errorf("unknown request %q", q.Op)
}

// script carries out what a script asks; mu is held.
func (r *registry) script(s *session, q guest.Request) error {
	t, err := r.scripts(s, q)
	if err != nil {
		return err
	}
	depth := r.pages.depth(t.page, t.slot)
	switch {
	case q.Op == "begin", q.Op == "end":
		r.run(t, s, q.Op == "begin")
	case q.Op == "enter":
		r.pages.setDepth(t.page, t.slot, t.id, depth+1, true)
	case depth == 0:
		return fmt.Errorf("task %q is outside of its segment", q.Name)
	default:
		r.pages.setDepth(t.page, t.slot, t.id, depth-1, false)
	}
	return nil
}

// status returns the state of the device and the tasks; mu is held.
func (r *registry) status() *guest.Status {
	m := r.pages.state()
	st := &guest.Status{
		State: m.State, DeadlineMS: m.DeadlineMS, Epoch: m.Epoch, Tasks: []guest.TaskStatus{},
	}
	for _, id := range slices.Sorted(maps.Keys(r.tasks)) {
		t := r.tasks[id]
		st.Tasks = append(st.Tasks, guest.TaskStatus{
			ID: id, Name: t.name, PID: t.owner.pid, Depth: r.pages.depth(t.page, t.slot),
		})
	}
	return st
}

// renew renews the leases. Tasks in pages that the host gave up end: their programs find the magic
// gone, and run on untagged until they open anew.
func (r *registry) renew() (lost int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, page := range r.pages.renew() {
		for _, t := range r.tasks {
			if t.page == page {
				r.end(t)
				lost++
			}
		}
	}
	return lost
}
