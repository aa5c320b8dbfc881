package tagging

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// modelTask is a task as the model knows it.
type modelTask struct {
	depth uint32
	fast  bool
}

// model is the tag port at its simplest: it works everything out anew each time.
type model struct {
	t      testing.TB
	port   *Port
	ram    *ram
	page   guestPage // valid even if not registered
	ownRAM bool      // the page is in device RAM
	l      *recorder
	calls  []string // calls that the listener must have got since the last step

	tasks      map[uint32]modelTask
	registered bool // the page
	attached   bool
	quorum     Quorum
	taskErrors uint64
	epoch      uint32
	// stale says that notify should have changed while the page was no tag page.
	stale bool
}

func newModel(t testing.TB, ownRAM bool) *model {
	r := newRAM(4)
	m := &model{
		t: t, port: newPort(r, newClock().now), ram: r, l: &recorder{}, ownRAM: ownRAM,
		quorum: All, tasks: map[uint32]modelTask{},
	}
	m.page = guestPage{formatPage(t, r, pageGPA), m.port}
	if ownRAM {
		m.page = useDevice(m.port).page(0)
		m.page.format()
	}
	return m
}

// truth returns the tasks, with the tag page's slots applied.
func (m *model) truth() map[uint32]modelTask {
	tasks := map[uint32]modelTask{}
	for id, task := range m.tasks {
		if !task.fast {
			tasks[id] = task
		}
	}
	if !m.registered || !m.page.valid() {
		return tasks
	}
	for i := range PageSlots {
		at := pageSlot0 + i*pageSlotBytes
		id, depth := *m.page.word(at + slotTaskAt), *m.page.word(at + slotDepthAt)
		if *m.page.word(at + slotFlagsAt) == slotUsed && !tasks[id].fast {
			tasks[id] = modelTask{depth, true}
		}
	}
	return tasks
}

func (m *model) open(tasks map[uint32]modelTask) bool {
	inside := 0
	for _, task := range tasks {
		if task.depth > 0 {
			inside++
		}
	}
	if m.quorum == Any {
		return len(tasks) == 0 || inside > 0
	}
	return inside == len(tasks)
}

// become sets the tasks, and notes the calls that the listener must get.
func (m *model) become(tasks map[uint32]modelTask) {
	before, after := m.open(m.tasks), m.open(tasks)
	m.tasks = tasks
	switch {
	case !m.attached || before == after:
	case after:
		m.calls = append(m.calls, "opened")
	default:
		m.calls = append(m.calls, "closing", "closed")
	}
}

func (m *model) tag(event Change, id uint32) {
	tasks := m.truth()
	if m.registered && !m.page.valid() {
		m.registered = false
	}
	task, known := tasks[id]
	switch {
	case task.fast && event == Unregistered:
		m.taskErrors++
	case task.fast:
	case event == Exited && task.depth == 0:
		m.taskErrors++
	case event == Unregistered && !known:
		if !m.registered {
			m.taskErrors++
		}
	case event == Registered:
		tasks[id] = task
	case event == Entered:
		tasks[id] = modelTask{depth: task.depth + 1}
	case event == Exited:
		tasks[id] = modelTask{depth: task.depth - 1}
	case event == Unregistered:
		delete(tasks, id)
	}
	m.become(tasks)
}

// refreshed reads the page without telling the listener.
func (m *model) refreshed() {
	m.tasks = m.truth()
	if !m.page.valid() {
		m.registered = false
	}
}

var tagRegisters = []struct {
	offset uint64
	event  Change
}{{RegEnter, Entered}, {RegExit, Exited}, {RegRegister, Registered}, {RegUnregister, Unregistered}}

