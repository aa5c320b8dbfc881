package guest

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
)

// machine is a machine in this process: guest RAM of a few pages and a tag port.
type machine struct {
	ram    []byte
	port   *tagging.Port
	writes atomic.Int64
	closed bool
}

const pageGPA = tagging.PageSize

func newMachine(t testing.TB) (*machine, *Tags) {
	m := &machine{ram: make([]byte, 4*tagging.PageSize)}
	require.Zero(t, uintptr(unsafe.Pointer(&m.ram[0]))%4, "words of RAM are aligned")
	m.port = tagging.NewPort(m)
	tags, err := newTags(m)
	require.NoError(t, err)
	return m, tags
}

// newFastMachine is a machine whose tags already have the tag page.
func newFastMachine(t testing.TB) (*machine, *Tags) {
	m, tags := newMachine(t)
	tags.usePage(m.ram[pageGPA:][:tagging.PageSize], pageGPA, func() error { return nil })
	require.EqualValues(t, pageGPA, m.port.Snapshot().Page)
	m.writes.Store(0)
	return m, tags
}

func (m *machine) Slice(gpa uint64, n int) ([]byte, bool) {
	size := uint64(len(m.ram))
	if gpa > size || uint64(n) > size-gpa {
		return nil, false
	}
	return m.ram[gpa:][:n:n], true
}

func (m *machine) StoreUint32(gpa uint64, v uint32) bool {
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&m.ram[gpa:][:4][0])), v)
	return true
}

func (m *machine) read(offset uint32) uint32 { return m.port.Read(uint64(offset), 4) }

func (m *machine) write(offset uint32, v uint32) {
	m.writes.Add(1)
	m.port.Write(uint64(offset), 4, v)
}

func (m *machine) close() error {
	m.closed = true
	return nil
}

func (m *machine) task(id uint32) *tagging.TaskInfo {
	for _, task := range m.port.Snapshot().Tasks {
		if task.ID == id {
			return &task
		}
	}
	return nil
}

// follower is a listener that follows the gate by its calls.
type follower struct {
	mu   sync.Mutex
	open bool
}

func (f *follower) attach(p *tagging.Port, policy tagging.Quorum) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = p.Attach(policy, f).Open
}

func (f *follower) GateOpened() { f.set(true) }
func (f *follower) GateClosed() { f.set(false) }

func (f *follower) GateClosing() bool { return false }

func (f *follower) set(open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = open
}

func (f *follower) isOpen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

func TestPlainTask(t *testing.T) {
	m, tags := newMachine(t)
	task := tags.Task(7)
	require.False(t, task.Fast())
	require.Zero(t, m.task(7).Depth)
	task.Enter()
	task.Enter()
	require.EqualValues(t, 2, m.task(7).Depth)
	task.Exit()
	task.Segment(func() { require.EqualValues(t, 2, m.task(7).Depth) })
	task.Exit()
	task.Exit()
	require.Zero(t, m.task(7).Depth)
	require.Zero(t, m.port.Snapshot().GuestErrors.Total, "an unbalanced Exit stays here")
	require.ErrorIs(t, tags.Close(), ErrTasksOpen)
	task.Enter()
	task.Close()
	task.Close()
	require.Nil(t, m.task(7))
	task.Enter()
	require.Nil(t, m.task(7), "a closed task does not come back")
	require.NoError(t, tags.Close())
	require.True(t, m.closed)
	require.Zero(t, m.port.Snapshot().GuestErrors.Total)
}

func TestFastTask(t *testing.T) {
	m, tags := newFastMachine(t)
	task := tags.Task(7)
	require.True(t, task.Fast())
	require.True(t, m.task(7).Fast)
	m.writes.Store(0)
	task.Enter()
	task.Enter()
	require.EqualValues(t, 2, m.task(7).Depth)
	task.Exit()
	task.Exit()
	task.Exit()
	require.Zero(t, m.task(7).Depth)
	require.Zero(t, m.writes.Load(), "nobody listens: the machine is not left")

	f := &follower{}
	f.attach(m.port, tagging.All)
	require.False(t, f.isOpen())
	task.Enter()
	require.True(t, f.isOpen())
	task.Exit()
	require.False(t, f.isOpen())
	require.EqualValues(t, 2, m.writes.Load())
	m.port.Detach()
	task.Enter()
	require.EqualValues(t, 2, m.writes.Load())

	task.Close()
	require.Nil(t, m.task(7))
	again := tags.Task(8)
	require.Zero(t, m.task(8).Depth, "a slot used again starts anew")
	again.Close()
	require.NoError(t, tags.Close())
	require.Zero(t, m.port.Snapshot().Page)
	require.Zero(t, m.port.Snapshot().GuestErrors.Total)
}

func TestSlotsRunOut(t *testing.T) {
	m, tags := newFastMachine(t)
	var tasks []*Task
	for id := range uint32(tagging.PageSlots + 2) {
		tasks = append(tasks, tags.Task(id))
		require.Equal(t, id < tagging.PageSlots, tasks[id].Fast())
		tasks[id].Enter()
	}
	require.Equal(t, tagging.GateState{Open: true, Tasks: len(tasks)}, m.port.Gate())
	for _, task := range tasks {
		task.Exit()
		require.Zero(t, m.task(task.id).Depth)
	}
	require.Zero(t, m.port.Snapshot().GuestErrors.Total)
}

