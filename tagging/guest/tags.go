package guest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"taskguide/tagging/abi"
)

// ErrNoPort is returned if this machine has no tag port, or none that this program may use.
var ErrNoPort = errors.New("no tag port")

// ErrTasksOpen is returned by Close if some tasks are still open.
var ErrTasksOpen = errors.New("tasks are open")

// registers are the tag port's registers, by some way of access. Offsets are abi.Reg*. They are
// safe for concurrent use.
type registers interface {
	read(offset uint32) uint32
	write(offset uint32, v uint32)
	close() error
}

// Tags is a connection to the tag port. It is safe for concurrent use.
type Tags struct {
	regs registers

	mu   sync.Mutex
	page *page // nil without fast tags; stays until Close
	free func() error
	open int // tasks
}

// newTags returns Tags over regs, which it owns unless it fails.
func newTags(regs registers) (*Tags, error) {
	if id := regs.read(abi.RegID); id != abi.ID {
		return nil, fmt.Errorf("%w: its id reads %#x", ErrNoPort, id)
	}
	return &Tags{regs: regs}, nil
}

// Close closes the port. It returns ErrTasksOpen unless all tasks are closed.
func (t *Tags) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open > 0 {
		return fmt.Errorf("close tags: %d %w", t.open, ErrTasksOpen)
	}
	var err error
	if t.page != nil {
		t.announce(0)
		t.page = nil
		err = t.free()
	}
	return errors.Join(err, t.regs.close())
}

// State tells whether a migration is under way, and what it waits for. It costs microseconds; use
// Migrating to ask often.
func (t *Tags) State() abi.MigrationState {
	return abi.MigrationState(t.regs.read(abi.RegState))
}

// Migrating tells whether a migration is under way. A cooperative program may then bring its next
// calm segment forward. With fast tags, this costs nanoseconds while no migration is under way.
func (t *Tags) Migrating() bool {
	t.mu.Lock()
	page := t.page
	t.mu.Unlock()
	if page != nil && !page.notified() {
		return false
	}
	return t.State() != abi.StateNone
}

// Epoch returns how many migrations this machine has completed. It changes when the machine has
// moved.
func (t *Tags) Epoch() uint32 { return t.regs.read(abi.RegEpoch) }

// Clock returns the host's time of day.
func (t *Tags) Clock() time.Time {
	// The host latches the upper half for all vCPUs together, so another vCPU's reading can come in
	// between. So read until two readings agree.
	const tries, near = 8, uint64(time.Second)
	now := t.clock()
	for range tries {
		before := now
		if now = t.clock(); now-before < near {
			break
		}
	}
	return time.Unix(0, int64(now))
}

func (t *Tags) clock() uint64 {
	lo := t.regs.read(abi.RegClockLo)
	return uint64(t.regs.read(abi.RegClockHi))<<32 | uint64(lo)
}

// announce tells the host where the tag page is: at guest-physical gpa, or nowhere if gpa is 0.
func (t *Tags) announce(gpa uint64) {
	t.regs.write(abi.RegPageLo, uint32(gpa))
	t.regs.write(abi.RegPageHi, uint32(gpa>>32))
}

// usePage makes mem, at guest-physical gpa, the tag page. free releases it.
func (t *Tags) usePage(mem []byte, gpa uint64, free func() error) {
	page := pageOf(mem)
	page.format()
	t.announce(gpa)
	t.page, t.free = page, free
}

// Task makes a task with this id take part in guidance, outside any segment. It gets fast tags if
// they are on and a slot is free.
func (t *Tags) Task(id uint32) *Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open++
	task := &Task{tags: t, id: id}
	if t.page != nil {
		task.slot, task.page = t.page.claim(id), t.page
	}
	t.regs.write(abi.RegRegister, id)
	return task
}

// Task is something with phases of its own. One goroutine at a time may use it.
type Task struct {
	tags   *Tags
	id     uint32
	page   *page
	slot   *slot // nil: plain tags
	depth  uint32
	closed bool
}

// Fast tells whether the task has fast tags.
func (k *Task) Fast() bool { return k.slot != nil }

// Enter begins a segment that suits a switchover: from now on, the program writes little memory.
// Segments nest.
func (k *Task) Enter() {
	k.depth++
	k.tell(abi.RegEnter)
}

// Exit ends the segment. The machine may be moved inside this very call. Outside of a segment, Exit
// does nothing.
func (k *Task) Exit() {
	if k.depth == 0 {
		return
	}
	k.depth--
	k.tell(abi.RegExit)
}

// Segment runs f inside a segment.
func (k *Task) Segment(f func()) {
	k.Enter()
	defer k.Exit()
	f()
}

// tell reports the new depth: by a write to the register, or by the slot, and then by the register
// only if the host wants a ring.
func (k *Task) tell(offset uint32) {
	if k.closed {
		return
	}
	if k.slot == nil || k.slot.setDepth(k.page, k.depth) {
		k.tags.regs.write(offset, k.id)
	}
}

// Close ends the task's part in guidance, with its open segments. Later calls do nothing.
func (k *Task) Close() {
	if k.closed {
		return
	}
	k.closed = true
	k.tags.mu.Lock()
	defer k.tags.mu.Unlock()
	if k.slot != nil {
		k.slot.release()
	}
	k.tags.regs.write(abi.RegUnregister, k.id)
	k.tags.open--
}