// step does one thing, chosen by three bytes, to both the port and the model.
func (m *model) step(kind, a, b byte) string {
	const ids, slots = 5, 3
	switch kind % 16 {
	case 0, 1, 2, 3, 4, 5:
		reg, id := tagRegisters[b%4], uint32(a%ids)
		m.port.Write(reg.offset, 4, id)
		m.tag(reg.event, id)
		return fmt.Sprintf("%s %d", reg.event, id)
	case 6, 7, 8:
		m.page.set(int(a%slots), uint32(b%3), uint32(b/3%ids), uint32(b/15%3))
		return fmt.Sprintf("slot %d: flags %d, task %d, depth %d", a%slots, b%3, b/3%ids, b/15%3)
	case 9:
		m.quorum = []Quorum{All, Any}[a%2]
		got := m.port.Attach(m.quorum, m.l)
		m.refreshed()
		m.attached, m.stale = true, !m.page.valid()
		require.Equal(m.t, GateState{m.open(m.tasks), len(m.tasks)}, got)
		return fmt.Sprintf("attach %s", m.quorum)
	case 10:
		m.port.Detach()
		m.attached, m.quorum, m.stale = false, All, !m.page.valid()
		return "detach"
	case 11:
		m.port.Snapshot()
		if !m.attached && (!m.registered || m.page.valid()) {
			m.tasks = m.truth()
		}
		return "snapshot"
	case 12:
		return m.setPage(a)
	case 13:
		m.port.Write(uint64(a), 1+int(b%2), 1)
		return "bad access"
	case 14:
		if a%4 > 0 {
			atomic.StoreUint32(m.page.word(pageMagicAt), PageMagic)
			return "page healed"
		}
		atomic.StoreUint32(m.page.word(pageMagicAt), 0)
		return "page destroyed"
	default:
		return m.move()
	}
}

func (m *model) setPage(a byte) string {
	if m.ownRAM {
		return m.commit(a)
	}
	gpa := []uint32{pageGPA, pageGPA, pageGPA, 0, pageGPA + 64, 1 << 20}[a%6]
	m.port.Write(RegPageLo, 4, gpa)
	m.port.Write(RegPageHi, 4, 0)
	if gpa == 0 || gpa == pageGPA && m.page.valid() {
		m.registered, m.stale = gpa != 0, false
		m.become(m.truth())
	}
	return fmt.Sprintf("page %#x", gpa)
}

// commit writes PAGES. A page that is no tag page is not committed.
func (m *model) commit(a byte) string {
	set := []uint32{1, 1, 1, 0, 1 << DevicePages, 2}[a%6]
	m.port.Write(RegPages, 4, set)
	if set < 1<<DevicePages {
		m.registered, m.stale = set == 1 && m.page.valid(), false
		m.become(m.truth())
	}
	return fmt.Sprintf("pages %#x", set)
}

// move goes on with another port, as after a migration.
func (m *model) move() string {
	m.port.Detach()
	m.attached, m.quorum, m.stale = false, All, !m.page.valid()
	there := newPort(m.ram, m.port.now)
	if m.ownRAM {
		device := useDevice(there)
		require.NoError(m.t, there.LoadDevice(m.port.SaveDevice()))
		require.Equal(m.t, m.port.FingerprintDevice(), there.FingerprintDevice())
		m.page = device.page(0)
	}
	require.NoError(m.t, there.Load(m.port.Save()))
	require.Equal(m.t, m.port.Fingerprint(), there.Fingerprint())
	there.Moved()
	m.refreshed()
	m.epoch++
	m.port = there
	return "move"
}

// check compares the port with the model.
func (m *model) check(steps []string) {
	tasks := map[uint32]modelTask{}
	for id, task := range m.port.table.tasks {
		tasks[id] = modelTask{task.depth, task.fast}
	}
	require.Equal(m.t, m.tasks, tasks, "%q", steps)
	checkTable(m.t, m.port)
	require.Equal(m.t, m.calls, m.l.taken(), "%q", steps)
	m.calls = nil
	truth := m.truth()
	require.Equal(m.t, GateState{m.open(truth), len(truth)}, m.port.Gate(), "%q", steps)
	require.Equal(m.t, m.taskErrors, m.port.errors.Task, "%q", steps)
	require.Equal(m.t, m.epoch, m.port.Read(RegEpoch, 4))
	if m.registered && m.page.valid() && !m.stale {
		require.Equal(m.t, m.attached, m.page.notified(), "%q", steps)
	}
}

func runModel(t testing.TB, ownRAM bool, script []byte) {
	m := newModel(t, ownRAM)
	var steps []string
	for ; len(script) >= 3; script = script[3:] {
		steps = append(steps, m.step(script[0], script[1], script[2]))
		m.check(steps)
	}
}

func TestAgainstModel(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	for i := range 400 {
		script := make([]byte, 3*100)
		random.Read(script)
		runModel(t, i%2 == 1, script)
	}
}

func FuzzAgainstModel(f *testing.F) {
	script := []byte{12, 0, 0, 6, 0, 61, 9, 0, 0, 6, 0, 1, 0, 0, 1}
	f.Add(false, script)
	f.Add(true, script)
	f.Fuzz(func(t *testing.T, ownRAM bool, script []byte) {
		runModel(t, ownRAM, script[:min(len(script), 600)])
	})
}