func TestStateEpochClock(t *testing.T) {
	for name, newMachine := range map[string]func(testing.TB) (*machine, *Tags){
		"plain": newMachine, "fast": newFastMachine,
	} {
		t.Run(name, func(t *testing.T) {
			m, tags := newMachine(t)
			require.Equal(t, tagging.StateNone, tags.State())
			require.False(t, tags.Migrating())
			m.port.SetState(tagging.StateSuspended)
			m.port.Attach(tagging.All, &follower{})
			require.Equal(t, tagging.StateSuspended, tags.State())
			require.True(t, tags.Migrating())
			require.Zero(t, tags.Epoch())
			m.port.Detach()
			m.port.Moved()
			require.EqualValues(t, 1, tags.Epoch())
			require.False(t, tags.Migrating())
			before := time.Now().Round(0)
			got := tags.Clock()
			require.False(t, got.Before(before))
			require.False(t, got.After(time.Now().Round(0)))
		})
	}
}

// clockRegisters lets another vCPU latch in between, once.
type clockRegisters struct {
	*machine
	reads []uint32
}

func (c *clockRegisters) read(offset uint32) uint32 {
	v := c.reads[0]
	if len(c.reads) > 1 {
		c.reads = c.reads[1:]
	}
	return v
}

func TestClockIsReadUntilItAgrees(t *testing.T) {
	m, tags := newMachine(t)
	// The upper half of the first reading belongs to a later latch.
	tags.regs = &clockRegisters{m, []uint32{0xffff_fff0, 2, 0x10, 2, 0x20, 2}}
	require.EqualValues(t, 2<<32|0x20, tags.Clock().UnixNano())
}

func TestNoPort(t *testing.T) {
	for _, id := range []uint32{0, 0xffff_ffff} {
		_, err := newTags(&clockRegisters{reads: []uint32{id}})
		require.ErrorIs(t, err, ErrNoPort)
	}
}

// Tasks wander while migrations come and go. The host follows every transition of the gate from the
// moment it attaches.
func TestNoTransitionIsLost(t *testing.T) {
	m, tags := newFastMachine(t)
	tasks := []*Task{tags.Task(0), tags.Task(1)}
	for round := range uint64(500) {
		var guests sync.WaitGroup
		for i, task := range tasks {
			random := rand.New(rand.NewPCG(round, uint64(i)))
			guests.Go(func() {
				for range 1 + random.IntN(20) {
					if task.depth == 0 {
						task.Enter()
					} else {
						task.Exit()
					}
				}
			})
		}
		f := &follower{}
		f.attach(m.port, tagging.All)
		guests.Wait()
		open := tasks[0].depth > 0 && tasks[1].depth > 0
		require.Equal(t, open, f.isOpen(), "round %d", round)
		require.Equal(t, open, m.port.Gate().Open)
		m.port.Detach()
	}
	require.Zero(t, m.port.Snapshot().GuestErrors.Total)
}

// This is the narrowest race, many times: one transition against one Attach, started at the same
// moment.
func TestTransitionAgainstAttach(t *testing.T) {
	const rounds = 10000
	m, tags := newFastMachine(t)
	task := tags.Task(1)
	var begun, done atomic.Int64
	await := func(v *atomic.Int64, round int64) {
		for spins := 0; v.Load() < round; spins++ {
			if spins > 1000 {
				runtime.Gosched()
			}
		}
	}
	go func() {
		for round := range int64(rounds) {
			await(&begun, round+1)
			if round%2 == 0 {
				task.Enter()
			} else {
				task.Exit()
			}
			done.Store(round + 1)
		}
	}()
	f := &follower{}
	for round := range int64(rounds) {
		begun.Store(round + 1)
		for range round % 64 { // shifts one against the other
			done.Load()
		}
		f.attach(m.port, tagging.All)
		await(&done, round+1)
		require.Equal(t, round%2 == 0, f.isOpen(), "round %d", round)
		m.port.Detach()
	}
}

func TestTasksComeAndGo(t *testing.T) {
	m, tags := newFastMachine(t)
	var guests sync.WaitGroup
	for g := range uint32(4) {
		guests.Go(func() {
			for n := range uint32(100) {
				task := tags.Task(g*1000 + n)
				task.Enter()
				task.Close()
			}
		})
	}
	for range 50 {
		(&follower{}).attach(m.port, tagging.Any)
		m.port.Detach()
	}
	guests.Wait()
	require.NoError(t, tags.Close())
	i := m.port.Snapshot()
	require.Empty(t, i.Tasks)
	require.Zero(t, i.GuestErrors.Total)
}

func BenchmarkEnterExit(b *testing.B) {
	b.Run("fast", func(b *testing.B) {
		_, tags := newFastMachine(b)
		task := tags.Task(1)
		for b.Loop() {
			task.Enter()
			task.Exit()
		}
	})
	b.Run("ring", func(b *testing.B) {
		m, tags := newFastMachine(b)
		m.port.Attach(tagging.All, &follower{})
		task := tags.Task(1)
		for b.Loop() {
			task.Enter()
			task.Exit()
		}
	})
}
